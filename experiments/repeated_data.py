"""How many times may the same text be read, by a GPT and by a BERT?

Answers to: Muennighoff et al. 2023 (arXiv:2305.16264), figure 3 and equation 5, where the value
of a repeated token falls off exponentially, to nothing after R_D = 15 repeats or so, up to 4
epochs cost next to nothing, and all models are causal; and Prabhudesai et al. 2025
(arXiv:2507.15857) and Ni et al. 2025 (arXiv:2511.03276), by whom masked diffusion models bear
far more repeats (the former fit an R_D of about 500) and pass causal ones where text is scarce.

    python -m experiments.repeated_data --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  16 minutes, 2 cores  0.1M parameters, up to 32 epochs of a known source
    v5e-16  5 hours, 16 chips    85M parameters, up to 64 epochs of Wikipedia, 2.4e19 FLOPs

The laptop's time is that of cores which other programs used as well.

Each arm trains on so many tokens of text that is read once, and on as many of a part of it that
is read again and again; the first epoch is the same rows in the same order. A run that ends
worse than one of fewer epochs of the same text has overfit: the law knows no such thing, and is
fit to the best of a run and those that stopped before it.

The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.repeated_data --scale v5e-16 --cost v5e-16

Expect the GPT ahead wherever text is new, its loss to rise again after some ten epochs of
little text, and the BERT's to fall on: each epoch hides other pieces.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from lm.data import Data
from lm.evaluate.scoring import Effort
from lm.objectives import AnyOrder, Causal
from lm.output.numbers import count
from lm.run import Run
from lm.scaling.data_constrained import fit_data_constrained
from lm.scaling.fit import Fit, band, evaluate
from lm.scaling.laws import effective_tokens
from lm.scaling.table import DataError
from lm.study import runner
from lm.study.common import (
    Arm,
    Result,
    equal_table,
    size_text,
    study_report,
    ticks,
    violations,
)
from lm.study.fits import (
    NO_ANSWER,
    ONE_SIZE,
    arms_rows,
    attempt,
    cells_table,
    doubts_table,
    interval_of,
    parameters_table,
    runs_of,
    section,
    short_text,
    truth_of,
)
from lm.study.plans import FEW_ROWS, SMOKE_SOURCE, V5E_16, Plan, Size
from lm.study.report.figures import (
    BLUE,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
    panels,
    reference_lines,
    styled,
)
from lm.study.report.values import Column, Plot, Report, Section, Table
from lm.study.runner import Cell
from lm.study.sections import limits
from lm.study.seeds import BITS, Gap, Group, gaps, groups_of, signed, together

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}


class Scale(NamedTuple):
    """What is trained on how much text, and how often it is read."""

    data: Data
    size: Size
    fresh: tuple[int, ...]
    """Tokens of text that is read once."""
    repeated: Mapping[int, tuple[int, ...]]
    """Tokens trained on, by how many of them are different."""
    seeds: int
    settings: dict[str, Any]


PLANS = {
    "smoke": Scale(
        SMOKE_SOURCE,
        Size(1, 16, 1, 1e-2),
        fresh=(1024, 2048, 4096, 8192),
        repeated={1024: (4096, 8192)},
        seeds=1,
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        FEW_ROWS,
        Size(2, 64, 2, 1e-2),
        fresh=tuple(25_600 * 2**k for k in range(5)),
        repeated={
            12_800: tuple(25_600 * 2**k for k in range(5)),
            51_200: (102_400, 409_600),
        },
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 128},
    ),
    "v5e-16": Scale(
        msgspec.structs.replace(V5E_16, batch=512),
        Size(12, 768, 12, 3e-3),
        fresh=tuple(50 * 2**20 * 2**k for k in range(6)),
        repeated={
            25 * 2**20: tuple(100 * 2**20 * 2**k for k in range(5)),
            100 * 2**20: (400 * 2**20, 1600 * 2**20),
        },
        seeds=2,
        settings={"evaluations": 16, "evaluation_rows": 1024, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, share_rows=8, probe_tokens=1),
    "laptop": Effort(rows=1024, samples=2, replicates=2, share_rows=16, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: new text and repeated text in each arm, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    grid = [(tokens, tokens) for tokens in plan.fresh]
    grid += [(unique, tokens) for unique, more in plan.repeated.items() for tokens in more]
    for unique, tokens in grid:
        data = msgspec.structs.replace(plan.data, unique=unique)
        cells = Plan(data, tokens, (plan.size,), plan.seeds, plan.settings).runs(ARMS)
        for name, run in cells.items():
            arm, size, *rest = name.split("-")
            found["-".join([arm, size, f"u{count(unique)}", *rest])] = run
    return found


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    groups = list(groups_of(cells, ARMS).values())
    laws = {arm: attempt(_law, groups, arm) for arm in ARMS}
    sections: list[Section | None] = []
    if groups:
        most = max((_tokens(group), -_unique(group)) for group in groups)
        largest = [c for c in cells if (c.run.tokens, -(c.run.data.unique or 0)) == most]
        sections = [
            _by_tokens(groups, laws),
            _worth(groups, laws),
            section(
                "What was held equal, and what was not",
                equal_table(arms_rows(largest), "at the most epochs, between the arms"),
                "At each number of tokens and of different ones the arms read the same rows in"
                " the same order, from the same initial values; a run that repeats begins with"
                " the rows that the run of new text begins with. How many targets the arms"
                " predict follows from the objective, and is in the table of all cells.",
            ),
            limits(cells, groups, *_limits(groups)),
        ]
    return study_report(
        sys.modules[__name__],
        cells,
        title="The same text again",
        answer=_answer(groups, laws),
        details=_details(groups, laws),
        table=cells_table(
            [cell._replace(result=_with_epochs(cell.result)) for cell in cells],
            "All finished cells: U different tokens, read for so many epochs. Own loss is the"
            " objective’s, in nats per predicted piece; ± is the standard error over held-out"
            " documents, which all cells share.",
            Column("unique_tokens", "U", count),
            Column("epochs", "epochs", lambda number: f"{number:g}"),
        ),
        sections=sections,
        warnings=violations(arms_rows(cells)),
    )


def _with_epochs(result: Result | None) -> Result | None:
    if result is None:
        return None
    return {**result, "epochs": result["tokens"] / result["unique_tokens"]}


def _unique(group: Group) -> int:
    return group.cells[0].run.data.unique or 0


def _tokens(group: Group) -> int:
    return group.cells[0].run.tokens


def _epochs(group: Group) -> int:
    return round(_tokens(group) / _unique(group))


def _of(groups: Sequence[Group], arm: str, unique: int | None = None) -> list[Group]:
    """An arm's groups, or those of so much text, by tokens."""
    found = [g for g in groups if g.arm == ARMS[arm] and unique in (None, _unique(g))]
    return sorted(found, key=lambda group: (_unique(group), _tokens(group)))


