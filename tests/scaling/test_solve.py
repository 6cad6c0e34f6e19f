"""The solver: derivatives, minima, certificates."""

import numpy as np
import pytest
from scipy.optimize import minimize as reference

from lm.scaling.data_constrained import data_constrained_terms
from lm.scaling.laws import MUENNIGHOFF, data_constrained_loss
from lm.scaling.parametric import Origin, linear_terms, parametric_terms
from lm.scaling.solve import Problem, certify, huber, log_losses, minimize
from lm.scaling.solve import _derivatives as derivatives

RANDOM = np.random.default_rng(0)
LOG_N, LOG_D = np.log(10) * RANDOM.uniform(7, 10, 40), np.log(10) * RANDOM.uniform(9, 12, 40)
LOG_U = LOG_D - RANDOM.uniform(0, 4, 40)
ORIGIN = Origin(LOG_N.mean(), LOG_D.mean())
THETA = {
    "parametric": np.array([0.5, -0.9, -0.8, 0.35, 0.4]),
    "data-constrained": np.array([0.5, -0.9, -0.8, 0.35, 0.4, 2.0, 1.0]),
}
TERMS = {
    "parametric": parametric_terms(LOG_N - ORIGIN.log_params, LOG_D - ORIGIN.log_tokens),
    "data-constrained": data_constrained_terms(LOG_N, LOG_D, LOG_U, ORIGIN),
}


def problem(law, delta=1e-3):
    theta_P = THETA[law]
    log_loss_R = log_losses(TERMS[law], theta_P[None])[0]
    log_loss_R = log_loss_R + np.random.default_rng(1).normal(0, 0.01, 40)
    far = np.full(len(theta_P), 50.0)
    return Problem(TERMS[law], log_loss_R, delta, -far, far)


@pytest.mark.parametrize("law", THETA)
def test_terms_and_their_derivatives(law):
    """Fails when any derivative of any term has a sign, a factor or a branch wrong."""
    theta_P = THETA[law]
    _, dz_SKRP = TERMS[law](theta_P[None])
    for place in range(len(theta_P)):
        move_P = 1e-6 * (np.arange(len(theta_P)) == place)
        above, _ = TERMS[law]((theta_P + move_P)[None])
        below, _ = TERMS[law]((theta_P - move_P)[None])
        np.testing.assert_allclose(
            dz_SKRP[0, :, :, place], (above - below)[0] / 2e-6, rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("law", THETA)
def test_gradient_of_the_objective(law):
    """Fails when the Huber loss is not clipped at delta, or weights are left out."""
    at, theta_P = problem(law), THETA[law]
    weights_SR = np.random.default_rng(2).integers(0, 3, (1, 40)).astype(float)

    def objective(theta_P):
        residual_R = log_losses(at.terms, theta_P[None])[0] - at.log_loss_R
        return (weights_SR[0] * huber(residual_R, at.delta)).sum()

    state = derivatives(at, theta_P[None], weights_SR, newton=False)
    for place in range(len(theta_P)):
        move_P = 1e-7 * (np.arange(len(theta_P)) == place)
        slope = (objective(theta_P + move_P) - objective(theta_P - move_P)) / 2e-7
        assert state.gradient_SP[0, place] == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_hessian_of_linear_terms():
    """Fails when the curvature of logsumexp itself is left out of Newton's steps."""
    at, theta_P = problem("parametric", delta=10.0), THETA["parametric"] + 0.05
    one = np.ones((1, 40))
    state = derivatives(at, theta_P[None], one, newton=True)
    for place in range(5):
        move_P = 1e-6 * (np.arange(5) == place)
        above = derivatives(at, (theta_P + move_P)[None], one, newton=False).gradient_SP
        below = derivatives(at, (theta_P - move_P)[None], one, newton=False).gradient_SP
        np.testing.assert_allclose(
            state.curvature_SPP[0, place], (above - below)[0] / 2e-6, rtol=1e-5, atol=1e-8
        )


def test_no_optimizer_finds_lower():
    """Fails when steps stop early, as with a mean for a sum."""
    at, random = problem("parametric"), np.random.default_rng(3)
    theta_SP, objective_S = minimize(
        at, THETA["parametric"][None] + random.normal(0, 0.2, (8, 5))
    )

    def objective(theta_P):
        return huber(log_losses(at.terms, theta_P[None])[0] - at.log_loss_R, at.delta).sum()

    best_P = theta_SP[objective_S.argmin()]
    found = reference(
        objective, best_P, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15}
    )
    assert objective_S.min() <= found.fun + 1e-14
    assert objective(best_P) == pytest.approx(objective_S.min(), rel=1e-12)


