"""L = E + A / N^alpha + B / D^beta, fit to runs (approach 3 of Hoffmann et al. 2022)."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from lm.scaling import laws
from lm.scaling.base import Interval, Law
from lm.scaling.bootstrap import resample
from lm.scaling.doubts import (
    LEAST_SHARE,
    LOGARITHMIC,
    check_fixed,
    check_rows,
    design_doubts,
    draws_doubts,
    few_rows_warnings,
    solution_doubts,
    unidentified,
)
from lm.scaling.fit import Fit, ranges_of
from lm.scaling.projection import project
from lm.scaling.solve import Problem, Terms, certify, minimize
from lm.scaling.table import Runs

SurfaceMethod = Literal["newton", "projection"]

NAMES = ("E", "A", "B", "alpha", "beta")

_LOWEST_EXPONENT, _HIGHEST_EXPONENT = 1e-3, 5.0

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Surface(Law):
    """A law of size and data, N and D, which C = 6 N D joins."""

    surface = True
    split: ClassVar[tuple[str, ...]] = ("alpha", "beta")
    limits: ClassVar[Mapping[str, Interval]] = {
        "alpha": (_LOWEST_EXPONENT, _HIGHEST_EXPONENT),
        "beta": (_LOWEST_EXPONENT, _HIGHEST_EXPONENT),
        "a": (0.0, 1.0),
        "b": (0.0, 1.0),
        "E": (0.0, np.inf),
    }
    minor = ("A", "B", "b")

    delta: float = 1e-3
    """Where the Huber loss of ln L turns from square to linear."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Parameters that are not fit, and their values."""

    def exponents(self, parameters: laws.LawValues) -> dict[str, Any]:
        return laws.parametric_exponents(parameters)

    def place(self, point: Mapping[str, Any]) -> tuple[Any, Any] | None:
        """N and D of two of flops, params, tokens; None of flops alone, whose best is asked."""
        k = laws.FLOPS_PER_PARAMETER_AND_TOKEN
        match sorted(set(point) & {"flops", "params", "tokens"}):
            case ["flops"]:
                return None
            case ["params", "tokens"]:
                return point["params"], point["tokens"]
            case ["flops", "params"]:
                return point["params"], point["flops"] / (k * point["params"])
            case ["flops", "tokens"]:
                return point["flops"] / (k * point["tokens"]), point["tokens"]
        raise ValueError(
            f"--law {self} predicts from flops, or from two of flops, params, tokens"
        )


@dataclass(frozen=True)
class Parametric(Surface):
    """L = E + A / N^alpha + B / D^beta."""

    name = "parametric"
    needs = ("loss", "params", "tokens")
    joint = True
    methods = get_args(SurfaceMethod)

    method: SurfaceMethod | None = None
    """How its minimum is found: Newton's steps in all parameters, if it is not said, or the
    exponents alone, with E, A and B solved for at each (`projection.py`)."""

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """Minimizes the summed Huber loss of ln L over what is not fixed of the parameters.

        Every bootstrap draw starts at the minimum of all rows.

        >>> axes = np.meshgrid([7, 8, 9, 10], [9, 10, 11, 12])
        >>> N, D = (10.0 ** axis.ravel() for axis in axes)
        >>> loss = laws.parametric_loss(laws.BESIROGLU, N, D)
        >>> found = Parametric().fit(Runs(loss, params_R=N, tokens_R=D), bootstrap=0)
        >>> {name: round(value, 3) for name, value in found.parameters.items()}
        {'E': 1.817, 'A': 482.01, 'B': 2085.43, 'alpha': 0.348, 'beta': 0.366}
        """
        check_rows(len(runs), check_fixed(self.fixed, NAMES))
        log_N_R, log_D_R = map(np.log, runs.known("params", "tokens"))
        origin = Origin.of(log_N_R, log_D_R, self.fixed)
        offsets = log_N_R - origin.log_params, log_D_R - origin.log_tokens
        log_loss_R, ends = np.log(runs.loss_R), bounds(runs.loss_R, NAMES, self.fixed)
        return fit_surface(
            self,
            NAMES,
            Problem(parametric_terms(*offsets), log_loss_R, self.delta, *ends),
            parametric_starts(*offsets, runs.loss_R),
            runs,
            origin=origin,
            bootstrap=bootstrap,
            seed=seed,
        )

    def evaluate(self, parameters: laws.LawValues, known: Mapping[str, Any]) -> dict[str, Any]:
        if "unique" in known:
            raise ValueError(
                "--law parametric knows no unique tokens; use --law data-constrained"
            )
        place = self.place(known)
        params, tokens = place or laws.parametric_optimum(parameters, known["flops"])
        flops = known.get("flops", laws.FLOPS_PER_PARAMETER_AND_TOKEN * params * tokens)
        loss = laws.parametric_loss(parameters, params, tokens)
        return {"flops": flops, "params": params, "tokens": tokens, "loss": loss}

    def figure(self, fit: Fit, runs: Runs, loss: str) -> "Figure":
        from lm.scaling.plots import surface_figure

        return surface_figure(fit, runs, loss)


