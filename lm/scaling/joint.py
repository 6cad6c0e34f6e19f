"""One parametric law for several groups of runs (objectives, say): what do they share?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm.scaling.bootstrap import resample
from lm.scaling.doubts import (
    check_fixed,
    check_rows,
    design_doubts,
    draws_doubts,
    few_rows_warnings,
    solution_doubts,
    unidentified,
)
from lm.scaling.fit import Fit, ranges_of
from lm.scaling.parametric import (
    NAMES,
    Origin,
    Parametric,
    bounds,
    linear_terms,
    parametric_terms,
)
from lm.scaling.solve import Problem, certify, log_losses, minimize
from lm.scaling.table import DataError, Runs


@dataclass(frozen=True)
class Joint:
    """A law of every group, and whether what they share is the same."""

    fits: dict[str, Fit]
    shared: tuple[str, ...]
    objective: float
    objective_separate: float
    """Of the same groups when nothing is shared."""
    statistic: float
    """Rows times ln(objective / objective_separate): twice the log-likelihood ratio."""
    p: float | None
    """How often groups that do share these terms differ as much; None without draws."""


def fit_joint(
    runs: Runs,
    groups: Mapping[str, np.ndarray],
    shared: Sequence[str],
    *,
    delta: float = 1e-3,
    fixed: Mapping[str, float] | None = None,
    bootstrap: int = 1000,
    test_draws: int = 200,
    seed: int = 0,
) -> Joint:
    """Fits all groups at once with these terms in common, and tests that they are.

    What is fixed is so in all groups, and is none of the terms that are tested.

    The test is a likelihood ratio whose distribution is simulated: measurements are drawn from
    the joint law with the residuals of the separate laws, within groups, and both are fit again
    (a bootstrap under the null hypothesis; Davison and Hinkley 1997, section 4.4). Residuals
    drawn from the joint law's own fit would hide what it cannot explain.

    >>> from lm.scaling.laws import BESIROGLU, parametric_loss
    >>> N, D = (10.0 ** axis.ravel() for axis in np.meshgrid([7, 8, 9, 10], [9, 10, 11, 12]))
    >>> loss = np.concatenate([parametric_loss(BESIROGLU | {"A": A}, N, D) for A in (400, 800)])
    >>> runs = Runs(loss, params_R=np.tile(N, 2), tokens_R=np.tile(D, 2))
    >>> groups = {"causal": np.arange(16), "masked": np.arange(16, 32)}
    >>> joint = fit_joint(runs, groups, ("E", "B", "alpha", "beta"), bootstrap=0, test_draws=0)
    >>> {name: round(fit.parameters["A"]) for name, fit in joint.fits.items()}
    {'causal': 400, 'masked': 800}
    """
    if unknown := [name for name in shared if name not in NAMES]:
        raise DataError(f"--share {unknown[0]}: no such parameter; one of {', '.join(NAMES)}")
    fixed = dict(fixed or {})
    law, free = Parametric(delta, fixed), check_fixed(fixed, NAMES)
    if len(groups) < 2:
        raise DataError("--share needs two groups or more; give --by COLUMN")
    rows_R = np.concatenate(list(groups.values()))
    runs = runs.take(rows_R)
    group_R = np.repeat(np.arange(len(groups)), [len(rows) for rows in groups.values()])
    inside_GR = group_R == np.arange(len(groups))[:, None]
    separate = [law.fit(runs.take(inside_R), bootstrap=0) for inside_R in inside_GR]
    with_shared = _Layout(runs, group_R, tuple(shared), fixed, delta)
    without = _Layout(runs, group_R, (), fixed, delta)
    check_rows(len(runs), with_shared.free)
    ends_SP, objective_S = minimize(with_shared.problem, with_shared.starts(separate, seed))
    best_P = ends_SP[objective_S.argmin()]
    objective = float(objective_S.min())
    apart_SP, apart_S = minimize(without.problem, without.starts(separate, seed))
    apart_P, objective_separate = apart_SP[apart_S.argmin()], float(apart_S.min())
    statistic = float(_statistic(len(runs), objective, objective_separate))
    p = None
    if test_draws:
        null_S = _null(
            with_shared, without, best_P, apart_P, group_R, runs.cluster_R, test_draws, seed
        )
        p = float((1 + (null_S >= statistic).sum()) / (1 + test_draws))
    draws_BP = np.empty((0, len(best_P)))
    if bootstrap:
        weights_BR = np.zeros((bootstrap, len(runs)))
        for number, inside_R in enumerate(inside_GR):
            weights_BR[:, inside_R] = resample(runs.take(inside_R), bootstrap, seed + number)
        warm_BP = np.repeat(best_P[None], bootstrap, axis=0)
        draws_BP, _ = minimize(with_shared.problem, warm_BP, weights_SR=weights_BR)
    certificate = certify(with_shared.problem, best_P, objective_S)
    doubts, flat = solution_doubts(with_shared.problem, with_shared.kinds, best_P, certificate)
    runaways, away = draws_doubts(with_shared.problem, with_shared.names, draws_BP)
    fits, own = {}, [name for name in free if name not in shared]
    for number, (name, inside_R) in enumerate(zip(groups, inside_GR, strict=True)):
        mine = runs.take(inside_R)
        params_R, tokens_R = mine.known("params", "tokens")
        design, loose = design_doubts(np.log(params_R), np.log(tokens_R), own)
        places = with_shared.columns_GP[number]
        flat_here = [i for i in range(len(NAMES)) if places[i] in flat | away]
        fits[name] = Fit(
            law=law,
            parameters={
                n: float(v[0]) for n, v in with_shared.natural(best_P[None], number).items()
            },
            objective=objective,
            rows_used=len(mine),
            degrees=runs.independent - len(with_shared.free),
            draws=with_shared.natural(draws_BP, number) if bootstrap else {},
            fixed=tuple(fixed),
            warnings=(
                *design,
                *dict.fromkeys([*doubts, *runaways]),
                *few_rows_warnings(runs.independent, len(with_shared.free)),
            ),
            unidentified=unidentified(NAMES, flat_here, loose, fixed),
            ranges=ranges_of(mine),
            certificate=certificate,
        )
    return Joint(fits, tuple(shared), objective, objective_separate, statistic, p)


class _Layout:
    """Where each group's parameters stand in the solver's: shared ones once, others a group."""

    def __init__(
        self,
        runs: Runs,
        group_R: np.ndarray,
        shared: tuple[str, ...],
        fixed: Mapping[str, float],
        delta: float,
    ) -> None:
        groups, shared = int(group_R.max()) + 1, (*shared, *fixed)
        self.columns_GP = np.empty((groups, len(NAMES)), int)
        self.names: list[str] = []
        self.kinds: list[str] = []
        for i, name in enumerate(NAMES):
            for group in range(groups):
                if group == 0 or name not in shared:
                    self.names.append(
                        name if name in shared else f"{name} of group {group + 1}"
                    )
                    self.kinds.append(name)
                self.columns_GP[group, i] = len(self.names) - 1
        log_N_R, log_D_R = map(np.log, runs.known("params", "tokens"))
        # A coefficient is shared at N = 1; it can be counted from elsewhere only if its
        # exponent is shared as well.
        alone = {
            c for c, e in (("A", "alpha"), ("B", "beta")) if c in shared and e not in shared
        }
        self.origin = Origin.of(log_N_R, log_D_R, dict.fromkeys(alone, 1.0) | dict(fixed))
        one_KRP = parametric_terms(
            log_N_R - self.origin.log_params, log_D_R - self.origin.log_tokens
        )(np.zeros((1, len(NAMES))))[1][0]
        design_KRP = np.zeros((*one_KRP.shape[:2], len(self.names)))
        for group in range(groups):
            inside_R = group_R == group
            for i, place in enumerate(self.columns_GP[group]):
                design_KRP[:, inside_R, place] = one_KRP[:, inside_R, i]
        lower_P, upper_P = bounds(runs.loss_R, NAMES, fixed)
        order = [NAMES.index(kind) for kind in self.kinds]
        self.problem = Problem(
            linear_terms(design_KRP), np.log(runs.loss_R), delta, lower_P[order], upper_P[order]
        )

    @property
    def free(self) -> list[str]:
        """The names of what is not fixed."""
        held_P = self.problem.lower_P == self.problem.upper_P
        return [name for name, held in zip(self.names, held_P, strict=True) if not held]

    def starts(self, separate: Sequence[Fit], seed: int) -> np.ndarray:
        """Starts SP: every group's law for what is shared, their mean, and that shaken."""
        own_GP = np.array([self._solver(fit) for fit in separate])
        candidates = [own_GP.mean(axis=0), *own_GP]
        starts = []
        for common_P in candidates:
            theta_P = np.empty(len(self.names))
            for group_P, places in zip(own_GP, self.columns_GP, strict=True):
                theta_P[places] = group_P
            for i in range(len(NAMES)):
                if len(set(self.columns_GP[:, i])) == 1:
                    theta_P[self.columns_GP[0, i]] = common_P[i]
            starts.append(theta_P)
        random = np.random.default_rng(seed)
        shaken = [starts[0] + random.normal(0, 0.3, len(self.names)) for _ in range(12)]
        return np.array(starts + shaken)

    def natural(self, theta_SP: np.ndarray, group: int) -> dict[str, np.ndarray]:
        """The parameters of one group, as the law is written."""
        return self.origin.natural(NAMES, theta_SP[:, self.columns_GP[group]])

    def _solver(self, fit: Fit) -> np.ndarray:
        E, A, B, alpha, beta = (fit.parameters[name] for name in NAMES)
        return np.array(
            [
                np.log(max(E, 1e-300)),
                np.log(A) - alpha * self.origin.log_params,
                np.log(B) - beta * self.origin.log_tokens,
                alpha,
                beta,
            ]
        )


