"""The figures that readers of scaling laws know.

They take their look from whatever style matplotlib is under; colours are the style's cycle, C0
for sizes, C1 for data, and one a group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullLocator,
)

from lm.scaling import laws
from lm.scaling.compare import Comparison
from lm.scaling.fit import Fit, band
from lm.scaling.isoflop import Budget
from lm.scaling.table import Runs

FLOPS, PARAMETERS, TOKENS = "training compute (FLOPs)", "parameters", "tokens"
_AXES = {"flops": FLOPS, "params": PARAMETERS, "tokens": TOKENS}
_SYMBOLS = {"flops": "C", "params": "N", "tokens": "D"}

_MARKERS = ("o", "s", "D", "^", "v", "P")


def figure_of(fits: Mapping[str, Fit], runs: Mapping[str, Runs], loss: str = "loss") -> Figure:
    """The figure of a law, or of one law in several groups; `loss` names that axis."""
    (name, fit), *others = fits.items()
    if others:
        return _groups(fits, runs, loss)
    return fit.law.figure(fit, runs[name], loss)


def comparison_figure(comparison: Comparison, names: Sequence[str], loss: str) -> Figure:
    """Both variants' losses against compute, and how much of it the second needs."""
    figure = _page(3.1)
    left, right = figure.subplots(1, 2)
    for number, (fit, runs) in enumerate(
        zip(comparison.fits, comparison.frontiers, strict=True)
    ):
        (flops_R,) = runs.known("flops")
        _points(left, flops_R, runs.loss_R, number, names[number])
        _law(left, fit, flops_R, "loss", f"C{number}")
    _axes(left, "Loss against compute", FLOPS, loss)
    left.legend()
    places = [point.flops for point in comparison.points]
    ends = [point.ci95 for point in comparison.points]
    if all(ends):
        low, high = zip(*(both for both in ends if both), strict=True)
        right.fill_between(places, low, high, color="C1", alpha=0.18, linewidth=0)
    right.plot(places, [point.multiplier for point in comparison.points], color="C1")
    for extrapolated, face in ((False, "C1"), (True, "white")):
        at = [point for point in comparison.points if point.extrapolated == extrapolated]
        right.plot(
            [point.flops for point in at],
            [point.multiplier for point in at],
            "o",
            color="C1",
            markerfacecolor=face,
            label="drawn on beyond its rows" if extrapolated else "within its rows",
        )
    right.axhline(1, color=_muted(), linewidth=0.8, linestyle=(0, (4, 2.5)))
    right.set_xscale("log")
    _few_ticks(right.xaxis)
    right.set_ylim(0, None)
    right.set_title(f"Compute that {names[1]} needs")
    right.set_xlabel(f"compute of {names[0]} (FLOPs)")
    right.set_ylabel("times as much, for the same loss")
    right.legend()
    return figure


def _page(height: float) -> Figure:
    """A figure as wide as a page."""
    return Figure(figsize=(7.4, height), layout=ConstrainedLayoutEngine(w_pad=0.09))


def _by_size(
    figure: Figure, axes: Axes, x_R: np.ndarray, y_R: np.ndarray, params_R: np.ndarray, s: int
) -> None:
    """Dots of area s, coloured by the size of the model."""
    dots = axes.scatter(
        x_R, y_R, c=params_R, norm=LogNorm(), cmap="viridis_r", s=s, linewidths=0
    )
    _bar(figure, dots, axes, PARAMETERS)


def _bar(figure: Figure, of: ScalarMappable, axes: Axes, label: str, **more: Any) -> None:
    figure.colorbar(of, ax=axes, label=label, pad=0.02, **more).outline.set_visible(False)


