"""The best size of each budget, and how it grows (approach 2 of Hoffmann et al. 2022)."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lm.scaling.fit import Fit, ranges_of
from lm.scaling.power import LineLaw, line_doubts, lines
from lm.scaling.table import DataError, Runs

IsoflopMethod = Literal["parabola", "local", "akima"]
METHODS: tuple[IsoflopMethod, ...] = get_args(IsoflopMethod)
"""The first is the default, by a simulation: `experiments/benchmarks/isoflop_methods.py`."""

_POINTS_OF_A_LOCAL_PARABOLA = 5
_SAME_SIZE = 0.02
"""Sizes whose logarithms differ by no more are one."""
_FAR, _FAR_AT_LEAST = 5.0, 0.02
"""A run so many standard errors from its budget's curve, and so far in ln L, is an outlier."""
_MOST_TRIPLES = 2000
_VALLEY = 0.1
"""Runs whose ln L lies so near the lowest, and those of sizes between, are in the valley."""
_FEWEST_IN_VALLEY = 4

_LEFT_OUT = {
    "edge": "minimum at an edge of their sizes",
    "no minimum": "no minimum: the parabola opens down",
    "few sizes": "fewer than three sizes that agree with each other",
    "two valleys": "two valleys with a run between them that is worse than both",
    "below": "the curve's minimum lies far below every run",
}
"""Why a budget has no minimum that can be used."""

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Isoflop(LineLaw):
    """N*, D* and L* of each budget as power laws of compute."""

    name = "isoflop"
    needs = ("loss", "params", "flops")
    resamples = "residuals"
    methods = METHODS

    method: IsoflopMethod = METHODS[0]
    """How the minimum of a budget is found."""
    tolerance: float = 0.1
    """Runs whose compute differs by less than this fraction are of one budget."""

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """The lines through the minima of the budgets that have one.

        Runs that lie far from the others of their budget, as diverged ones do, are left out. So
        are budgets whose best size is the smallest or the largest, as their minimum may lie
        beyond, and those whose runs have no one valley. Warnings name all of them. What is
        resampled are the minima's residuals from the lines.

        >>> from lm.scaling.laws import BESIROGLU, parametric_loss, parametric_optimum
        >>> axes = np.meshgrid(10.0 ** np.arange(18, 22), np.arange(-4, 5))
        >>> C, away = (axis.ravel() for axis in axes)
        >>> N = parametric_optimum(BESIROGLU, C)[0] * 1.5**away
        >>> loss = parametric_loss(BESIROGLU, N, C / 6 / N)
        >>> fit = Isoflop().fit(Runs(loss, params_R=N, flops_R=C).completed(), bootstrap=0)
        >>> round(fit.exponents["a"], 3)  # .3658 / (.3478 + .3658)
        0.513
        """
        groups = budgets(runs, self.tolerance)
        if len(groups) < 2:
            raise DataError(
                f"{len(groups)} budgets of three sizes or more (flops within"
                f" {self.tolerance:.0%}); isoFLOP curves need 2: is flops the budget? --law"
                " parametric needs none"
            )
        parts = [runs.take(rows_R) for rows_R in groups]
        inside, noise = _without_outliers(parts)
        kept = [part.take(near_R) for part, near_R in zip(parts, inside, strict=True)]
        found = [optimum(part, self.method, noise=noise) for part in kept]
        minima = [budget for budget in found if isinstance(budget, Budget)]
        doubts = _left_out(parts, inside, found)
        if len(minima) < 2:
            raise DataError(
                f"{len(minima)} of {len(found)} budgets have a minimum within their sizes;"
                f" a law needs 2: run smaller or larger models ({'; '.join(doubts)})"
            )
        parameters, draws, objective = _law_of(minima, bootstrap, seed)
        used = [
            rows_R[near_R]
            for rows_R, near_R, budget in zip(groups, inside, found, strict=True)
            if isinstance(budget, Budget)
        ]
        used_R = np.concatenate(used)
        fit = Fit(
            law=self,
            parameters=parameters,
            objective=objective,
            rows_used=len(used_R),
            degrees=len(minima) - 2,
            draws=draws,
            # Budgets without a minimum say nothing of what is best for them.
            ranges=ranges_of(runs.take(used_R)),
            details={"budgets": minima},
        )
        if len(minima) < 4:
            doubts.append(f"too few points: {len(minima)} budgets; error bars are rough")
        doubts += _method_doubts(fit, kept, noise)
        return replace(fit, warnings=(*doubts, *line_doubts(parameters, draws)))

    def figure(self, fit: Fit, runs: Runs, loss: str) -> "Figure":
        from lm.scaling.plots import isoflop_figure

        return isoflop_figure(fit, loss)

    def best(
        self, fit: Fit, runs: Runs, what: str
    ) -> Iterator[tuple[np.ndarray | float, np.ndarray | float]]:
        for budget in fit.details["budgets"]:
            yield budget.flops, getattr(budget, what)


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


