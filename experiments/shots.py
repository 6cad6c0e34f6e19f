"""How much do a GPT and a BERT learn from examples in their context, and from which size on?

Each text is a list of examples that follow a rule of its own, so that nothing but the text
tells a label: what lies above guessing was learnt in context, and the best possible accuracy
is known. Fresh rules are asked, after 0 to 16 solved examples.

Answers to: Brown et al. 2020 (figure 1.2: larger models use examples better), where what the
examples teach and what the model knew already are mixed; Chan et al. 2022 (arXiv:2205.05055),
whose labels are drawn as here; and for masked models Samuel 2024 (arXiv:2406.04823).

    python -m experiments.shots --scale laptop

    smoke   a minute    toys, to see that everything works
    laptop  not timed   25k to 0.4M parameters, 3M tokens
    v5e-8   not run     25M and 85M parameters, 1B tokens of longer lists with more symbols

Expect chance after no example, and a rise with their number that follows the best reader's in
the larger models. A BERT sees both sides, and is asked for the last label, as a gap.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from msgspec.structs import replace

from lm.data import Bytes, Data, RuleLists
from lm.data.sources.rules import LABELS, SYMBOLS
from lm.evaluate.effort import Effort
from lm.evaluate.tasks.base import Conditions, Item
from lm.evaluate.tasks.choice import Choice, Cloze
from lm.evaluate.tasks.sitting import Sheet
from lm.run import Run
from lm.study import runner, sections
from lm.study.analyses.on_tasks import (
    Sitting,
    ask_runs,
    draw_line,
    over_seeds,
    read_answers,
    with_answers,
)
from lm.study.figures import ticks
from lm.study.grid import GPT_AND_BERTS, Scale, Size, StudyRun, size_text, variant_of
from lm.study.groups import Group, by_size, groups_of
from lm.study.report.figures import MARKERS, MUTED, panels, styled
from lm.study.report.values import Column, Report, Table
from lm.study.sentences import NO_ANSWER, together

VARIANTS = GPT_AND_BERTS


def _data(source: RuleLists, batch: int) -> Data:
    return Data(corpus=source, tokenizer=Bytes(), length=source.row_length, batch=batch)


PLANS = {
    "smoke": Scale(
        _data(RuleLists(symbols=4, labels=2, examples=16, documents=400), batch=16),
        sizes=(Size(1, 32),),
        tokens=(8192,),
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        _data(RuleLists(), batch=32),
        sizes=(Size(2, 32), Size(2, 64, 2), Size(2, 128, 4)),
        tokens=(3_000_000,),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 64},
    ),
    "v5e-8": Scale(
        _data(RuleLists(symbols=52, labels=10, examples=340, documents=1_500_000), batch=512),
        sizes=(Size(8, 512, 8, 4e-3), Size(12, 768, 12, 3e-3)),
        tokens=(1_000_000_000,),
        seeds=2,
        settings={"evaluations": 16, "evaluation_rows": 512, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, replicates=2, curve_rows=8, probe_tokens=1),
    "laptop": Effort(rows=256, samples=4, replicates=2, curve_rows=64, probe_tokens=1),
    "v5e-8": Effort(rows=4096, curve_rows=256, probe_tokens=1),
}
SHOTS = (0, 1, 2, 4, 8, 16)
"""How many solved examples stand before the one that is asked."""
RULES, QUERIES, DRAWS = 100, 4, (0, 1, 2)
"""Fresh rules, symbols that are asked of each, and seeds of the examples before them."""


def runs(scale: str) -> dict[str, Run]:
    """A GPT and two BERTs at each size."""
    return PLANS[scale].runs(VARIANTS)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Asks all runs for the labels of fresh rules."""
    source = cells[0].run.data.corpus
    assert isinstance(source, RuleLists)
    ask_runs(cells, [_sheet(source, shots) for shots in SHOTS], _scorers, directory)


def _scorers(cell: StudyRun) -> Sequence[str]:
    """A label is one token: an order has one step, and is exact."""
    return ("chain_rule",) if variant_of(cell) == "causal" else ("left_to_right",)


def _sheet(source: RuleLists, shots: int) -> Sheet:
    """Symbols of fresh rules, and examples of the same rule to draw from."""
    fresh = replace(source, seed=source.seed + 1, examples=64)
    labels, symbols = fresh.draw(0, RULES)
    items = [
        [
            Item(
                {"symbol": SYMBOLS[symbol], "label": LABELS[labels[rule, symbol]]},
                group=str(rule),
                place=f"{rule}:{number}",
            )
            for number, symbol in enumerate(symbols[rule])
        ]
        for rule in range(RULES)
    ]
    words = tuple(LABELS[: source.labels])
    task = Choice(
        files=("rules",),
        prompt="{symbol}",
        answer="{choice}",
        cloze=Cloze(prompt="{symbol}", after=" "),
        words=words,
        gold="label",
        classes=words,
        group=("rule",),
        draw="part",
        between=" ",
    )
    asked = [item for of in items for item in of[:QUERIES]]
    pool = [item for of in items for item in of[QUERIES:]]
    return Sheet(f"shots{shots}", task, asked, pool, Conditions(shots=shots, seeds=DRAWS))