def _parts(groups: Sequence[Group]) -> list[int]:
    """How much text is repeated, ascending."""
    return sorted({_unique(group) for group in groups if _epochs(group) > 1})


# The law


def best_so_far(groups: Sequence[Group]) -> list[tuple[Result, float]]:
    """The results of an arm, and the least bits per byte of each and those of fewer epochs.

    That of a seed and its text: what stopping early would have given.
    """
    found, least = [], dict[tuple[int, int], float]()
    for group in sorted(groups, key=_tokens):
        for seed, result in group.results.items():
            text = _unique(group), seed
            least[text] = min(result["bits_per_byte"], least.get(text, math.inf))
            found.append((result, least[text]))
    return found


def _law(groups: Sequence[Group], arm: str) -> Fit:
    """The data-constrained law of an arm; its floor is the source's, where that is known."""
    both = best_so_far(_of(groups, arm))
    results, best = [result for result, _ in both], [least for _, least in both]
    runs = replace(
        runs_of(results),
        loss_R=np.array(best),
        unique_R=np.array([float(result["unique_tokens"]) for result in results]),
    )
    truth = truth_of(results)
    # There is one size, so nothing says that some parameters are not worth while.
    fixed = ONE_SIZE | {"R_N": 1e12} | ({"E": truth} if truth else {})
    # Squares, as no run is an outlier, and what repeats cost is in few of them.
    return fit_data_constrained(runs, delta=0.1, fixed=fixed)


def _worth_of(fit: Fit, epochs: float) -> tuple[float, np.ndarray]:
    """How many readings of as much new text so many epochs are worth, and that in each draw."""
    value = float(effective_tokens(fit.parameters["R_D"], epochs, 1.0))
    draws_B = fit.draws.get("R_D", np.empty(0))
    return value, effective_tokens(draws_B, epochs, 1.0)


