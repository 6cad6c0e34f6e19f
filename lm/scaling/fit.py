"""What a fit found, whatever the law: values, error bars, what to doubt, and predictions."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lm.scaling.base import Interval, Law
from lm.scaling.bootstrap import interval
from lm.scaling.solve import Certificate
from lm.scaling.table import Runs

_BEYOND = 1.05
"""What lies farther beyond the rows, as a factor, is called extrapolated."""


@dataclass(frozen=True)
class Fit:
    """A law fit to runs."""

    law: Law
    parameters: dict[str, float]
    objective: float
    """Sum of Huber losses of ln L; for lines, the sum of squares of the first one's."""
    rows_used: int
    degrees: int
    """Degrees of freedom: rows less free parameters."""
    draws: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Each parameter in each draw of the bootstrap; empty without one."""
    fixed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unidentified: tuple[str, ...] = ()
    """Parameters of which these rows say nothing: their values are one of many."""
    ranges: Mapping[str, Interval] = field(default_factory=dict)
    """The smallest and the largest params, tokens, flops, unique and loss of the rows."""
    certificate: Certificate | None = None
    """None for lines, whose least squares have a closed form."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What figures show beside: the optima of budgets, the rows of an envelope."""

    @property
    def exponents(self) -> dict[str, float]:
        """N* ~ C^a, D* ~ C^b, and for lines L ~ C^-x."""
        found = self.law.exponents(self.parameters)
        return {name: float(value) for name, value in found.items()}

    @property
    def has_split(self) -> bool:
        """Whether the rows say how compute is best split between size and data."""
        return not set(self.law.split) & set(self.unidentified)

    @functools.cached_property
    def ci95(self) -> dict[str, Interval]:
        """95% intervals of all that was fit and is identified, no wider than what was tried."""
        if not self.draws:
            return {}
        exponents = self.law.exponents(self.draws) if self.has_split else {}
        left_out = {*self.fixed, *self.unidentified}
        free = {name: d for name, d in self.draws.items() if name not in left_out}
        values = self.parameters | self.exponents
        ends = {
            name: interval(values[name], draws_B, self.degrees)
            for name, draws_B in (exponents | free).items()
            if np.ptp(draws_B) > 0
        }
        found = {}
        for name, both in ends.items():
            if both is not None:
                low, high = self.law.limits.get(name, (-np.inf, np.inf))
                found[name] = (max(both[0], low), min(both[1], high))
        return found

    def beyond(self, point: Mapping[str, float]) -> dict[str, float]:
        """How many times a point's quantities lie above or below all rows, where they do.

        >>> from lm.scaling.power import Power
        >>> fit = Fit(Power(), {}, 0.0, 9, 7, ranges={"flops": (1e18, 1e20)})
        >>> fit.beyond({"flops": 1e25}), fit.beyond({"flops": 2e19})
        ({'flops': 100000.0}, {})
        """
        found = {}
        for name, (low, high) in self.ranges.items():
            if name in point and name != "loss" and 0 < low <= high:
                times = max(point[name] / high, low / point[name])
                if times > _BEYOND:
                    found[name] = float(f"{times:.3g}")
        return found


_MOST_LEFT = 2.0
"""Floors between which what is left of the loss differs by more are not one floor."""


def with_floor_checked(fit: Fit) -> Fit:
    """The same, with E not identified where its interval leaves open what is above it.

    What is left of the loss at the lowest row, between the ends of E's 95% interval, decides
    what the law says far beyond the rows. Fits without draws, and without an E that is free,
    are as they were.

    >>> from lm.scaling.free_floor import FreeFloor
    >>> draws = {"E": np.linspace(1.0, 2.4, 99), "k_L": np.ones(99), "x": np.ones(99)}
    >>> one = {"E": 1.8, "k_L": 1.0, "x": 1.0}
    >>> fit = Fit(FreeFloor(), one, 0.0, 99, 96, draws, ranges={"loss": (2.5, 4.0)})
    >>> print(with_floor_checked(fit).warnings[0])  # doctest: +ELLIPSIS
    E is not identified: 1.03 to 2.37 fit alike, and what is left of the loss ... 0.1...
    """
    if "E" in fit.fixed or "E" in fit.unidentified or "E" not in fit.draws:
        return fit
    least, both = fit.ranges["loss"][0], fit.ci95.get("E")
    if both is None and np.ptp(fit.draws["E"]) > 0:
        both = (0.0, least)
    if both is None or least - both[0] <= _MOST_LEFT * (least - both[1]):
        return fit
    low, high = max(both[0], 0.0), min(both[1], least)
    return replace(
        fit,
        unidentified=(*fit.unidentified, "E"),
        warnings=(
            *fit.warnings,
            f"E is not identified: {low:.3g} to {high:.3g} fit alike, and what is left of the"
            f" loss at its lowest row is {least - high:.2g} to {least - low:.2g}: beyond the"
            " rows, the law is the choice of E (--fix E=VALUE, or a law without one)",
        ),
    )


