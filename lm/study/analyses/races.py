"""How many tokens and FLOPs runs of several sizes take to a loss."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from lm.output.numbers import count, decimals
from lm.scaling.fit import Fit
from lm.scaling.power import Power
from lm.scaling.table import Runs
from lm.study.curves import Curve, curve_of
from lm.study.figures import size_colours, ticks
from lm.study.grid import StudyRun, Variant, size_text, variant_of
from lm.study.laws import attempt, draw_law
from lm.study.report.figures import MARKERS, MUTED, PAPER, panels, styled
from lm.study.report.values import Column, Plot, Section, Table
from lm.study.sections import section
from lm.study.sentences import NO_LAW, fit_text, number_text, together


class Race(NamedTuple):
    """One variant's curves, and the losses to which tokens are counted."""

    variant: Variant
    curves: list[Curve]
    levels: tuple[float, ...]
    """From the first that is reached to the last."""

    @staticmethod
    def of(variant: Variant, curves: Sequence[Curve]) -> "Race":
        """Levels that lie between the first evaluation and the best of every size.

        Each is so many tenths of the way from the lowest of all first evaluations down to the
        lowest loss that some run of every size reaches.
        """
        sizes = {curve.params for curve in curves}
        if len(sizes) < 2:
            return Race(variant, list(curves), ())
        top = min(float(curve.loss_T[0]) for curve in curves)
        end = max(
            min(float(curve.loss_T.min()) for curve in curves if curve.params == size)
            for size in sizes
        )
        levels = tuple(top + part * (end - top) for part in (0.4, 0.7, 0.9))
        return Race(variant, list(curves), levels if end < top else ())

    def to(self, level: float) -> list[tuple[Curve, float]]:
        """The curves that reach a loss, with their tokens."""
        known = [(curve, curve.tokens_to(level)) for curve in self.curves]
        return [(curve, tokens) for curve, tokens in known if tokens is not None]

    def spent(self, level: float, what: str) -> tuple[np.ndarray, np.ndarray]:
        """The sizes of the curves that reach a loss, and their tokens or FLOPs to it."""
        reached = self.to(level)
        spent = [d * (curve.flops if what == "flops" else 1.0) for curve, d in reached]
        return np.array([float(curve.params) for curve, _ in reached]), np.array(spent)

    def law(self, level: float, what: str = "tokens") -> Fit:
        """Tokens or FLOPs to a loss as a power of size, k N^-x; DataError from too few runs."""
        sizes_R, spent_R = self.spent(level, what)
        return Power(against="params").fit(Runs(spent_R, params_R=sizes_R))


def races_of(cells: Sequence[StudyRun], variants: Mapping[str, Variant]) -> dict[str, Race]:
    """The races of variants whose sizes have a loss in common, by name."""
    done = [(variant_of(cell), curve_of(cell)) for cell in cells if cell.result is not None]
    found = {
        name: Race.of(variant, [curve for of, curve in done if of == name])
        for name, variant in variants.items()
    }
    return {name: race for name, race in found.items() if race.levels}


def sizes_of(races: Mapping[str, Race]) -> list[float]:
    """All sizes that run, ascending."""
    return sorted({curve.params for race in races.values() for curve in race.curves})


def growth_text(fit: Fit) -> str:
    """The exponent of what grows as a power of size."""
    ends = fit.ci95.get("x")
    return number_text(-fit.exponents["x"], (-ends[1], -ends[0]) if ends else None)


def race_laws_table(races: Mapping[str, Race]) -> Table:
    """The exponents of tokens and FLOPs to each loss."""
    rows = []
    for race in races.values():
        for level in race.levels:
            row: dict[str, Any] = {
                "variant": race.variant.label,
                "level": level,
                "runs": len(race.to(level)),
            }
            tokens, flops = (attempt(race.law, level, what) for what in ("tokens", "flops"))
            if isinstance(tokens, Fit) and isinstance(flops, Fit):
                row["tokens"] = fit_text(tokens, "x")
                row["flops"] = growth_text(flops)
            rows.append(row)
    columns = (
        Column("variant", "trained as"),
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


def to_loss_table(races: Mapping[str, Race]) -> Table:
    """Tokens to each loss, a column a size."""
    sizes, rows = sizes_of(races), []
    for race in races.values():
        for level in race.levels:
            row: dict[str, Any] = {"variant": race.variant.label, "level": level}
            for size in sizes:
                ours = [math.log(d) for curve, d in race.to(level) if curve.params == size]
                there = sum(curve.params == size for curve in race.curves)
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
        Column("variant", "trained as"),
        Column("level", "own loss", decimals),
        *(Column(str(size), size_text(size)) for size in sizes),
    )
    return Table(
        columns,
        rows,
        "Tokens to a loss by size: geometric means over seeds, with the standard error of the"
        " logarithm, and how many seeds got there where not all did.",
    )


