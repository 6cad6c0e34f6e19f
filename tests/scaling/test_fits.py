"""Fits of made-up runs: known laws come back, error bars cover them, doubts are said."""

from dataclasses import replace

import numpy as np
import pytest

from lm.scaling.bootstrap import interval
from lm.scaling.data_constrained import DataConstrained
from lm.scaling.envelope import Envelope, on_envelope
from lm.scaling.fit import Fit, predict
from lm.scaling.isoflop import METHODS, Isoflop, optimum
from lm.scaling.laws import (
    BESIROGLU,
    HOFFMANN,
    MUENNIGHOFF,
    data_constrained_loss,
    parametric_exponents,
    parametric_loss,
    parametric_optimum,
)
from lm.scaling.parametric import Parametric
from lm.scaling.power import Power
from lm.scaling.table import DataError, Runs


def isoflops(law=BESIROGLU, *, budgets=9, sizes=9, step=1.6, noise=0.0, seed=0, shift=0.0):
    """Budgets around each best size; the shift moves the sizes, in steps."""
    C = np.repeat(np.geomspace(1e18, 1e22, budgets), sizes)
    away = np.tile(np.arange(sizes) - sizes // 2, budgets) + shift
    N = parametric_optimum(law, C)[0] * step**away
    noisy = np.exp(noise * np.random.default_rng(seed).normal(size=len(C)))
    return Runs(parametric_loss(law, N, C / 6 / N) * noisy, params_R=N, flops_R=C).completed()


# What is known comes back


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU, {n: MUENNIGHOFF[n] for n in HOFFMANN}])
def test_parametric_constants_come_back(make_runs, law):
    """Fails when A and B are not counted from N = 1 and D = 1 again."""
    fit = Parametric().fit(make_runs(law, noise=0), bootstrap=0)
    assert fit.parameters == pytest.approx(law, rel=1e-5)
    assert fit.warnings == ()


def test_outliers_do_not_matter(make_runs):
    """Fails when the loss is square: six rows of sixty are half as high again."""
    runs = make_runs(noise=0.002)
    loss_R = runs.loss_R.copy()
    loss_R[::10] *= 1.5
    spoiled = Runs(loss_R, params_R=runs.params_R, tokens_R=runs.tokens_R)
    fit = Parametric().fit(spoiled, bootstrap=0)
    assert fit.parameters["alpha"] == pytest.approx(BESIROGLU["alpha"], abs=0.02)
    assert fit.parameters["E"] == pytest.approx(BESIROGLU["E"], abs=0.05)
    without = Parametric().fit(spoiled.without_worst(2), bootstrap=0)
    assert without.rows_used == 58


@pytest.mark.parametrize(
    "fixed", [{"E": 1.8172}, {"A": 482.01, "alpha": 0.3478}, {"B": 2085.43}]
)
def test_what_is_fixed_stays(make_runs, fixed):
    """Fails when a fixed coefficient is held at the rows' mean size instead of at 1."""
    fit = Parametric(fixed=fixed).fit(make_runs(noise=0), bootstrap=20)
    assert fit.parameters == pytest.approx(BESIROGLU, rel=1e-4)
    for name, value in fixed.items():
        assert fit.parameters[name] == pytest.approx(value, rel=1e-12)
        assert name not in fit.ci95


