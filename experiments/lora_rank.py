"""How many trained parameters does tuning need, of a GPT and of a BERT?

Both are pre-trained on equal tokens, then tuned on one task: whole, by the head alone, and by
low-rank adapters on all matrices of the layers, of ranks from 1 on. Each way has the same
trials; a rate is chosen on a part of the train file, and the dev file is scored by it.

Answers to: Hu et al. 2021 (arXiv:2106.09685, section 7.2), where rank 1 or 2 is enough for
GPT-3; Biderman et al. 2024 (arXiv:2405.09673), where adapters learn less than all parameters.
`YARDSTICK_TASKS` holds GLUE, `YARDSTICK_CORPORA` a folder `english` of texts.

    YARDSTICK_TASKS=... YARDSTICK_CORPORA=... python -m experiments.lora_rank --scale laptop

    smoke   a minute            toys on Python's library, and a made-up task of its lines
    laptop  not timed           0.8M parameters, 1M tokens of English, 90 trials on SST-2
    v5e-8   not run             85M parameters, 6.5B tokens of Wikipedia, 126 trials

Expect the score to be nearly flat in the rank, with the head alone far behind.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lm.cost import ledger, memory
from lm.data import vocabulary_size
from lm.evaluate.glue import SETS
from lm.evaluate.tasks.metrics import Estimate
from lm.optimizer import Lora
from lm.run import Run
from lm.study import made_up, runner, scales, sections
from lm.study.analyses.on_tasks import draw_line
from lm.study.analyses.tuning import (
    Outcome,
    announce,
    beyond,
    choices_table,
    edge_warnings,
    equal_rows,
    interval_text,
    outcomes,
    points_text,
    read_forecasts,
    score_choices,
    trained_table,
)
from lm.study.grid import BERT, GPT, Scale, StudyRun, scale_of
from lm.study.report.figures import MARKERS, panels, styled
from lm.study.report.values import Column, Report, Table
from lm.study.sentences import NO_ANSWER, capital
from lm.study.tables import equal_table
from lm.study.trials import (
    Attempt,
    EqualTrials,
    TunedTask,
    Way,
    choices,
    compared_rows,
    equal_trials,
)

VARIANTS = {"causal": GPT, "masked15": BERT}
EVERYTHING = ("layers/*",)
"""What adapters are added to: all matrices of the layers."""


class Plan(NamedTuple):
    """What a scale trains, and what it tunes."""

    before: Scale
    task: TunedTask
    ways: Mapping[str, Way]
    seeds: int
    length: int
    batch: int


def _ways(
    *, head: tuple[float, ...], ranks: Mapping[int, tuple[float, ...]], whole: tuple[float, ...]
) -> dict[str, Way]:
    """The head alone, each rank, and the whole, with the rates that are tried of each."""
    adapters = {
        f"rank{rank}": Way(
            f"rank {rank}",
            rates,
            adapter=Lora(rank=rank, alpha=float(rank), targets=EVERYTHING),
        )
        for rank, rates in ranks.items()
    }
    alone = Way("head alone", head, trainable=("head_*",))
    return {"head": alone, **adapters, "whole": Way("whole", whole)}


PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(seeds=1),
        TunedTask("order", made_up.order(), 2048, assumed=0.7),
        _ways(head=(1e-2,), ranks=dict.fromkeys((1, 4), (1e-2,)), whole=(1e-3,)),
        seeds=2,
        length=64,
        batch=16,
    ),
    "laptop": Plan(
        scales.ENGLISH_LAPTOP,
        TunedTask("SST-2", SETS["sst2"], 50_000, assumed=0.7),
        _ways(
            head=(3e-3, 1e-2, 3e-2),
            ranks=dict.fromkeys((1, 4, 16), (3e-3, 1e-2, 3e-2)),
            whole=(1e-3, 3e-3, 1e-2),
        ),
        seeds=3,
        length=256,
        batch=2,
    ),
    "v5e-8": Plan(
        scales.V5E_8._replace(seeds=1),
        TunedTask("SST-2", SETS["sst2"], 3_000_000, assumed=0.9),
        _ways(
            head=(1e-3, 3e-3, 1e-2),
            ranks=dict.fromkeys((1, 2, 4, 16, 64), (1e-4, 3e-4, 1e-3)),
            whole=(1e-5, 3e-5, 1e-4),
        ),
        seeds=3,
        length=256,
        batch=32,
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.TUNED_EFFORT


def _trained(scale: str) -> dict[str, Run]:
    return PLANS[scale].before.runs(VARIANTS)


def _trials(scale: str) -> EqualTrials:
    plan = PLANS[scale]
    return equal_trials(
        plan.before,
        _trained(scale),
        VARIANTS,
        tasks={"task": plan.task},
        ways=plan.ways,
        seeds=plan.seeds,
        length=plan.length,
        batch=plan.batch,
    )


def runs(scale: str) -> dict[str, Run]:
    """What is pre-trained, then all trials of it."""
    return _trained(scale) | _trials(scale).runs()


def before(scale: str, directory: Path) -> list[str]:
    """What the dev file can show; a made-up task is written."""
    if scale == "smoke":
        made_up.write_made_up(directory)
    return announce(_trials(scale).at(directory), directory)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Scores what was chosen."""
    score_choices(_trials(scale_of(directory)).at(directory), cells)


