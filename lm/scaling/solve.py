"""The robust fit of any law: summed Huber losses of log residuals, minimized from many starts.

A law is written as ln L = logsumexp_k z_k, its terms z_k smooth in the parameters, which is how
Hoffmann et al. 2022 (equation 3) fit theirs. Dimension letters: S problems solved side by side
(starts, or resamples of a bootstrap), K terms, R rows of the table, P parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Terms = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Parameters SP -> terms SKR and their derivatives SKRP (or 1KRP, where they are constant)."""


@dataclass(frozen=True)
class Problem:
    """What is minimized: the terms of a law, against what was measured."""

    terms: Terms
    log_loss_R: np.ndarray
    """Or log_loss_SR, where every problem has measurements of its own."""
    delta: float
    """Where the Huber loss turns from square to linear, in units of ln L."""
    lower_P: np.ndarray
    upper_P: np.ndarray
    """A parameter whose bounds are equal is fixed."""
    power: int | None = None
    """The place of the parameter that ln L is so many times the logsumexp of, if one is."""


@dataclass(frozen=True)
class Certificate:
    """How well a minimum is known to be one."""

    gradient: float
    """Largest cosine between the clipped residuals and a column of the Jacobian.

    0 at a minimum, whatever the units (the `gtol` of MINPACK; Moré et al. 1980)."""
    starts: int
    agree: int
    """Starts that end within a millionth of the lowest objective."""
    positive_definite: bool
    """Whether the Hessian is, over the parameters that are free and within their bounds."""
    condition: float
    """The ratio of its largest to its smallest eigenvalue, its diagonal scaled to ones."""

    @property
    def converged(self) -> bool:
        return self.gradient < 1e-5


def minimize(
    problem: Problem,
    starts_SP: np.ndarray,
    *,
    weights_SR: np.ndarray | None = None,
    robust_steps: int = 40,
    newton_steps: int = 60,
) -> tuple[np.ndarray, np.ndarray]:
    """Solves S problems side by side; returns the parameters SP and the objectives S.

    Damped steps of reweighted least squares, which lead from far away (the Huber loss lies
    under their parabola), then damped Newton steps, which end at rounding error. A step is
    taken only if it goes down, and is cut at the bounds. The objective is a sum: a mean,
    orders smaller, would meet the tolerances of common optimizers at the start.

    >>> rows = np.log([2.0, 2.0, 2.0, 9.0])
    >>> constant = lambda theta_SP: (theta_SP[:, None, :1] + np.zeros(4), np.ones((1, 1, 4, 1)))
    >>> bounds = np.array([-9.0]), np.array([9.0])
    >>> theta_SP, _ = minimize(Problem(constant, rows, 1e-3, *bounds), np.array([[0.0]]))
    >>> float(np.exp(theta_SP[0, 0]))  # the median, almost: one outlier does not matter
    2.00066...
    """
    count, rows = len(starts_SP), problem.log_loss_R.shape[-1]
    theta_SP = np.clip(starts_SP, problem.lower_P, problem.upper_P)
    weights_SR = np.ones((1, rows)) if weights_SR is None else weights_SR
    objective_S = np.empty(count)
    # Blocks that fit a processor's cache are twice as fast as one of all problems.
    for first in range(0, count, 64):
        part = slice(first, first + 64)
        block = _of_problems(problem, part)
        weights = weights_SR if len(weights_SR) == 1 else weights_SR[part]
        theta_SP[part], objective_S[part] = _minimize_block(
            block, theta_SP[part], weights, robust_steps, newton_steps
        )
    return theta_SP, objective_S


def certify(
    problem: Problem, theta_P: np.ndarray, objective_S: np.ndarray, tolerance: float = 1e-6
) -> Certificate:
    """Checks a minimum found from several starts, whose objectives these are."""
    weights_SR = np.ones((1, problem.log_loss_R.shape[-1]))
    state = _derivatives(problem, theta_P[None], weights_SR, newton=False)
    free_P = ~_held(problem, theta_P[None], state.gradient_SP)[0]
    best = objective_S.min()
    agree = int((objective_S <= best * (1 + tolerance) + rounding(problem)).sum())
    scale_P = np.sqrt(np.maximum(state.curvature_SPP[0].diagonal(), 1e-300))
    size = np.sqrt((state.clipped_SR**2).sum())
    exact = state.objective_S[0] <= rounding(problem)
    cosine_P = np.abs(state.gradient_SP[0]) / (scale_P * max(float(size), 1e-300))
    hessian_PP = _hessian(problem, theta_P)[np.ix_(free_P, free_P)]
    diagonal_P = np.sqrt(np.maximum(hessian_PP.diagonal(), 1e-300))
    eigenvalues_P = (
        np.linalg.eigvalsh(hessian_PP / diagonal_P / diagonal_P[:, None])
        if free_P.any()
        else np.ones(1)
    )
    return Certificate(
        gradient=0.0 if exact or not free_P.any() else float(cosine_P[free_P].max()),
        starts=len(objective_S),
        agree=agree,
        positive_definite=bool(eigenvalues_P[0] > 0),
        condition=float(eigenvalues_P[-1] / max(eigenvalues_P[0], 1e-16 * eigenvalues_P[-1])),
    )