def surface_figure(fit: Fit, runs: Runs, loss: str) -> Figure:
    """A surface of size and data: losses, best splits, and where it errs."""
    figure = _page(5.7)
    (by_compute, optima), (plane, residuals) = figure.subplots(2, 2)
    names = ("params", "tokens", "flops", "loss")
    params_R, tokens_R, flops_R, loss_R = runs.completed().known(*names)
    _by_size(figure, by_compute, flops_R, loss_R, params_R, 9)
    if fit.has_split:
        _law(by_compute, fit, flops_R, "loss", "black", "best split")
        by_compute.legend()
    _axes(by_compute, "Loss against compute", FLOPS, loss)
    _optima(optima, fit, flops_R)

    def law(params: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        point = {"params": params, "tokens": tokens}
        values: np.ndarray = fit.law.evaluate(fit.parameters, point)["loss"]
        return values

    error_R = 100 * np.log(loss_R / law(params_R, tokens_R))
    limit = float(np.quantile(np.abs(error_R), 0.95)) or 1e-6
    N, D = (np.geomspace(x_R.min() / 1.3, x_R.max() * 1.3, 80) for x_R in (params_R, tokens_R))
    levels = MaxNLocator(9).tick_values(loss_R.min(), loss_R.max())
    surface = law(N[None], D[:, None])
    contours = plane.contour(
        N, D, surface, levels=levels, colors=_muted(), linewidths=0.6, alpha=0.7
    )
    plane.clabel(contours, fontsize=6, fmt="%g")
    dots = plane.scatter(
        params_R,
        tokens_R,
        c=error_R,
        norm=Normalize(-limit, limit),
        cmap="PuOr",
        s=12,
        linewidths=0.3,
        edgecolors=_muted(),
        zorder=3,
    )
    plane.set(xscale="log", yscale="log", xlabel=PARAMETERS, ylabel=TOKENS)
    plane.set_title("Where the law errs")
    _bar(figure, dots, plane, "measured above fit (%)", extend="both")
    residuals.scatter(loss_R * np.exp(-error_R / 100), error_R, s=9, linewidths=0)
    residuals.axhline(0, color=_muted(), linewidth=0.8)
    residuals.set(xscale="log", xlabel=f"{loss}, fit", ylabel="measured above fit (%)")
    _plain_log(residuals, "x")
    residuals.set_title("Residuals")
    return figure


def repeats_figure(fit: Fit, runs: Runs, loss: str) -> Figure:
    """What repeated data is worth, and the residuals."""
    figure = _page(3.1)
    worth, residuals = figure.subplots(1, 2)
    params_R, tokens_R, unique_R = runs.known("params", "tokens", "unique")
    passes_R = np.maximum(tokens_R / unique_R, 1)
    passes = np.geomspace(1, max(float(passes_R.max()), 10), 100)
    if fit.draws:
        r_d_B = fit.draws["R_D"][:, None]
        low, high = np.quantile(
            laws.effective_tokens(r_d_B, passes, 1.0), [0.025, 0.975], axis=0
        )
        worth.fill_between(passes, low, high, color="C1", alpha=0.18, linewidth=0)
    worth.plot(passes, passes, color=_muted(), linestyle=(0, (4, 2.5)), label="as if new")
    value = laws.effective_tokens(fit.parameters["R_D"], passes, 1.0)
    worth.plot(passes, value, color="C1", label=f"R_D = {fit.parameters['R_D']:.3g}")
    worth.set(xscale="log", yscale="log", xlabel="passes over the data")
    worth.set_ylabel("worth, in passes over new data")
    worth.set_title("What repeated data is worth")
    worth.legend()
    predicted_R = laws.data_constrained_loss(fit.parameters, params_R, tokens_R, unique_R)
    error_R = 100 * np.log(runs.loss_R / predicted_R)
    _by_size(figure, residuals, passes_R, error_R, params_R, 10)
    residuals.axhline(0, color=_muted(), linewidth=0.8)
    residuals.set(xscale="log", xlabel="passes over the data")
    residuals.set_ylabel(f"{loss} above fit (%)")
    residuals.set_title("Residuals")
    return figure


def isoflop_figure(fit: Fit, loss: str) -> Figure:
    """The curve of each budget, and its best size and data against compute."""
    figure = _page(3.3)
    curves, optima = figure.subplots(1, 2)
    budgets: Sequence[Budget] = fit.details["budgets"]
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.08, 1, len(budgets)))
    for budget, colour in zip(budgets, colours, strict=True):
        curves.plot(budget.curve_params, budget.curve_loss, color=colour, linewidth=1)
        curves.plot(budget.params_R, budget.loss_R, "o", color=colour, markersize=2.5)
    curves.plot(
        [budget.params for budget in budgets],
        [budget.loss for budget in budgets],
        "P",
        color="C1",
        markeredgecolor="white",
        markeredgewidth=0.5,
        markersize=6.5,
        label="best size",
    )
    flops = np.array([budget.flops for budget in budgets])
    scale = ScalarMappable(LogNorm(flops.min(), flops.max()), "viridis_r")
    _axes(curves, "Loss of each budget", PARAMETERS, loss)
    curves.legend(loc="best")
    _bar(figure, scale, curves, "FLOPs")
    _optima(optima, fit, flops)
    for number, name in enumerate(("params", "tokens")):
        values = [getattr(budget, name) for budget in budgets]
        optima.plot(flops, values, _MARKERS[number], color=f"C{number}", markersize=3.5)
    return figure


