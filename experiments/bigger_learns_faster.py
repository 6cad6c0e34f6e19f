"""Do larger models need fewer tokens for the same loss, as a GPT and as a BERT?

Answers to: Kaplan et al. 2020 (arXiv:2001.08361), figure 2, where loss against tokens falls
faster the larger the model, of causal models alone.

    python -m experiments.bigger_learns_faster --scale laptop

    smoke   a minute            toys, to see that everything works
    laptop  9 minutes, 2 cores  6k to 0.4M parameters, 0.6M tokens of a known source
    v5e-16  16 hours, 16 chips  25M to 1.2B parameters, 1.7B tokens of Wikipedia, 7.4e19 FLOPs

The laptop's time is that of cores which other programs used as well.
The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.bigger_learns_faster --scale v5e-16 --cost v5e-16

A point on the way of a run whose learning rate will yet fall is not where a shorter run would
have ended, and a run that is close to its end has had the gain of the fall. So here the rate
stays constant after warm-up: every point is the end of the same recipe, at a loss that is
higher than a fall of the rate would make it. All sizes have the same batch, warm-up and rows.
Losses are each objective's own, on the same held-out rows, and compare between sizes, not
between objectives.

Expect fewer tokens for each loss as models grow, by a power that is far below one: a larger
model saves tokens and not FLOPs.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from lm.evaluate.scoring import Effort
from lm.objectives import AnyOrder, Causal
from lm.optimizer import WarmupStableDecay
from lm.output.numbers import count, decimals
from lm.run import Run
from lm.scaling.fit import Fit, band, evaluate
from lm.scaling.power import fit_power
from lm.scaling.table import Runs
from lm.study import runner
from lm.study.common import Arm, arm_of, size_text, study_report, ticks, violations
from lm.study.fits import (
    NO_ANSWER,
    arms_rows,
    attempt,
    cells_table,
    number_text,
    section,
)
from lm.study.plans import LAPTOP_SOURCE, SMOKE_SOURCE, V5E_16, Plan, Size
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
    styled,
)
from lm.study.report.values import Column, Plot, Report, Section, Table
from lm.study.runner import Cell
from lm.study.sections import equal_section, limits
from lm.study.seeds import groups_of, together
from lm.train.trackers.jsonl import read_metrics

ARMS = {
    "causal": Arm("GPT", "the GPT", Causal(), BLUE),
    "any_order": Arm("BERT, all rates", "the BERT trained at all rates", AnyOrder(), GREEN),
}


CONSTANT = WarmupStableDecay(warmup=0.05, decay=0.0)
PLANS = {
    "smoke": Plan(
        SMOKE_SOURCE,
        tokens=8192,
        sizes=(Size(1, 16, 1, 1e-2), Size(1, 32, 1, 1e-2)),
        seeds=2,
        settings={"schedule": CONSTANT, "evaluations": 8, "evaluation_rows": 16},
    ),
    "laptop": Plan(
        LAPTOP_SOURCE,
        tokens=614_400,
        sizes=tuple(Size(2, width, max(1, width // 32), 1e-2) for width in (16, 32, 64, 128)),
        seeds=2,
        settings={"schedule": CONSTANT, "evaluations": 40, "evaluation_rows": 256},
    ),
    "v5e-16": Plan(
        V5E_16,
        tokens=1600 * 2**20,
        sizes=(
            Size(8, 512, 8, 4e-3),
            Size(12, 768, 12, 3e-3),
            Size(24, 1024, 16, 2e-3),
            Size(24, 2048, 32, 1e-3),
        ),
        seeds=2,
        settings={
            "schedule": CONSTANT,
            "evaluations": 64,
            "evaluation_rows": 1024,
            "remat": "block",
            "microbatches": 4,
        },
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, share_rows=8, probe_tokens=1),
    "laptop": Effort(rows=256, samples=2, replicates=2, share_rows=16, probe_tokens=1),
    "v5e-16": Effort(rows=4096, share_rows=256, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: each size in each arm, for every seed."""
    return PLANS[scale].once().runs(ARMS)


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    groups = list(groups_of(cells, ARMS).values())
    found = {name: Race.of(curves_of(cells, name)) for name in ARMS}
    races = {name: race for name, race in found.items() if race.levels}
    sections: list[Section | None] = []
    if groups:
        sections = [
            section(
                "Loss by tokens",
                Plot(
                    "curves",
                    curves_figure(cells),
                    "Validation loss by tokens read, a line a run, at a constant learning rate."
                    " Dashed: the losses to which tokens are counted. The objectives’ losses"
                    " are of different things, and do not compare.",
                )
                if races
                else None,
            ),
            _to_loss(races) if races else None,
            equal_section(groups, groups[0]),
            limits(cells, groups, *_LIMITS),
        ]
    return study_report(
        sys.modules[__name__],
        cells,
        title="Bigger learns faster",
        answer=_answer(races),
        details=_details(races),
        table=cells_table(
            cells,
            "All finished cells, at the end of their constant rate. Own loss is the"
            " objective’s, in nats per predicted piece; bits per byte are of other windows, and"
            " ± is their standard error over documents.",
        ),
        sections=sections,
        warnings=violations(arms_rows(cells)),
    )


