"""What the same text is worth when it is read again: laws, costs, and how they are shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from lm.output.numbers import count
from lm.scaling.data_constrained import DataConstrained
from lm.scaling.fit import Fit
from lm.scaling.laws import effective_tokens
from lm.scaling.table import DataError
from lm.study.figures import ticks
from lm.study.grid import Variant, size_text
from lm.study.groups import BITS, Gap, Group, gaps, of_variant
from lm.study.laws import ONE_SIZE, draw_law, interval_of, least_of, runs_of
from lm.study.report.figures import (
    BLUE,
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
from lm.study.report.values import Column, Plot, Row, Section, Table
from lm.study.sections import section
from lm.study.sentences import NO_LAW, short_text, signed, together
from lm.study.tables import doubts_table, parameters_table

FitsByVariant = Mapping[Variant, Fit | DataError]
"""Of variants that are compared."""


def repeated_parts(groups: Sequence[Group]) -> list[int]:
    """How much text is repeated, ascending."""
    return sorted({group.unique for group in groups if group.epochs > 1})


def with_epochs(result: Row | None) -> Row | None:
    """A result with how often its text was read."""
    return result and {**result, "epochs": result["tokens"] / result["unique_tokens"]}


def best_so_far(groups: Sequence[Group]) -> list[tuple[Row, float]]:
    """The results of a variant, and the least bits per byte of each and those of fewer epochs.

    That of a seed and its text: what stopping early would have given.
    """
    found, least = [], dict[tuple[int, int], float]()
    for group in sorted(groups, key=lambda group: group.tokens):
        for seed, result in group.results.items():
            text = group.unique, seed
            least[text] = min(result["bits_per_byte"], least.get(text, math.inf))
            found.append((result, least[text]))
    return found


def law_of(groups: Sequence[Group], variant: Variant) -> Fit:
    """The data-constrained law of a variant; its floor is the source's, where that is known."""
    both = best_so_far(of_variant(groups, variant))
    results = [result for result, _ in both]
    table = replace(
        runs_of(results),
        loss_R=np.array([least for _, least in both]),
        unique_R=np.array([float(result["unique_tokens"]) for result in results]),
    )
    truth = least_of(results)
    # There is one size, so nothing says that some parameters are not worth while.
    fixed = ONE_SIZE | {"R_N": 1e12} | ({"E": truth} if truth else {})
    # Squares, as no run is an outlier, and what repeats cost is in few of them.
    return DataConstrained(delta=0.1, fixed=fixed).fit(table)


def worth_of(fit: Fit, epochs: float) -> tuple[float, np.ndarray]:
    """How many readings of as much new text so many epochs are worth, and that in each draw."""
    value = float(effective_tokens(fit.parameters["R_D"], epochs, 1.0))
    draws_B = fit.draws.get("R_D", np.empty(0))
    return value, effective_tokens(draws_B, epochs, 1.0)


def worth_text(fit: Fit, epochs: float) -> str:
    """The same with its 95% interval, which cannot be beyond the epochs."""
    value, draws_B = worth_of(fit, epochs)
    ends = interval_of(value, draws_B, fit.degrees)
    return short_text(value, ends and (ends[0], min(ends[1], epochs)))


def repeats_text(fit: Fit) -> str:
    """R_D with its interval, of which one end may be beyond what the runs can tell."""
    value, ends = fit.parameters["R_D"], fit.ci95.get("R_D")
    if value < 1e4:  # repeats, of which no run has a hundredth
        return short_text(value, ends)
    return "beyond what the runs can tell" + (f" (at least {ends[0]:.3g})" if ends else "")


def costs_of(groups: Sequence[Group], variant: Variant) -> list[tuple[Group, Gap]]:
    """How far runs of repeated text lie above those of as many new tokens.

    Of their seeds, the spread is that of runs of new text too.
    """
    ours = of_variant(groups, variant)
    fresh = {group.tokens: group for group in ours if group.epochs == 1}
    return [
        (group, gap)
        for group in ours
        for new in [fresh.get(group.tokens)]
        # Not with other repeated text, as runs that overfit differ by whole bits.
        if group.epochs > 1 and new is not None
        if (gap := gaps([group, *fresh.values()], new, BITS).get(group.name))
    ]


