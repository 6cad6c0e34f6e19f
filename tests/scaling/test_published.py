"""Published data give the published numbers."""

import numpy as np
import pytest

from lm.scaling.compare import compare
from lm.scaling.data_constrained import DataConstrained
from lm.scaling.envelope import Envelope
from lm.scaling.isoflop import METHODS, Isoflop
from lm.scaling.laws import MUENNIGHOFF
from lm.scaling.parametric import Parametric
from lm.scaling.power import Power
from lm.scaling.table import Runs, groups, numbers, read

SURFACE = {name: MUENNIGHOFF[name] for name in ("E", "A", "B", "alpha", "beta")}


def table(path, **names):
    """A file's columns, and its runs."""
    columns = read(path)
    usual = {
        "params": "params",
        "tokens": "tokens",
        "flops": "flops",
        "unique": "unique_tokens",
    }
    known = {
        f"{what}_R": numbers(columns, name)
        for what, name in (usual | names).items()
        if name in columns
    }
    return columns, Runs(numbers(columns, "loss"), **known)


def test_chinchilla(published):
    """Fails when the Huber loss is averaged, not of logarithms, or stops early."""
    _, runs = table(published / "chinchilla_points.csv")
    fit = Parametric().fit(runs, bootstrap=0)
    assert fit.parameters["E"] == pytest.approx(1.78389, abs=0.0005)
    assert fit.parameters["A"] == pytest.approx(442.16, rel=0.001)
    assert fit.parameters["B"] == pytest.approx(1271.8, rel=0.001)
    assert fit.parameters["alpha"] == pytest.approx(0.34263, abs=0.0001)
    assert fit.parameters["beta"] == pytest.approx(0.34200, abs=0.0001)
    assert fit.exponents["a"] == pytest.approx(0.49954, abs=0.0001)
    assert fit.objective == pytest.approx(8.40093e-4, rel=1e-5)
    assert fit.rows_used == 234
    assert fit.warnings == ()
    assert fit.certificate.gradient < 1e-9 and fit.certificate.positive_definite
    assert fit.certificate.agree > 20


def test_gemstones(published):
    """Fails when starts lie near Chinchilla's exponents only: here beta is .71."""
    _, runs = table(published / "gemstones_hot.csv")
    fit = Parametric().fit(runs, bootstrap=0)
    assert fit.parameters["E"] == pytest.approx(2.1432, abs=0.001)
    assert fit.parameters["alpha"] == pytest.approx(0.2929, abs=0.001)
    assert fit.parameters["beta"] == pytest.approx(0.7130, abs=0.001)
    assert fit.exponents["a"] == pytest.approx(0.7088, abs=0.001)
    assert fit.objective == pytest.approx(1.98161e-3, rel=1e-5)
    assert fit.warnings == ()


@pytest.mark.parametrize(
    ("params", "exponent"), [("params", 0.49938), ("params_non_embedding", 0.62686)]
)
def test_gemstones_envelope(published, params, exponent):
    """Fails when the hull or its line is of the numbers themselves, not of logarithms."""
    _, runs = table(published / "gemstones_envelope_hot.csv", params=params)
    fit = Envelope().fit(runs, bootstrap=0)
    assert fit.exponents["a"] == pytest.approx(exponent, abs=0.0005)
    assert fit.exponents["b"] == pytest.approx(0.48099, abs=0.0005)


PORIAN = {
    "base,long,kaplan,kaplan,train": 0.834,
    "base,long,kaplan,standard,val": 0.701,
    "base,short,kaplan,standard,val": 0.604,
    "base,short,chinchilla,standard,val": 0.571,
    "tuned,short,const,standard,val": 0.497,
}


@pytest.mark.parametrize(("configuration", "exponent"), PORIAN.items())
def test_porian(published, configuration, exponent):
    """Fails when minima at an edge are kept, or the curve is not through ln N and ln L."""
    columns, runs = table(published / "porian_refinedweb_isoflop.csv")
    by = ["hparams", "warmup", "decay", "param_count", "val"]
    mine = runs.take(groups(columns, by)[configuration])
    found = {m: Isoflop(method=m).fit(mine, bootstrap=0).exponents["a"] for m in METHODS}
    assert found["akima"] == pytest.approx(exponent, abs=0.005)
    assert found["local"] == pytest.approx(exponent, abs=0.035)
    assert found["parabola"] == pytest.approx(exponent, abs=0.035)


def test_muennighoff(published):
    """Fails when repeats are counted from 0 passes, or U_N is not cut at N."""
    _, runs = table(published / "muennighoff_c4.csv")
    r_d = DataConstrained(fixed=SURFACE | {"R_N": 5.309743}).fit(runs, bootstrap=0)
    assert r_d.parameters["R_D"] == pytest.approx(15.389, abs=0.01)
    assert r_d.warnings == ()
    r_n = DataConstrained(fixed=SURFACE | {"R_D": 15.387756}).fit(runs, bootstrap=0)
    assert r_n.parameters["R_N"] == pytest.approx(5.312, abs=0.01)
    assert r_n.warnings == ()


def test_muennighoff_both_is_a_ridge(published):
    """Fails when the published point, a local minimum, is taken for the best, or for pinned."""
    _, runs = table(published / "muennighoff_c4.csv")
    fit = DataConstrained(fixed=SURFACE).fit(runs, bootstrap=0)
    assert fit.objective <= 0.015826
    for name in ("R_D", "R_N"):
        assert any("flat ridge" in w and name in w for w in fit.warnings)


def test_smdm(published):
    """Fails when the multiplier is of losses, or its variants are exchanged."""
    columns, runs = table(published / "smdm_frontier.csv", params="n_opt_nonemb")
    rows = groups(columns, ["model"])
    variants = {name: runs.take(rows[name]) for name in ("ARM", "MDM")}
    for name, x, a in (("ARM", 0.0642, 0.643), ("MDM", 0.0625, 0.630)):
        fit = Power().fit(variants[name], bootstrap=0)
        assert fit.exponents["x"] == pytest.approx(x, abs=0.0001)
        assert fit.exponents["a"] == pytest.approx(a, abs=0.001)
    comparison = compare(variants["ARM"], variants["MDM"])
    times = [point.multiplier for point in comparison.points]
    assert min(times) == pytest.approx(15.3, abs=0.05)
    assert max(times) == pytest.approx(16.5, abs=0.05)
    for point in comparison.points:
        assert point.ci95[0] < 16 < point.ci95[1]
    assert [point.extrapolated for point in comparison.points] == [False, *[True] * 4]


@pytest.mark.slow
def test_warm_draws_agree_with_many_starts(published):
    """Fails when a warm start leaves draws in another minimum than their own."""
    _, runs = table(published / "chinchilla_points.csv")
    fit = Parametric().fit(runs, bootstrap=40, seed=1)
    random = np.random.default_rng(1)
    counts = random.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), size=40)
    for draw, count in enumerate(counts):
        cold = Parametric().fit(runs.take(np.repeat(np.arange(len(runs)), count)), bootstrap=0)
        assert fit.draws["alpha"][draw] == pytest.approx(cold.parameters["alpha"], abs=1e-4)