def report(cells: list[StudyRun]) -> Report:
    """The score by trained parameters and by memory, for each way and variant."""
    directory = cells[0].directory.parent
    equal = _trials(scale_of(directory)).at(directory)
    found, made = outcomes(equal, cells, directory), choices(equal, cells)
    points = [_point(equal, each) for each in found]
    announced = equal.announced(read_forecasts(directory))
    return sections.report_of(
        sys.modules[__name__],
        cells,
        title="How many trained parameters",
        answer=_answer(points),
        details=(
            "Every way has the same trials of each variant. The learning rate is chosen on a"
            " tenth of the train file; the dev file is scored by what was chosen alone. No"
            " trial is stopped early.",
        ),
        table=_table(equal, points),
        sections=[
            sections.figure_section(
                "By trained parameters and memory",
                "lora_rank",
                _figure(points) if points else None,
                "Points of the task's metric, with 95% intervals over dev items and seeds. Left"
                " to right: the head alone, ranks, the whole.",
            ),
            sections.section("What the dev file can show", *announced),
            sections.section("The trials", choices_table(equal, made) if made else None),
            sections.section(
                sections.EQUAL,
                trained_table(cells, VARIANTS),
                equal_table(equal_rows(equal, cells), "between the variants of a task"),
            ),
            sections.section(
                "What this does and does not show",
                "It shows how much of one task's score is left when fewer parameters are tuned,"
                " of one pre-trained model of each kind, at one budget. Memory is what"
                " parameters, gradients and the optimizer's state take, counted in float32;"
                " what layers keep for the backward pass comes to it, and is nearly the same"
                " for all but the head alone. Rates differ between ways. Intervals are"
                " over tuning seeds and dev items, not over pre-trainings.",
            ),
        ],
        compared=compared_rows(equal, cells),
        warnings=edge_warnings(equal, made),
    )


class _Point(NamedTuple):
    outcome: Outcome
    trained: int
    """Parameters that change."""
    memory: int
    """Bytes of parameters, gradients and the optimizer's state."""


def _point(equal: EqualTrials, outcome: Outcome) -> _Point:
    names = {tuned.variant: name for name, tuned in equal.tuned.items()}
    rate = equal.ways[outcome.way].rates[0]
    run = equal.run(Attempt(names[outcome.variant], "task", outcome.way, rate, 0))
    trained = ledger.parameters(run, vocabulary_size(run.data.tokenizer)).trainable
    return _Point(outcome, trained, memory.least(run, "cpu")[memory.STATE])


def _gaps(points: Sequence[_Point]) -> dict[_Point, Estimate]:
    """How far each point lies above its variant's that is tuned whole."""
    whole = {p.outcome.variant: p.outcome for p in points if p.outcome.way == "whole"}
    return {
        point: point.outcome.above(whole[point.outcome.variant])
        for point in points
        if point.outcome.way != "whole" and point.outcome.variant in whole
    }


def _answer(points: Sequence[_Point]) -> str:
    """The least that is trained without a loss beyond the error, for each variant."""
    if not (gaps := _gaps(points)):
        return NO_ANSWER
    told = []
    for variant in dict.fromkeys(point.outcome.variant for point in points):
        mine = [point for point in points if point.outcome.variant == variant]
        whole = mine[-1]
        enough = [p for p in mine if p in gaps and not (beyond(gaps[p]) and gaps[p].value < 0)]
        least = min([*enough, whole], key=lambda point: point.trained)
        rest = (
            f"{points_text(least.outcome.estimate.value)} with {least.trained:,}, the fewest"
            " that are not behind it beyond the error"
            if enough
            else "every way with fewer is behind it beyond the error"
        )
        told.append(
            f"{variant.name} has {points_text(whole.outcome.estimate.value)} points with all"
            f" {whole.trained:,} parameters trained, and {rest}"
        )
    return capital("; ".join(told)) + "."


def _table(equal: EqualTrials, points: Sequence[_Point]) -> Table:
    gaps = _gaps(points)
    rows = [
        {
            "variant": point.outcome.variant.label,
            "way": equal.ways[point.outcome.way].label,
            "trained": point.trained,
            "memory": point.memory,
            "score": interval_text(point.outcome.estimate),
            "gap": interval_text(gap, "+") + ("*" if beyond(gap) else "")
            if (gap := gaps.get(point))
            else None,
        }
        for point in points
    ]
    columns = (
        Column("variant", "variant"),
        Column("way", "tuned"),
        Column("trained", "trained parameters", "{:,}".format),
        Column("memory", "MB", lambda size: f"{size / 1e6:.2f}"),
        Column("score", "points"),
        Column("gap", "above the whole"),
    )
    caption = (
        "Points of the task's metric, with 95% intervals over dev items and seeds; “above the"
        " whole” is paired by item and seed, with an asterisk where the interval leaves out 0."
        " MB are of parameters, gradients and the optimizer's state, in float32."
    )
    return Table(columns, rows, caption)


@styled()
def _figure(points: Sequence[_Point]) -> Figure:
    figure, axes = panels(2, height=3.0, sharey=True)
    variants = dict.fromkeys(point.outcome.variant for point in points)
    for order, variant in enumerate(variants):
        mine = [point for point in points if point.outcome.variant == variant]
        sizes = [point.trained for point in mine], [point.memory for point in mine]
        for panel, places in zip(axes, sizes, strict=True):
            found = {
                float(x): point.outcome.estimate for x, point in zip(places, mine, strict=True)
            }
            draw_line(panel, variant, found, marker=MARKERS[order])
    for panel, what in zip(axes, ("trained parameters", "bytes"), strict=True):
        panel.set_xscale("log")
        panel.set(xlabel=what)
    axes[0].set(ylabel="points")
    figure.legend(
        handles=[
            Line2D([], [], color=variant.colour, marker=marker, label=variant.label)
            for variant, marker in zip(variants, MARKERS, strict=False)
        ],
        loc="outside upper left",
        ncols=4,
    )
    return figure


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
