"""How much compute one variant needs for another's loss, and what the comparison held equal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm.scaling.base import Interval
from lm.scaling.bootstrap import interval
from lm.scaling.envelope import on_envelope
from lm.scaling.fit import Fit
from lm.scaling.power import Power, lines
from lm.scaling.table import ColumnValues, DataError, Runs

BUDGETS = (
    *("params", "params_total", "params_non_embedding", "tokens", "predicted_targets"),
    *("target_positions", "steps", "flops", "flops_6nd", "device_seconds"),
    *("unique_tokens", "unique_bytes", "seed"),
    *("corpus_digest", "tokenizer_digest", "batches_digest"),
)
"""ColumnValues that a comparison may hold equal; those of results.csv among them."""


@dataclass(frozen=True)
class Point:
    """What the second variant needs for the first one's loss at some compute."""

    flops: float
    loss: float
    flops_needed: float
    multiplier: float
    ci95: Interval | None
    extrapolated: bool
    """Whether the second variant measured no loss that low, or that high."""


@dataclass(frozen=True)
class Comparison:
    """Two variants' laws L = k C^-x, and the compute between them."""

    points: tuple[Point, ...]
    fits: tuple[Fit, Fit]
    frontiers: tuple[Runs, Runs]
    warnings: tuple[str, ...]


def compare(first: Runs, second: Runs, *, bootstrap: int = 1000, seed: int = 0) -> Comparison:
    """The multiplier at every compute of the first variant's frontier: C' / C with L'(C') =
    L(C).

    A variant's frontier is all of its rows if each improves on those of less compute, else
    their lower convex hull in logarithms; a line through its logarithms is its law.

    >>> C = 10.0 ** np.arange(17, 22)
    >>> variants = [Runs(20 * (C / handicap) ** -0.05, flops_R=C) for handicap in (1, 4)]
    >>> comparison = compare(*variants)
    >>> [round(point.multiplier, 6) for point in comparison.points]
    [4.0, 4.0, 4.0, 4.0, 4.0]
    """
    frontiers = frontier(first), frontier(second)
    fits = tuple(_law(runs, bootstrap, seed + number) for number, runs in enumerate(frontiers))
    ours, theirs = fits
    measured, other = frontiers
    for fit, name in zip(fits, ("first", "second"), strict=True):
        if not fit.parameters["x"] > 0:
            raise DataError(
                f"the {name} variant's loss does not fall with compute: no multiplier"
            )
    degrees = min(fit.degrees for fit in fits)
    points = []
    for flops in _places(*measured.known("flops")):
        with np.errstate(over="ignore"):
            loss, needed = _needed(ours.parameters, theirs.parameters, flops)
        if not 0 < needed < np.inf:
            raise DataError(
                "the second variant's loss hardly falls with compute"
                f" (x {theirs.parameters['x']:.2g}), so no compute is known for the loss"
                f" {loss:.4g}: no multiplier"
            )
        ends = None
        if ours.draws and theirs.draws:
            with np.errstate(all="ignore"):
                _, needed_B = _needed(ours.draws, theirs.draws, flops)
            falls_B = (ours.draws["x"] > 0) & (theirs.draws["x"] > 0)
            ends = interval(float(needed / flops), needed_B[falls_B] / flops, degrees)
        points.append(
            Point(
                flops=float(flops),
                loss=float(loss),
                flops_needed=float(needed),
                multiplier=float(needed / flops),
                ci95=ends,
                extrapolated=not other.loss_R.min() * 0.999
                <= loss
                <= other.loss_R.max() * 1.001,
            )
        )
    return Comparison(
        tuple(points), (ours, theirs), frontiers, tuple(_warnings(points, frontiers))
    )


def frontier(runs: Runs) -> Runs:
    """The rows that a variant is judged by, by compute; runs that differ by seed alone are one.

    >>> N, C = np.array([1e6, 1e6, 1e6]), np.array([1e15, 1e17, 1e15])
    >>> runs = Runs(np.array([4.0, 1.0, 2.0]), params_R=N, flops_R=C)
    >>> frontier(runs).loss_R.round(3).tolist()  # the best of two seeds would be 2
    [2.828, 1.0]
    """
    runs = _without_repeats(runs)
    flops_R, loss_R = runs.known("flops", "loss")
    order_R = np.lexsort((loss_R, flops_R))
    improves = (np.diff(loss_R[order_R]) < 0).all() and (np.diff(flops_R[order_R]) > 0).all()
    rows_R = order_R if improves else on_envelope(flops_R, loss_R, "hull")
    if len(rows_R) < 2:
        raise DataError(
            f"only {len(rows_R)} of {len(runs)} rows improves on all of less compute;"
            " a multiplier needs two budgets in each variant"
        )
    return runs.take(rows_R)