def test_data_constrained_constants_come_back():
    """Fails when U_N's dependence on the surface is left out of the gradient or the law."""
    random = np.random.default_rng(0)
    N, U = 10 ** random.uniform(7, 10, 150), 10 ** random.uniform(8, 10, 150)
    D = U * 10 ** random.uniform(-0.3, 2, 150)
    loss = data_constrained_loss(MUENNIGHOFF, N, D, U)
    runs = Runs(loss, params_R=N, tokens_R=D, unique_R=U)
    surface = {name: MUENNIGHOFF[name] for name in HOFFMANN}
    fit = DataConstrained(fixed=surface).fit(runs, bootstrap=0)
    assert fit.parameters == pytest.approx(MUENNIGHOFF, rel=1e-5)
    assert fit.warnings == ()
    free = DataConstrained().fit(runs, bootstrap=0)
    assert free.parameters == pytest.approx(MUENNIGHOFF, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_isoflop_exponents_come_back(method):
    """Fails when minima are taken at runs: each budget's sizes are moved by part of a step."""
    runs = isoflops(step=1.3, shift=0.37)
    fit = Isoflop(method=method).fit(runs, bootstrap=0)
    exact = parametric_exponents(BESIROGLU)
    assert fit.exponents["a"] == pytest.approx(exact["a"], abs=0.005)
    assert fit.exponents["b"] == pytest.approx(exact["b"], abs=0.005)
    middle = predict(fit, flops=1e20)
    assert middle["params"] == pytest.approx(parametric_optimum(BESIROGLU, 1e20)[0], rel=0.03)


def test_budgets_need_not_be_exact():
    """Fails when budgets are told apart by equality."""
    runs = isoflops()
    jitter = np.exp(np.random.default_rng(0).uniform(-0.02, 0.02, len(runs)))
    near = Runs(runs.loss_R, params_R=runs.params_R, flops_R=runs.flops_R * jitter).completed()
    fit = Isoflop().fit(near, bootstrap=0)
    assert len(fit.details["budgets"]) == 9
    assert fit.exponents["a"] == pytest.approx(0.5126, abs=0.01)


def test_sizes_that_are_nearly_the_same_are_one():
    """Fails when the curve goes through both of a pair, and leaps below all runs."""
    runs = isoflops(step=1.4, noise=0.0003)
    twins = Runs(runs.loss_R * 1.004, runs.params_R * 1.0005, None, runs.flops_R)
    both = Runs(
        *(
            np.concatenate([getattr(runs, n), getattr(twins, n)])
            for n in ("loss_R", "params_R")
        ),
        flops_R=np.tile(runs.flops_R, 2),
    )
    fit = Isoflop().fit(both.completed(), bootstrap=0)
    for budget in fit.details["budgets"]:
        assert budget.loss > 0.99 * budget.loss_R.min()
    assert fit.exponents["a"] == pytest.approx(0.5126, abs=0.03)


@pytest.mark.parametrize("method", ["hull", "bins"])
def test_envelope_exponents_come_back(method):
    """Fails when rows above the envelope are among those that the line is through."""
    C, N = np.meshgrid(np.geomspace(1e18, 1e22, 200), np.geomspace(1e7, 1e12, 80))
    C, N = C.ravel(), N.ravel()
    runs = Runs(parametric_loss(BESIROGLU, N, C / 6 / N), params_R=N, flops_R=C).completed()
    fit = Envelope(method=method).fit(runs, bootstrap=0)
    assert fit.exponents["a"] == pytest.approx(0.5126, abs=0.01)
    assert fit.exponents["a"] + fit.exponents["b"] == pytest.approx(1)


def test_no_row_lies_below_the_hull():
    """Fails when the chain turns the wrong way, or goes on behind the lowest loss."""
    random = np.random.default_rng(0)
    flops_R, loss_R = 10 ** random.uniform(18, 22, 300), np.exp(random.normal(1, 0.3, 300))
    hull_R = on_envelope(flops_R, loss_R, "hull")
    x_R, y_R = np.log(flops_R), np.log(loss_R)
    assert hull_R[-1] == loss_R.argmin()
    line_R = np.interp(x_R, x_R[hull_R], y_R[hull_R])
    inside_R = (x_R >= x_R[hull_R[0]]) & (x_R <= x_R[hull_R[-1]])
    assert (y_R[inside_R] >= line_R[inside_R] - 1e-12).all()
    assert (np.diff(np.diff(y_R[hull_R]) / np.diff(x_R[hull_R])) > -1e-9).all()


def test_power_law_above_an_offset():
    """Fails when E is not taken off before logarithms, or not put back in predictions."""
    C = np.geomspace(1e18, 1e21, 6)
    fit = Power(fixed={"E": 1.7}).fit(Runs(1.7 + 30 * C**-0.08, flops_R=C), bootstrap=0)
    assert fit.exponents["x"] == pytest.approx(0.08)
    assert predict(fit, flops=1e24)["loss"] == pytest.approx(1.7 + 30 * 1e24**-0.08)


@pytest.mark.parametrize("against", ["params", "tokens"])
def test_power_law_of_size_or_data(against):
    """Fails when the line is against compute all the same, or predicts from it."""
    x = np.geomspace(1e6, 1e9, 6)
    runs = Runs(12 * x**-0.076, params_R=x, tokens_R=x, flops_R=6 * x**2)
    fit = Power(against=against).fit(runs, bootstrap=0)
    assert fit.exponents == pytest.approx({"x": 0.076})
    assert predict(fit, **{against: 1e10})["loss"] == pytest.approx(12 * 1e10**-0.076)
    with pytest.raises(ValueError, match=f"from {against} alone"):
        predict(fit, flops=1e20)


# Error bars


def test_parametric_error_bars_cover(make_runs):
    """Fails when draws are not resampled, or percentiles are of 68%."""
    truth = BESIROGLU | parametric_exponents(BESIROGLU)
    inside = []
    for seed in range(15):
        fit = Parametric().fit(make_runs(seed=seed, rows=40), bootstrap=60)
        inside += [low <= truth[name] <= high for name, (low, high) in fit.ci95.items()]
    assert np.mean(inside) > 0.84


def test_error_bars_of_five_points_cover():
    """Fails without Student's factor (covers .86) or the leverage of residuals (.91)."""
    inside = []
    for seed in range(400):
        noise = np.exp(0.01 * np.random.default_rng(seed).normal(size=5))
        C = np.geomspace(1e18, 1e21, 5)
        fit = Power().fit(Runs(20 * C**-0.06 * noise, flops_R=C), bootstrap=200, seed=seed)
        low, high = fit.ci95["x"]
        inside.append(low <= 0.06 <= high)
    assert 0.925 < np.mean(inside) < 0.985


def test_isoflop_error_bars_cover():
    """Fails when residuals of one budget are drawn for all."""
    inside = []
    for seed in range(80):
        fit = Isoflop().fit(isoflops(noise=0.002, seed=seed), bootstrap=100, seed=seed)
        low, high = fit.ci95["a"]
        inside.append(low <= 0.5126 <= high)
    assert np.mean(inside) > 0.88


@pytest.mark.slow
def test_error_bars_cover_over_many_draws(make_runs):
    """Fails when intervals are off by a tenth."""
    truth = BESIROGLU | parametric_exponents(BESIROGLU)
    inside: dict[str, list[bool]] = {}
    for seed in range(200):
        fit = Parametric().fit(make_runs(seed=seed), bootstrap=200)
        for name, (low, high) in fit.ci95.items():
            inside.setdefault(name, []).append(low <= truth[name] <= high)
    for name, hits in inside.items():
        assert 0.91 <= np.mean(hits) <= 0.985, name


def test_more_noise_wider_bars(make_runs):
    """Fails when intervals do not come from the rows, or predictions have none."""
    narrow, wide = (Parametric().fit(make_runs(noise=s), bootstrap=60) for s in (0.002, 0.02))
    for name in ("E", "alpha", "a"):
        assert np.ptp(wide.ci95[name]) > 3 * np.ptp(narrow.ci95[name])
    point = predict(wide, flops=1e24)
    assert set(point["ci95"]) == {"params", "tokens", "loss"}
    for name, (low, high) in point["ci95"].items():
        assert low < point[name] < high
    assert set(predict(wide, params=1e9, tokens=1e11)["ci95"]) == {"loss"}


def test_rows_of_one_run_are_drawn_together(make_runs):
    """Fails when five copies of each row count as five times the evidence."""
    runs = make_runs(noise=0.01)
    copies = runs.take(np.repeat(np.arange(60), 5))
    clustered = replace(copies, cluster_R=np.repeat(np.arange(60), 5))
    once, five, together = (
        np.ptp(Parametric().fit(each, bootstrap=150).ci95["alpha"])
        for each in (runs, copies, clustered)
    )
    assert five < 0.7 * once
    assert together == pytest.approx(once, rel=0.05)


def test_the_seed_decides(make_runs):
    """Fails when draws come from elsewhere than the seed."""
    bars = [Parametric().fit(make_runs(), bootstrap=30, seed=seed).ci95 for seed in (0, 0, 1)]
    assert bars[0] == bars[1] != bars[2]


def test_intervals_of_few_degrees_are_wider():
    """Fails when Student's quantile is not used."""
    draws_B = np.random.default_rng(0).normal(10, 1, 4000)
    few, many = interval(10.0, draws_B, 3), interval(10.0, draws_B, 300)
    assert np.ptp(few) / np.ptp(many) == pytest.approx(3.18 / 1.97, rel=0.05)


# Doubts


def says(fit, text):
    return any(text in warning for warning in fit.warnings)


def test_good_data_raise_no_doubt(make_runs):
    """Fails when a warning fires where it should not."""
    for seed in range(3):
        assert Parametric().fit(make_runs(seed=seed), bootstrap=0).warnings == ()
    assert Isoflop().fit(isoflops(step=1.3), bootstrap=50).warnings == ()
    C = np.geomspace(1e18, 1e21, 6)
    assert Power().fit(Runs(20 * C**-0.06, flops_R=C), bootstrap=0).warnings == ()


@pytest.mark.parametrize("ratio_noise", [0.0, 0.05])
def test_one_ratio_of_tokens_to_parameters(make_runs, ratio_noise):
    """Fails when collinear sizes are not looked for."""
    random = np.random.default_rng(0)
    N = np.geomspace(1e7, 1e10, 30)
    D = 20 * N * np.exp(ratio_noise * random.normal(size=30))
    loss = parametric_loss(BESIROGLU, N, D) * np.exp(0.003 * random.normal(size=30))
    fit = Parametric().fit(Runs(loss, params_R=N, tokens_R=D), bootstrap=0)
    assert says(fit, "one ratio of tokens to parameters")
    assert not says(Parametric().fit(make_runs(), bootstrap=0), "one ratio")


def test_one_size_one_budget():
    """Fails when a line is looked for along equal ratios alone."""
    D = np.geomspace(1e9, 1e12, 20)
    one_size = Runs(parametric_loss(BESIROGLU, 1e8, D), params_R=np.full(20, 1e8), tokens_R=D)
    assert says(Parametric().fit(one_size, bootstrap=0), "one size of model")
    N = np.geomspace(1e8, 1e10, 20)
    budget = Runs(parametric_loss(BESIROGLU, N, 1e19 / N), params_R=N, tokens_R=1e19 / N)
    assert says(Parametric().fit(budget, bootstrap=0), "one line of tokens against parameters")


def grid_runs(sizes, data, noise=0.005, seed=0):
    N, D = (axis.ravel() for axis in np.meshgrid(sizes, data))
    off = np.exp(noise * np.random.default_rng(seed).normal(size=len(N)))
    return Runs(parametric_loss(BESIROGLU, N, D) * off, params_R=N, tokens_R=D)


DATA = np.geomspace(1e9, 3e10, 8)


@pytest.mark.parametrize(
    ("runs", "unknown"),
    [
        (grid_runs([1e8, 1e9], DATA), {"E", "A", "alpha"}),
        (grid_runs(np.geomspace(1e8, 1e10, 8), [1e9, 1e10]), {"E", "B", "beta"}),
        (grid_runs([1e8], DATA), {"E", "A", "B", "alpha", "beta"}),
    ],
)
def test_f3_what_rows_do_not_say_has_no_interval_and_no_split(runs, unknown):
    """Fails when resamples of a flat ridge pass for knowledge; they held E once in ten."""
    fit = Parametric().fit(runs, bootstrap=40)
    assert unknown <= set(fit.unidentified) and says(fit, "cannot be told")
    assert not (unknown | {"a", "b"}) & set(fit.ci95)
    with pytest.raises(ValueError, match="no best split"):
        predict(fit, flops=1e21)
    inside = predict(fit, params=runs.params_R[0], tokens=runs.tokens_R[0])
    outside = predict(fit, params=1e12, tokens=runs.tokens_R[0])
    assert "loss" in inside["ci95"] and "loss" not in outside["ci95"]


def test_f3_what_is_identified_keeps_its_interval():
    """Fails when every term is given up where one is: two sizes still say beta."""
    fit = Parametric().fit(grid_runs([1e8, 1e9], DATA), bootstrap=40)
    low, high = fit.ci95["beta"]
    assert low < BESIROGLU["beta"] < high
    three = Parametric().fit(grid_runs([1e8, 1e9, 1e10], DATA), bootstrap=40)
    assert three.unidentified == () and {"E", "alpha", "a"} <= set(three.ci95)
    held = Parametric(fixed={"E": 1.8172}).fit(grid_runs([1e8, 1e9], DATA), bootstrap=0)
    assert held.unidentified == ()


def test_f3_intervals_stay_within_what_was_tried():
    """Fails when widening by Student's factor leaves the bounds: a of 1.15, alpha of 29."""
    up = np.linspace(0.01, 4.9, 60)
    draws = {"alpha": up, "beta": up[::-1]}
    fit = Fit(Parametric(), {"alpha": 0.3, "beta": 0.3}, 0.0, 8, 1, draws=draws)
    assert fit.ci95["alpha"][1] == 5 and fit.ci95["alpha"][0] >= 1e-3
    assert fit.ci95["a"][1] == 1 and fit.ci95["a"][0] >= 0


def test_f5_a_prediction_says_how_far_beyond_the_rows_it_lies(make_runs):
    """Fails when a law drawn on is passed off as measured."""
    fit = Parametric().fit(make_runs(), bootstrap=0)
    assert "extrapolated" not in predict(fit, flops=1e21)
    far = predict(fit, flops=1e27)["extrapolated"]
    assert far["flops"] == pytest.approx(1e27 / fit.ranges["flops"][1], rel=0.01)
    assert set(far) == {"params", "tokens", "flops"}
    line = Isoflop().fit(isoflops(), bootstrap=0)
    assert predict(line, flops=1e24)["extrapolated"]["flops"] == pytest.approx(100, rel=0.01)


def test_fixing_e_at_0():
    """Fails when 0 is refused, or is e^0."""
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 5), DATA))
    runs = Runs(parametric_loss(BESIROGLU | {"E": 0.0}, N, D), params_R=N, tokens_R=D)
    fit = Parametric(fixed={"E": 0.0}).fit(runs, bootstrap=0)
    assert fit.parameters["E"] < 1e-200
    assert fit.parameters["alpha"] == pytest.approx(BESIROGLU["alpha"], rel=1e-3)