# Curves, and the tokens to a loss


class Curve(NamedTuple):
    """The validation losses of a run on its way."""

    name: str
    size: int
    """Parameters without the embedding, as in the paper."""
    tokens_T: np.ndarray
    loss_T: np.ndarray
    flops: float
    """Of training on a token."""

    def tokens_to(self, loss: float) -> float | None:
        """Tokens until the loss is first this low, between evaluations along ln D.

        None where it never is, or where it is at the first evaluation already.

        >>> curve = Curve("", 1, np.array([1e3, 2e3, 4e3]), np.array([3.0, 2.0, 1.0]), 1.0)
        >>> round(curve.tokens_to(1.5)), curve.tokens_to(0.5), curve.tokens_to(3.0)
        (2828, None, None)
        """
        low = np.flatnonzero(self.loss_T <= loss)
        if not len(low) or low[0] == 0:
            return None
        at = slice(low[0] - 1, low[0] + 1)
        (over, under), ends = self.loss_T[at], np.log(self.tokens_T[at])
        return float(np.exp(ends[0] + (ends[1] - ends[0]) * (over - loss) / (over - under)))


def curves_of(cells: Sequence[Cell], arm: str) -> list[Curve]:
    """The curves of an arm's finished cells."""
    found = []
    for cell in cells:
        if cell.result is None or arm_of(cell) != arm:
            continue
        records = [r for r in read_metrics(cell.directory) if "validation_loss" in r]
        found.append(
            Curve(
                cell.name,
                cell.result["params_non_embedding"],
                np.array([r["step"] for r in records])
                * (cell.run.data.batch * cell.run.data.length),
                np.array([r["validation_loss"] for r in records]),
                cell.result["flops"] / cell.result["tokens"],
            )
        )
    return found


class Race(NamedTuple):
    """One arm's curves, and the losses to which tokens are counted."""

    curves: list[Curve]
    levels: tuple[float, ...]
    """From the first that is reached to the last."""

    @staticmethod
    def of(curves: Sequence[Curve]) -> "Race":
        """Levels that lie between the first evaluation and the best of every size.

        Each is so many tenths of the way from the lowest of all first evaluations down to the
        lowest loss that some run of every size reaches.
        """
        sizes = {curve.size for curve in curves}
        if len(sizes) < 2:
            return Race(list(curves), ())
        top = min(float(curve.loss_T[0]) for curve in curves)
        end = max(
            min(float(curve.loss_T.min()) for curve in curves if curve.size == size)
            for size in sizes
        )
        levels = tuple(top + share * (end - top) for share in _SHARES) if end < top else ()
        return Race(list(curves), levels)

    def to(self, level: float) -> list[tuple[Curve, float]]:
        """The curves that reach a loss, with their tokens."""
        known = [(curve, curve.tokens_to(level)) for curve in self.curves]
        return [(curve, tokens) for curve, tokens in known if tokens is not None]

    def law(self, level: float, what: str = "tokens") -> Fit:
        """Tokens or FLOPs to a loss as a power of size, k N^-x; DataError from too few runs."""
        reached = self.to(level)
        spent = [d * (curve.flops if what == "flops" else 1.0) for curve, d in reached]
        sizes = [float(curve.size) for curve, _ in reached]
        return fit_power(Runs(np.array(spent), params_R=np.array(sizes)), against="params")


_SHARES = (0.4, 0.7, 0.9)


# Sentences


