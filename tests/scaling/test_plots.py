"""Figures show what was fit, where it was fit."""

from itertools import pairwise

import numpy as np
import pytest

from lm.scaling.compare import compare
from lm.scaling.data_constrained import DataConstrained
from lm.scaling.envelope import Envelope
from lm.scaling.isoflop import Isoflop
from lm.scaling.laws import (
    BESIROGLU,
    MUENNIGHOFF,
    data_constrained_loss,
    parametric_loss,
    parametric_optimum,
)
from lm.scaling.parametric import Parametric
from lm.scaling.plots import comparison_figure, figure_of
from lm.scaling.power import Power
from lm.scaling.table import Runs

C, AWAY = (a.ravel() for a in np.meshgrid(np.geomspace(1e18, 1e21, 5), np.arange(-2, 3)))
N = parametric_optimum(BESIROGLU, C)[0] * 1.7**AWAY
NOISE = np.exp(0.003 * np.random.default_rng(0).normal(size=25))
RUNS = Runs(parametric_loss(BESIROGLU, N, C / 6 / N) * NOISE, N, C / 6 / N, C, C / 60 / N)


def labels(figure):
    return {axes.get_xlabel() for axes in figure.axes}


@pytest.mark.parametrize("fit", [Parametric().fit, Isoflop().fit, Envelope().fit, Power().fit])
def test_axes_are_logarithmic_and_name_their_units(fit):
    """Fails when an axis is linear, or compute has no unit."""
    found = fit(RUNS, bootstrap=30)
    for fits in ({"": found}, {"a": found, "b": found}):
        figure = figure_of(fits, dict.fromkeys(fits, RUNS))
        figure.draw_without_rendering()
        assert "training compute (FLOPs)" in labels(figure)
        against_compute = [a for a in figure.axes if "FLOPs" in a.get_xlabel()]
        assert all(axes.get_xscale() == "log" for axes in against_compute)
        assert all(axes.get_yscale() == "log" for axes in against_compute)


@pytest.mark.parametrize("decades", [0.4, 0.9, 1.6, 3])
def test_labels_of_compute_stand_apart(decades):
    """Fails where a range within one decade is given more labels than there is room for."""
    flops, away = (
        a.ravel() for a in np.meshgrid(1e18 * 10 ** np.array([0, decades]), np.arange(-2, 3))
    )
    sizes = parametric_optimum(BESIROGLU, flops)[0] * 1.7**away
    tokens = flops / 6 / sizes
    runs = Runs(parametric_loss(BESIROGLU, sizes, tokens), sizes, tokens, flops)
    figure = figure_of({"": Isoflop().fit(runs, bootstrap=0)}, {"": runs})
    figure.draw_without_rendering()
    (optima,) = [axes for axes in figure.axes if "FLOPs" in axes.get_xlabel()]
    low, high = optima.get_xlim()
    shown = [
        label.get_window_extent()
        for label, place in zip(optima.get_xticklabels(), optima.get_xticks(), strict=True)
        if low <= place <= high
    ]
    assert len(shown) > 1
    assert all(left.x1 < right.x0 for left, right in pairwise(shown))


def test_a_power_law_of_size_is_drawn_against_size():
    """Fails when the axis says compute whatever the law is of."""
    found = Power(against="params").fit(RUNS, bootstrap=30)
    assert labels(figure_of({"": found}, {"": RUNS})) == {"parameters"}
    assert labels(figure_of({"a": found, "b": found}, {"a": RUNS, "b": RUNS})) == {"parameters"}


def test_bands_hold_their_line_and_lines_their_points():
    """Fails when a band is of another quantity, or of one draw."""
    found = Parametric().fit(RUNS, bootstrap=40)
    axes = figure_of({"": found}, {"": RUNS}).axes[1]
    for band, line in zip(axes.collections, axes.lines, strict=True):
        vertices = band.get_paths()[0].vertices
        x, y = line.get_data()
        middle = np.isclose(vertices[:, 0], x[30], rtol=1e-9)
        assert vertices[middle, 1].min() < y[30] < vertices[middle, 1].max()
    best = parametric_optimum(found.parameters, 1e18)
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx(best)


def test_minima_are_where_the_curves_are_lowest():
    """Fails when a mark is at the best run instead of at the curve's minimum."""
    found = Isoflop().fit(RUNS, bootstrap=0)
    marks = figure_of({"": found}, {"": RUNS}).axes[0].lines[-1]
    for budget, x, y in zip(found.details["budgets"], *marks.get_data(), strict=True):
        lowest = budget.curve_loss.argmin()
        assert x == pytest.approx(budget.curve_params[lowest])
        assert y == pytest.approx(budget.curve_loss[lowest])


def test_repeated_data_never_outdoes_new():
    """Fails when the worth of repeats is drawn above the diagonal."""
    loss = data_constrained_loss(MUENNIGHOFF, N, C / 6 / N, RUNS.unique_R) * NOISE
    runs = Runs(loss, N, C / 6 / N, C, RUNS.unique_R)
    surface = {name: MUENNIGHOFF[name] for name in BESIROGLU}
    found = DataConstrained(fixed=surface).fit(runs, bootstrap=30)
    new, worth = figure_of({"": found}, {"": runs}).axes[0].lines
    assert (worth.get_ydata() <= new.get_ydata() + 1e-9).all()
    assert worth.get_ydata()[0] == pytest.approx(1)


def test_comparison():
    """Fails when what is extrapolated looks like what is measured."""
    flops = np.geomspace(1e18, 1e20, 5)
    ours, theirs = (Runs(20 * (flops / k) ** -0.06, flops_R=flops) for k in (1, 16))
    figure = comparison_figure(compare(ours, theirs, bootstrap=30), ("GPT", "BERT"), "loss")
    figure.draw_without_rendering()
    measured, beyond = figure.axes[1].lines[1:3]
    assert measured.get_ydata() == pytest.approx([16.0] * 2)
    assert len(beyond.get_ydata()) == 3 and beyond.get_markerfacecolor() == "white"
    assert labels(figure) == {"training compute (FLOPs)", "compute of GPT (FLOPs)"}
