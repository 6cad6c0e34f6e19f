"""Variable projection: a law's exponents alone are searched, all else is solved for inside.

Golub and Pereyra 1973 do so where the rest is linear, as E, A and B of L = E + A / N^alpha +
B / D^beta are in least squares of L. In the summed Huber loss of ln L they are not, nor is the
inner problem convex (the loss is a Huber loss of a convex function, whose residuals below zero
bend it down). So what can be projected is: each pair of exponents starts at its linear solution
and is solved to rounding error by damped Newton steps in the three others. Two unknowns remain.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lm.scaling.solve import Problem, Terms, _derivatives, minimize

_FINISHED = 3
"""Exponents from so many places of the grid are searched to the end."""


def project(
    problem: Problem, starts_SP: np.ndarray, outer: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Minimizes over the parameters at the places `outer`, the others solved for at each step.

    Returns ends SP, and objectives S, of the best of the starts. The gradient of what remains
    is the whole problem's, by the envelope theorem; L-BFGS-B (Byrd et al. 1995) goes down it.
    """
    from scipy import optimize  # no other command should wait for it

    free = [place for place in outer if problem.lower_P[place] < problem.upper_P[place]]
    inner = replace(problem, terms=_with_held(problem.terms, free))
    theta_SP, objective_S = minimize(inner, starts_SP)
    best = np.argsort(objective_S, kind="stable")[:_FINISHED]
    if not free:
        return theta_SP[best], objective_S[best]
    scale = max(float(objective_S[best[0]]), 1e-30)
    weights_SR = np.ones((1, problem.log_loss_R.shape[-1]))
    limits = optimize.Bounds(problem.lower_P[free], problem.upper_P[free])

    def solved(exponents_F: np.ndarray, near_P: np.ndarray) -> tuple[np.ndarray, float]:
        start_P = near_P.copy()
        start_P[free] = exponents_F
        found_SP, least_S = minimize(inner, start_P[None])
        return found_SP[0], float(least_S[0])

    ends, objectives = [], []
    for start_P in theta_SP[best]:
        near_P = start_P

        def reduced(exponents_F: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal near_P
            near_P, least = solved(exponents_F, near_P)
            state = _derivatives(problem, near_P[None], weights_SR, newton=False)
            return least / scale, state.gradient_SP[0, free] / scale

        found = optimize.minimize(
            reduced,
            start_P[free],
            jac=True,
            method="L-BFGS-B",
            bounds=limits,
            options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 300},
        )
        end_P, least = solved(found.x, near_P)
        ends.append(end_P)
        objectives.append(least)
    return np.array(ends), np.array(objectives)


def _with_held(terms: Terms, places: Sequence[int]) -> Terms:
    """The terms of problems whose parameters at these places stay where they start."""

    def held(theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z_SKR, dz_SKRP = terms(theta_SP)
        still_SKRP = dz_SKRP.copy()
        still_SKRP[..., list(places)] = 0.0
        return z_SKR, still_SKRP

    return held
