"""Every law keeps the contract, and is known by its name in its own file alone."""

import json
from pathlib import Path

import numpy as np
import pytest

import lm
from lm.scaling.catalog import LAWS, law_of, options_of
from lm.scaling.fit import predict
from lm.scaling.laws import BESIROGLU, MUENNIGHOFF, data_constrained_loss, parametric_loss
from lm.scaling.plots import figure_of
from lm.scaling.saved import fit_report, read_law
from lm.scaling.table import Runs

C, AWAY = (a.ravel() for a in np.meshgrid(np.geomspace(1e18, 1e21, 5), np.arange(-2, 3)))
N = 0.07 * C**0.51 * 1.7**AWAY
D = C / 6 / N
UNIQUE = D / (1 + 20 * (AWAY % 2))
NOISE = np.exp(0.003 * np.random.default_rng(0).normal(size=len(C)))
ROWS = {
    "loss": parametric_loss(BESIROGLU, N, D) * NOISE,
    "params": N,
    "tokens": D,
    "flops": C,
    "unique": UNIQUE,
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_fit_to_what_it_needs_predicts_and_is_drawn(tmp_path, name):
    """Fails if a law needs a column that it does not name, or its file loses what it says."""
    law = law_of(name)
    known = {f"{what}_R": ROWS[what] for what in law.needs}
    if "unique" in law.needs:
        known["loss_R"] = data_constrained_loss(MUENNIGHOFF, N, D, UNIQUE) * NOISE
    runs = Runs(**known).completed()
    fit = law.fit(runs, bootstrap=20, seed=0)
    assert fit.law == law and str(law) == name
    assert fit.exponents and set(law.split) <= set(fit.parameters)
    assert set(law.minor) <= set(fit.parameters | fit.exponents) | {"k_N", "k_D", "b"}
    point = {law.against: 3e20} | ({"unique": 1e9} if "unique" in law.needs else {})
    found = predict(fit, **point)
    assert 0 < found["loss"] < 10 and found["ci95"]["loss"][0] < found["ci95"]["loss"][1]
    for fits in ({"": fit}, {"a": fit, "b": fit}):
        figure_of(fits, dict.fromkeys(fits, runs)).draw_without_rendering()
    path = tmp_path / "law.json"
    path.write_text(json.dumps(fit_report({"": fit}, {"": []}, [], None)))
    again = read_law(path, None)
    assert type(again.law) is type(law)
    assert predict(again, **point)["loss"] == pytest.approx(found["loss"], rel=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_a_laws_name_is_in_no_other_file(name):
    """Fails if anybody asks which law it is, instead of asking the law."""
    own = Path(lm.__file__).parent / f"scaling/{name.replace('-', '_')}.py"
    assert own.exists()
    elsewhere = [
        path
        for path in Path(lm.__file__).parent.rglob("*.py")
        if path != own and f'"{name}"' in path.read_text()
    ]
    assert elsewhere == []


def test_options_reach_the_law_that_has_them():
    """Fails if an option is dropped, or one that is not given replaces a default."""
    assert law_of("isoflop", method="akima", tolerance=0.2, delta=9).method == "akima"
    assert law_of("isoflop", method=None) == law_of("isoflop")
    assert options_of(LAWS["parametric"]) == {"delta", "fixed", "method"}
    assert law_of("power", against="tokens").needs == ("loss", "tokens")
