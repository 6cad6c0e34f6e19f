"""How near do a GPT and a BERT come to a source whose truth is known, as models and data grow?

The text is drawn from a hidden Markov source, so the probability of every text, of every hidden
piece given the others, and of every hidden state is known (Rabiner 1989). A model's bits per
byte can then be held to the least that any model needs for the same documents, its error at
every share hidden to the least error under the same masks, and the probe to the best that can
be named from what a position sees. A second source draws documents of random lengths, which
windows cut: there a masked model is shown where documents end, a GPT has to predict it, and no
number may lie below the truth either.

Answers to: nobody's table. Papers that compare causal and masked models (Sahoo et al. 2024,
arXiv:2406.07524; Nie et al. 2024, arXiv:2410.18514) do so on text whose entropy is not known,
so a gap between two losses may be the models' or the scorers'. Here the scorers have no excuse.

    python -m experiments.known_truth --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  14 minutes, 2 cores  25k to 0.4M parameters, 0.1M to 0.9M tokens
    v5e-8   a day, 8 chips       25M and 85M parameters, up to 2B tokens of a larger source

Expect all arms above the truth and none below it by more than twice its error, the GPT nearest.
A bound of a model that has learnt the source is no looser than the truth itself, as all orders
agree there: what a BERT lacks here it lacks as a model.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator

from lm.data import Hmm
from lm.evaluate.scoring import Effort
from lm.objectives import AnyOrder, Causal, Masked
from lm.output.numbers import count, decimals, percent, with_error
from lm.run import Run
from lm.study import runner
from lm.study.common import Arm, Result, size_text, ticks
from lm.study.plans import Plan, Size, source_data
from lm.study.report.figures import (
    BLUE,
    GREEN,
    INK,
    MARKERS,
    VERMILLION,
    panels,
    reference_lines,
    styled,
)
from lm.study.report.values import Column, Plot, Report, Section, Table
from lm.study.runner import Cell
from lm.study.sections import NO_ANSWER, equal_section, report_of
from lm.study.seeds import Group, Measure, Sums, groups_of

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "masked15": Arm("BERT, 15%", "the BERT trained at 15%", Masked(), VERMILLION),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}
RANDOM = {
    f"{name}_lengths": arm._replace(label=f"{arm.label}, random lengths")
    for name, arm in ARMS.items()
}
"""The same on documents of random lengths."""


class Scale(NamedTuple):
    """All sizes at the largest budget, and the largest size at all budgets.

    On random lengths the largest size is trained at the last budget but one.
    """

    source: Hmm
    batch: int
    budgets: tuple[int, ...]
    sizes: tuple[Size, ...]
    seeds: int
    settings: dict[str, Any]


PLANS = {
    "smoke": Scale(
        Hmm(states=3, symbols=5, length=29, documents=900, concentration=0.4),
        batch=16,
        budgets=(4096, 8192),
        sizes=(Size(1, 16, 1, 1e-2), Size(1, 32, 1, 1e-2)),
        seeds=1,
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        Hmm(),
        batch=32,
        budgets=(100_000, 300_000, 900_000),
        sizes=(Size(2, 32, 1, 1e-2), Size(2, 64, 2, 1e-2), Size(2, 128, 4, 1e-2)),
        seeds=2,
        settings={"evaluations": 3, "evaluation_rows": 64},
    ),
    "v5e-8": Scale(
        Hmm(states=64, symbols=64, length=1021, documents=2_200_000),
        batch=512,
        budgets=(200_000_000, 600_000_000, 2_000_000_000),
        sizes=(Size(8, 512, 8, 4e-3), Size(12, 768, 12, 3e-3)),
        seeds=2,
        settings={"evaluations": 16, "evaluation_rows": 512, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, share_rows=16, probe_tokens=3_000),
    "laptop": Effort(rows=512, samples=4, replicates=2, share_rows=128, probe_tokens=10_000),
    "v5e-8": Effort(rows=4096, share_rows=1024, probe_tokens=100_000),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name."""
    plan, found = PLANS[scale], dict[str, Run]()
    data = source_data(plan.source, plan.batch)
    for tokens in plan.budgets:
        sizes = plan.sizes if tokens == plan.budgets[-1] else plan.sizes[-1:]
        found |= Plan(data, tokens, sizes, plan.seeds, plan.settings).runs(ARMS)
    # Two documents a row, on average.
    source = msgspec.structs.replace(
        plan.source, lengths="geometric", length=plan.source.length // 2
    )
    data = msgspec.structs.replace(data, corpus=source)
    *_, tokens, _ = plan.budgets
    return found | Plan(data, tokens, plan.sizes[-1:], plan.seeds, plan.settings).runs(RANDOM)


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    cells = [cell._replace(result=_with_gap(cell.result)) for cell in cells]
    known = list(groups_of(cells, ARMS | RANDOM).values())
    groups = [group for group in known if group.arm in ARMS.values()]
    random = [group for group in known if group.arm in RANDOM.values()]
    best = _largest(groups)
    sections: list[Section | None] = []
    if groups:
        sections = [
            Section(
                "From above, and how near",
                (
                    "The truth is what the source itself needs for the same documents, by the"
                    " forward algorithm. For the source all orders of uncovering a text agree,"
                    " so the least any-order bound is the same number, and both kinds of model"
                    " are held to it.",
                    Plot(
                        "above_truth",
                        gap_figure(groups),
                        "Bits per byte above the truth: left by training tokens, at the largest"
                        " size; right by size, at the most tokens. Bars are one standard error,"
                        " over seeds and over documents (paired with the truth) together.",
                    ),
                ),
            ),
            _shares(best),
            _states(groups, best),
            _random_lengths(random),
            equal_section(best, best[0], *_BUDGETS) if best else None,
            _limits(cells, groups),
        ]
    return report_of(
        sys.modules[__name__],
        cells,
        best,
        title="Against a known truth",
        answer=_answer(known, best),
        table=_table(groups),
        sections=sections,
    )