def cost_table(groups: Sequence[Group], variants: Sequence[Variant]) -> Table:
    """What repeats cost, a column a variant."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for variant in variants:
        for group, gap in costs_of(groups, variant):
            u, d = count(group.unique), count(group.tokens)
            start = {"unique": u, "epochs": group.epochs, "tokens": d}
            row = rows.setdefault((group.unique, group.tokens), start)
            row[variant.label] = signed(gap, BITS) + ("*" if gap.beyond else "")
    columns = (
        Column("unique", "U"),
        Column("epochs", "epochs"),
        Column("tokens", "D"),
        *(Column(variant.label, variant.label) for variant in variants),
    )
    return Table(
        columns,
        [rows[key] for key in sorted(rows)],
        "Bits per byte of D tokens that are U different ones, above those of D new tokens:"
        " means over seeds, paired by seed and document, with one standard error; an asterisk"
        " where the 95% interval leaves out 0.",
    )


@styled()
def tokens_figure(groups: Sequence[Group], laws: FitsByVariant) -> Figure:
    """Loss by tokens, a panel a variant, a line for each amount of text."""
    figure, both = panels(2, height=3.4, sharey=True)
    places = sorted({group.tokens for group in groups})
    colours = (VERMILLION, ORANGE, PURPLE, SKY)
    lines: list[tuple[int | None, str, str]] = [(None, BLUE, "o")]
    lines += [(u, colours[at], MARKERS[at + 1]) for at, u in enumerate(repeated_parts(groups))]
    best = {variant: best_so_far(of_variant(groups, variant)) for variant in laws}
    found = [result for pairs in best.values() for result, _ in pairs]
    low = min(result["bits_per_byte"] for result in found)
    high = max(least for pairs in best.values() for _, least in pairs)
    if truth := least_of(found):
        low = min(low, truth)
    both[0].set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    for axes, (variant, law) in zip(both, laws.items(), strict=True):
        beyond = []
        for unique, colour, marker in lines:
            for result, least in best[variant]:
                tokens, bits, text = (
                    result[key] for key in ("tokens", "bits_per_byte", "unique_tokens")
                )
                if unique != (None if text == tokens else text):
                    continue
                if bits > high:
                    beyond.append((tokens, bits, colour))
                    continue
                face = PAPER if bits > least else colour
                axes.plot([tokens], [bits], marker, color=colour, markerfacecolor=face)
            if isinstance(law, Fit):
                grid = np.geomspace(max(unique or 0, places[0]) / 1.1, places[-1] * 1.1, 60)
                few = grid if unique is None else np.full_like(grid, unique)
                known = {"params": np.full_like(grid, 1e6), "unique": few, "tokens": grid}
                draw_law(axes, law, known, colour)
        for at, (tokens, bits, colour) in enumerate(sorted(beyond)):
            axes.annotate(
                f"↑ {bits:.2f}", (tokens, 1), (0, -4 - 10 * at), color=colour, ha="center",
                va="center", xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
        axes.set(title=variant.label, xscale="log", xlabel="tokens trained on")
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


@styled()
def repeats_figure(groups: Sequence[Group], laws: FitsByVariant) -> Figure:
    """The cost of repeats by epochs, and what they are worth by the law."""
    figure, (left, right) = panels(2, height=3.3)
    epochs = sorted({group.epochs for group in groups})
    grid = np.geomspace(1, max(2, epochs[-1]), 60)
    handles = []
    for variant, law in laws.items():
        for at, unique in enumerate(repeated_parts(groups)):
            look: dict[str, Any] = {
                "color": variant.colour,
                "marker": MARKERS[at + 1],
                "linestyle": ("-", "--", ":")[at % 3],
            }
            found = [(g, gap) for g, gap in costs_of(groups, variant) if g.unique == unique]
            left.errorbar(
                [group.epochs for group, _ in found],
                [gap.value for _, gap in found],
                [gap.error or 0.0 for _, gap in found],
                elinewidth=1,
                **look,
            )
            handles.append(Line2D([], [], label=f"{variant.label}, {count(unique)}", **look))
        if isinstance(law, Fit):
            worth = effective_tokens(law.parameters["R_D"], grid, 1.0)
            right.plot(grid, worth, color=variant.colour)
            ends = [
                interval_of(*worth_of(law, each), law.degrees) or (math.nan, math.nan)
                for each in grid
            ]
            low, high = np.minimum(np.array(ends).T, grid)
            right.fill_between(grid, low, high, color=variant.colour, alpha=0.15, linewidth=0)
    right.plot(grid, grid, color=INK, linewidth=0.8, linestyle=(0, (4, 2.5)), zorder=3)
    left.axhline(0, color=MUTED, linewidth=0.8)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="epochs")
        ticks(axes.xaxis, FixedLocator(epochs), "{:g}".format)
    right.set_yscale("log")
    right.set_ylim(0.9, 1.3 * grid[-1])
    ticks(right.yaxis, FixedLocator(epochs), "{:g}".format)
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


def law_section(groups: Sequence[Group], laws: FitsByVariant) -> Section | None:
    """Loss by tokens with the laws, their parameters and doubts."""
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
        *_parameters(laws),
    )


def _parameters(laws: FitsByVariant) -> tuple[Table, Table | None]:
    """The parameters of laws, and what these warn of."""
    fits = {variant.label: law for variant, law in laws.items()}
    return (
        parameters_table(
            fits,
            ("E", "B", "beta", "R_D"),
            "L = E + B / D′^beta with D′ = U (1 + R_D (1 − exp(−(D / U − 1) / R_D))), in bits"
            " per byte, by least squares of ln L. E is held at what the source itself needs,"
            " where that is known; else what the one size cannot learn is in it.",
        ),
        doubts_table(fits),
    )


def worth_section(groups: Sequence[Group], laws: FitsByVariant) -> Section | None:
    """What repeats cost, and what they are worth by the laws."""
    return section(
        "What repeats cost, and what they are worth", *_worth(groups, laws, "repeats")
    )


def readings_section(
    heading: str, groups: Sequence[Group], laws: FitsByVariant, name: str
) -> Section | None:
    """The laws' parameters, what repeats cost and are worth, with a figure of this name."""
    return section(heading, *_parameters(laws), *_worth(groups, laws, name))


