"""A floor that is fit, and whether rows say where it is."""

import numpy as np
import pytest

from lm.cli import main
from lm.scaling.fit import predict
from lm.scaling.free_floor import FreeFloor
from lm.scaling.grouped import fit_groups
from lm.scaling.laws import BESIROGLU, parametric_loss, parametric_optimum
from lm.scaling.table import Runs

PINNED = {"E": 1.6, "k_L": 95.18, "x": 0.0941}


def best_of(C, *, noise, seed=0) -> Runs:
    """The best runs of a known law."""
    loss = PINNED["E"] + PINNED["k_L"] * C ** -PINNED["x"]
    return Runs(
        loss * np.exp(noise * np.random.default_rng(seed).normal(size=len(C))), flops_R=C
    )


def checked(runs, **fixed):
    return fit_groups(FreeFloor(fixed=fixed), {"": runs}, bootstrap=200, seed=0).fits[""]


def test_a_floor_that_few_budgets_do_not_show_is_said():
    """Fails if a floor is called known although others fit alike and forecast otherwise."""
    floors = []
    for seed in range(4):
        fit = checked(best_of(np.geomspace(3e18, 3e20, 5), noise=0.003, seed=seed))
        floors.append(fit.parameters["E"])
        assert fit.unidentified == ("E",)
        assert any("E is not identified" in warning for warning in fit.warnings)
        assert "E" not in fit.ci95
        assert "loss" not in predict(fit, flops=3e22)["ci95"]
    # Two decades on, the truth lies below some of the floors, or far above.
    assert max(floors) - min(floors) > 0.5


def test_a_floor_that_rows_show_is_not_doubted():
    """Fails if every floor is doubted, or its interval misses the truth."""
    fit = checked(best_of(np.geomspace(1e15, 1e24, 40), noise=0.001))
    assert fit.unidentified == () and fit.warnings == ()
    assert fit.ci95["E"][0] < PINNED["E"] < fit.ci95["E"][1]
    fixed = checked(best_of(np.geomspace(3e18, 3e20, 5), noise=0.003), E=1.6)
    assert fixed.unidentified == () and fixed.parameters["E"] == pytest.approx(1.6)


def test_the_pinned_law():
    """Fails if k or x is of another origin: 2.606 at 1e21 and 2.252 at 1e23 FLOPs."""
    fit = FreeFloor().fit(best_of(np.geomspace(1e17, 1e24, 9), noise=0.0), bootstrap=0)
    assert predict(fit, flops=1e21)["loss"] == pytest.approx(2.606, abs=0.0006)
    assert predict(fit, flops=1e23)["loss"] == pytest.approx(2.252, abs=0.0006)


def test_two_variants_with_the_floor_pinned():
    """Fails if the floor that is fixed is fit too, or k is counted from elsewhere.

    The budgets are those at which both variants' printed laws have their printed losses.
    """
    C = np.array([2.19e17, 1.7e18, 9e18, 2.83e19])
    for loss, k, x in (
        ([3.8165, 3.4360, 3.1637, 3.0133], 90.99, 0.0930),
        ([3.8382, 3.4314, 3.1713, 3.0181], 96.71, 0.0944),
    ):
        found = FreeFloor(fixed={"E": 1.6}).fit(Runs(np.array(loss), flops_R=C), bootstrap=0)
        assert found.parameters["x"] == pytest.approx(x, abs=0.0015)
        assert found.parameters["k_L"] == pytest.approx(k, rel=0.06)


def test_the_command_line_warns(capsys, tmp_path):
    """Fails if compute-optimal points of a law of size and data are taken to show its floor."""
    C = np.geomspace(1e19, 1e21, 7)
    N, D = parametric_optimum(BESIROGLU, C)
    noise = np.exp(0.005 * np.random.default_rng(0).normal(size=len(C)))
    rows = zip(N, D, parametric_loss(BESIROGLU, N, D) * noise, strict=True)
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["params,tokens,loss", *(f"{n},{d},{L}" for n, d, L in rows)]))
    main(["fit", str(path), "--bootstrap", "40"])
    said = capsys.readouterr().out
    assert "alpha and beta cannot be told apart" in said and "not identified" in said
    main(["fit", str(path), "--law", "free-floor", "--bootstrap", "40"])
    assert "warning: E is not identified" in capsys.readouterr().out


def test_published_points_show_their_floor(capsys, published):
    """Fails if the floor of Hoffmann et al.'s 234 runs is doubted."""
    main(["fit", str(published / "chinchilla_points.csv"), "--bootstrap", "100"])
    assert "warning" not in capsys.readouterr().out