_BUDGETS = (
    "Arms of one size and one number of tokens read the same rows in the same order from the"
    " same initial values; the table above is of the largest ones.",
)


def _with_gap(result: Result | None) -> Result | None:
    if not result or not result.get("truth"):
        return result
    truth = result["truth"]
    return {
        **result,
        "truth_bits_per_byte": truth["bits_per_byte"],
        "truth_probe_accuracy": truth["probe_accuracy"],
        "entropy_rate": truth["entropy_rate"],
        "above_truth": result["bits_per_byte"] - truth["bits_per_byte"],
    }


def _excess(result: Result) -> Sums | None:
    if "above_truth" not in result:
        return None
    nats = [np.array(found["document_nats"]) for found in (result, result["truth"])]
    return ((nats[0] - nats[1]) / math.log(2)).tolist(), result["document_bytes"]


ABOVE = Measure("above_truth", _excess, -1, decimals)


def _largest(groups: Sequence[Group]) -> list[Group]:
    """The arms at the largest size and the most tokens."""
    if not groups:
        return []
    top = max((group.size, group.cells[0].run.tokens) for group in groups)
    return [g for g in groups if (g.size, g.cells[0].run.tokens) == top]


def _answer(groups: Sequence[Group], best: Sequence[Group]) -> str:
    told = [(g, g.mean("above_truth"), g.error(ABOVE)) for g in best]
    known = [(g, value, error) for g, value, error in told if value is not None]
    if not known:
        return NO_ANSWER
    parts = [f"{g.arm.name} {with_error(value, error)}" for g, value, error in known]
    first = known[0][0]
    text = (
        f"At {size_text(first.size)} parameters and {count(first.cells[0].run.tokens)} tokens,"
        f" above the {with_error(first.mean('truth_bits_per_byte') or 0.0, None)} bits per byte"
        f" that the source needs, lie: {', '.join(parts)}."
    )
    below = [
        g
        for g in groups
        if (value := g.mean("above_truth")) is not None and value < -2 * (g.error(ABOVE) or 0.0)
    ]
    return text + (
        " No model, at any size, lies below the truth by more than twice its error."
        if not below
        else " Below the truth by more than twice their error, which no honest scorer allows:"
        f" {', '.join(g.name for g in below)}."
    )