def _null(
    shared: _Layout,
    separate: _Layout,
    shared_P: np.ndarray,
    separate_P: np.ndarray,
    group_R: np.ndarray,
    cluster_R: np.ndarray | None,
    draws: int,
    seed: int,
) -> np.ndarray:
    """The statistic of measurements that share the terms, S."""
    rows = len(group_R)
    expected_R = log_losses(shared.problem.terms, shared_P[None])[0]
    random = np.random.default_rng(seed)
    if cluster_R is None:
        residual_R = (
            separate.problem.log_loss_R
            - log_losses(separate.problem.terms, separate_P[None])[0]
        )
        # Residuals of a fit are smaller than the noise was.
        residual_R = residual_R * np.sqrt(rows / max(rows - len(separate.free), 1))
        measured_SR = np.repeat(expected_R[None], draws, axis=0)
        for group in range(int(group_R.max()) + 1):
            inside = np.flatnonzero(group_R == group)
            measured_SR[:, inside] += residual_R[random.choice(inside, (draws, len(inside)))]
    else:
        # Points of a run err together: their residuals stay, and a sign is drawn for all (the
        # wild cluster bootstrap; Cameron, Gelbach and Miller 2008). Theirs are of the joint
        # law: as many laws as separate ones have go through most of a few runs.
        residual_R = shared.problem.log_loss_R - expected_R
        _, run_R = np.unique(cluster_R, return_inverse=True)
        runs = int(run_R.max()) + 1
        residual_R = residual_R * np.sqrt(runs / max(runs - len(shared.free), 1))
        signs_SC = random.choice([-1.0, 1.0], (draws, runs))
        measured_SR = expected_R + residual_R * signs_SC[:, run_R]
    joint, apart = (replace(at.problem, log_loss_R=measured_SR) for at in (shared, separate))
    joint_S = minimize(joint, np.repeat(shared_P[None], draws, axis=0))[1]
    apart_S = minimize(apart, np.repeat(separate_P[None], draws, axis=0))[1]
    # The separate laws hold the joint one, from where they may do better than from their own.
    apart_SP = np.empty((draws, len(separate_P)))
    for places, own in zip(separate.columns_GP, shared.columns_GP, strict=True):
        start_P = shared_P[own].copy()
        start_P[1] += start_P[3] * (shared.origin.log_params - separate.origin.log_params)
        start_P[2] += start_P[4] * (shared.origin.log_tokens - separate.origin.log_tokens)
        apart_SP[:, places] = start_P
    return _statistic(rows, joint_S, np.minimum(apart_S, minimize(apart, apart_SP)[1]))


def _statistic(rows: int, joint: Any, separate: Any) -> Any:
    tiny = 0.5e-18 * rows  # residuals that are rounding error
    return np.maximum(0.0, rows * np.log((joint + tiny) / (separate + tiny)))
