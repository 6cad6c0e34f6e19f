"""Two ways to one minimum."""

import numpy as np
import pytest

from lm.scaling.parametric import Parametric
from lm.scaling.table import Runs, numbers, read


def agree(runs, **options):
    newton = Parametric(**options).fit(runs, bootstrap=0)
    projection = Parametric(method="projection", **options).fit(runs, bootstrap=0)
    assert projection.objective == pytest.approx(newton.objective, rel=1e-9)
    for name, value in newton.parameters.items():
        assert projection.parameters[name] == pytest.approx(value, rel=1e-4)
    assert projection.certificate.converged and projection.certificate.positive_definite
    return projection


def test_both_find_one_minimum(make_runs):
    """Fails if the exponents' gradient is another's, or what is inside is not solved for."""
    found = agree(make_runs(rows=40))
    assert found.certificate.starts == 3 and found.certificate.agree >= 2


def test_what_is_fixed_stays(make_runs):
    """Fails if an exponent that is fixed is searched, or E that is fixed is solved for."""
    runs = make_runs(rows=40)
    found = agree(runs, fixed={"alpha": 0.36, "E": 1.8})
    assert found.parameters["alpha"] == 0.36 and found.parameters["E"] == pytest.approx(1.8)
    both = agree(runs, fixed={"alpha": 0.35, "beta": 0.37})
    assert (both.parameters["alpha"], both.parameters["beta"]) == (0.35, 0.37)


@pytest.mark.parametrize("file", ["chinchilla_points.csv", "gemstones_hot.csv"])
def test_published_points_have_one_minimum(published, file):
    """Fails if the two solvers say different things of published runs."""
    columns = read(published / file)
    names = ("loss", "params", "tokens")
    agree(Runs(**{f"{name}_R": np.array(numbers(columns, name)) for name in names}))
