"""The law of repeated data (Muennighoff et al. 2023), fit to runs of known unique data."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lm.scaling import laws
from lm.scaling.doubts import check_fixed, check_rows
from lm.scaling.fit import Fit
from lm.scaling.parametric import NAMES, Origin, Surface, bounds, fit_surface, parametric_starts
from lm.scaling.solve import Problem, Terms
from lm.scaling.table import DataError, Runs

ALL_NAMES = (*NAMES, "R_D", "R_N")

_STARTS = 120
"""At most; drawn from a grid of nine hundred."""

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class DataConstrained(Surface):
    """The parametric law of what size and data are worth when data repeat."""

    name = "data-constrained"
    needs = ("loss", "params", "tokens", "unique")

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """Minimizes the summed Huber loss of ln L over what is not fixed of seven parameters.

        R_D and R_N are how many repeats of data, and of parameters beyond the best for unique
        data, are worth while; the authors fit the others first, on runs that repeat nothing.
        """
        free = check_fixed(self.fixed, ALL_NAMES)
        check_rows(len(runs), free)
        params_R, tokens_R, unique_R = runs.known("params", "tokens", "unique")
        if "R_D" in free and not (tokens_R > 1.01 * unique_R).any():
            raise DataError(
                "no row repeats its data (tokens above unique tokens): nothing says R_D"
            )
        log_N_R, log_D_R = np.log(params_R), np.log(tokens_R)
        origin = Origin.of(log_N_R, log_D_R, self.fixed)
        terms = data_constrained_terms(log_N_R, log_D_R, np.log(unique_R), origin)
        log_loss_R, ends = np.log(runs.loss_R), bounds(runs.loss_R, ALL_NAMES, self.fixed)
        surface_SP = parametric_starts(
            log_N_R - origin.log_params, log_D_R - origin.log_tokens, runs.loss_R
        )
        if set(NAMES) <= set(self.fixed):
            surface_SP = surface_SP[:1]
            grid = np.linspace(np.log(0.1), np.log(1e4), 10)
        else:
            grid = np.log([1.0, 10.0, 100.0])
        pairs = itertools.product(surface_SP, itertools.product(grid, repeat=2))
        starts_SP = np.array([[*start, *repeats] for start, repeats in pairs])
        if len(starts_SP) > _STARTS:
            chosen = np.random.default_rng(seed).choice(len(starts_SP), _STARTS, replace=False)
            starts_SP = starts_SP[chosen]
        return fit_surface(
            self,
            ALL_NAMES,
            Problem(terms, log_loss_R, self.delta, *ends),
            starts_SP,
            runs,
            origin=origin,
            bootstrap=bootstrap,
            seed=seed,
            newton_steps=100,
        )

    def evaluate(self, parameters: laws.LawValues, known: Mapping[str, Any]) -> dict[str, Any]:
        if "unique" not in known:
            raise ValueError(
                "--law data-constrained predicts with unique tokens: flops=..,unique=.."
            )
        unique, place = known["unique"], self.place(known)
        params, tokens = place or laws.data_constrained_optimum(
            parameters, known["flops"], unique
        )
        flops = known.get("flops", laws.FLOPS_PER_PARAMETER_AND_TOKEN * params * tokens)
        loss = laws.data_constrained_loss(parameters, params, tokens, unique)
        found = {"flops": flops, "params": params, "tokens": tokens, "loss": loss}
        return found | {"unique": unique}

    def figure(self, fit: Fit, runs: Runs, loss: str) -> "Figure":
        from lm.scaling.plots import repeats_figure

        return repeats_figure(fit, runs, loss)

    def grid(self, runs: Runs, places: np.ndarray) -> dict[str, Any]:
        (unique_R,) = runs.known("unique")
        return {"flops": places, "unique": np.array(np.median(unique_R))}


def data_constrained_terms(
    log_params_R: np.ndarray, log_tokens_R: np.ndarray, log_unique_R: np.ndarray, origin: Origin
) -> Terms:
    """The terms ln E, ln A - alpha ln N' and ln B - beta ln D'; the repeats are in logarithms.

    A and B are counted from the origin. The derivatives go through U_N, the size that is best
    for the unique tokens, which depends on all but E.
    """
    log_unique_R = np.minimum(log_unique_R, log_tokens_R)
    repeats_R = np.expm1(log_tokens_R - log_unique_R)

    def terms(theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        E, A, B, alpha, beta, R_D, R_N = (theta_SP[:, i, None] for i in range(7))
        log_A, log_B = A + alpha * origin.log_params, B + beta * origin.log_tokens
        # ln U_N = (beta / alpha) (ln U + ln G) + ln G, but no more than ln N.
        ratio = (np.log(alpha / beta) + log_A - log_B) / (alpha + beta)
        slope = beta / alpha
        best = slope * (log_unique_R + ratio) + ratio
        enough = np.minimum(best, log_params_R)
        # Beyond e^40 repeats nothing changes, and the exponential may overflow.
        excess = np.expm1(np.minimum(log_params_R - enough, 40.0))
        params, by_enough, by_R_N = _log_worth(enough, excess, np.exp(R_N))
        tokens, _, by_R_D = _log_worth(log_unique_R, repeats_R, np.exp(R_D))
        z_SKR = np.stack(
            [
                E + np.zeros_like(params),
                A - alpha * (params - origin.log_params),
                B - beta * (tokens - origin.log_tokens),
            ],
            axis=1,
        )
        pull = -alpha * by_enough  # which is 0 where all parameters are enough
        by_ratio = pull * (slope + 1) / (alpha + beta)
        dz_SKRP = np.zeros((*z_SKR.shape, 7))
        dz_SKRP[:, 0, :, 0] = dz_SKRP[:, 2, :, 2] = 1
        dz_SKRP[:, 1, :, 1] = 1 + by_ratio
        dz_SKRP[:, 1, :, 2] = -by_ratio
        dz_SKRP[:, 1, :, 3] = (
            -(params - origin.log_params)
            + by_ratio * (1 / alpha + origin.log_params - ratio)
            - pull * slope / alpha * (log_unique_R + ratio)
        )
        dz_SKRP[:, 1, :, 4] = (
            by_ratio * (-1 / beta - origin.log_tokens - ratio)
            + pull * (log_unique_R + ratio) / alpha
        )
        dz_SKRP[:, 1, :, 6] = -alpha * by_R_N
        dz_SKRP[:, 2, :, 4] = -(tokens - origin.log_tokens)
        dz_SKRP[:, 2, :, 5] = -beta * by_R_D
        return z_SKR, dz_SKRP

    return terms


def _log_worth(
    log_unique: np.ndarray, repeats: np.ndarray, half_life: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The log of U (1 + R* (1 - exp(-R / R*))), and its derivatives by ln U and by ln R*.

    The one by ln U is for R = N / U - 1 with N held.
    """
    left = np.exp(-repeats / half_life)
    gained = -half_life * np.expm1(-repeats / half_life)
    by_unique = 1 - (repeats + 1) * left / (1 + gained)
    by_half_life = (gained - repeats * left) / (1 + gained)
    return log_unique + np.log1p(gained), by_unique, by_half_life