def test_side_by_side_is_one_by_one():
    """Fails when problems of a block see each other's weights, or lose their place in it."""
    at, random = problem("parametric"), np.random.default_rng(4)
    starts_SP = THETA["parametric"] + random.normal(0, 0.05, (70, 5))
    weights_SR = random.multinomial(40, np.full(40, 1 / 40), size=70).astype(float)
    together_SP, objective_S = minimize(at, starts_SP, weights_SR=weights_SR)
    for s in (0, 63, 64, 69):
        alone_SP, alone_S = minimize(at, starts_SP[s : s + 1], weights_SR=weights_SR[s : s + 1])
        np.testing.assert_allclose(alone_SP[0], together_SP[s], rtol=1e-6)
        assert alone_S[0] == pytest.approx(objective_S[s], rel=1e-9)


def test_bounds_hold_and_fixed_parameters_stay():
    """Fails when a step is cut after its objective is taken, or what is held moves the rest."""
    at = problem("parametric")
    lower_P, upper_P = at.lower_P.copy(), at.upper_P.copy()
    lower_P[3] = upper_P[3] = 0.5
    upper_P[0] = 0.3
    held = Problem(at.terms, at.log_loss_R, at.delta, lower_P, upper_P)
    theta_SP, objective_S = minimize(held, THETA["parametric"][None])
    assert theta_SP[0, 3] == 0.5 and theta_SP[0, 0] == 0.3
    assert certify(held, theta_SP[0], objective_S).converged


def test_a_certificate_tells_a_minimum_from_another_place():
    """Fails when the gradient is of the mean, or the Hessian's sign is not looked at."""
    at = problem("parametric")
    theta_SP, objective_S = minimize(at, THETA["parametric"][None])
    assert certify(at, theta_SP[0], objective_S).converged
    away = certify(at, theta_SP[0] + 0.01, objective_S)
    assert not away.converged and away.gradient > 0.01
    # Two terms that are the same: their sum is known, their parts are not.
    design_KRP = np.ones((2, 10, 2)) * np.eye(2)[:, None]
    same = Problem(
        linear_terms(design_KRP),
        np.full(10, 1.0) + 1e-4 * np.arange(10),
        1.0,
        *[np.array([-9.0, -9]), np.array([9.0, 9])],
    )
    ends_SP, ends_S = minimize(same, np.array([[0.0, 0.0]]))
    assert certify(same, ends_SP[0], ends_S).condition > 1e6


def test_terms_are_the_law():
    """Fails when the solver's terms and the closed form of repeated data part."""
    E, A, B, alpha, beta, R_D, R_N = THETA["data-constrained"]
    natural = {
        "E": np.exp(E),
        "A": np.exp(A + alpha * ORIGIN.log_params),
        "B": np.exp(B + beta * ORIGIN.log_tokens),
        "alpha": alpha,
        "beta": beta,
        "R_D": np.exp(R_D),
        "R_N": np.exp(R_N),
    }
    loss = data_constrained_loss(natural, np.exp(LOG_N), np.exp(LOG_D), np.exp(LOG_U))
    found = log_losses(TERMS["data-constrained"], THETA["data-constrained"][None])[0]
    np.testing.assert_allclose(found, np.log(loss), rtol=1e-12)
    assert set(natural) == set(MUENNIGHOFF)