def test_no_irreducible_loss(make_runs):
    """Fails when E at its bound is reported as a number like any other."""
    runs = make_runs(BESIROGLU | {"E": 0.0}, noise=0.003)
    assert says(Parametric().fit(runs, bootstrap=0), "E is at its bound")


def test_a_flat_ridge():
    """Fails when nothing asks whether another value fits as well: two repeats say no R_D."""
    random = np.random.default_rng(0)
    N, U = 10 ** random.uniform(7, 9, 60), 10 ** random.uniform(9, 10, 60)
    surface = {name: MUENNIGHOFF[name] for name in HOFFMANN}

    def fit(passes):
        D = U * random.uniform(1, passes, 60)
        noise = np.exp(0.005 * random.normal(size=60))
        loss = data_constrained_loss(MUENNIGHOFF, N, D, U) * noise
        runs = Runs(loss, params_R=N, tokens_R=D, unique_R=U)
        return DataConstrained(fixed=surface | {"R_N": 5.3}).fit(runs, bootstrap=0)

    assert says(fit(3), "flat ridge: R_D is not identified")
    assert not says(fit(60), "R_D")


def test_few_points(make_runs):
    """Fails when rows are not counted against parameters."""
    assert says(Parametric().fit(make_runs(rows=12), bootstrap=0), "too few points")
    with pytest.raises(DataError, match="5 rows cannot fit 5 parameters"):
        Parametric().fit(make_runs(rows=5), bootstrap=0)
    C = np.geomspace(1e18, 1e20, 3)
    assert says(Power().fit(Runs(20 * C**-0.06, flops_R=C), bootstrap=0), "too few points")