def _table(groups: Sequence[Group], *, layout: bool = False) -> Table:
    """A row a group; with what the layout costs in the place of the probe, where asked for."""
    rows = [
        {
            "size": group.size,
            "arm": group.arm.label,
            "tokens": group.mean("tokens"),
            "seeds": len(group.results),
            "bits": group.mean("bits_per_byte"),
            "kind": group.kind,
            "layout": group.mean("layout_bits"),
            "truth": group.mean("truth_bits_per_byte"),
            "above": group.mean("above_truth"),
            "seeds_se": group.seeds_se("above_truth"),
            "text_se": group.text_se(ABOVE),
            "probe": group.mean("probe_accuracy"),
            "ceiling": group.mean("truth_probe_accuracy"),
        }
        for group in sorted(groups, key=lambda g: (g.size, g.cells[0].run.tokens))
    ]
    probes = (
        Column("probe", "states found", percent),
        Column("ceiling", "can be known", percent),
    )
    columns = (
        Column("size", "size", size_text),
        Column("arm", "trained as"),
        Column("tokens", "tokens", count),
        Column("seeds", "seeds"),
        Column("bits", "bits per byte", decimals),
        Column("kind", "which is"),
        *([Column("layout", "of it layout", decimals)] if layout else []),
        Column("truth", "truth", decimals),
        Column("above", "above", decimals),
        Column("seeds_se", "± seeds", decimals),
        Column("text_se", "± text", decimals),
        *([] if layout else probes),
    )
    caption = (
        "Means over seeds. The truth is what the source needs for the same documents; “above”"
        " is the difference, whose error over documents is paired with it."
    )
    if layout:
        caption += (
            " “Of it layout” is what the length model pays for the ends of documents that a"
            " BERT is shown; a GPT predicts them itself."
        )
    else:
        caption += (
            " “States found” is the probe's share of hidden states, “can be known” what the"
            " best guess from the same sight gets: the text so far for the GPT, all of it for"
            " a BERT."
        )
    return Table(columns, rows, caption)


