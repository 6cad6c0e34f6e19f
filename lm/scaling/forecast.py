"""How far a law's forecast is from rows that it has not seen: the largest budget, or each."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm.scaling.base import Interval, Law
from lm.scaling.bootstrap import interval
from lm.scaling.fit import Fit, with_floor_checked
from lm.scaling.table import DataError, Runs

_ALIKE = 0.1
"""Rows whose compute differs by less than this fraction are of one budget."""
_APART = 1.2
"""Budgets are at least so many times each other; rows that lie closer are of none."""
_FEWEST_BUDGETS = 3


@dataclass(frozen=True)
class LeftOut:
    """Which rows a law is fit without."""

    said: str
    rows_R: np.ndarray
    """Whether each row is left out."""


@dataclass(frozen=True)
class Miss:
    """How far the forecasts of one quantity were, in units of its logarithm."""

    quantity: str
    places: list[dict[str, float]]
    """Each with what it was predicted from, `predicted`, `measured`, and `ci95` if known."""
    bias: float
    """The mean of ln predicted less ln measured."""
    rms: float

    @property
    def inside(self) -> int | None:
        """How many lie within their intervals; None where the forecast has none."""
        ends: list[Any] = [place.get("ci95") for place in self.places]
        if not all(ends):
            return None
        each = zip(self.places, ends, strict=True)
        return sum(low <= place["measured"] <= high for place, (low, high) in each)


@dataclass(frozen=True)
class LawForecast:
    """What a law that was fit to the other rows says of those left out."""

    left_out: str
    rows_used: int
    rows_left_out: int
    beyond: float
    """How many times above or below all rows used those left out lie, in compute; 1 within."""
    misses: tuple[Miss, ...]
    """Of the loss, and of the best size where rows show one."""
    unidentified: tuple[str, ...]


def forecasts_of(
    law: Law, full: Fit, runs: Runs, *, bootstrap: int, seed: int, each: bool = False
) -> Iterator[LawForecast | str]:
    """The forecast of the largest budget, and of each other one if asked; or why there is none.

    The law is fit again without those rows. Where rows have no budgets, the top decade of
    compute is left out. `full` is the fit of all rows, whose minima or envelope are what is
    measured for laws of these.

    >>> from lm.scaling.power import Power
    >>> C = 10.0 ** np.arange(17, 23)
    >>> runs = Runs(1.5 + 60 * C**-0.1, flops_R=C)
    >>> full = Power().fit(runs, bootstrap=50)
    >>> (found,) = forecasts_of(Power(), full, runs, bootstrap=50, seed=0)
    >>> found.left_out, found.rows_used, round(found.misses[0].bias, 3)
    ('the largest budget, 1e+22 flops', 5, -0.038)
    """
    place_R = getattr(runs, f"{law.against}_R")
    for left_out in _left_out(law.against, place_R, each):
        if isinstance(left_out, str):
            yield left_out
            continue
        try:
            fit = law.fit(runs.take(~left_out.rows_R), bootstrap=bootstrap, seed=seed)
            yield _forecast(full, with_floor_checked(fit), runs, left_out, seed)
        except DataError as error:
            yield f"no forecast of {left_out.said}: {error}"


def _left_out(against: str, place_R: np.ndarray, each: bool) -> Iterator[LeftOut | str]:
    budgets = _budgets(place_R)
    if budgets and len(budgets) < _FEWEST_BUDGETS:
        yield (
            f"no forecast: {len(budgets)} budgets of {against}; to fit without one needs"
            f" {_FEWEST_BUDGETS}"
        )
        return
    if budgets:
        for number, rows in enumerate(reversed(budgets if each else budgets[-1:])):
            which = "the budget of" if number else "the largest budget,"
            yield LeftOut(
                f"{which} {np.exp(np.log(place_R[rows]).mean()):.3g} {against}",
                np.isin(np.arange(len(place_R)), rows),
            )
        return
    # A row in a thousand below the decade's end is of it, as budgets of exact counts are.
    top_R = place_R >= place_R.max() / 10 * 0.999
    if top_R.all():
        yield f"no forecast: all rows lie within a decade of {against}"
        return
    yield LeftOut(f"the top decade of {against}, from {place_R[top_R].min():.3g}", top_R)
    if each:
        yield f"--leave-out: rows are of no budgets of {against}, so the top decade alone is"


def _budgets(place_R: np.ndarray) -> list[np.ndarray]:
    """The rows of each budget, ascending; none, where rows do not stand in budgets.

    >>> [rows.tolist() for rows in _budgets(np.array([1e19, 1e18, 1.02e18, 3e18]))]
    [[1, 2], [3], [0]]
    >>> _budgets(np.array([1e18, 1.09e18, 1.18e18, 3e18]))
    []
    """
    order_R = np.argsort(place_R, kind="stable")
    log_R = np.log(place_R[order_R])
    found = np.split(order_R, np.flatnonzero(np.diff(log_R) > np.log1p(_ALIKE)) + 1)
    ends = [np.log(place_R[rows[[0, -1]]]) for rows in found]
    alike = all(high - low <= np.log1p(_ALIKE) for low, high in ends)
    apart = all(
        after[0] - before[1] >= np.log(_APART) for before, after in itertools.pairwise(ends)
    )
    return found if alike and apart else []


def _forecast(full: Fit, fit: Fit, runs: Runs, left_out: LeftOut, seed: int) -> LawForecast:
    kept, held = runs.take(~left_out.rows_R), runs.take(left_out.rows_R)
    (place_R,) = held.known(fit.law.against)
    (kept_R,) = kept.known(fit.law.against)
    misses = []
    for quantity in ("loss", "params"):
        known, values = _shown(full, runs, quantity)
        inside = np.zeros(0, bool)
        if len(values):
            # A budget's mean lies between its rows.
            at = known.get(full.law.against)
            inside = left_out.rows_R if at is None else _within(at, place_R, kept_R)
        if inside.any():
            chosen = {name: values_P[inside] for name, values_P in known.items()}
            misses.append(_miss(fit, kept, quantity, chosen, values[inside], seed))
    if not misses:
        raise DataError("these rows show no minimum, or none on the envelope, to compare with")
    return LawForecast(
        left_out=left_out.said,
        rows_used=fit.rows_used,
        rows_left_out=len(held),
        beyond=float(
            f"{max(1.0, place_R.max() / kept_R.max(), kept_R.min() / place_R.min()):.3g}"
        ),
        misses=tuple(misses),
        unidentified=fit.unidentified,
    )


def _within(at_P: np.ndarray, held_R: np.ndarray, kept_R: np.ndarray) -> np.ndarray:
    """Whether each place lies nearer to a row left out than to any that is kept."""
    nearest = [
        np.abs(np.log(at_P)[:, None] - np.log(rows_R)).min(axis=1)
        for rows_R in (held_R, kept_R)
    ]
    inside: np.ndarray = nearest[0] < nearest[1]
    return inside


def _shown(fit: Fit, runs: Runs, quantity: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Where runs show a quantity that the law predicts, and its values there.

    Each row is such a place, unless the law is of their minima or of their envelope.
    """
    pairs = [] if fit.law.surface else list(fit.law.best(fit, runs, quantity))
    if pairs:
        at, values = (
            np.concatenate([np.atleast_1d(v) for v in of]) for of in zip(*pairs, strict=True)
        )
        return {fit.law.against: at}, values
    if quantity != "loss":
        return {}, np.empty(0)
    needs = [name for name in fit.law.needs if name != "loss"]
    return dict(zip(needs, runs.known(*needs), strict=True)), runs.loss_R


