"""The figures of reports."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

from lm.output.numbers import count
from lm.study.curves import losses_of
from lm.study.grid import StudyRun, Variant, parameters, size_text
from lm.study.groups import BITS, PROBE, Group, Measure, all_results, by_size, gaps, of_variant
from lm.study.report.figures import (
    BLUE,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RULE,
    SKY,
    VERMILLION,
    panels,
    reference_lines,
    styled,
)

Lines = Mapping[str, tuple[str, Group]]
"""Colours and groups by what legends call them."""


def lines_of(groups: Sequence[Group]) -> Lines:
    """Groups of one size, as their variants are drawn."""
    return {group.variant.label: (group.variant.colour, group) for group in groups}


@styled()
def dots_figure(series: Mapping[str, tuple[str, Mapping[str, Group]]]) -> Figure:
    """Bits per byte and probe of each variant, a row each; `series` are colours and groups by
    row.

    Filled marks are exact, hollow ones bounds, crosses no likelihood.
    """
    rows = list(dict.fromkeys(row for _, found in series.values() for row in found))
    figure, both = panels(2, height=1.3 + 0.24 * len(rows), sharey=True)
    for axes, measure in zip(both, (BITS, PROBE), strict=True):
        for order, (colour, found) in enumerate(series.values()):
            nudge = 0.17 * (order - (len(series) - 1) / 2)
            for row, group in found.items():
                if (value := group.mean(measure.key)) is not None:
                    bar = _unit(measure) * (group.error(measure) or 0.0)
                    look = _mark(group, measure, colour, MARKERS[order])
                    place = rows.index(row) + nudge
                    axes.errorbar([_unit(measure) * value], [place], xerr=[bar], **look)
        axes.grid(axis="y", visible=False)
    left, right = both
    left.set_yticks(range(len(rows)), rows)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set(title="Held-out text", xlabel="bits per byte")
    right.set(title="Roles found by the probe", xlabel="% of tokens")
    _name_series(figure, series, "none")
    return figure


@styled()
def curves_figure(
    lines: Mapping[str, tuple[str, Mapping[float, Group]]],
    xlabel: str,
    baselines: Mapping[str, float],
) -> Figure:
    """Bits per byte and probe against a number; `lines` are colours and groups by it."""
    figure, both = panels(2, height=3.2)
    for axes, measure in zip(both, (BITS, PROBE), strict=True):
        unit = _unit(measure)
        for order, (colour, found) in enumerate(lines.values()):
            there = {x: g for x, g in found.items() if g.mean(measure.key) is not None}
            values = {x: unit * (g.mean(measure.key) or 0.0) for x, g in there.items()}
            # A line joins what compares: not bounds with exact numbers.
            kinds = {x: g.kind if measure is BITS else "" for x, g in there.items()}
            for kind in sorted(set(kinds.values())):
                joined = [x for x in values if kinds[x] == kind]
                axes.plot(joined, [values[x] for x in joined], color=colour, zorder=1)
            for x, group in there.items():
                bar = unit * (group.error(measure) or 0.0)
                look = _mark(group, measure, colour, MARKERS[order])
                axes.errorbar([x], [values[x]], [bar], **look)
        axes.set_xlabel(xlabel)
    left, right = both
    left.set(title="Held-out text", ylabel="bits per byte")
    right.set(title="Roles found by the probe", ylabel="% of tokens")
    reference_lines(left, baselines)
    _name_series(figure, lines, "-")
    return figure


@styled()
def fractions_figure(
    lines: Lines,
    *,
    floors: Mapping[str, float] = {},
    trained_at: float | None = None,
    truth: bool = False,
) -> Figure | None:
    """Error of the masked tokens against the fraction masked; None if nobody was asked.

    With `truth`, the least that the source of the text allows is beside it.
    """
    figure, (axes,) = panels(1, height=3.4)
    drawn: list[tuple[str, str, list[Any], str]] = []
    for order, (label, (colour, group)) in enumerate(lines.items()):
        results = [r for r in group.results.values() if r.get("error_by_fraction")]
        if results:
            curves = [result["error_by_fraction"] for result in results]
            drawn.append((label, colour, curves, MARKERS[order % len(MARKERS)]))
        if results and truth and len(drawn) == 1:
            known = [result["truth"]["error_by_fraction"] for result in results]
            drawn.append(("the source", INK, known, ""))
    handles = []
    for order, (label, colour, curves, marker) in enumerate(drawn):
        dashed = order >= len(MARKERS) or not marker
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "linestyle": "--" if dashed else "-",
        }
        handles.append(Line2D([], [], label=label, **look))
        fractions = sorted(curves[0], key=float)
        values_SR = np.array(
            [[c[fraction]["bits_per_byte"] for c in curves] for fraction in fractions]
        )
        masks_S = [
            np.mean([c[fraction]["mc_se"] or 0.0 for c in curves]) for fraction in fractions
        ]
        seeds_S = values_SR.std(axis=1, ddof=1) / math.sqrt(len(curves)) if curves[1:] else 0.0
        axes.errorbar(
            [100 * float(fraction) for fraction in fractions],
            values_SR.mean(axis=1),
            np.hypot(seeds_S, masks_S),
            elinewidth=0.9,
            **look,
        )
    axes.set(
        xlabel="fraction of the row that is masked (%)",
        ylabel="bits per byte of the masked tokens",
    )
    axes.set_xlim(0, 102)
    if trained_at is not None:
        axes.axvline(100 * trained_at, color=MUTED, linewidth=0.8, linestyle=":")
        axes.annotate(
            "trained here", (100 * trained_at, 1), (4, -2), va="top", color=MUTED,
            xycoords=("data", "axes fraction"), textcoords="offset points",
        )  # fmt: skip
    if floors:
        low, high = axes.get_ylim()
        axes.set_ylim(low, max(high, 1.04 * max(floors.values())))
        reference_lines(axes, floors)
    if floors or truth:
        figure.legend(handles=handles, loc="outside upper left", ncols=4)
    else:
        figure.legend(handles=handles, loc="outside right upper")
    return figure if drawn else None


@styled()
def bits_figure(
    groups: Sequence[Group], reference: Variant, baselines: Mapping[str, float]
) -> Figure:
    """Bits per byte by size, and how far above the reference variant."""
    figure, (left, right) = panels(2, height=3.5)
    above = {
        name: gap
        for peers in by_size(groups).values()
        for first in of_variant(peers, reference)
        for name, gap in gaps(peers, first, BITS).items()
    }
    for nudge, variant in enumerate(_variants(groups), -1):
        ours = of_variant(groups, variant)
        hollow = any(group.kind != "exact" for group in ours)
        points = [(g.size, g.mean("bits_per_byte"), g.error(BITS)) for g in ours]
        _points(left, variant, points, nudge, hollow=hollow)
        apart = [(g, above[g.name]) for g in ours if g.name in above]
        points = [(group.size, gap.value, gap.error) for group, gap in apart]
        _points(right, variant, points, nudge, hollow=True)
    bits = [group.mean("bits_per_byte") or 0.0 for group in groups]
    low, high = min([*bits, *baselines.values()]), max([*bits, *baselines.values()])
    left.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    right.axhline(0, color=reference.colour, linewidth=1.2)
    right.annotate(
        reference.label, (1, 0), (-2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", color=reference.colour, ha="right", va="bottom",
    )  # fmt: skip
    for axes in (left, right):
        _size_axis(axes, groups)
    left.set(title="Held-out text", ylabel="bits per byte")
    right.set(
        title=f"Above the {reference.label}",
        ylabel=f"bits per byte more than the {reference.label}",
    )
    right.set_ylim(min(0, right.get_ylim()[0]) - 0.05)
    reference_lines(left, baselines)
    kinds = {group.variant: group.kind for group in groups}
    handles = [_handle(variant, hollow=kinds[variant] != "exact") for variant in kinds]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


@styled()
def loss_figure(cells: Sequence[StudyRun], variants: Mapping[str, Variant]) -> Figure | None:
    """Training and validation loss against tokens and FLOPs; None if nothing was trained."""
    figure, (left, right) = panels(2, height=3.3, sharey=True)
    lowest, highest = math.inf, -math.inf
    sizes = sorted({parameters(cell.run.model) for cell in cells})
    dashes: dict[int, Any] = dict(
        zip(sizes[::-1], ("-", (0, (3.5, 1.6)), (0, (1, 1.2))), strict=False)
    )
    small: dict[str, Any] = {
        "markersize": 3.6, "markerfacecolor": PAPER, "markeredgewidth": 0.9
    }  # fmt: skip
    for cell in cells:
        size, variant = parameters(cell.run.model), variants[cell.name.split("-")[0]]
        losses, marker = losses_of(cell), MARKERS[sizes.index(size)]
        scales: dict[Axes, float] = {left: cell.run.data.batch * cell.run.data.length}
        if result := cell.result:
            scales[right] = result["flops"] / result["steps"]
        for axes, each in scales.items():
            line: dict[str, Any] = {"color": variant.colour, "linestyle": dashes[size]}
            axes.plot(losses.steps * each, losses.trained, alpha=0.85, **line)
            marks = small | {"color": variant.colour, "linestyle": "none", "marker": marker}
            axes.plot(losses.validated * each, losses.validation, **marks)
        # The first steps, all near the logarithm of the vocabulary, would squeeze the rest.
        late = losses.trained[len(losses.trained) // 20 :]
        if late.size:
            lowest, highest = min(lowest, late.min()), max(highest, late.max())
    if lowest > highest:
        return None
    for axes, name in ((left, "training tokens"), (right, "training FLOPs")):
        axes.set(xscale="log", xlabel=name)
    ticks(left.xaxis, LogLocator(subs=(1, 3)), count)
    right.xaxis.set_minor_locator(NullLocator())
    margin = 0.05 * (highest - lowest)
    left.set_ylim(lowest - margin, highest + margin)
    left.set(title="By tokens read", ylabel="nats per predicted token")
    right.set(title="By arithmetic")
    handles = [_handle(variant, marker="none") for variant in variants.values()]
    for size, marker in zip(sizes, MARKERS, strict=False):
        look = small | {"color": MUTED, "markeredgecolor": INK, "linestyle": dashes[size]}
        handles.append(Line2D([], [], label=size_text(size), marker=marker, **look))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure


@styled()
def probe_figure(groups: Sequence[Group], size: int) -> Figure:
    """Probe accuracy by size, and recall by role at one size, of groups that were probed."""
    figure, (left, right) = panels(2, height=3.9, width_ratios=(1, 1.05))
    for nudge, variant in enumerate(_variants(groups), -1):
        ours = of_variant(groups, variant)
        points = [
            (g.size, 100 * (g.mean(PROBE.key) or 0.0), 100 * (g.error(PROBE) or 0.0))
            for g in ours
        ]
        _points(left, variant, points, nudge)
    first = all_results(groups)[0]["probe"]
    floor = {
        "most frequent role": 100 * first["majority_accuracy"],
        "by the token alone": 100 * first["token_accuracy"],
    }
    low, high = left.get_ylim()
    left.set_ylim(min(low, *floor.values()) - 3, max(high, *floor.values()) + 2)
    left.set(title="Roles found", ylabel="% of tokens")
    _size_axis(left, groups)
    reference_lines(left, floor)

    recalls = {
        group.variant: all_results([group])[0]["probe"]["recall"]
        for group in groups
        if group.size == size
    }
    roles = sorted(
        {role for recall in recalls.values() for role in recall},
        key=lambda role: np.mean([recall.get(role, 0) for recall in recalls.values()]),
    )
    for place, role in enumerate(roles):
        ends = [100 * recall[role] for recall in recalls.values() if role in recall]
        right.plot((min(ends), max(ends)), (place, place), color=RULE, linewidth=2, zorder=1)
    for variant, recall in recalls.items():
        places = [place for place, role in enumerate(roles) if role in recall]
        found = [100 * recall[roles[place]] for place in places]
        right.plot(found, places, linestyle="none", marker="o", color=variant.colour)
    right.set_yticks(range(len(roles)), roles)
    right.grid(axis="y", visible=False)
    right.tick_params(axis="y", length=0)
    right.set(title=f"By role, {size_text(size)}", xlabel="% of the role's tokens")
    right.set_ylim(-0.7, len(roles) - 0.3)
    handles = [_handle(variant) for variant in _variants(groups)]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def draw_variants(
    axes: Axes,
    groups: Sequence[Group],
    against: Callable[[Group], float],
    measure: Measure,
    unit: float = 1.0,
) -> None:
    """A line a variant: a measure in some unit against a number; what is not exact is
    hollow.
    """
    for order, variant in enumerate(_variants(groups)):
        ours = sorted(of_variant(groups, variant), key=against)
        known = [group for group in ours if group.mean(measure.key) is not None]
        hollow = measure is not PROBE and any(group.kind != "exact" for group in known)
        axes.errorbar(
            [against(group) for group in known],
            [unit * (group.mean(measure.key) or 0.0) for group in known],
            [unit * (group.error(measure) or 0.0) for group in known],
            label=variant.label,
            **_look(variant.colour, MARKERS[order], hollow=hollow),
        )


def size_colours(sizes: Sequence[float]) -> dict[float, str]:
    """A colour a size, from the smallest."""
    colours = (SKY, BLUE, PURPLE, VERMILLION, ORANGE, INK)
    return {size: colours[at % len(colours)] for at, size in enumerate(sorted(sizes))}


def ticks(axis: Axis, locator: Locator, show: Callable[[float], str]) -> None:
    """Ticks at these places alone, shown so."""
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def _variants(groups: Sequence[Group]) -> list[Variant]:
    return list(dict.fromkeys(group.variant for group in groups))


def _points(
    axes: Axes,
    variant: Variant,
    points: Sequence[tuple[float, float | None, float | None]],
    nudge: int,
    *,
    hollow: bool = False,
) -> None:
    """Values by size with error bars; variants stand a little apart, so that bars do not hide
    each other.
    """
    if not points:
        return
    sizes, values, errors = zip(*points, strict=True)
    axes.errorbar(
        [size * 1.025**nudge for size in sizes],
        values,
        [error if error is not None and math.isfinite(error) else 0 for error in errors],
        **_look(variant.colour, "o", hollow=hollow),
    )


def _size_axis(axes: Axes, groups: Sequence[Group]) -> None:
    sizes = list(by_size(groups))
    axes.set_xscale("log")
    ticks(axes.xaxis, FixedLocator(sizes), size_text)
    axes.set_xlim(sizes[0] / 1.35, sizes[-1] * 1.35)
    axes.set_xlabel("parameters without the embedding")


def _handle(variant: Variant, *, marker: str = "o", hollow: bool = False) -> Line2D:
    """The legend's entry of a variant."""
    face = PAPER if hollow else variant.colour
    return Line2D(
        [], [], color=variant.colour, marker=marker, markerfacecolor=face, label=variant.label
    )