def _worth_text(fit: Fit, epochs: float) -> str:
    """The same with its 95% interval, which cannot be beyond the epochs."""
    value, draws_B = _worth_of(fit, epochs)
    ends = interval_of(value, draws_B, fit.degrees)
    if ends is None:
        return f"{value:.3g}"
    return short_text(value, (ends[0], min(ends[1], epochs)))


def _repeats_text(fit: Fit) -> str:
    """R_D with its interval, of which one end may be beyond what the runs can tell."""
    value, ends = fit.parameters["R_D"], fit.ci95.get("R_D")
    if value < _BEYOND:
        return short_text(value, ends)
    return "beyond what the runs can tell" + (f" (at least {ends[0]:.3g})" if ends else "")


_BEYOND = 1e4
"""Repeats of which no run has a hundredth."""


# Sentences


def _answer(groups: Sequence[Group], laws: Mapping[str, Fit | DataError]) -> str:
    ours, theirs = (laws[arm] for arm in ARMS)
    if not (isinstance(ours, Fit) and isinstance(theirs, Fit)):
        return NO_ANSWER
    epochs = max(_epochs(group) for group in groups)
    (value, ours_B), (other, theirs_B) = (_worth_of(fit, epochs) for fit in (ours, theirs))
    times, ends = other / value, None
    if ours.draws and theirs.draws:
        degrees = min(ours.degrees, theirs.degrees)
        ends = interval_of(times, theirs_B / ours_B, degrees)
    if ends is None or ends[0] <= 1 <= ends[1]:
        said = "which does not show that either bears more repeats"
    else:
        said = f"so the BERT bears {'more' if times > 1 else 'fewer'} repeats"
    names = [ARMS[arm].name for arm in ARMS]
    return (
        f"At {size_text(groups[0].size)} parameters, {epochs} epochs are worth"
        f" {_worth_text(ours, epochs)} readings of new text to {names[0]} and"
        f" {_worth_text(theirs, epochs)} to {names[1]}, {short_text(times, ends)} times as many"
        f" (with 95% intervals), {said}. R_D is {_repeats_text(ours)} and"
        f" {_repeats_text(theirs)}. {_least_text(groups)}"
    ).rstrip()


def _least_text(groups: Sequence[Group]) -> str:
    """What becomes of the least text, in sentences."""
    if not (parts := _parts(groups)):
        return ""
    told, best = [], {}
    for arm in ARMS:
        ours = _of(groups, arm, parts[0])
        if len(ours) < 2:
            return ""
        best[arm] = least = min(ours, key=lambda group: group.mean(BITS.key) or math.inf)
        last = ours[-1]
        text = f"{ARMS[arm].name} is best after {_epochs(least)} of {_epochs(last)} epochs"
        if least is not last:
            above = gaps(ours, least, BITS)[last.name]
            text += f" ({signed(above, BITS)} after all of them)"
        told.append(text)
    # With new text beside them, whose seeds say how much trainings differ.
    new = [group for group in groups if _epochs(group) == 1]
    others = [best["any_order"], *(group for group in new if group is not best["causal"])]
    gap = gaps(others, best["causal"], BITS).get(best["any_order"].name)
    text = f"Of {count(parts[0])} tokens {together(told)}."
    if gap is not None:
        text += (
            f" At its best the BERT lies {signed(gap, BITS)} bits per byte from the GPT’s best"
            f"{'' if gap.beyond else ', which is not beyond the error'}."
        )
    return text


def _details(groups: Sequence[Group], laws: Mapping[str, Fit | DataError]) -> tuple[str, ...]:
    if not any(isinstance(fit, Fit) for fit in laws.values()):
        return ()
    overfit = [
        f"{sum(result['bits_per_byte'] > least for result, least in both)} of {len(both)} of"
        f" {ARMS[arm].name}"
        for arm in ARMS
        if (both := best_so_far(_of(groups, arm)))
    ]
    return (
        "The law has no overfitting in it. Runs that ended above one of fewer epochs of the"
        f" same text ({together(overfit)}) count in it as if they had been stopped there.",
        "After ± stands one standard error, over seeds and held-out documents together, paired;"
        " a difference is called beyond the error where its 95% interval leaves out 0.",
    )


def _limits(groups: Sequence[Group]) -> tuple[str, ...]:
    epochs = sorted({_epochs(group) for group in groups})
    return (
        f"R_D comes from {together([str(number) for number in epochs])} epochs. Where the loss"
        " still falls at the most of them as it does on new text, R_D is known from below alone"
        " and its upper end is the fit’s bound. R_D is a constant of a size, a text and a"
        " recipe: larger models overfit sooner, and dropout or a stronger decay of weights,"
        " which nobody tuned here, may bear more epochs.",
        "The BERT’s number is a bound, which says of a model at least what it knows; that the"
        " bound falls while the GPT’s exact number rises is no artefact of that, but how far"
        " apart they are is.",
    )


