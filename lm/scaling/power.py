"""Power laws of compute, L ~ C^-x, N ~ C^a, D ~ C^b: lines in logarithms (Kaplan et al.)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from lm.scaling import laws
from lm.scaling.base import Law
from lm.scaling.fit import Fit, ranges_of
from lm.scaling.table import DataError, Runs

Quantity = Literal["flops", "params", "tokens"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

LINES = {"params": ("k_N", "a", 1), "tokens": ("k_D", "b", 1), "loss": ("k_L", "x", -1)}
"""Coefficient, exponent and the exponent's sign of each quantity's line."""

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LineLaw(Law):
    """A law of lines: N, D and L as powers of one quantity."""

    minor = ("b", "k_N", "k_D", "k_L")

    def exponents(self, parameters: laws.LawValues) -> dict[str, Any]:
        return {name: parameters[name] for name in ("a", "b", "x") if name in parameters}

    def evaluate(self, parameters: laws.LawValues, known: Mapping[str, Any]) -> dict[str, Any]:
        if set(known) != {self.against}:
            raise ValueError(
                f"this law predicts from {self.against} alone: {self.against}=1e21"
            )
        return dict(known) | laws.power_optimum(parameters, known[self.against])

    def figure(self, fit: Fit, runs: Runs, loss: str) -> "Figure":
        from lm.scaling.plots import frontier_figure

        return frontier_figure(fit, runs, loss)

    def best(
        self, fit: Fit, runs: Runs, what: str
    ) -> Iterator[tuple[np.ndarray | float, np.ndarray | float]]:
        if "rows" in fit.details:
            runs = runs.take(fit.details["rows"])
        if (values_R := getattr(runs, f"{what}_R")) is not None:
            yield getattr(runs, f"{self.against}_R"), values_R


@dataclass(frozen=True)
class Power(LineLaw):
    """L - E = k_L C^-x through all rows, and N = k_N C^a, D = k_D C^b where those are known."""

    name = "power"
    resamples = "residuals"

    against: Quantity = "flops"
    """What it is a power of."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """E alone, if it is not 0."""

    @property
    def needs(self) -> tuple[str, ...]:
        return "loss", self.against

    def fit(self, runs: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Fit:
        """The lines through all rows.

        It is for rows that are each the best of their compute; where they are not, `Envelope`
        finds those that are. Against parameters or tokens, L - E = k_L N^-x or k_L D^-x alone
        (Kaplan et al., equations 1.1 and 1.2), for rows that the other does not limit.

        >>> C = 10.0 ** np.arange(17, 22)
        >>> runs = Runs(20 * C**-0.05, params_R=0.1 * C**0.5, flops_R=C)
        >>> fit = Power().fit(runs, bootstrap=0)
        >>> {name: round(value, 6) for name, value in fit.exponents.items()}
        {'a': 0.5, 'x': 0.05}
        """
        (place_R,), rows = runs.known(self.against), len(runs)
        if unknown := set(self.fixed) - {"E"}:
            raise DataError(f"--fix {unknown.pop()}: power laws fix E alone")
        offset = self.fixed.get("E", 0.0)
        if not 0 <= offset < runs.loss_R.min():
            raise DataError(
                f"--fix E={offset:g}: must be below the smallest loss, {runs.loss_R.min():g}"
            )
        if rows < 3:
            raise DataError(f"{rows} rows cannot fit a power law; needs 3 or more")
        if np.ptp(np.log(place_R)) < 1e-9:
            raise DataError(
                f"all rows have the same {self.against}: there is no law of it in them"
            )
        known = {"loss": runs.loss_R - offset}
        if self.against == "flops":
            values = {"params": runs.params_R, "tokens": runs.tokens_R}
            known |= {name: v_R for name, v_R in values.items() if v_R is not None}
        parameters, draws, objective = lines(place_R, known, bootstrap=bootstrap, seed=seed)
        warnings = line_doubts(parameters, draws)
        places = len(np.unique(np.round(np.log(place_R), 2)))
        if places < rows:
            warnings.append(
                f"{rows} rows share {places} values of {self.against}: the line is their mean,"
                " not the best of each"
                + ("; --law envelope finds those" if self.against == "flops" else "")
            )
        if rows < 5:
            warnings.append(f"too few points: {rows} rows; error bars are rough")
        return Fit(
            law=self,
            parameters=parameters | dict(self.fixed),
            objective=objective,
            rows_used=rows,
            degrees=rows - 2,
            draws=draws | {n: np.full(bootstrap, v) for n, v in self.fixed.items() if draws},
            fixed=tuple(self.fixed),
            warnings=tuple(warnings),
            ranges=ranges_of(runs),
        )


def lines(
    flops_R: np.ndarray, values: Mapping[str, np.ndarray], *, bootstrap: int, seed: int
) -> tuple[dict[str, float], dict[str, np.ndarray], float]:
    """Least squares of ln value on ln C: parameters, their draws, and the first sum of squares.

    Least squares of the values themselves would fit the largest alone. Draws add residuals,
    drawn anew, to the line: few points drawn with replacement may be one point. Each residual
    is divided by sqrt(1 - leverage), as lines bend to their points (Davison and Hinkley 1997,
    section 6.2.3). All lines draw the same rows.
    """
    log_C_R = np.log(flops_R)
    centre = log_C_R.mean()
    offset_R = log_C_R - centre
    spread = float((offset_R**2).sum())
    leverage_R = 1 / len(flops_R) + offset_R**2 / spread
    rows_BR = np.random.default_rng(seed).integers(len(flops_R), size=(bootstrap, len(flops_R)))
    parameters: dict[str, float] = {}
    draws: dict[str, np.ndarray] = {}
    objectives = []
    for name, values_R in values.items():
        coefficient, exponent, sign = LINES[name]
        log_y_R = np.log(values_R)
        level, slope = log_y_R.mean(), float(offset_R @ log_y_R) / spread
        residual_R = log_y_R - level - slope * offset_R
        objectives.append(float((residual_R**2).sum()))
        parameters[coefficient] = float(_exp(level - slope * centre))
        parameters[exponent] = sign * slope
        if bootstrap and len(flops_R) > 2:
            fair_R = residual_R / np.sqrt(np.maximum(1 - leverage_R, 1e-9))
            noise_BR = (fair_R - fair_R.mean())[rows_BR]
            slope_B = slope + noise_BR @ offset_R / spread
            level_B = level + noise_BR.mean(axis=1)
            draws[coefficient] = _exp(level_B - slope_B * centre)
            draws[exponent] = sign * slope_B
    return parameters, draws, objectives[0]


def line_doubts(parameters: Mapping[str, float], draws: Mapping[str, np.ndarray]) -> list[str]:
    """Where the loss does not clearly fall.

    >>> line_doubts({"x": -0.01}, {})
    ['the loss does not clearly fall: x is not identified']
    """
    lowest = np.quantile(draws["x"], 0.025) if "x" in draws else parameters["x"]
    if min(lowest, parameters["x"]) > 0:
        return []
    return ["the loss does not clearly fall: x is not identified"]


def _exp(logarithm: np.ndarray) -> np.ndarray:
    """A coefficient of a steep line far from its points may be beyond any float."""
    result: np.ndarray = np.exp(np.clip(logarithm, -700, 700))
    return result
