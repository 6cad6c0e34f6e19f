"""L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D (Kaplan et al. 2020, equation 1.5)."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lm.scaling import laws
from lm.scaling.base import Interval
from lm.scaling.doubts import check_rows
from lm.scaling.fit import Fit
from lm.scaling.parametric import Origin, Surface, fit_surface
from lm.scaling.solve import Problem, Terms
from lm.scaling.table import DataError, Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KAPLAN_NAMES = ("N_c", "D_c", "alpha_N", "alpha_D")


@dataclass(frozen=True)
class Kaplan(Surface):
    """Size and data limit the loss together, and nothing is irreducible: four parameters."""

    name = "kaplan"
    needs = ("loss", "params", "tokens")
    split = KAPLAN_NAMES
    limits: ClassVar[Mapping[str, Interval]] = {"a": (0.0, 1.0), "b": (0.0, 1.0)}
    minor = ("N_c", "D_c", "b")

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """Minimizes the summed Huber loss of ln L over all four parameters.

        Solved for ln L = alpha_D logsumexp(ln A - rho ln N, ln D_c - ln D), whose rho is
        alpha_N / alpha_D and whose A is N_c^rho.

        >>> axes = np.meshgrid([6, 7, 8, 9], [8, 9, 10, 11])
        >>> N, D = (10.0 ** axis.ravel() for axis in axes)
        >>> runs = Runs(laws.kaplan_loss(laws.KAPLAN, N, D), params_R=N, tokens_R=D)
        >>> found = Kaplan().fit(runs, bootstrap=0)
        >>> {name: float(f"{value:.4g}") for name, value in found.parameters.items()}
        {'N_c': 64000000000000.0, 'D_c': 18000000000000.0, 'alpha_N': 0.076, 'alpha_D': 0.103}
        """
        if self.fixed:
            raise DataError(f"--fix: --law {self} has nothing to fix")
        check_rows(len(runs), KAPLAN_NAMES)
        log_N_R, log_D_R = map(np.log, runs.known("params", "tokens"))
        origin = _Centre.of(log_N_R, log_D_R, {})
        offsets = log_N_R - origin.log_params, log_D_R - origin.log_tokens
        return fit_surface(
            self,
            KAPLAN_NAMES,
            Problem(
                _terms(*offsets),
                np.log(runs.loss_R),
                self.delta,
                lower_P=np.array([-500.0, -500.0, 1e-2, 1e-3]),
                upper_P=np.array([500.0, 500.0, 1e2, 5.0]),
                power=3,
            ),
            _starts(*offsets, runs.loss_R),
            runs,
            origin=origin,
            bootstrap=bootstrap,
            seed=seed,
        )

    def exponents(self, parameters: laws.LawValues) -> dict[str, Any]:
        return laws.kaplan_exponents(parameters)

    def evaluate(self, parameters: laws.LawValues, known: Mapping[str, Any]) -> dict[str, Any]:
        if "unique" in known:
            raise ValueError(f"--law {self} knows no unique tokens")
        params, tokens = self.place(known) or laws.kaplan_optimum(parameters, known["flops"])
        flops = known.get("flops", laws.FLOPS_PER_PARAMETER_AND_TOKEN * params * tokens)
        loss = laws.kaplan_loss(parameters, params, tokens)
        return {"flops": flops, "params": params, "tokens": tokens, "loss": loss}

    def figure(self, fit: Fit, runs: Runs, loss: str) -> "Figure":
        from lm.scaling.plots import surface_figure

        return surface_figure(fit, runs, loss)


class _Centre(Origin):
    """Where N and D are counted from; the solver has ln A, ln D_c, rho and alpha_D."""

    def natural(self, names: Sequence[str], theta_SP: np.ndarray) -> dict[str, np.ndarray]:
        log_A, log_D_c, rho, alpha_D = theta_SP.T
        log_N_c = log_A / rho + self.log_params
        return {
            "N_c": np.exp(np.minimum(log_N_c, 700.0)),
            "D_c": np.exp(np.minimum(log_D_c + self.log_tokens, 700.0)),
            "alpha_N": rho * alpha_D,
            "alpha_D": alpha_D,
        }


def _terms(log_params_R: np.ndarray, log_tokens_R: np.ndarray) -> Terms:
    design_KRP = np.zeros((2, len(log_params_R), 4))
    design_KRP[0, :, 0] = design_KRP[1, :, 1] = 1
    design_KRP[0, :, 2] = -log_params_R

    def terms(theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z_SKR = np.moveaxis(design_KRP @ theta_SP.T, -1, 0)
        z_SKR[:, 1] -= log_tokens_R
        return z_SKR, design_KRP[None]

    return terms


def _starts(
    log_params_R: np.ndarray, log_tokens_R: np.ndarray, loss_R: np.ndarray
) -> np.ndarray:
    """Starts SP on a grid of rho and alpha_D, each with its A and D_c.

    L^(1 / alpha_D) is linear in those.
    """
    from scipy.optimize import nnls  # half a second, for which no other command should wait

    starts = []
    for rho, alpha_D in itertools.product(np.geomspace(0.2, 5, 7), np.geomspace(0.02, 1, 7)):
        sizes_RK = np.stack([np.exp(-rho * log_params_R), np.exp(-log_tokens_R)], axis=1)
        # Each row in units of its own value, and that of the lowest loss.
        least = loss_R.min()
        sizes_RK /= ((loss_R / least) ** (1 / alpha_D))[:, None]
        scale_K = sizes_RK.max(axis=0)
        found_K, _ = nnls(sizes_RK / scale_K, np.ones_like(loss_R))
        found_K = np.maximum(found_K, 1e-3 * max(found_K.max(), 1e-12)) / scale_K
        starts.append([*(np.log(found_K) + np.log(least) / alpha_D), rho, alpha_D])
    return np.array(starts)