@styled()
def gap_figure(groups: Sequence[Group]) -> Figure:
    """Bits above the truth by tokens and by size."""
    figure, (left, right) = panels(2, height=3.2, sharey=True)
    size, tokens = (max(values) for values in zip(*map(_place, groups), strict=True))
    for order, arm in enumerate(ARMS.values()):
        ours = [g for g in groups if g.arm == arm and g.mean("above_truth") is not None]
        by_tokens = {g.mean("tokens") or 0.0: g for g in ours if g.size == size}
        by_size = {float(g.size): g for g in ours if _place(g)[1] == tokens}
        for axes, found in ((left, by_tokens), (right, by_size)):
            _line(axes, found, arm.colour, MARKERS[order], hollow=arm != ARMS["causal"])
    for axes, places, show in (
        (left, {g.mean("tokens") or 0.0 for g in groups if g.size == size}, count),
        (right, {float(g.size) for g in groups}, size_text),
    ):
        axes.set(xscale="log", yscale="log")
        ticks(axes.xaxis, FixedLocator(sorted(places)), show)
        ticks(axes.yaxis, LogLocator(subs=(1, 2, 5)), lambda value: f"{value:g}")
    left.set(
        title=f"As data grow, {size_text(size)}",
        xlabel="training tokens",
        ylabel="bits per byte above the truth",
    )
    right.set(title=f"As models grow, {count(tokens)} tokens", xlabel="parameters")
    handles = [
        Line2D([], [], color=arm.colour, marker=MARKERS[order], label=arm.label)
        for order, arm in enumerate(ARMS.values())
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _place(group: Group) -> tuple[int, int]:
    return group.size, group.cells[0].run.tokens


def _line(
    axes: Axes, found: dict[float, Group], colour: str, marker: str, *, hollow: bool
) -> None:
    points = sorted(found)
    axes.errorbar(
        points,
        [found[x].mean("above_truth") or math.nan for x in points],
        [found[x].error(ABOVE) or 0.0 for x in points],
        color=colour,
        marker=marker,
        markersize=5,
        markerfacecolor="none" if hollow else colour,
        elinewidth=1,
    )


def _shares(best: Sequence[Group]) -> Section | None:
    """The error by share hidden beside the least that there can be."""
    asked = [g for g in best if next(iter(g.results.values())).get("error_by_share")]
    if not asked:
        return None
    return Section(
        "At every share hidden",
        (
            "What is hidden in part of a row can be foretold by forward-backward, with the"
            " other hidden pieces summed out. No model does better, under the same masks.",
            Plot(
                "share_hidden",
                share_figure(asked),
                "Bits per byte of the hidden pieces when a share of the row is hidden, at the"
                " largest size, mean over seeds; in black what the source needs.",
            ),
        ),
    )


@styled()
def share_figure(groups: Sequence[Group]) -> Figure:
    """Error by share hidden, and the truth."""
    figure, (axes,) = panels(1, height=3.2)
    for order, group in enumerate(groups, 1):
        results = list(group.results.values())
        shares = sorted(results[0]["error_by_share"], key=float)
        for found, colour, label in (
            ([r["error_by_share"] for r in results], group.arm.colour, group.arm.label),
            ([r["truth"]["error_by_share"] for r in results], INK, "the source"),
        ):
            if label == "the source" and order > 1:
                continue
            axes.errorbar(
                [100 * float(share) for share in shares],
                [np.mean([r[share]["bits_per_byte"] for r in found]) for share in shares],
                [np.mean([r[share]["mc_se"] or 0.0 for r in found]) for share in shares],
                color=colour,
                marker="" if colour == INK else MARKERS[order],
                linestyle="--" if colour == INK else "-",
                label=label,
            )
    axes.set(xlabel="share of the row that is hidden (%)", ylabel="bits per hidden byte")
    axes.set_xlim(0, 102)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _states(groups: Sequence[Group], best: Sequence[Group]) -> Section | None:
    known = [g for g in best if g.mean("probe_accuracy") is not None]
    if not known:
        return None
    parts = [
        f"{g.arm.name} {percent(g.mean('probe_accuracy') or 0.0)} of at most"
        f" {percent(g.mean('truth_probe_accuracy') or 0.0)}"
        for g in known
    ]
    return Section(
        "The hidden states",
        (
            "A linear probe reads the source's hidden state off the frozen states of the last"
            f" layer, with nothing hidden: {', '.join(parts)}. A GPT sees less, so less can be"
            " known at its place; what it lacks of that is its own.",
            Plot(
                "states",
                states_figure(groups),
                "Hidden states found by the probe, by training tokens at the largest size;"
                " dashed lines are what the best guess from the same sight finds.",
            ),
        ),
    )


@styled()
def states_figure(groups: Sequence[Group]) -> Figure:
    """States found by tokens, and what can be known."""
    figure, (axes,) = panels(1, height=3.2)
    size = max(group.size for group in groups)
    ceilings = {}
    for order, arm in enumerate(ARMS.values()):
        ours = {
            g.mean("tokens") or 0.0: g
            for g in groups
            if g.arm == arm and g.size == size and g.mean("probe_accuracy") is not None
        }
        points = sorted(ours)
        axes.errorbar(
            points,
            [100 * (ours[x].mean("probe_accuracy") or 0.0) for x in points],
            [100 * (ours[x].seeds_se("probe_accuracy") or 0.0) for x in points],
            color=arm.colour,
            marker=MARKERS[order],
            label=arm.label,
        )
        sight = "given the text so far" if arm == ARMS["causal"] else "given all the text"
        for group in ours.values():
            ceilings[sight] = 100 * (group.mean("truth_probe_accuracy") or 0.0)
    axes.set(xscale="log", xlabel="training tokens", ylabel="% of states found")
    places = {g.mean("tokens") or 0.0 for g in groups if g.size == size}
    ticks(axes.xaxis, FixedLocator(sorted(places)), count)
    axes.set_ylim(axes.get_ylim()[0], 101)
    reference_lines(axes, ceilings)
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _random_lengths(groups: Sequence[Group]) -> Section | None:
    """What models of documents of random lengths need, with what the layout costs."""
    source = groups[0].cells[0].run.data.corpus.truth() if groups else None
    if source is None:
        return None
    return Section(
        "Documents of random lengths",
        (
            f"The same tables, but a document ends after each symbol with probability 1 in"
            f" {source.length}, and rows cut documents where they end. The truth is then that"
            " of the text in each window, and of where its documents end. Were the places that"
            " a BERT is shown given to it for nothing, its numbers could fall below the truth.",
            _table(groups, layout=True),
        ),
    )


def _limits(cells: Sequence[Cell], groups: Sequence[Group]) -> Section:
    source = cells[0].run.data.corpus.truth()
    rate = next((r.get("entropy_rate") for g in groups for r in g.results.values()), None)
    told = f", whose entropy rate is {decimals(rate)} bits per symbol" if rate else ""
    states = source.states if source else "no"
    return Section(
        "What this does and does not show",
        (
            f"It shows that the scorers are honest, and how fast models of this size learn one"
            f" source of {states} hidden states{told}. It is not language: what must be"
            " remembered of a text fits into one state, so nothing is said of long-range"
            " structure, and the order of arms may be another on text. One learning rate serves"
            " all arms and was tuned for none; how far an arm still lies above the truth is a"
            " matter of its training too. Other seeds of the source are other tables, some of"
            " them easier. With two seeds of training, errors over seeds are rough.",
        ),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