def rounding(problem: Problem) -> float:
    """An objective that is no more than rounding error: residuals of 1e-9."""
    return 0.5e-18 * problem.log_loss_R.shape[-1]


def log_losses(terms: Terms, theta_SP: np.ndarray) -> np.ndarray:
    """The log loss of every row, SR."""
    z_SKR, _ = terms(theta_SP)
    highest_S1R = z_SKR.max(axis=1, keepdims=True)
    return (highest_S1R + np.log(np.exp(z_SKR - highest_S1R).sum(1, keepdims=True)))[:, 0]


def huber(residuals: np.ndarray, delta: float) -> np.ndarray:
    """Half the square up to delta, and linear beyond (Huber 1964).

    >>> huber(np.array([0.5, -3.0]), 1.0).tolist()
    [0.125, 2.5]
    """
    size = np.abs(residuals)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


@dataclass(frozen=True)
class _State:
    objective_S: np.ndarray
    gradient_SP: np.ndarray
    curvature_SPP: np.ndarray
    """Of reweighted least squares for the robust steps; the Hessian's for Newton's."""
    scale_SP: np.ndarray
    clipped_SR: np.ndarray


def _derivatives(
    problem: Problem, theta_SP: np.ndarray, weights_SR: np.ndarray, *, newton: bool
) -> _State:
    """The objective with its gradient and curvature.

    With p the shares of the terms, the gradient of logsumexp is sum p_k dz_k, and its Hessian
    sum p_k dz_k dz_k' less the square of that, where the terms are linear in the parameters.
    """
    z_SKR, dz_SKRP = problem.terms(theta_SP)
    highest_S1R = z_SKR.max(axis=1, keepdims=True)
    share_SKR = np.exp(z_SKR - highest_S1R)
    total_S1R = share_SKR.sum(axis=1, keepdims=True)
    share_SKR /= total_S1R
    value_SR = (highest_S1R + np.log(total_S1R))[:, 0]
    jacobian_SRP = sum(
        share_SKR[:, k, :, None] * dz_SKRP[:, k] for k in range(share_SKR.shape[1])
    )
    bend_SRPP = None
    if problem.power is not None:
        times_S1 = theta_SP[:, problem.power, None]
        if newton:
            bend_SRPP = _bend(problem.power, times_S1, share_SKR, dz_SKRP, jacobian_SRP)
        jacobian_SRP = times_S1[..., None] * jacobian_SRP
        jacobian_SRP[:, :, problem.power] += value_SR
        value_SR = times_S1 * value_SR
    residual_SR = value_SR - problem.log_loss_R
    size_SR = np.abs(residual_SR)
    inside_SR = size_SR <= problem.delta
    objective_S = (weights_SR * huber(residual_SR, problem.delta)).sum(axis=1)
    clipped_SR = weights_SR * np.clip(residual_SR, -problem.delta, problem.delta)
    gradient_SP = (clipped_SR[:, None, :] @ jacobian_SRP)[:, 0]
    reweighted_SR = weights_SR * np.where(
        inside_SR, 1.0, problem.delta / np.maximum(size_SR, 1e-300)
    )
    transposed_SPR = jacobian_SRP.transpose(0, 2, 1)
    if newton and bend_SRPP is not None:
        curvature_SPP = (transposed_SPR * (weights_SR * inside_SR)[:, None]) @ jacobian_SRP
        curvature_SPP += np.einsum("sr,srpq->spq", clipped_SR, bend_SRPP)
        diagonal_SP = (reweighted_SR[:, None] @ jacobian_SRP**2)[:, 0]
    elif newton:
        weight_SR = weights_SR * inside_SR - clipped_SR
        curvature_SPP = (transposed_SPR * weight_SR[:, None]) @ jacobian_SRP
        for k in range(share_SKR.shape[1]):
            pull_SR = share_SKR[:, k] * clipped_SR
            dz_SRP = dz_SKRP[:, k]
            curvature_SPP += (dz_SRP.transpose(0, 2, 1) * pull_SR[:, None]) @ dz_SRP
        diagonal_SP = (reweighted_SR[:, None] @ jacobian_SRP**2)[:, 0]
    else:
        curvature_SPP = (transposed_SPR * reweighted_SR[:, None]) @ jacobian_SRP
        diagonal_SP = np.einsum("spp->sp", curvature_SPP)
    scale_SP = np.sqrt(np.maximum(diagonal_SP, 1e-300))
    return _State(objective_S, gradient_SP, curvature_SPP, scale_SP, clipped_SR)