def ranges_of(runs: Runs) -> dict[str, Interval]:
    """The smallest and the largest of each quantity that the rows have."""
    runs = runs.completed()
    names = ("params", "tokens", "flops", "unique", "loss")
    known = {name: getattr(runs, f"{name}_R") for name in names}
    return {n: (float(v.min()), float(v.max())) for n, v in known.items() if v is not None}


def predict(
    fit: Fit,
    *,
    flops: float | None = None,
    params: float | None = None,
    tokens: float | None = None,
    unique: float | None = None,
) -> dict[str, Any]:
    """Loss at a size and amount of data, or the best split of a budget and its loss.

    With `ci95` of whatever is not given and is identified, if the fit has draws, and with how
    many times what lies beyond the rows does (`extrapolated`). Raises ValueError where the law
    cannot say.

    >>> from lm.scaling.laws import BESIROGLU
    >>> from lm.scaling.parametric import Parametric
    >>> fit = Fit(Parametric(), BESIROGLU, objective=0.0, rows_used=240, degrees=235)
    >>> {name: float(f"{value:.4g}") for name, value in predict(fit, flops=5.76e23).items()}
    {'flops': 5.76e+23, 'params': 72250000000.0, 'tokens': 1329000000000.0, 'loss': 1.974}
    """
    given = {"flops": flops, "params": params, "tokens": tokens, "unique": unique}
    known = {name: float(value) for name, value in given.items() if value is not None}
    if not {"params", "tokens"} & set(known) and not fit.has_split:
        unknown = " and ".join(n for n in fit.law.split if n in fit.unidentified)
        raise ValueError(
            f"these rows do not say {unknown}, so there is no best split: predict from params"
            " and tokens, or --fix what is known"
        )
    with np.errstate(all="ignore"):
        found = fit.law.evaluate(fit.parameters, known)
        draws = fit.law.evaluate(fit.draws, known) if fit.draws else {}
    prediction: dict[str, Any] = {name: float(value) for name, value in found.items()}
    for name, value in prediction.items():
        if not 0 < value < np.inf:
            raise ValueError(f"the law's {name} there is {value:g}, which is no prediction")
    if beyond := fit.beyond(prediction):
        prediction["extrapolated"] = beyond
    if fit.draws:
        ends = {
            name: interval(prediction[name], draws_B, fit.degrees)
            for name, draws_B in draws.items()
            if name not in known
            and np.ndim(draws_B)
            and np.ptp(draws_B) > 0
            # A law with a direction that nothing pins down holds where its rows are alone.
            and not (name == "loss" and fit.unidentified and beyond)
        }
        prediction["ci95"] = {name: both for name, both in ends.items() if both is not None}
    return prediction


def band(fit: Fit, known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The ends (2, G) of the 95% intervals of whatever the law says at G points."""
    draws_B1 = {name: draws_B[:, None] for name, draws_B in fit.draws.items()}
    values = fit.law.evaluate(fit.parameters, known)
    found = {}
    for name, draws_BG in fit.law.evaluate(draws_B1, known).items():
        if name in known:
            continue
        ends = [
            interval(float(value), draws_B, fit.degrees) or (np.nan, np.nan)
            for value, draws_B in zip(values[name], draws_BG.T, strict=True)
        ]
        found[name] = np.array(ends).T
    return found
