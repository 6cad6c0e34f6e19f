"""One law for several groups: what is shared is found, what is not is noticed."""

import numpy as np
import pytest

from lm.scaling.joint import fit_joint
from lm.scaling.laws import BESIROGLU, parametric_loss
from lm.scaling.table import DataError, Runs

SHARED = ("E", "alpha", "beta")


def two(make_runs, other, noise=0.004):
    """Runs of two laws, and their rows."""
    parts = [
        make_runs(law, noise=noise, seed=seed) for seed, law in enumerate((BESIROGLU, other))
    ]
    runs = Runs(
        *(
            np.concatenate([getattr(p, n) for p in parts])
            for n in ("loss_R", "params_R", "tokens_R")
        )
    )
    return runs, {"causal": np.arange(60), "masked": np.arange(60, 120)}


def test_shared_terms_are_one_and_others_two(make_runs):
    """Fails when a column of the design serves another group, or shared ones are not one."""
    other = BESIROGLU | {"A": 900.0, "B": 4000.0}
    runs, groups = two(make_runs, other, noise=0)
    joint = fit_joint(runs, groups, SHARED, bootstrap=30, test_draws=0)
    assert joint.fits["causal"].parameters == pytest.approx(BESIROGLU, rel=1e-4)
    assert joint.fits["masked"].parameters == pytest.approx(other, rel=1e-4)
    ours, theirs = (joint.fits[name].parameters for name in groups)
    assert all(ours[name] == theirs[name] for name in SHARED)


def test_a_coefficient_is_shared_where_it_is_defined(make_runs):
    """Fails when A is shared at the rows' mean size while exponents differ."""
    other = BESIROGLU | {"alpha": 0.37}
    runs, groups = two(make_runs, other, noise=0)
    joint = fit_joint(runs, groups, ("E", "A", "B", "beta"), bootstrap=0, test_draws=0)
    assert joint.fits["masked"].parameters == pytest.approx(other, rel=1e-4)


def test_the_test_tells_shared_from_separate(make_runs):
    """Fails when the null is drawn from the separate laws, or the ratio is upside down."""
    same, groups = two(make_runs, BESIROGLU | {"A": 900.0})
    agrees = fit_joint(same, groups, SHARED, bootstrap=0, test_draws=60)
    assert agrees.p > 0.1
    different, groups = two(make_runs, BESIROGLU | {"E": 1.9, "alpha": 0.4})
    differs = fit_joint(different, groups, SHARED, bootstrap=0, test_draws=60)
    assert differs.p < 0.05
    assert differs.objective > differs.objective_separate
    assert differs.statistic > agrees.statistic >= 0


def test_what_is_fixed_is_so_in_every_group_and_no_term_of_the_test(make_runs):
    """Fails when a fixed term is fit, or differs between groups, or one size stops the fit."""
    data = np.geomspace(1e9, 1e11, 8)
    laws_ = [{"E": 1.8, "B": 2e3, "beta": 0.36}, {"E": 2.0, "B": 9e2, "beta": 0.3}]
    runs = Runs(
        np.concatenate([law["E"] + law["B"] * data ** -law["beta"] for law in laws_]),
        params_R=np.full(16, 1e8),
        tokens_R=np.tile(data, 2),
    )
    groups = {"causal": np.arange(8), "masked": np.arange(8, 16)}
    held = {"A": 1e-12, "alpha": 1.0}
    apart = fit_joint(runs, groups, (), fixed=held, bootstrap=20, test_draws=0)
    for law, fit in zip(laws_, apart.fits.values(), strict=True):
        assert fit.parameters == pytest.approx(law | held, rel=1e-4)
        assert fit.degrees == 16 - 6
        assert not {"A", "alpha"} & set(fit.ci95)
    one = fit_joint(runs, groups, ("beta",), fixed=held, bootstrap=0, test_draws=0)
    betas = {fit.parameters["beta"] for fit in one.fits.values()}
    assert len(betas) == 1 and 0.3 < betas.pop() < 0.36
    assert one.statistic > apart.statistic
    with pytest.raises(DataError, match="no such parameter"):
        fit_joint(runs, groups, (), fixed={"x": 1.0})


def test_f2_the_test_draws_points_of_a_run_together():
    """Fails when points that err together count as many: one law then differs from itself."""
    values = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        run_R = np.repeat(np.arange(16), 6)
        N = np.geomspace(2e7, 2e9, 4)[run_R % 4]
        D = 20 * N * np.where(run_R % 8 < 4, 0.75, 3.0) * np.tile(np.arange(1, 7) / 6, 16)
        noise = 0.01 * random.normal(size=16)[run_R] + 0.001 * random.normal(size=96)
        runs = Runs(parametric_loss(BESIROGLU, N, D) * np.exp(noise), N, D, cluster_R=run_R)
        groups = {"a": np.flatnonzero(run_R < 8), "b": np.flatnonzero(run_R >= 8)}
        found = fit_joint(
            runs, groups, ("alpha", "beta"), bootstrap=0, test_draws=30, seed=seed
        )
        values.append(found.p)
    assert min(values) > 0.05


@pytest.mark.slow
def test_the_test_is_fair(make_runs):
    """Fails when p is not about uniform where terms are shared."""
    values = []
    for seed in range(60):
        parts = [make_runs(noise=0.004, seed=2 * seed + number) for number in range(2)]
        runs = Runs(
            *(
                np.concatenate([getattr(p, n) for p in parts])
                for n in ("loss_R", "params_R", "tokens_R")
            )
        )
        groups = {"a": np.arange(60), "b": np.arange(60, 120)}
        joint = fit_joint(runs, groups, SHARED, bootstrap=0, test_draws=60, seed=seed)
        values.append(joint.p)
    assert 0.0 <= np.mean(np.array(values) < 0.1) <= 0.22
    assert 0.35 < np.mean(values) < 0.65


def test_what_cannot_be_shared(make_runs):
    """Fails when a name that is no parameter is ignored."""
    runs, groups = two(make_runs, BESIROGLU)
    with pytest.raises(DataError, match="gamma"):
        fit_joint(runs, groups, ("gamma",))
    with pytest.raises(DataError, match="two groups"):
        fit_joint(runs, {"causal": np.arange(60)}, ("E",))