def budgets(runs: Runs, tolerance: float) -> list[np.ndarray]:
    """Rows whose compute is the same to within the tolerance, where they have three sizes.

    >>> C = np.array([1e18, 1.05e18, 1e18, 1e19, 1e19, 1e19])
    >>> N = np.array([1e6, 2e6, 3e6, 1e6, 2e6, 3e6])
    >>> [rows_R.tolist() for rows_R in budgets(Runs(N, params_R=N, flops_R=C), 0.1)]
    [[0, 2, 1], [3, 4, 5]]
    """
    params_R, flops_R = runs.known("params", "flops")
    groups: list[list[int]] = []
    for row in np.argsort(flops_R, kind="stable").tolist():
        if groups and flops_R[row] <= flops_R[groups[-1][0]] * (1 + tolerance):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [np.array(rows) for rows in groups if len(np.unique(params_R[rows])) >= 3]


def optimum(runs: Runs, method: IsoflopMethod, *, noise: float = 0.0) -> Budget | str:
    """The size of least loss among and between the runs of a budget, or why there is none.

    parabola: through all runs. local: through the five around the best. akima: a smooth curve
    through every run (Akima 1970), as Porian et al. 2024 do, who found that parabolas lean on
    sizes far from the best one; it leans on each run's noise instead. All are in ln N and ln L.
    The noise of ln L, if it is known, says which valleys are none.
    """
    params_R, flops_R, tokens_R = runs.known("params", "flops", "tokens")
    # Repeats of one size, as of several seeds, count as one; sizes that were read off a figure
    # differ by a little, and a curve through both of a pair would leap.
    order_R = np.argsort(params_R, kind="stable")
    apart_R = np.diff(np.log(params_R[order_R]), prepend=-np.inf) > _SAME_SIZE
    place_R = np.cumsum(apart_R) - 1
    log_N_R, log_L_R, log_D_R = (
        np.bincount(place_R, np.log(values_R[order_R])) / np.bincount(place_R)
        for values_R in (params_R, runs.loss_R, tokens_R)
    )
    if len(log_N_R) < 3:
        return "few sizes"
    lowest = int(log_L_R.argmin())
    tiny = max(_FAR * noise, _FAR_AT_LEAST)
    if _ridge(log_L_R) > tiny:
        return "two valleys"
    if method == "akima":
        from scipy.interpolate import Akima1DInterpolator  # slow to import, seldom used

        fine = np.linspace(log_N_R[0], log_N_R[-1], 4001)
        curve = Akima1DInterpolator(log_N_R, log_L_R)(fine)
        log_N, log_L = fine[curve.argmin()], curve.min()
        if log_N in (fine[0], fine[-1]):
            return "edge"
    elif method == "local" and lowest in (0, len(log_N_R) - 1):
        return "edge"
    else:
        near = (
            _valley(log_N_R, log_L_R)
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
        fine = np.append(np.linspace(log_N_R[near][0], log_N_R[near][-1], 200), log_N)
        fine.sort()
        curve = np.polyval([bend, slope, level], fine - origin)
    # A parabola's minimum lies an eighth as far below its three lowest points as those apart.
    lowest_three = np.sort(log_L_R)[:3]
    if lowest_three[0] - log_L > max(np.ptp(lowest_three) / 2, tiny):
        return "below"
    return Budget(
        flops=float(np.exp(np.log(flops_R).mean())),
        params_R=np.exp(log_N_R),
        loss_R=np.exp(log_L_R),
        tokens_R=np.exp(log_D_R),
        params=float(np.exp(log_N)),
        tokens=float(np.exp(np.interp(log_N, log_N_R, log_D_R))),
        loss=float(np.exp(log_L)),
        curve_params=np.exp(fine),
        curve_loss=np.exp(curve),
    )


def _ridge(log_L_R: np.ndarray) -> float:
    """How high a run stands above the lower of those on both of its sides.

    >>> _ridge(np.array([3.0, 1.0, 2.0, 0.5, 4.0]))
    1.0
    """
    left_R = np.minimum.accumulate(log_L_R)
    right_R = np.minimum.accumulate(log_L_R[::-1])[::-1]
    return float((log_L_R - np.maximum(left_R, right_R)).max())


def _without_outliers(parts: Sequence[Runs]) -> tuple[list[np.ndarray], float]:
    """Which runs of each budget agree with a parabola through the others, and their noise.

    A budget's search begins with the half of its runs that a parabola fits best (least trimmed
    squares; Rousseeuw 1984); runs enter and leave until those inside are as near as all the
    budgets' noise says, and those outside are not. Least squares alone would bend to a run
    that diverged. Budgets of fewer than five runs start whole.
    """
    curves = []
    for part in parts:
        log_N_R = np.log(*part.known("params"))
        curves.append((log_N_R - log_N_R.mean(), np.log(part.loss_R)))
    valleys = [_valley(*curve) for curve in curves]
    inside = []
    for (x_R, y_R), valley_R in zip(curves, valleys, strict=True):
        near_R = np.zeros(len(x_R), bool)
        near_R[valley_R] = _best_half(x_R[valley_R], y_R[valley_R])
        inside.append(near_R)
    noise = 0.0
    for _ in range(20):
        errors = [_errors(*curve, near_R) for curve, near_R in zip(curves, inside, strict=True)]
        sizes = []
        for (residual_R, scale_R), near_R in zip(errors, inside, strict=True):
            free_R = near_R & (scale_R > 1e-3)
            sizes.append(np.abs(residual_R[free_R]) / scale_R[free_R])
        pooled = np.concatenate(sizes)
        # The median of a normal variable's size is so much of its standard deviation.
        noise = float(np.median(pooled)) / 0.6745 if len(pooled) else 0.0
        now = [
            valley_R & (np.abs(residual_R) <= np.maximum(_FAR * noise * scale_R, _FAR_AT_LEAST))
            for (residual_R, scale_R), valley_R in zip(errors, valleys, strict=True)
        ]
        if all(np.array_equal(*pair) for pair in zip(now, inside, strict=True)):
            break
        inside = now
    return [~valley_R | near_R for valley_R, near_R in zip(valleys, inside, strict=True)], noise


def _valley(log_N_R: np.ndarray, log_L_R: np.ndarray) -> np.ndarray:
    """Which runs are of sizes about the best, where a parabola can be a budget's curve.

    >>> _valley(np.arange(7.0), np.array([2.0, 1.05, 1.02, 2.5, 1.0, 1.03, 1.04])).tolist()
    [False, True, True, True, True, True, True]
    """
    count = max(int((log_L_R <= log_L_R.min() + _VALLEY).sum()), _FEWEST_IN_VALLEY)
    sizes = log_N_R[np.argsort(log_L_R, kind="stable")[:count]]
    return (log_N_R >= sizes.min()) & (log_N_R <= sizes.max())


def _best_half(x_R: np.ndarray, y_R: np.ndarray) -> np.ndarray:
    """Which runs, of the smallest majority that pins a parabola down, one fits best."""
    rows = len(x_R)
    if rows < 5:
        return np.ones(rows, bool)
    if math.comb(rows, 3) <= _MOST_TRIPLES:
        triples = np.array(list(itertools.combinations(range(rows), 3)))
    else:
        random = np.random.default_rng(0)
        triples = random.random((_MOST_TRIPLES, rows)).argpartition(3, axis=1)[:, :3]
    design_RK = np.stack([x_R**2, x_R, np.ones(rows)], axis=1)
    # Repeats of a size determine no parabola; the least of those through them does.
    curve_TK = (np.linalg.pinv(design_RK[triples]) @ y_R[triples][..., None])[..., 0]
    distance_TR = np.abs(curve_TK @ design_RK.T - y_R)
    order_TR = np.argsort(distance_TR, axis=1)[:, : (rows + 4) // 2]
    squares_T = (np.take_along_axis(distance_TR, order_TR, axis=1) ** 2).sum(axis=1)
    best = int(squares_T.argmin())
    return np.isin(np.arange(rows), order_TR[best])


def _errors(
    x_R: np.ndarray, y_R: np.ndarray, near_R: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residuals from the parabola through some runs, and their size in units of the noise."""
    design_RK = np.stack([x_R**2, x_R, np.ones(len(x_R))], axis=1)
    inverse_KR = np.linalg.pinv(design_RK[near_R])
    residual_R = y_R - design_RK @ (inverse_KR @ y_R[near_R])
    leverage_R = ((design_RK @ inverse_KR) ** 2).sum(axis=1)
    variance_R = np.where(near_R, np.maximum(1 - leverage_R, 0.0), 1 + leverage_R)
    return residual_R, np.sqrt(variance_R)


def _law_of(
    minima: list[Budget], bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray], float]:
    flops_R = np.array([budget.flops for budget in minima])
    names = ("params", "tokens", "loss")
    values = {name: np.array([getattr(budget, name) for budget in minima]) for name in names}
    return lines(flops_R, values, bootstrap=bootstrap, seed=seed)


def _left_out(
    parts: Sequence[Runs], inside: Sequence[np.ndarray], found: Sequence[Budget | str]
) -> list[str]:
    """Which budgets and which runs are not in the law, and why."""
    said = []
    for why, meaning in _LEFT_OUT.items():
        out = [
            f"{part.known('flops')[0].mean():.3g}"
            for part, budget in zip(parts, found, strict=True)
            if budget == why
        ]
        if out:
            said.append(f"budgets left out, {meaning}: {', '.join(out)} flops")
    far = [
        f"loss {loss:.4g} of {params:.3g} parameters at {flops:.3g} flops"
        for part, near_R in zip(parts, inside, strict=True)
        for loss, params, flops in zip(
            *part.take(~near_R).known("loss", "params", "flops"), strict=True
        )
    ]
    if far:
        more = f" and {len(far) - 5} more" if len(far) > 5 else ""
        said.append(
            "runs left out, far from the others of their budget (diverged?):"
            f" {'; '.join(far[:5])}{more}"
        )
    return said


def _method_doubts(fit: Fit, kept: Sequence[Runs], noise: float) -> list[str]:
    """Whether another method finds an exponent that this one's error does not explain."""
    exponents = {}
    for other in METHODS:
        found = [optimum(part, other, noise=noise) for part in kept]
        minima = [budget for budget in found if isinstance(budget, Budget)]
        if len(minima) >= 2:
            exponents[other] = _law_of(minima, 0, 0)[0]["a"]
    here, (low, high) = fit.parameters["a"], fit.ci95.get("a", (np.inf, -np.inf))
    if all(abs(a - here) <= 0.05 or low <= a <= high for a in exponents.values()):
        return []
    shown = ", ".join(f"{name} {value:.3f}" for name, value in exponents.items())
    return [f"a depends on the method ({shown}); this is {fit.law.method}"]