def frontier_figure(fit: Fit, runs: Runs, loss: str) -> Figure:
    """A line through the loss, and of compute the sizes and the data on it."""
    figure = _page(3.1)
    x, best = _AXES[fit.law.against], runs
    # Against parameters or tokens there is no best size or data to show.
    left, *others = figure.subplots(1, 2 if fit.law.against == "flops" else 1, squeeze=False)[0]
    label = None
    if "rows" in fit.details:
        best, label = runs.take(fit.details["rows"]), "on the envelope"
        left.scatter(
            _where(fit, runs), runs.loss_R, s=4, color=_muted(), alpha=0.35, linewidths=0
        )
    places_R = _where(fit, best)
    _points(left, places_R, best.loss_R, 0, label)
    power = f"{_SYMBOLS[fit.law.against]}^{{-{fit.parameters['x']:.3f}}}"
    _law(left, fit, places_R, "loss", "C0", f"{loss} $\\propto {power}$")
    _axes(left, f"Loss against {x.partition(' (')[0]}", x, loss)
    left.legend()
    for right in others:
        _optima(right, fit, places_R)
        for number, values_R in enumerate((best.params_R, best.tokens_R)):
            if values_R is not None:
                mark = {"color": f"C{number}", "marker": _MARKERS[number], "markersize": 3.5}
                right.plot(places_R, values_R, linestyle="", **mark)
    return figure


def _groups(fits: Mapping[str, Fit], runs: Mapping[str, Runs], loss: str) -> Figure:
    """Every group's best loss and best size against compute, one colour a group."""
    figure = _page(3.5)
    first = next(iter(fits.values()))
    against = first.law.against
    left, *others = figure.subplots(1, 2 if against == "flops" else 1, squeeze=False)[0]
    panels = list(zip((left, *others), ("loss", "params"), strict=False))
    lines = []
    for number, (name, fit) in enumerate(fits.items()):
        part = runs[name].completed()
        colour = f"C{number % 10}"
        if not fit.has_split:
            continue
        grid = _grid(fit, _where(fit, part))[fit.law.against]
        known = fit.law.grid(part, grid)
        values = fit.law.evaluate(fit.parameters, known)
        edges = band(fit, known) if fit.draws else {}
        mark = {"color": colour, "marker": _MARKERS[number % 6], "markersize": 3.5}
        for axes, what in panels:
            if what not in values:
                continue
            if what in edges:
                axes.fill_between(grid, *edges[what], color=colour, alpha=0.15, linewidth=0)
            (line,) = axes.plot(grid, values[what], color=colour, label=name)
            for places, measured in fit.law.best(fit, part, what):
                axes.plot(places, measured, linestyle="", **mark)
        lines.append(line)
    x = _AXES[against]
    _axes(left, f"Best loss against {x.partition(' (')[0]}", x, loss)
    for right in others:
        right.set(xscale="log", yscale="log", xlabel=x, ylabel=PARAMETERS)
        right.set_title("Best size")
    if lines:
        ncols = 3 if len(lines) > 4 else len(lines)
        figure.legend(handles=lines, loc="outside lower center", ncols=ncols)
    return figure