def _without_repeats(runs: Runs) -> Runs:
    """The mean of ln L of the rows that have size, data and compute in common."""
    if runs.params_R is None:  # rows of one compute may be of different sizes
        return runs
    known = (runs.flops_R, runs.params_R, runs.tokens_R)
    places = np.stack([values_R for values_R in known if values_R is not None], axis=1)
    _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
    log_loss = np.bincount(inverse.ravel(), np.log(runs.loss_R)) / np.bincount(inverse.ravel())
    return replace(runs.take(first), loss_R=np.exp(log_loss))


def mean_of_seeds(runs: Runs, seeds: Sequence[Any]) -> Runs:
    """The mean of ln L at each compute whose rows are each of another seed.

    For tables without sizes. Rows of one compute and one seed are of different sizes, and stay.

    >>> C = np.array([1e18, 1e18, 1e19, 1e19])
    >>> runs = Runs(np.array([4.0, 1.0, 3.0, 2.0]), flops_R=C)
    >>> mean_of_seeds(runs, ["0", "1", "0", "0"]).loss_R.round(3).tolist()
    [2.0, 3.0, 2.0]
    """
    (flops_R,), log_loss_R = runs.known("flops"), np.log(runs.loss_R)
    kept: list[int] = []
    for flops in np.unique(flops_R):
        rows = np.flatnonzero(flops_R == flops).tolist()
        if len({str(seeds[row]) for row in rows}) == len(rows):
            log_loss_R[rows[0]] = log_loss_R[rows].mean()
            rows = rows[:1]
        kept.extend(rows)
    return replace(runs, loss_R=np.exp(log_loss_R)).take(np.array(kept))


def held_equal(
    first: ColumnValues, second: ColumnValues, names: Sequence[str] = BUDGETS
) -> tuple[list[str], dict[str, float | None]]:
    """ColumnValues whose values are the same in both variants, and the ratio of medians of the
    others.

    None, where they are no numbers. Values count once, and numbers that differ by less than a
    thousandth are the same.

    >>> held_equal({"tokens": [1e9, 2e9], "seed": ["0"]}, {"tokens": [3e9], "seed": ["0"]})
    (['seed'], {'tokens': 2.0})
    """
    equal, differ = [], {}
    for name in names:
        if name not in first or name not in second:
            continue
        ours, theirs = _values(first[name]), _values(second[name])
        if not len(ours) or not len(theirs):
            continue
        if ours.dtype.kind == "f" and theirs.dtype.kind == "f":
            same = len(ours) == len(theirs) and np.allclose(ours, theirs, rtol=1e-3, atol=0)
            middle = float(np.median(ours))
            ratio = float(np.median(theirs)) / middle if middle else None
        else:
            same, ratio = set(map(str, ours)) == set(map(str, theirs)), None
        if same:
            equal.append(name)
        else:
            differ[name] = ratio
    return equal, differ


def _values(values: Sequence[Any]) -> np.ndarray:
    """Distinct values, ascending: numbers if all are."""
    given = [value for value in values if value is not None and value != ""]
    try:
        numbers = np.unique([float(value) for value in given])
    except (TypeError, ValueError):
        return np.unique([str(value) for value in given])
    # Of numbers within a thousandth of each other, the first stands for all.
    keep = np.ones(len(numbers), bool)
    keep[1:] = np.diff(numbers) > 1e-3 * np.abs(numbers[1:])
    return numbers[keep]


def _law(runs: Runs, bootstrap: int, seed: int) -> Fit:
    (flops_R,), values = runs.known("flops"), {"loss": runs.loss_R}
    parameters, draws, objective = lines(flops_R, values, bootstrap=bootstrap, seed=seed)
    return Fit(
        law=Power(),
        parameters=parameters,
        objective=objective,
        rows_used=len(runs),
        degrees=len(runs) - 2,
        draws=draws,
    )


def _places(flops_R: np.ndarray) -> np.ndarray:
    """The compute to compare at: the variant's own, or seven places where that is more."""
    distinct = np.unique(flops_R)
    return distinct if len(distinct) <= 7 else np.geomspace(distinct[0], distinct[-1], 7)


def _needed(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], flops: float
) -> tuple[Any, Any]:
    """The first variant's loss at this compute, and the second variant's compute for it."""
    log_loss = np.log(ours["k_L"]) - ours["x"] * np.log(flops)
    return np.exp(log_loss), np.exp((np.log(theirs["k_L"]) - log_loss) / theirs["x"])


def _warnings(points: Sequence[Point], frontiers: tuple[Runs, Runs]) -> list[str]:
    warnings = []
    if beyond := [point for point in points if point.extrapolated]:
        warnings.append(
            f"extrapolated at {len(beyond)} of {len(points)} budgets: the second variant"
            " measured no such loss, its law is drawn on"
        )
    for name, runs in zip(("first", "second"), frontiers, strict=True):
        if len(runs) == 2:
            warnings.append(
                f"too few points: two in the {name} variant, so there are no error bars"
            )
        elif len(runs) < 5:
            warnings.append(
                f"too few points: {len(runs)} in the {name} variant; error bars are rough"
            )
    return warnings