@styled()
def races_figure(races: Mapping[str, Race]) -> Figure:
    """Validation loss by tokens, a panel a variant, a colour a size."""
    figure, both = panels(len(races), height=3.4)
    colours = size_colours(sizes_of(races))
    for axes, race in zip(both, races.values(), strict=True):
        axes.set(title=race.variant.label, xscale="log", xlabel="tokens, each read once")
        ticks(axes.xaxis, LogLocator(subs=(1, 2, 5)), count)
        axes.set_ylabel("own loss (nats per predicted token)")
        for curve in race.curves:
            colour = colours[curve.params]
            axes.plot(curve.tokens_T, curve.loss_T, color=colour, linewidth=1.1, alpha=0.9)
        low = min(float(curve.loss_T.min()) for curve in race.curves)
        high = race.levels[0] + 0.6 * (race.levels[0] - low)
        axes.set_ylim(low - 0.06 * (high - low), high)
        for level in race.levels:
            axes.axhline(level, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2.5)), zorder=1)
    handles = [Line2D([], [], color=c, label=size_text(size)) for size, c in colours.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=6)
    return figure


@styled()
def to_loss_figure(races: Mapping[str, Race]) -> Figure:
    """Tokens and FLOPs to each loss by size."""
    figure, both = panels(2, height=3.5)
    sizes, handles = sizes_of(races), []
    grid = np.geomspace(sizes[0] / 1.2, sizes[-1] * 1.2, 40)
    for race in races.values():
        variant = race.variant
        for level, marker in zip(race.levels, MARKERS, strict=False):
            last = level == race.levels[-1]
            look: dict[str, Any] = {
                "color": variant.colour, "marker": marker,
                "markerfacecolor": variant.colour if last else PAPER,
            }  # fmt: skip
            for axes, what in zip(both, ("tokens", "flops"), strict=True):
                spent = race.spent(level, what)
                axes.plot(*spent, **look, linestyle="none")
                law = attempt(race.law, level, what)
                if isinstance(law, Fit):
                    draw_law(axes, law, {"params": grid}, variant.colour, alpha=0.13 * last)
            handles.append(Line2D([], [], label=f"{variant.label}, to {level:.2f}", **look))
    for axes in both:
        axes.set(xscale="log", yscale="log", xlabel="parameters without the embedding")
        ticks(axes.xaxis, FixedLocator(sizes), size_text)
    ticks(both[0].yaxis, LogLocator(subs=(1, 2, 5)), count)
    both[0].set(title="Tokens to a loss", ylabel="tokens")
    both[1].set(title="FLOPs to it", ylabel="training FLOPs")
    both[1].yaxis.set_minor_locator(NullLocator())
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def race_sections(races: Mapping[str, Race]) -> list[Section | None]:
    """The curves, and tokens and FLOPs to each loss; none where no sizes share a loss."""
    if not races:
        return []
    return [
        section(
            "Loss by tokens",
            Plot(
                "curves",
                races_figure(races),
                "Validation loss by tokens read, a line a run, at a constant learning rate."
                " Dashed: the losses to which tokens are counted. The objectives’ losses are of"
                " different things, and do not compare.",
            ),
        ),
        section(
            "Tokens to a loss, by size",
            Plot(
                "to_loss",
                to_loss_figure(races),
                "Left: tokens until a run’s validation loss is first as low as said, a mark a"
                " run, and the power law through them, with its 95% band for the lowest. Right:"
                " FLOPs for these tokens. Levels are each objective’s own.",
            ),
            to_loss_table(races),
            race_laws_table(races),
        ),
    ]


def race_answer(races: Mapping[str, Race]) -> str:
    """How the tokens to the lowest loss go with size."""
    told = []
    for race in races.values():
        fit = attempt(race.law, race.levels[-1])
        if not isinstance(fit, Fit):
            continue
        ends, said = fit.ci95.get("x"), "which is not told from no gain"
        if ends and not ends[0] <= 0 <= ends[1]:
            said = f"so larger models need {'fewer' if ends[0] > 0 else 'more'} tokens"
        told.append(f"for {race.variant.name} as N^−x with x {fit_text(fit, 'x')}, {said}")
    if not told:
        return NO_LAW
    least, *_, most = sizes_of(races)
    return (
        f"From {size_text(least)} to {size_text(most)} parameters, the tokens to the"
        f" lowest loss that all sizes reach go {'; '.join(told)}."
    )


def flops_text(races: Mapping[str, Race]) -> str | None:
    """How the FLOPs to that loss go with size, and which runs never got there."""
    grow, missed = [], []
    for race in races.values():
        fit = attempt(race.law, race.levels[-1], "flops")
        if isinstance(fit, Fit):
            grow.append(f"N^{growth_text(fit)} for {race.variant.name}")
        reached = {curve.name for curve, _ in race.to(race.levels[-1])}
        missed += [curve.name for curve in race.curves if curve.name not in reached]
    if not grow:
        return None
    never = f" Never there, and not counted: {together(missed)}." if missed else ""
    return (
        f"The FLOPs to that loss go as {together(grow)}: where that exponent is above 0, a"
        f" larger model pays more FLOPs for fewer tokens.{never}"
    )