def _optima(axes: Axes, fit: Fit, flops_R: np.ndarray) -> None:
    """N* and D* against compute with their bands, where rows say them."""
    if not fit.has_split:
        axes.set_visible(False)
        return
    known = _grid(fit, flops_R)
    values = fit.law.evaluate(fit.parameters, known)
    edges = band(fit, known) if fit.draws else {}
    shown = []
    for number, (name, symbol, exponent) in enumerate(
        (("params", "N", "a"), ("tokens", "D", "b"))
    ):
        if name not in values:
            continue
        shown.append((PARAMETERS, TOKENS)[number])
        if name in edges:
            axes.fill_between(
                known["flops"], *edges[name], color=f"C{number}", alpha=0.18, linewidth=0
            )
        power = f"$\\propto C^{{{fit.exponents[exponent]:.3f}}}$"
        label = f"{shown[-1]} {symbol}* {power}"
        axes.plot(known["flops"], values[name], color=f"C{number}", label=label)
    if not shown:
        axes.set_visible(False)
        return
    axes.set(xscale="log", yscale="log", xlabel=FLOPS, ylabel=" and ".join(shown))
    _few_ticks(axes.xaxis)
    axes.set_title("Best size and data" if len(shown) == 2 else f"Best {shown[0]}")
    axes.legend(loc="best")


def _law(
    axes: Axes, fit: Fit, places_R: np.ndarray, what: str, colour: str, label: str | None = None
) -> None:
    known = _grid(fit, places_R)
    (grid,) = known.values()
    if fit.draws:
        low, high = band(fit, known)[what]
        axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
    values = fit.law.evaluate(fit.parameters, known)
    axes.plot(grid, values[what], color=colour, label=label)


def _points(
    axes: Axes, x_R: np.ndarray, y_R: np.ndarray, number: int, label: str | None
) -> None:
    axes.plot(x_R, y_R, _MARKERS[number % 6], color=f"C{number}", markersize=4, label=label)


def _where(fit: Fit, runs: Runs) -> np.ndarray:
    """The rows' places on the axis that the law is drawn against."""
    places_R = getattr(runs, f"{fit.law.against}_R")
    assert isinstance(places_R, np.ndarray)
    return places_R


def _grid(fit: Fit, places_R: np.ndarray) -> dict[str, np.ndarray]:
    return {fit.law.against: np.geomspace(places_R.min(), places_R.max(), 60)}


def _axes(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    _few_ticks(axes.xaxis)
    _plain_log(axes, "y")
    axes.set_title(title)


def _few_ticks(axis: Axis) -> None:
    """Powers of ten on a logarithmic axis, and round numbers between where these are few."""
    low, high = sorted(axis.get_view_interval())
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.log10(high))
    finest = decades
    for between in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = np.outer(decades, between).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        # Labels as 5 x 10^18 are wide.
        finest = ticks if len(ticks) <= 4 else finest
    few = finest is not decades
    axis.set_major_locator(FixedLocator(list(finest)) if few else LogLocator(numticks=7))
    axis.set_minor_locator(NullLocator())
    # The usual formatter leaves out what is no power of ten where decades are more than one.
    axis.set_major_formatter(
        LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(np.inf, np.inf))
    )


def _plain_log(axes: Axes, which: str) -> None:
    """Round numbers on a logarithmic axis of less than a few decades, where powers are none."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    if high / low < 30:
        ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())


def _muted() -> str:
    return str(matplotlib.rcParams["axes.edgecolor"])