def test_minima_at_an_edge():
    """Fails when budgets whose best size is the largest are kept, or dropped without a word."""
    runs = isoflops()
    cut = runs.take(~((runs.flops_R > 5e21) & (runs.params_R > 4e9)))
    fit = Isoflop().fit(cut, bootstrap=0)
    assert says(fit, "minimum at an edge") and says(fit, "1e+22")
    assert len(fit.details["budgets"]) == 8
    assert fit.exponents["a"] == pytest.approx(0.5126, abs=0.01)
    assert not says(Isoflop().fit(runs, bootstrap=0), "edge")


def test_f1_diverged_runs_do_not_move_the_exponent():
    """Fails when a run of loss 10.9 bends its budget's curve, or is left out unsaid."""
    runs = isoflops(budgets=5, sizes=7, noise=0.003)
    loss_R = runs.loss_R.copy()
    loss_R[[2, 18, 32, 34]] = 10.9  # the last is its budget's largest
    spoiled = replace(runs, loss_R=loss_R)
    for method in METHODS:
        clean = Isoflop(method=method).fit(runs, bootstrap=0)
        fit = Isoflop(method=method).fit(spoiled, bootstrap=0)
        assert fit.exponents["a"] == pytest.approx(clean.exponents["a"], abs=0.05)
        assert fit.warnings[0].count("loss 10.9 of ") == 3
        assert all(b.loss > 0.98 * b.loss_R.min() for b in fit.details["budgets"])
    fit = Isoflop().fit(spoiled, bootstrap=100)
    assert fit.ci95["a"][0] < 0.5126 < fit.ci95["a"][1]
    assert np.ptp(fit.ci95["a"]) < 0.1


