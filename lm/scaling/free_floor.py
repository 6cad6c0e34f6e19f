"""L = E + k C^-x with a floor E that is fit: a power law that flattens."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lm.scaling.doubts import LEAST_SHARE, check_fixed, check_rows, few_rows_warnings
from lm.scaling.fit import Fit, ranges_of
from lm.scaling.parametric import linear_terms
from lm.scaling.power import LineLaw, Quantity, line_doubts, lines
from lm.scaling.solve import Problem, certify, log_losses, minimize
from lm.scaling.table import DataError, Runs

FLOOR_NAMES = ("E", "k_L", "x")
_LEAST_SQUARES = 10.0
"""No residual of ln L is as large: Huber's loss is the square."""


@dataclass(frozen=True)
class FreeFloor(LineLaw):
    """L = E + k_L C^-x through all rows, E among what is fit, and N = k_N C^a, D = k_D C^b."""

    name = "free-floor"
    resamples = "residuals"

    against: Quantity = "flops"
    """What it is a power of."""
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def needs(self) -> tuple[str, ...]:
        return "loss", self.against

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """Least squares of ln L over E, k_L and x, for rows that are each the best of their
        compute.

        Draws of the bootstrap add residuals, drawn anew, to the law. Few rows seldom tell a
        low floor and a small x from a high floor and a large one: what they say of E is in its
        interval, and how far that goes in the warnings.

        >>> C = 10.0 ** np.arange(17, 24)
        >>> fit = FreeFloor().fit(Runs(1.6 + 95.18 * C**-0.0941, flops_R=C), bootstrap=0)
        >>> {name: round(fit.parameters[name], 4) for name in FLOOR_NAMES}
        {'E': 1.6, 'k_L': 95.18, 'x': 0.0941}
        """
        (place_R,), log_loss_R = runs.known(self.against), np.log(runs.loss_R)
        free = check_fixed(self.fixed, FLOOR_NAMES)
        check_rows(len(runs), free)
        if np.ptp(np.log(place_R)) < 1e-9:
            raise DataError(
                f"all rows have the same {self.against}: there is no law of it in them"
            )
        # k is fixed at C = 1, and so is its origin.
        origin = 0.0 if "k_L" in self.fixed else float(np.log(place_R).mean())
        design_KRP = np.zeros((2, len(runs), 3))
        design_KRP[0, :, 0] = design_KRP[1, :, 1] = 1
        design_KRP[1, :, 2] = origin - np.log(place_R)
        lower_P, upper_P = _bounds(log_loss_R, self.fixed)
        problem = Problem(
            linear_terms(design_KRP), log_loss_R, _LEAST_SQUARES, lower_P, upper_P
        )
        ends_SP, objective_S = minimize(problem, _starts(place_R, runs.loss_R, origin))
        best_P = ends_SP[objective_S.argmin()]
        parameters = {n: float(v) for n, v in _natural(best_P, origin).items()}
        draws: dict[str, np.ndarray] = {}
        degrees = len(runs) - len(free)
        if bootstrap:
            expected_R = log_losses(problem.terms, best_P[None])[0]
            fair_R = (log_loss_R - expected_R) * np.sqrt(len(runs) / degrees)
            random = np.random.default_rng(seed)
            rows_BR = random.integers(len(runs), size=(bootstrap, len(runs)))
            measured = replace(problem, log_loss_R=expected_R + fair_R[rows_BR])
            warm_BP = np.repeat(best_P[None], bootstrap, axis=0)
            draws = _natural(minimize(measured, warm_BP)[0], origin)
        sizes = {"params": runs.params_R, "tokens": runs.tokens_R}
        known = {n: values_R for n, values_R in sizes.items() if values_R is not None}
        if self.against == "flops" and known:
            found, drawn, _ = lines(place_R, known, bootstrap=bootstrap, seed=seed)
            parameters, draws = parameters | found, draws | drawn
        certificate = certify(problem, best_P, objective_S)
        doubts = [*line_doubts(parameters, draws), *few_rows_warnings(len(runs), len(free))]
        if not certificate.converged:
            doubts.append(f"did not converge: gradient {certificate.gradient:.1g}")
        return Fit(
            law=self,
            parameters=parameters,
            objective=float(objective_S.min()),
            rows_used=len(runs),
            degrees=degrees,
            draws=draws,
            fixed=tuple(self.fixed),
            warnings=tuple(doubts),
            ranges=ranges_of(runs),
            certificate=certificate,
        )


def _bounds(
    log_loss_R: np.ndarray, fixed: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    low, high = float(log_loss_R.min()), float(log_loss_R.max())
    ends = {
        "E": (low + np.log(LEAST_SHARE), low),
        "k_L": (low - 40, high + 40),
        "x": (1e-3, 5.0),
    }
    for name, value in fixed.items():
        # E = 0 is as good as e^-700 of the loss.
        given = value if name == "x" else np.log(value) if value > 0 else low - 700
        ends[name] = (given, given)
    lower, upper = zip(*(ends[name] for name in FLOOR_NAMES), strict=True)
    return np.array(lower), np.array(upper)


def _starts(place_R: np.ndarray, loss_R: np.ndarray, origin: float) -> np.ndarray:
    """Starts SP at floors from none to nearly the lowest loss, each with the line above it."""
    starts = []
    for part in (1e-3, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97, 0.99):
        floor = part * loss_R.min()
        above, _, _ = lines(place_R, {"loss": loss_R - floor}, bootstrap=0, seed=0)
        level = np.log(above["k_L"]) - above["x"] * origin
        starts.append([np.log(floor), level, above["x"]])
    return np.array(starts)


def _natural(theta_SP: np.ndarray, origin: float) -> dict[str, Any]:
    floor, level, x = np.moveaxis(theta_SP, -1, 0)
    return {"E": np.exp(floor), "k_L": np.exp(np.minimum(level + x * origin, 700.0)), "x": x}
