"""The best size of each budget, and how it grows (approach 2 of Hoffmann et al. 2022)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.interpolate import Akima1DInterpolator

from lm.scaling.fit import Fit
from lm.scaling.power import line_doubts, lines
from lm.scaling.table import DataError, Runs

Method = Literal["akima", "local", "parabola"]
METHODS: tuple[Method, ...] = get_args(Method)

_POINTS_OF_A_LOCAL_PARABOLA = 5
_SAME_SIZE = 0.02
"""Sizes whose logarithms differ by no more are one."""


@dataclass(frozen=True)
class Budget:
    """Runs of one compute budget, and the best size between them."""

    flops: float
    params_R: np.ndarray
    """Distinct sizes, ascending."""
    loss_R: np.ndarray
    tokens_R: np.ndarray
    params: float
    tokens: float
    loss: float
    curve_params: np.ndarray
    curve_loss: np.ndarray
    """The curve that was drawn through the runs."""


def fit_isoflop(
    runs: Runs,
    *,
    method: Method = "akima",
    tolerance: float = 0.1,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Fit:
    """N*, D* and L* of each budget as power laws of compute.

    Runs whose compute differs by less than the tolerance are of one budget. Budgets whose best
    size is the smallest or the largest are left out: their minimum may lie beyond. What is
    resampled are the minima's residuals from the lines.

    >>> from lm.scaling.laws import BESIROGLU, parametric_loss, parametric_optimum
    >>> C, away = (a.ravel() for a in np.meshgrid(10.0 ** np.arange(18, 22), np.arange(-4, 5)))
    >>> N = parametric_optimum(BESIROGLU, C)[0] * 1.5**away
    >>> runs = Runs(parametric_loss(BESIROGLU, N, C / 6 / N), params_R=N, flops_R=C).completed()
    >>> fit = fit_isoflop(runs, bootstrap=0)
    >>> round(fit.exponents["a"], 3)  # .3658 / (.3478 + .3658)
    0.513
    """
    assert runs.params_R is not None and runs.flops_R is not None and runs.tokens_R is not None
    groups = budgets(runs, tolerance)
    if len(groups) < 2:
        raise DataError(
            f"{len(groups)} budgets of three sizes or more (flops within {tolerance:.0%});"
            " isoFLOP curves need 2: is flops the budget? --law parametric needs none"
        )
    found = [optimum(runs.take(rows_R), method) for rows_R in groups]
    minima = [budget for budget in found if isinstance(budget, Budget)]
    if len(minima) < 2:
        raise DataError(
            f"{len(minima)} of {len(found)} budgets have a minimum within their sizes;"
            " a law needs 2: run smaller or larger models"
        )
    parameters, draws, objective = _law_of(minima, bootstrap, seed)
    return Fit(
        law="isoflop",
        parameters=parameters,
        objective=objective,
        rows_used=sum(
            len(rows_R) for rows_R, b in zip(groups, found, strict=True) if b in minima
        ),
        degrees=len(minima) - 2,
        draws=draws,
        warnings=(
            *_warnings(runs, groups, found, minima, method),
            *line_doubts(parameters, draws),
        ),
        details={"budgets": minima},
    )


def budgets(runs: Runs, tolerance: float) -> list[np.ndarray]:
    """Rows whose compute is the same to within the tolerance, where they have three sizes.

    >>> C = np.array([1e18, 1.05e18, 1e18, 1e19, 1e19, 1e19])
    >>> N = np.array([1e6, 2e6, 3e6, 1e6, 2e6, 3e6])
    >>> [rows_R.tolist() for rows_R in budgets(Runs(N, params_R=N, flops_R=C), 0.1)]
    [[0, 2, 1], [3, 4, 5]]
    """
    assert runs.params_R is not None and runs.flops_R is not None
    groups: list[list[int]] = []
    for row in np.argsort(runs.flops_R, kind="stable").tolist():
        if groups and runs.flops_R[row] <= runs.flops_R[groups[-1][0]] * (1 + tolerance):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [
        np.array(rows) for rows in groups if len(np.unique(runs.params_R[np.array(rows)])) >= 3
    ]


def optimum(runs: Runs, method: Method) -> Budget | str:
    """The size of least loss among and between the runs of a budget, or why there is none.

    akima: a smooth curve through every run (Akima 1970), as Porian et al. 2024 do, who found
    that parabolas lean on sizes far from the best one. local: a parabola through the five
    runs around the best. parabola: through all. All are in ln N and ln L.
    """
    assert runs.params_R is not None and runs.flops_R is not None and runs.tokens_R is not None
    # Repeats of one size, as of several seeds, count as one; sizes that were read off a figure
    # differ by a little, and a curve through both of a pair would leap.
    order_R = np.argsort(runs.params_R, kind="stable")
    apart_R = np.diff(np.log(runs.params_R[order_R]), prepend=-np.inf) > _SAME_SIZE
    place_R = np.cumsum(apart_R) - 1
    log_N_R, log_L_R, log_D_R = (
        np.bincount(place_R, np.log(values_R[order_R])) / np.bincount(place_R)
        for values_R in (runs.params_R, runs.loss_R, runs.tokens_R)
    )
    if len(log_N_R) < 3:
        return "few sizes"
    lowest = int(log_L_R.argmin())
    if method == "akima":
        fine = np.linspace(log_N_R[0], log_N_R[-1], 4001)
        curve = Akima1DInterpolator(log_N_R, log_L_R)(fine)
        log_N, log_L = fine[curve.argmin()], curve.min()
        if log_N in (fine[0], fine[-1]):
            return "edge"
    elif method == "local" and lowest in (0, len(log_N_R) - 1):
        return "edge"
    else:
        near = (
            slice(None)
            if method == "parabola"
            else slice(
                max(0, lowest - _POINTS_OF_A_LOCAL_PARABOLA // 2),
                lowest + _POINTS_OF_A_LOCAL_PARABOLA // 2 + 1,
            )
        )
        origin = log_N_R[lowest]
        bend, slope, level = np.polyfit(log_N_R[near] - origin, log_L_R[near], 2)
        if bend <= 0:
            return "no minimum"
        log_N, log_L = origin - slope / (2 * bend), level - slope**2 / (4 * bend)
        if not log_N_R[0] < log_N < log_N_R[-1]:
            return "edge"
        fine = np.linspace(log_N_R[near][0], log_N_R[near][-1], 200)
        curve = np.polyval([bend, slope, level], fine - origin)
    return Budget(
        flops=float(np.exp(np.log(runs.flops_R).mean())),
        params_R=np.exp(log_N_R),
        loss_R=np.exp(log_L_R),
        tokens_R=np.exp(log_D_R),
        params=float(np.exp(log_N)),
        tokens=float(np.exp(np.interp(log_N, log_N_R, log_D_R))),
        loss=float(np.exp(log_L)),
        curve_params=np.exp(fine),
        curve_loss=np.exp(curve),
    )


def _law_of(
    minima: list[Budget], bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray], float]:
    flops_R = np.array([budget.flops for budget in minima])
    values = {
        "params": np.array([budget.params for budget in minima]),
        "tokens": np.array([budget.tokens for budget in minima]),
        "loss": np.array([budget.loss for budget in minima]),
    }
    return lines(flops_R, values, bootstrap=bootstrap, seed=seed)


def _warnings(
    runs: Runs,
    groups: list[np.ndarray],
    found: list[Budget | str],
    minima: list[Budget],
    method: Method,
) -> list[str]:
    assert runs.flops_R is not None
    warnings = []
    for why, meaning in (
        ("edge", "minimum at an edge of their sizes"),
        ("no minimum", "no minimum: the parabola opens down"),
        ("few sizes", "fewer than three sizes that differ"),
    ):
        out = [
            f"{runs.flops_R[rows_R].mean():.3g}"
            for rows_R, budget in zip(groups, found, strict=True)
            if budget == why
        ]
        if out:
            warnings.append(f"budgets left out, {meaning}: {', '.join(out)} flops")
    if len(minima) < 4:
        warnings.append(f"too few points: {len(minima)} budgets; error bars are rough")
    exponents = {}
    for other in METHODS:
        others = [optimum(runs.take(rows_R), other) for rows_R in groups]
        kept = [budget for budget in others if isinstance(budget, Budget)]
        if len(kept) >= 2:
            exponents[other] = _law_of(kept, 0, 0)[0]["a"]
    if max(exponents.values()) - min(exponents.values()) > 0.05:
        shown = ", ".join(f"{name} {value:.3f}" for name, value in exponents.items())
        warnings.append(f"a depends on the method ({shown}); this is {method}")
    return warnings