def _worth(groups: Sequence[Group], laws: FitsByVariant, name: str) -> tuple[Table, Plot]:
    return (
        cost_table(groups, tuple(laws)),
        Plot(
            name,
            repeats_figure(groups, laws),
            "Left: bits per byte above a run of as many new tokens, means over seeds with one"
            " standard error, on a scale that is linear about 0. Right: how much new text the"
            " epochs are worth by the law, in units of the text that is repeated, with its 95%"
            " band; dashed, if every epoch were new.",
        ),
    )


def repeats_answer(groups: Sequence[Group], laws: FitsByVariant) -> str:
    """What the most epochs are worth to two variants, and what becomes of the least text."""
    (first, ours), (last, theirs) = laws.items()
    if not (isinstance(ours, Fit) and isinstance(theirs, Fit)):
        return NO_LAW
    epochs = max(group.epochs for group in groups)
    (value, ours_B), (other, theirs_B) = (worth_of(fit, epochs) for fit in (ours, theirs))
    times, ends = other / value, None
    if ours.draws and theirs.draws:
        ends = interval_of(times, theirs_B / ours_B, min(ours.degrees, theirs.degrees))
    said = "which does not show that either bears more repeats"
    if ends and not ends[0] <= 1 <= ends[1]:
        said = f"so {last.name} bears {'more' if times > 1 else 'fewer'} repeats"
    return (
        f"At {size_text(groups[0].size)} parameters, {epochs} epochs are worth"
        f" {worth_text(ours, epochs)} readings of new text to {first.name} and"
        f" {worth_text(theirs, epochs)} to {last.name}, {short_text(times, ends)} times as many"
        f" (with 95% intervals), {said}. R_D is {repeats_text(ours)} and"
        f" {repeats_text(theirs)}. {_least_text(groups, tuple(laws))}"
    ).rstrip()


def _least_text(groups: Sequence[Group], variants: Sequence[Variant]) -> str:
    """After how many epochs of the least text each variant is best, in sentences."""
    least = repeated_parts(groups)[:1]
    series = [[g for g in of_variant(groups, v) if g.unique in least] for v in variants]
    if any(len(ours) < 2 for ours in series):
        return ""
    told, best = [], []
    for ours in series:
        best.append(min(ours, key=lambda group: group.mean(BITS.key) or math.inf))
        name, epochs = ours[0].variant.name, ours[-1].epochs
        text = f"{name} is best after {best[-1].epochs} of {epochs} epochs"
        if best[-1] is not ours[-1]:
            above = gaps(ours, best[-1], BITS)[ours[-1].name]
            text += f" ({signed(above, BITS)} after all of them)"
        told.append(text)
    # With new text beside them, whose seeds say how much trainings differ.
    first, last = best
    new = [group for group in groups if group.epochs == 1 and group is not first]
    text = f"Of {count(least[0])} tokens {together(told)}."
    if gap := gaps([last, *new], first, BITS).get(last.name):
        text += (
            f" At their best, {last.variant.name} lies {signed(gap, BITS)} bits per byte from"
            f" {first.variant.name}{'' if gap.beyond else ', which is not beyond the error'}."
        )
    return text


def overfit_text(
    groups: Sequence[Group], laws: FitsByVariant, text: str = "the same text"
) -> str | None:
    """How many runs the law of a text counts as if they had been stopped; None without one."""
    if not any(isinstance(fit, Fit) for fit in laws.values()):
        return None
    overfit = [
        f"{sum(result['bits_per_byte'] > least for result, least in both)} of {len(both)} of"
        f" {variant.name}"
        for variant in laws
        if (both := best_so_far(of_variant(groups, variant)))
    ]
    return (
        "The law has no overfitting in it. Runs that ended above one of fewer epochs of"
        f" {text} ({together(overfit)}) count in it as if they had been stopped there."
    )