def _answer(races: Mapping[str, Race]) -> str:
    told = []
    for arm, race in races.items():
        fit = attempt(race.law, race.levels[-1])
        if not isinstance(fit, Fit):
            continue
        ends = fit.ci95.get("x")
        if ends is None or ends[0] <= 0 <= ends[1]:
            said = "which is not told from no gain"
        else:
            said = f"so larger models need {'fewer' if ends[0] > 0 else 'more'} tokens"
        x = number_text(fit.exponents["x"], ends)
        told.append(f"for {ARMS[arm].name} as N^−x with x {x}, {said}")
    if not told:
        return NO_ANSWER
    sizes = sorted({curve.size for race in races.values() for curve in race.curves})
    return (
        f"From {size_text(sizes[0])} to {size_text(sizes[-1])} parameters, the tokens to the"
        f" lowest loss that all sizes reach go {'; '.join(told)}."
    )


def _details(races: Mapping[str, Race]) -> tuple[str, ...]:
    grow, missed = [], []
    for arm, race in races.items():
        fit = attempt(race.law, race.levels[-1], "flops")
        if isinstance(fit, Fit):
            grow.append(f"N^{_growth_text(fit)} for {ARMS[arm].name}")
        reached = {curve.name for curve, _ in race.to(race.levels[-1])}
        missed += [curve.name for curve in race.curves if curve.name not in reached]
    if not grow:
        return ()
    never = f" Never there, and not counted: {together(missed)}." if missed else ""
    return (
        f"The FLOPs to that loss go as {together(grow)}: where that exponent is above 0, a"
        f" larger model pays more FLOPs for fewer tokens.{never}",
        "The two objectives’ losses are of different predictions. An exponent compares sizes of"
        " one objective; that one arm’s is larger than the other’s says nothing of which"
        " objective learns from fewer tokens.",
    )


def _growth_text(fit: Fit) -> str:
    """The exponent of what grows as a power of size."""
    ends = fit.ci95.get("x")
    return number_text(-fit.exponents["x"], (-ends[1], -ends[0]) if ends else None)


_LIMITS = (
    "At a constant rate the loss stops at a floor that the noise of the last steps makes, which"
    " is higher than where a falling rate would end; near it, tokens to a loss are a matter of"
    " that noise. Runs that never reach a loss are left out of its law, which makes the gain of"
    " size look smaller, as those are small ones.",
    "All sizes have one learning rate at the laptop’s scale. A smaller one might serve larger"
    " models better, and the exponent would then be larger. The levels are as low as the"
    " smallest model goes; at losses that only larger ones reach, tokens fall to a number from"
    " infinity, and no power of N describes that.",
)


# The sections


def _to_loss(races: Mapping[str, Race]) -> Section | None:
    return section(
        "Tokens to a loss, by size",
        Plot(
            "to_loss",
            to_loss_figure(races),
            "Left: tokens until a run’s validation loss is first as low as said, a mark a run,"
            " and the power law through them, with its 95% band for the lowest. Right: FLOPs"
            " for these tokens. Levels are each objective’s own.",
        ),
        _tokens_table(races),
        _laws_table(races),
    )


def _laws_table(races: Mapping[str, Race]) -> Table:
    rows = []
    for arm, race in races.items():
        for level in race.levels:
            row: dict[str, Any] = {
                "arm": ARMS[arm].label,
                "level": level,
                "runs": len(race.to(level)),
            }
            tokens = attempt(race.law, level)
            flops = attempt(race.law, level, "flops")
            if isinstance(tokens, Fit) and isinstance(flops, Fit):
                ends = tokens.ci95.get("x")
                row["tokens"] = number_text(tokens.exponents["x"], ends)
                row["flops"] = _growth_text(flops)
            rows.append(row)
    columns = (
        Column("arm", "trained as"),
        Column("level", "own loss", decimals),
        Column("tokens", "x (tokens ~ N^−x)"),
        Column("flops", "y (FLOPs ~ N^y)"),
        Column("runs", "runs that got there"),
    )
    return Table(
        columns,
        rows,
        "Exponents of the tokens and of the FLOPs to a loss, N without the embedding: least"
        " squares of logarithms through all runs that got there, with 95% intervals of 1,000"
        " draws of residuals, over sizes and seeds.",
    )


