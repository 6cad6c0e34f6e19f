"""L = E + A / N^alpha + B / D^alpha: size and data count alike, so that a = b = 1/2."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lm.scaling import laws
from lm.scaling.doubts import check_fixed, check_rows
from lm.scaling.fit import Fit
from lm.scaling.parametric import (
    NAMES,
    Origin,
    Parametric,
    Surface,
    bounds,
    fit_surface,
    linear_terms,
    parametric_starts,
    parametric_terms,
)
from lm.scaling.solve import Problem
from lm.scaling.table import Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_EXPONENT = NAMES[:-1]


@dataclass(frozen=True)
class SharedExponent(Surface):
    """The parametric law with alpha = beta: a parameter less, which rows of few sizes pin down.

    Muennighoff et al. 2023 fit theirs so. How far its objective is above that of `Parametric`
    says whether these rows allow it.
    """

    name = "shared-exponent"
    needs = ("loss", "params", "tokens")
    split = ("A", "B", "alpha")

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """Minimizes the summed Huber loss of ln L over what is not fixed of E, A, B, alpha.

        >>> axes = np.meshgrid([7, 8, 9, 10], [9, 10, 11, 12])
        >>> N, D = (10.0 ** axis.ravel() for axis in axes)
        >>> loss = laws.parametric_loss(laws.MUENNIGHOFF, N, D)
        >>> runs = Runs(loss, params_R=N, tokens_R=D)
        >>> found = SharedExponent().fit(runs, bootstrap=0)
        >>> {name: round(value, 3) for name, value in found.parameters.items()}
        {'E': 1.869, 'A': 520.825, 'B': 1487.716, 'alpha': 0.353}
        """
        check_rows(len(runs), check_fixed(self.fixed, ONE_EXPONENT))
        log_N_R, log_D_R = map(np.log, runs.known("params", "tokens"))
        origin = Origin.of(log_N_R, log_D_R, self.fixed)
        offsets = log_N_R - origin.log_params, log_D_R - origin.log_tokens
        design_KRP = parametric_terms(*offsets)(np.zeros((1, len(NAMES))))[1][0]
        terms = linear_terms(
            np.concatenate(
                [design_KRP[..., :3], design_KRP[..., 3:].sum(-1, keepdims=True)], -1
            )
        )
        starts_SP = parametric_starts(*offsets, runs.loss_R)
        ends = bounds(runs.loss_R, ONE_EXPONENT, self.fixed)
        return fit_surface(
            self,
            ONE_EXPONENT,
            Problem(terms, np.log(runs.loss_R), self.delta, *ends),
            starts_SP[starts_SP[:, 3] == starts_SP[:, 4]][:, :-1],
            runs,
            origin=origin,
            bootstrap=bootstrap,
            seed=seed,
        )

    def exponents(self, parameters: laws.LawValues) -> dict[str, Any]:
        return laws.parametric_exponents(_both(parameters))

    def evaluate(self, parameters: laws.LawValues, known: Mapping[str, Any]) -> dict[str, Any]:
        return Parametric().evaluate(_both(parameters), known)

    def figure(self, fit: Fit, runs: Runs, loss: str) -> "Figure":
        from lm.scaling.plots import surface_figure

        return surface_figure(fit, runs, loss)


def _both(parameters: laws.LawValues) -> dict[str, Any]:
    return {**parameters, "beta": parameters["alpha"]}