# The sections


def _by_tokens(groups: Sequence[Group], laws: Mapping[str, Fit | DataError]) -> Section | None:
    fits = {ARMS[arm].label: fit for arm, fit in laws.items()}
    return section(
        "New text, and the same again",
        Plot(
            "by_tokens",
            tokens_figure(groups, laws),
            "Bits per byte by tokens trained on, a mark a run: of new text, and of a part of it"
            " that is read again. Hollow marks ended above a run of fewer epochs of the same"
            " text; of those beyond the frame the number is given. Lines are the law with its"
            " 95% band.",
        ),
        parameters_table(
            fits,
            ("E", "B", "beta", "R_D"),
            "L = E + B / D′^beta with D′ = U (1 + R_D (1 − exp(−(D / U − 1) / R_D))), in bits"
            " per byte, by least squares of ln L: 95% intervals of 1,000 resamples of the"
            " runs. E is held at what the"
            " source itself needs, where that is known; else what the one size cannot learn is"
            " in it.",
            "trained as",
        ),
        doubts_table(fits, "What these runs cannot tell, in the words of the fits."),
    )


def _worth(groups: Sequence[Group], laws: Mapping[str, Fit | DataError]) -> Section | None:
    return section(
        "What repeats cost, and what they are worth",
        _cost_table(groups),
        Plot(
            "repeats",
            repeats_figure(groups, laws),
            "Left: bits per byte above a run of as many new tokens, means over seeds with one"
            " standard error, on a scale that is linear about 0. Right: how much new text the"
            " epochs are worth by the law, in units of the text that is repeated, with its 95%"
            " band; dashed, if every epoch were new.",
        ),
    )


class Cost(NamedTuple):
    """How far a run of repeated text lies above one of as many new tokens."""

    group: Group
    gap: Gap


def _costs(groups: Sequence[Group], arm: str) -> list[Cost]:
    """The runs of repeated text; of their seeds, the spread is that of runs of new text too."""
    ours = _of(groups, arm)
    fresh = {_tokens(group): group for group in ours if _epochs(group) == 1}
    found = []
    for group in ours:
        new = fresh.get(_tokens(group))
        if _epochs(group) > 1 and new is not None:
            # Not with other repeated text, as runs that overfit differ by whole bits.
            gap = gaps([group, *fresh.values()], new, BITS).get(group.name)
            found += [Cost(group, gap)] if gap is not None else []
    return found


def _cost_table(groups: Sequence[Group]) -> Table:
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for arm in ARMS:
        for group, gap in _costs(groups, arm):
            row = rows.setdefault(
                (_unique(group), _tokens(group)),
                {
                    "unique": count(_unique(group)),
                    "epochs": _epochs(group),
                    "tokens": count(_tokens(group)),
                },
            )
            row[arm] = signed(gap, BITS) + ("*" if gap.beyond else "")
    columns = (
        Column("unique", "U"),
        Column("epochs", "epochs"),
        Column("tokens", "D"),
        *(Column(name, arm.label) for name, arm in ARMS.items()),
    )
    return Table(
        columns,
        [rows[key] for key in sorted(rows)],
        "Bits per byte of D tokens that are U different ones, above those of D new tokens:"
        " means over seeds, paired by seed and document, with one standard error; an asterisk"
        " where the 95% interval leaves out 0.",
    )


COLOURS = (VERMILLION, ORANGE, PURPLE, SKY)