def fit_surface(
    law: Surface,
    names: Sequence[str],
    problem: Problem,
    starts_SP: np.ndarray,
    runs: Runs,
    *,
    origin: "Origin",
    bootstrap: int,
    seed: int,
    newton_steps: int = 60,
) -> Fit:
    """The best end of all starts, its certificate, its bootstrap, and what to doubt in it.

    The parameters P are those of `names`, counted from the origin.
    """
    free = [name for name in names if name not in law.fixed]
    if law.method == "projection":
        exponents = [names.index(name) for name in ("alpha", "beta")]
        ends_SP, objective_S = project(problem, starts_SP, exponents)
    else:
        ends_SP, objective_S = minimize(problem, starts_SP, newton_steps=newton_steps)
    best_P = ends_SP[objective_S.argmin()]
    certificate = certify(problem, best_P, objective_S)
    draws_BP = np.empty((0, len(names)))
    if bootstrap:
        weights_BR = resample(runs, bootstrap, seed)
        warm_BP = np.repeat(best_P[None], bootstrap, axis=0)
        draws_BP, _ = minimize(problem, warm_BP, weights_SR=weights_BR)
    params_R, tokens_R = runs.known("params", "tokens")
    design, loose = design_doubts(np.log(params_R), np.log(tokens_R), free)
    doubts, flat = solution_doubts(problem, names, best_P, certificate)
    runaways, away = draws_doubts(problem, names, draws_BP)
    return Fit(
        law=law,
        parameters={n: float(v[0]) for n, v in origin.natural(names, best_P[None]).items()},
        objective=float(objective_S.min()),
        rows_used=len(runs),
        degrees=runs.independent - len(free),
        draws=origin.natural(names, draws_BP) if bootstrap else {},
        fixed=tuple(law.fixed),
        warnings=(*design, *doubts, *runaways, *few_rows_warnings(runs.independent, len(free))),
        unidentified=unidentified(names, flat | away, loose, law.fixed),
        ranges=ranges_of(runs),
        certificate=certificate,
    )


def parametric_terms(log_params_R: np.ndarray, log_tokens_R: np.ndarray) -> Terms:
    """The terms ln E, ln A - alpha ln N and ln B - beta ln D, linear in the parameters."""
    design_KRP = np.zeros((3, len(log_params_R), 5))
    design_KRP[0, :, 0] = design_KRP[1, :, 1] = design_KRP[2, :, 2] = 1
    design_KRP[1, :, 3], design_KRP[2, :, 4] = -log_params_R, -log_tokens_R
    return linear_terms(design_KRP)


def linear_terms(design_KRP: np.ndarray) -> Terms:
    """Terms that are linear in the parameters."""

    def terms(theta_SP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.moveaxis(design_KRP @ theta_SP.T, -1, 0), design_KRP[None]

    return terms


def parametric_starts(
    log_params_R: np.ndarray, log_tokens_R: np.ndarray, loss_R: np.ndarray
) -> np.ndarray:
    """Starts SP on a grid of exponents, each with its best E, A and B: L is linear in those."""
    from scipy.optimize import nnls  # half a second, for which no other command should wait

    starts = []
    for alpha, beta in itertools.product(np.geomspace(0.05, 2, 10), repeat=2):
        sizes_RK = np.stack(
            [np.ones_like(loss_R), np.exp(-alpha * log_params_R), np.exp(-beta * log_tokens_R)],
            axis=1,
        )
        scale_K = sizes_RK.max(axis=0)
        coefficients_K, _ = nnls(sizes_RK / scale_K / loss_R[:, None], np.ones_like(loss_R))
        coefficients_K = np.maximum(coefficients_K, 1e-3 * loss_R.min()) / scale_K
        starts.append([*np.log(coefficients_K), alpha, beta])
    return np.array(starts)


class Origin:
    """Where N and D are counted from, so that the fit's A and alpha are not one ridge.

    With N counted from its geometric mean, A is what size adds to the loss there. A
    coefficient that is fixed is fixed at N = 1, and so is its origin.
    """

    def __init__(self, log_params: float, log_tokens: float) -> None:
        self.log_params, self.log_tokens = log_params, log_tokens

    @classmethod
    def of(
        cls, log_params_R: np.ndarray, log_tokens_R: np.ndarray, fixed: Mapping[str, float]
    ) -> "Origin":
        return cls(
            0.0 if "A" in fixed else float(log_params_R.mean()),
            0.0 if "B" in fixed else float(log_tokens_R.mean()),
        )

    def natural(self, names: Sequence[str], theta_SP: np.ndarray) -> dict[str, np.ndarray]:
        """The parameters as the law is written, each S, from the solver's."""
        raw = dict(zip(names, theta_SP.T, strict=True))
        raw["A"] = raw["A"] + self.log_params * raw["alpha"]
        raw["B"] = raw["B"] + self.log_tokens * raw.get("beta", raw["alpha"])
        return {name: np.exp(v) if name in LOGARITHMIC else v for name, v in raw.items()}


def bounds(
    loss_R: np.ndarray, names: Sequence[str], fixed: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the solver's parameters; equal ones where fixed."""
    low, high = float(np.log(loss_R.min())), float(np.log(loss_R.max()))
    ends = {
        "E": (low + np.log(LEAST_SHARE), high),
        "A": (low - 40, high + 40),
        "B": (low - 40, high + 40),
        "alpha": (_LOWEST_EXPONENT, _HIGHEST_EXPONENT),
        "beta": (_LOWEST_EXPONENT, _HIGHEST_EXPONENT),
        "R_D": (np.log(1e-2), np.log(1e6)),
        "R_N": (np.log(1e-2), np.log(1e6)),
    }
    for name, value in fixed.items():
        if name in LOGARITHMIC:
            # E = 0 is as good as e^-700 of the loss.
            value = max(np.log(value), low - 700) if value > 0 else low - 700
        ends[name] = (value, value)
    lower, upper = zip(*(ends[name] for name in names), strict=True)
    return np.array(lower), np.array(upper)