def _bend(
    place: int,
    times_S1: np.ndarray,
    share_SKR: np.ndarray,
    dz_SKRP: np.ndarray,
    slope_SRP: np.ndarray,
) -> np.ndarray:
    """The Hessian SRPP of a parameter times the logsumexp, whose slope is without it."""
    spread = sum(
        share_SKR[:, k, :, None, None] * dz_SKRP[:, k, :, :, None] * dz_SKRP[:, k, :, None, :]
        for k in range(share_SKR.shape[1])
    )
    spread = spread - slope_SRP[..., :, None] * slope_SRP[..., None, :]
    bend_SRPP: np.ndarray = times_S1[..., None, None] * spread
    bend_SRPP[..., place, :] += slope_SRP
    bend_SRPP[..., :, place] += slope_SRP
    return bend_SRPP


def _minimize_block(
    problem: Problem,
    theta_SP: np.ndarray,
    weights_SR: np.ndarray,
    robust_steps: int,
    newton_steps: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The damped steps; problems that stand still leave the block."""
    theta_SP = theta_SP.copy()
    objective_S = np.empty(len(theta_SP))
    for newton, steps in ((False, robust_steps), (True, newton_steps)):
        moving_M = np.arange(len(theta_SP))
        damping_M, still_M = np.full(len(theta_SP), 1e-2), np.zeros(len(theta_SP), int)
        for _ in range(steps):
            part = _of_problems(problem, moving_M)
            weights = weights_SR if len(weights_SR) == 1 else weights_SR[moving_M]
            now = theta_SP[moving_M]
            state = _derivatives(part, now, weights, newton=newton)
            new = np.clip(now + _step(part, now, state, damping_M), part.lower_P, part.upper_P)
            lower_M = _objective(part, new, weights)
            better_M = lower_M < state.objective_S
            theta_SP[moving_M] = np.where(better_M[:, None], new, now)
            objective_S[moving_M] = np.where(better_M, lower_M, state.objective_S)
            damping_M = np.clip(np.where(better_M, damping_M / 5, damping_M * 4), 1e-14, 1e8)
            gain_M = np.where(better_M, state.objective_S - lower_M, 0.0)
            least_M = (1e-13 if newton else 1e-6) * state.objective_S
            still_M = np.where(gain_M > least_M, 0, still_M + 1)
            stay_M = (still_M < 8) & (state.objective_S > 1e-30)
            moving_M, damping_M, still_M = moving_M[stay_M], damping_M[stay_M], still_M[stay_M]
            if not len(moving_M):
                break
    return theta_SP, objective_S


def _step(
    problem: Problem, theta_SP: np.ndarray, state: _State, damping_S: np.ndarray
) -> np.ndarray:
    """The damped step in scaled coordinates; downhill where the curvature is negative, too."""
    held_SP = _held(problem, theta_SP, state.gradient_SP)
    gradient_SP = np.where(held_SP, 0.0, state.gradient_SP / state.scale_SP)
    curvature_SPP = (
        state.curvature_SPP / state.scale_SP[:, :, None] / state.scale_SP[:, None, :]
    )
    curvature_SPP[held_SP[:, :, None] | held_SP[:, None, :]] = 0.0
    values_SP, vectors_SPP = np.linalg.eigh(curvature_SPP)
    values_SP = np.maximum(np.abs(values_SP), 1e-12) + damping_S[:, None]
    along_SP = (gradient_SP[:, None, :] @ vectors_SPP)[:, 0] / values_SP
    step_SP = -(vectors_SPP @ along_SP[:, :, None])[:, :, 0] / state.scale_SP
    return np.where(held_SP, 0.0, step_SP)


def _held(problem: Problem, theta_SP: np.ndarray, gradient_SP: np.ndarray) -> np.ndarray:
    """Which parameters are fixed, or at a bound with the way down beyond it."""
    below = (theta_SP <= problem.lower_P) & (gradient_SP >= 0)
    above = (theta_SP >= problem.upper_P) & (gradient_SP <= 0)
    return below | above | (problem.lower_P == problem.upper_P)


def _objective(problem: Problem, theta_SP: np.ndarray, weights_SR: np.ndarray) -> np.ndarray:
    value_SR = log_losses(problem.terms, theta_SP)
    if problem.power is not None:
        value_SR = theta_SP[:, problem.power, None] * value_SR
    residual_SR = value_SR - problem.log_loss_R
    objective_S: np.ndarray = (weights_SR * huber(residual_SR, problem.delta)).sum(axis=1)
    return objective_S


def _of_problems(problem: Problem, which: np.ndarray | slice) -> Problem:
    if problem.log_loss_R.ndim == 1:
        return problem
    return replace(problem, log_loss_R=problem.log_loss_R[which])


def _hessian(problem: Problem, theta_P: np.ndarray, size: float = 1e-6) -> np.ndarray:
    """The Hessian from differences of the gradient, so that no law need write its own."""
    weights_SR = np.ones((1, problem.log_loss_R.shape[-1]))
    moves_PP = size * np.eye(len(theta_P))
    both = np.concatenate([theta_P + moves_PP, theta_P - moves_PP])
    gradient_SP = _derivatives(problem, both, weights_SR, newton=False).gradient_SP
    hessian_PP = (gradient_SP[: len(theta_P)] - gradient_SP[len(theta_P) :]) / (2 * size)
    result: np.ndarray = (hessian_PP + hessian_PP.T) / 2
    return result