def report(cells: list[StudyRun]) -> Report:
    """Accuracy by the number of examples, for each size, beside the best that is possible."""
    answers = read_answers(cells[0].directory.parent)
    cells = with_answers(cells, answers)
    groups = list(groups_of(cells, VARIANTS).values()) if answers else []
    source = cells[0].run.data.corpus
    assert isinstance(source, RuleLists)
    best = {shots: source.best_accuracy(shots) for shots in SHOTS}
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Examples in the context",
        answer=_answer(groups, answers, best),
        details=(
            "Intervals are of 95%, over rules asked and seeds: of training, and of the examples"
            " drawn.",
        ),
        table=_table(groups, answers, best),
        sections=[
            sections.figure_section(
                "Accuracy by the number of examples",
                "shots",
                _figure(groups, answers, best) if groups else None,
                "How often the likeliest label is the right one, for symbols of fresh rules."
                " Dashed: the best reader, who knows a label if and only if its symbol stood"
                " before, and else guesses. Bars are 95% intervals.",
            ),
            sections.equal_section(groups, groups[0]) if groups else None,
            sections.section(
                "What this does and does not show",
                "It shows which models look up an example in their context, which is all that"
                " these lists teach, and from which size on under this budget. It does not show"
                " that they would generalize from examples, as a rule has no structure here;"
                " nor what a budget of more tokens would give: such lookups appear suddenly in"
                " training (Olsson et al. 2022), so a model that guesses may be one that is not"
                " there yet. One learning rate serves all, and was tuned for none: a larger"
                " model may need a lower one. A BERT's row ends with what is asked, as a text"
                " of its training rarely does.",
            ),
        ],
    )


def _interval(group: Group, answers: Sequence[Sitting], shots: int):  # type: ignore[no-untyped-def]
    scorer = _scorers(group.cells[0])[0]
    return over_seeds(group, answers, f"shots{shots}", scorer)


def _answer(
    groups: Sequence[Group], answers: Sequence[Sitting], best: Mapping[int, float]
) -> str:
    told = []
    most = SHOTS[-1]
    for group in groups:
        if found := _interval(group, answers, most):
            told.append(
                f"{group.label} {found.value:.0%} ({found.low:.0%} to {found.high:.0%})"
            )
    if not told:
        return NO_ANSWER
    return (
        f"After {most} examples the best reader names {best[most]:.0%} of the labels, and"
        f" {best[0]:.0%} after none: {together(told)}."
    )


def _table(
    groups: Sequence[Group], answers: Sequence[Sitting], best: Mapping[int, float]
) -> Table:
    rows = [{"variant": "the best reader"} | {str(n): f"{best[n]:.0%}" for n in SHOTS}]
    for group in groups:
        found = {n: _interval(group, answers, n) for n in SHOTS}
        rows.append(
            {"variant": group.variant.label, "size": size_text(group.size)}
            | {
                str(n): f"{i.value:.0%} ({i.low:.0%}–{i.high:.0%})"
                for n, i in found.items()
                if i
            }
        )
    columns = (
        Column("variant", "trained as"),
        Column("size", "size"),
        *(Column(str(n), f"{n} examples" if n != 1 else "1 example") for n in SHOTS),
    )
    return Table(columns, rows, "How often the likeliest label is the right one.")


@styled()
def _figure(
    groups: Sequence[Group], answers: Sequence[Sitting], best: Mapping[int, float]
) -> Figure:
    sizes = by_size(groups)
    figure, axes = panels(len(sizes), height=3.0, sharey=True)
    for panel, (size, members) in zip(axes, sizes.items(), strict=True):
        for order, group in enumerate(members):
            points = {
                float(at): found
                for at, n in enumerate(SHOTS)
                if (found := _interval(group, answers, n))
            }
            draw_line(panel, group.variant, points, marker=MARKERS[order])
        panel.plot(
            range(len(SHOTS)),
            [100 * best[n] for n in SHOTS],
            color=MUTED,
            linestyle=(0, (4, 2.5)),
        )
        ticks(panel.xaxis, FixedLocator(range(len(SHOTS))), lambda at: str(SHOTS[int(at)]))
        panel.set(title=size_text(size), xlabel="examples before")
    axes[0].set(ylabel="% of labels right", ylim=(0, 103))
    variants = dict.fromkeys(group.variant for group in groups)
    lines = [
        Line2D([], [], color=variant.colour, marker=marker, label=variant.label)
        for variant, marker in zip(variants, MARKERS, strict=False)
    ]
    best_line = Line2D([], [], color=MUTED, linestyle=(0, (4, 2.5)), label="the best reader")
    figure.legend(handles=[*lines, best_line], loc="outside upper left", ncols=4)
    return figure


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