def test_f1_what_is_noisy_or_lopsided_is_no_outlier():
    """Fails when a run is left out for being as far away as its budgets' noise says."""
    for seed in range(10):
        fit = Isoflop().fit(isoflops(noise=0.01, sizes=7, seed=seed), bootstrap=0)
        assert not says(fit, "runs left out")
    uneven = BESIROGLU | {"alpha": 0.2929, "beta": 0.713, "A": 171.0, "B": 7.8e6}
    assert not says(Isoflop().fit(isoflops(uneven, sizes=13), bootstrap=0), "left out")


def test_f1_budgets_whose_runs_contradict_each_other_are_left_out():
    """Fails when three runs and one far away give a minimum, or are left out unsaid."""
    runs = isoflops(budgets=5, noise=0.002)
    last = np.flatnonzero(runs.flops_R == runs.flops_R.max())[2:6]
    loss_R = runs.loss_R.copy()
    loss_R[last[2]] *= 1.5
    rows = np.concatenate([np.flatnonzero(runs.flops_R < runs.flops_R.max()), last])
    fit = Isoflop().fit(replace(runs, loss_R=loss_R).take(rows), bootstrap=0)
    assert says(fit, "fewer than three sizes that agree with each other: 1e+22 flops")
    assert len(fit.details["budgets"]) == 4
    assert fit.exponents["a"] == pytest.approx(0.5126, abs=0.02)