def predictions_at(
    fit: Fit, runs: Runs, known: Mapping[str, np.ndarray], *, quantity: str = "loss", seed: int
) -> tuple[np.ndarray, list[Interval | None]]:
    """What a law fit to these runs says at P places, P, with 95% intervals for one more run.

    They hold the law's own error, and how rows scatter about it: a residual is drawn for each
    draw of the law, times sqrt(R / (R - parameters)), as residuals of a fit are too small. A
    loss has none where the rows do not identify the law.
    """
    predicted_P = np.atleast_1d(_evaluate(fit, known, quantity))
    at, values = _shown(fit, runs, quantity)
    unknown = quantity == "loss" and bool(fit.unidentified)
    if not fit.draws or unknown or fit.degrees < 1 or not len(values):
        return predicted_P, [None] * len(predicted_P)
    with np.errstate(all="ignore"):
        residual_R = np.log(values) - np.log(_evaluate(fit, at, quantity))
        independent = runs.independent if fit.law.surface else len(values)
        free = min(independent - fit.degrees, len(values) - 1)
        residual_R = residual_R * np.sqrt(len(values) / (len(values) - free))
        draws_BP = np.atleast_2d(_evaluate(fit, known, quantity, draws=True))
    noise_BP = np.random.default_rng(seed).choice(residual_R, draws_BP.shape)
    return predicted_P, [
        interval(float(value), draws_B, fit.degrees)
        for value, draws_B in zip(predicted_P, (draws_BP * np.exp(noise_BP)).T, strict=True)
    ]


def _miss(
    fit: Fit,
    kept: Runs,
    quantity: str,
    known: Mapping[str, np.ndarray],
    measured_P: np.ndarray,
    seed: int,
) -> Miss:
    predicted_P, ends = predictions_at(fit, kept, known, quantity=quantity, seed=seed)
    places = []
    for number, (predicted, measured) in enumerate(zip(predicted_P, measured_P, strict=True)):
        place: dict[str, Any] = {name: float(v[number]) for name, v in known.items()}
        place |= {"predicted": float(predicted), "measured": float(measured)}
        if (both := ends[number]) is not None:
            place["ci95"] = both
        places.append(place)
    error_P = np.log(predicted_P) - np.log(measured_P)
    return Miss(quantity, places, float(error_P.mean()), float(np.sqrt((error_P**2).mean())))


def _evaluate(
    fit: Fit, known: Mapping[str, np.ndarray], quantity: str, *, draws: bool = False
) -> np.ndarray:
    """What the law says at P places, or each of its draws, BP."""
    parameters = (
        {name: draws_B[:, None] for name, draws_B in fit.draws.items()}
        if draws
        else fit.parameters
    )
    # A surface knows flops from its size and data.
    point = {n: v for n, v in known.items() if not (fit.law.surface and n == "flops")}
    found: np.ndarray = fit.law.evaluate(parameters, point)[quantity]
    return found