@styled()
def tokens_figure(groups: Sequence[Group], laws: Mapping[str, Fit | DataError]) -> Figure:
    """Loss by tokens, a panel an arm, a line for each amount of text."""
    figure, both = panels(2, height=3.4, sharey=True)
    places = sorted({_tokens(group) for group in groups})
    lines: list[tuple[int | None, str, str]] = [(None, BLUE, "o")]
    lines += [(u, COLOURS[at], MARKERS[at + 1]) for at, u in enumerate(_parts(groups))]
    best = {arm: best_so_far(_of(groups, arm)) for arm in ARMS}
    found = [result for pairs in best.values() for result, _ in pairs]
    low = min(result["bits_per_byte"] for result in found)
    high = max(least for pairs in best.values() for _, least in pairs)
    if truth := truth_of(found):
        low = min(low, truth)
    both[0].set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    for axes, arm in zip(both, ARMS, strict=True):
        law, beyond = laws[arm], []
        for unique, colour, marker in lines:
            new = unique is None
            for result, least in best[arm]:
                tokens, bits = result["tokens"], result["bits_per_byte"]
                if (tokens == result["unique_tokens"]) != new:
                    continue
                if not new and result["unique_tokens"] != unique:
                    continue
                if bits > high:
                    beyond.append((tokens, bits, colour))
                    continue
                face = PAPER if bits > least else colour
                axes.plot([tokens], [bits], marker, color=colour, markerfacecolor=face)
            if isinstance(law, Fit):
                start = places[0] if unique is None else max(unique, places[0])
                grid = np.geomspace(start / 1.1, places[-1] * 1.1, 60)
                _curve(axes, law, grid, unique, colour)
        for at, (tokens, bits, colour) in enumerate(sorted(beyond)):
            axes.annotate(
                f"↑ {bits:.2f}", (tokens, 1), (0, -4 - 10 * at), color=colour, ha="center",
                va="center", xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
        axes.set(title=ARMS[arm].label, xscale="log", xlabel="tokens trained on")
        ticks(axes.xaxis, FixedLocator(places), count)
    both[0].set_ylabel("bits per byte")
    if truth:
        both[0].axhline(truth, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2.5)), zorder=1)
        reference_lines(both[1], {"source": truth})
    handles = [
        Line2D([], [], color=c, marker=m, label=f"{count(u)} tokens again" if u else "new text")
        for u, c, m in lines
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=5)
    return figure


def _curve(axes: Axes, law: Fit, grid: np.ndarray, unique: int | None, colour: str) -> None:
    few = grid if unique is None else np.full_like(grid, unique)
    known = {"params": np.full_like(grid, 1e6), "tokens": grid, "unique": few}
    axes.plot(grid, evaluate(law, law.parameters, known)["loss"], color=colour)
    if law.draws:
        low, high = band(law, known)["loss"]
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)


@styled()
def repeats_figure(groups: Sequence[Group], laws: Mapping[str, Fit | DataError]) -> Figure:
    """The cost of repeats by epochs, and what they are worth by the law."""
    figure, (left, right) = panels(2, height=3.3)
    epochs = sorted({_epochs(group) for group in groups})
    grid = np.geomspace(1, max(2, epochs[-1]), 60)
    handles = []
    for arm, law in laws.items():
        for at, unique in enumerate(_parts(groups)):
            look: dict[str, Any] = {
                "color": ARMS[arm].colour,
                "marker": MARKERS[at + 1],
                "linestyle": ("-", "--", ":")[at % 3],
            }
            found = [cost for cost in _costs(groups, arm) if _unique(cost.group) == unique]
            left.errorbar(
                [_epochs(cost.group) for cost in found],
                [cost.gap.value for cost in found],
                [cost.gap.error or 0.0 for cost in found],
                elinewidth=1,
                **look,
            )
            handles.append(Line2D([], [], label=f"{ARMS[arm].label}, {count(unique)}", **look))
        if isinstance(law, Fit):
            colour = ARMS[arm].colour
            right.plot(grid, effective_tokens(law.parameters["R_D"], grid, 1.0), color=colour)
            ends = [
                interval_of(*_worth_of(law, each), law.degrees) or (math.nan, math.nan)
                for each in grid
            ]
            low, high = np.minimum(np.array(ends).T, grid)
            right.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
    right.plot(grid, grid, color=INK, linewidth=0.8, linestyle=(0, (4, 2.5)), zorder=3)
    left.axhline(0, color=MUTED, linewidth=0.8)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="epochs")
        ticks(axes.xaxis, FixedLocator(epochs), lambda value: f"{value:g}")
    right.set_yscale("log")
    right.set_ylim(0.9, 1.3 * grid[-1])
    ticks(right.yaxis, FixedLocator(epochs), lambda value: f"{value:g}")
    left.set_yscale("symlog", linthresh=0.1)
    low, high = left.get_ylim()
    left.set_ylim(min(-0.1, 1.2 * low), max(0.2, 1.5 * high))
    ticks(left.yaxis, FixedLocator((-0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1, 2)), _signed)
    left.set(title="What repeats cost", ylabel="bits per byte above new text")
    right.set(title="What they are worth", ylabel="times the text, if it were new")
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def _signed(value: float) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