def test_f1_two_valleys_have_no_one_minimum():
    """Fails when a curve is drawn over a ridge, or noise is taken for one."""
    sizes, loss = np.arange(1, 8) * 1e8, np.array([3.4, 3.0, 3.2, 3.6, 3.2, 3.0, 3.4])
    two = Runs(loss, params_R=sizes, flops_R=np.full(7, 1e20)).completed()
    for method in METHODS:
        assert optimum(two, method) == "two valleys"
    assert optimum(two, "parabola", noise=0.1) != "two valleys"


def test_f1_a_curve_far_below_its_runs_is_no_minimum():
    """Fails when a curve that dips between two runs says what no run has shown."""
    sizes, loss = np.array([1.0, 1.1, 30.0, 33.0]) * 1e8, np.array([3.4, 3.0, 3.0, 3.4])
    dips = Runs(loss, params_R=sizes, flops_R=np.full(4, 1e20)).completed()
    assert optimum(dips, "parabola") == "below"


def test_an_envelope_of_one_size():
    """Fails when nothing tells that larger models were not tried."""
    C, N = (a.ravel() for a in np.meshgrid(np.geomspace(1e18, 1e22, 50), [1e7, 3e7, 1e8]))
    runs = Runs(parametric_loss(BESIROGLU, N, C / 6 / N), params_R=N, flops_R=C).completed()
    assert says(Envelope().fit(runs, bootstrap=0), "edge")


def test_methods_that_disagree():
    """Fails when one method's exponent is reported as the only one."""
    runs = isoflops(step=2.5)
    lean = np.where(runs.flops_R > 1e20, np.maximum(runs.params_R / 3e9, 1) ** 0.3, 1.0)
    bent = Runs(runs.loss_R * lean, params_R=runs.params_R, flops_R=runs.flops_R).completed()
    assert says(Isoflop().fit(bent, bootstrap=0), "a depends on the method")


def test_rows_of_one_budget_are_no_frontier():
    """Fails when a mean over sizes is passed off as the best of each compute."""
    assert says(Power().fit(isoflops(), bootstrap=0), "rows share 9 values of flops")


def test_loss_that_does_not_fall():
    """Fails when an exponent whose interval holds 0 is reported as found."""
    C = np.geomspace(1e18, 1e20, 8)
    noise = np.random.default_rng(0).normal(size=8)
    assert says(Power().fit(Runs(2 * np.exp(0.05 * noise), flops_R=C)), "does not clearly fall")


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda runs: Parametric(fixed={"gamma": 1.0}).fit(runs), "no such parameter"),
        (lambda runs: Parametric(fixed={"E": -1.0}).fit(runs), "must be above 0"),
        (lambda runs: Isoflop(tolerance=1e-6).fit(runs.completed()), "0 budgets"),
        (
            lambda runs: Power(fixed={"E": 99.0}).fit(runs.completed()),
            "below the smallest loss",
        ),
        (
            lambda runs: DataConstrained().fit(
                Runs(
                    runs.loss_R,
                    params_R=runs.params_R,
                    tokens_R=runs.tokens_R,
                    unique_R=runs.tokens_R,
                )
            ),
            "no row repeats its data",
        ),
    ],
)
def test_what_cannot_be_fit_is_said(make_runs, fit, message):
    """Fails when numpy's own error is all that one sees."""
    with pytest.raises(DataError, match=message):
        fit(make_runs())
