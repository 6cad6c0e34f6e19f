"""Closed forms against the numbers that their authors print, and against search."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from lm.scaling.laws import (
    BESIROGLU,
    HOFFMANN,
    MUENNIGHOFF,
    data_constrained_loss,
    data_constrained_optimum,
    effective_params,
    effective_tokens,
    parametric_exponents,
    parametric_loss,
    parametric_optimum,
)


def test_published_optima():
    """Fails when G is inverted, or 6 is forgotten."""
    params, tokens = parametric_optimum(BESIROGLU, 5.76e23)
    assert params == pytest.approx(7.225e10, rel=1e-3)
    assert tokens == pytest.approx(1.329e12, rel=1e-3)
    assert 6 * params * tokens == pytest.approx(5.76e23)
    assert parametric_exponents(HOFFMANN)["a"] == pytest.approx(0.4516, abs=1e-4)
    assert parametric_optimum(HOFFMANN, 5.76e23)[0] == pytest.approx(3.22e10, rel=2e-3)


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU, MUENNIGHOFF])
@pytest.mark.parametrize("flops", [1e18, 5.76e23])
def test_the_optimum_is_one(law, flops):
    """Fails when an exponent of the closed form is wrong, which one constant may hide."""
    best = minimize_scalar(
        lambda log_N: parametric_loss(law, np.exp(log_N), flops / 6 / np.exp(log_N)),
        bounds=(10, 35),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert parametric_optimum(law, flops)[0] == pytest.approx(np.exp(best.x), rel=1e-4)


def test_repeated_data_as_published():
    """Fails by a digit when a branch of repeats is off; both values are the authors'."""
    first = data_constrained_loss(MUENNIGHOFF, 6.34e9, 242e9, 25e9)
    assert first == pytest.approx(2.2256440889984477, rel=1e-13)
    second = data_constrained_loss(MUENNIGHOFF, 8.67e9, 178e9, 25e9)
    assert second == pytest.approx(2.2269634075087867, rel=1e-13)


def test_little_repetition_keeps_its_digits():
    """Fails when 1 - exp(-x) is written instead of -expm1(-x)."""
    more = effective_tokens(1e6, 1e9 * (1 + 1e-10), 1e9) - 1e9
    assert more == pytest.approx(0.1, rel=1e-5)


def test_what_repeats_are_worth_at_most():
    """Fails when the limit 1 + R is not that of tokens, or parameters that suffice are cut."""
    assert effective_tokens(15.0, 1e15, 1e9) == pytest.approx(16e9)
    assert effective_tokens(15.0, 5e8, 1e9) == 5e8
    assert effective_params(MUENNIGHOFF, 1e6, 1e12) == pytest.approx(1e6)


def test_optimum_with_repeated_data():
    """Fails when the search stops at a bracket's end; a fine grid knows the answer."""
    params, tokens = data_constrained_optimum(MUENNIGHOFF, 1e22, 25e9)
    sizes = np.geomspace(params / 30, params * 30, 2001)
    losses = data_constrained_loss(MUENNIGHOFF, sizes, 1e22 / 6 / sizes, 25e9)
    assert sizes[losses.argmin()] == pytest.approx(params, rel=0.005)
    assert tokens == pytest.approx(1e22 / 6 / params)