def _mark(group: Group, measure: Measure, colour: str, marker: str) -> dict[str, Any]:
    hollow = measure is BITS and group.kind == "bound"
    crossed = measure is BITS and group.kind not in ("exact", "bound")
    return _look(colour, "x" if crossed else marker, hollow=hollow) | {"linestyle": "none"}


def _look(colour: str, marker: str, *, hollow: bool) -> dict[str, Any]:
    """A mark with an error bar; what is not exact is hollow."""
    return {
        "color": colour,
        "marker": marker,
        "markersize": 5,
        "markerfacecolor": PAPER if hollow else colour,
        "markeredgewidth": 1.2,
        "elinewidth": 1,
    }


def _unit(measure: Measure) -> int:
    """The probe is drawn in percent."""
    return 100 if measure is PROBE else 1


def _name_series(
    figure: Figure,
    series: Mapping[str, tuple[str, Mapping[Any, Group]]],
    linestyle: Literal["-", "none"],
) -> None:
    """The legend of series, where there are several, and of the kinds of their marks."""
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=linestyle, label=label)
        for (label, (colour, _)), marker in zip(series.items(), MARKERS, strict=False)
        if len(series) > 1
    ]
    names = {"exact": ("exact", MUTED), "bound": ("upper bound", PAPER)}
    for kind in sorted({g.kind for _, found in series.values() for g in found.values()}):
        label, face = names.get(kind, (kind, MUTED))
        marker = "o" if kind in names else "x"
        handle = Line2D([], [], color=MUTED, linestyle="none", marker=marker, label=label)
        handle.set_markerfacecolor(face)
        handles.append(handle)
    figure.legend(handles=handles, loc="outside upper left", ncols=5)