def _tokens_table(races: Mapping[str, Race]) -> Table:
    sizes = sorted({curve.size for race in races.values() for curve in race.curves})
    rows = []
    for arm, race in races.items():
        for level in race.levels:
            row: dict[str, Any] = {"arm": ARMS[arm].label, "level": level}
            for size in sizes:
                ours = [math.log(d) for curve, d in race.to(level) if curve.size == size]
                there = sum(curve.size == size for curve in race.curves)
                if ours:
                    spread = np.std(ours, ddof=1) / math.sqrt(len(ours)) if ours[1:] else None
                    row[str(size)] = (
                        count(math.exp(np.mean(ours)))
                        + (f" ± {spread:.0%}" if spread is not None else "")
                        + (f" ({len(ours)} of {there})" if len(ours) < there else "")
                    )
                elif there:
                    row[str(size)] = "not reached"
            rows.append(row)
    columns = (
        Column("arm", "trained as"),
        Column("level", "own loss", decimals),
        *(Column(str(size), size_text(size)) for size in sizes),
    )
    return Table(
        columns,
        rows,
        "Tokens to a loss by size: geometric means over seeds, with the standard error of the"
        " logarithm, and how many seeds got there where not all did.",
    )


COLOURS = (SKY, BLUE, PURPLE, VERMILLION, ORANGE, INK)
"""Of sizes, from the smallest."""


@styled()
def curves_figure(cells: Sequence[Cell]) -> Figure:
    """Validation loss by tokens, a panel an arm, a colour a size."""
    figure, both = panels(len(ARMS), height=3.4)
    sizes: list[int] = []
    for axes, (name, arm) in zip(both, ARMS.items(), strict=True):
        race = Race.of(curves_of(cells, name))
        sizes = sorted({curve.size for curve in race.curves} | set(sizes))
        for curve in race.curves:
            axes.plot(
                curve.tokens_T,
                curve.loss_T,
                color=COLOURS[sizes.index(curve.size) % len(COLOURS)],
                linewidth=1.1,
                alpha=0.9,
            )
        low = min((float(curve.loss_T.min()) for curve in race.curves), default=0.0)
        if race.levels:
            high = race.levels[0] + 0.6 * (race.levels[0] - low)
            axes.set_ylim(low - 0.06 * (high - low), high)
            for level in race.levels:
                axes.axhline(
                    level, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2.5)), zorder=1
                )
        axes.set(title=arm.label, xscale="log", xlabel="tokens, each read once")
        ticks(axes.xaxis, LogLocator(subs=(1, 2, 5)), count)
        axes.set_ylabel("own loss (nats per predicted piece)")
    handles = [
        Line2D([], [], color=COLOURS[at % len(COLOURS)], label=size_text(size))
        for at, size in enumerate(sizes)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=6)
    return figure


@styled()
def to_loss_figure(races: Mapping[str, Race]) -> Figure:
    """Tokens and FLOPs to each loss by size."""
    figure, both = panels(2, height=3.5)
    sizes = sorted({curve.size for race in races.values() for curve in race.curves})
    grid = np.geomspace(sizes[0] / 1.2, sizes[-1] * 1.2, 40)
    handles = []
    for arm, race in races.items():
        for at, level in enumerate(race.levels):
            look: dict[str, Any] = {
                "color": ARMS[arm].colour,
                "marker": MARKERS[at],
                "markerfacecolor": ARMS[arm].colour if level == race.levels[-1] else PAPER,
            }
            for axes, what in zip(both, ("tokens", "flops"), strict=True):
                spent = [
                    (curve.size, tokens * (curve.flops if what == "flops" else 1.0))
                    for curve, tokens in race.to(level)
                ]
                axes.plot(*zip(*spent, strict=True), **look, linestyle="none")
                law = attempt(race.law, level, what)
                if not isinstance(law, Fit):
                    continue
                line = evaluate(law, law.parameters, {"params": grid})["loss"]
                axes.plot(grid, line, color=ARMS[arm].colour, linewidth=1)
                if law.draws and level == race.levels[-1]:
                    low, high = band(law, {"params": grid})["loss"]
                    axes.fill_between(
                        grid, low, high, color=ARMS[arm].colour, alpha=0.13, linewidth=0
                    )
            handles.append(Line2D([], [], label=f"{ARMS[arm].label}, to {level:.2f}", **look))
    for axes in both:
        axes.set(xscale="log", yscale="log", xlabel="parameters without the embedding")
        ticks(axes.xaxis, FixedLocator(sizes), size_text)
    ticks(both[0].yaxis, LogLocator(subs=(1, 2, 5)), count)
    both[0].set(title="Tokens to a loss", ylabel="tokens")
    both[1].set(title="FLOPs to it", ylabel="training FLOPs")
    both[1].yaxis.set_minor_locator(NullLocator())
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
