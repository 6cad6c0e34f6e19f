"""How much compute one variant needs for another's loss, and what the comparison held equal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm.scaling.base import Interval
from lm.scaling.bootstrap import interval
from lm.scaling.envelope import on_envelope
from lm.scaling.fit import Fit
from lm.scaling.laws import LawValues
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
    """Two variants' laws L = E + k C^-x, and the compute between them."""

    points: tuple[Point, ...]
    fits: tuple[Fit, Fit]
    frontiers: tuple[Runs, ...]
    """Of each variant that has rows."""
    warnings: tuple[str, ...]
    per_decade: float | None = None
    """How many times the multiplier is with ten times the compute, from end to end."""
    per_decade_ci95: Interval | None = None


def compare(
    first: Runs,
    second: Runs | LawValues,
    *,
    floor: float = 0.0,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """The multiplier at every compute of the first variant's frontier: C' / C with L'(C') =
    L(C).

    The second may be a law's constants k_L, x and E (0 where it has none), which have no error
    of their own. `floor` is the E of the variants that are fit.

    A variant's frontier is all of its rows if each improves on those of less compute, else
    their lower convex hull in logarithms; a line through its logarithms is its law.

    >>> C = 10.0 ** np.arange(17, 22)
    >>> variants = [Runs(20 * (C / handicap) ** -0.05, flops_R=C) for handicap in (1, 4)]
    >>> comparison = compare(*variants)
    >>> [round(point.multiplier, 6) for point in comparison.points]
    [4.0, 4.0, 4.0, 4.0, 4.0]
    """
    variants = [each for each in (first, second) if isinstance(each, Runs)]
    frontiers = tuple(frontier(runs) for runs in variants)
    fits = [
        _law(runs, floor, bootstrap, seed + number) for number, runs in enumerate(frontiers)
    ]
    if not isinstance(second, Runs):
        fits.append(_given(second))
    ours, theirs = fits
    measured, *others = frontiers
    for fit, name in zip(fits, ("first", "second"), strict=True):
        if not fit.parameters["x"] > 0:
            raise DataError(
                f"the {name} variant's loss does not fall with compute: no multiplier"
            )
    degrees = min(fit.degrees for fit in fits[: len(frontiers)])
    points, times = [], []
    places = _places(*measured.known("flops"))
    for flops in places:
        with np.errstate(over="ignore"):
            loss, needed = _needed(ours.parameters, theirs.parameters, flops)
        if theirs.parameters["E"] >= loss:
            raise DataError(
                f"the loss {loss:.4g} is not above the second variant's floor"
                f" {theirs.parameters['E']:g}: no compute reaches it, no multiplier"
            )
        if not 0 < needed < np.inf:
            raise DataError(
                "the second variant's loss hardly falls with compute"
                f" (x {theirs.parameters['x']:.2g}), so no compute is known for the loss"
                f" {loss:.4g}: no multiplier"
            )
        ends = None
        if all(fit.draws for fit in fits[: len(frontiers)]):
            both: list[LawValues] = [fit.draws or fit.parameters for fit in fits]
            with np.errstate(all="ignore"):
                _, needed_B = _needed(both[0], both[1], flops)
            falls_B = (both[0]["x"] > 0) & (both[1]["x"] > 0)
            ends = interval(float(needed / flops), needed_B[falls_B] / flops, degrees)
            times.append(needed_B[falls_B] / flops)
        points.append(
            Point(
                flops=float(flops),
                loss=float(loss),
                flops_needed=float(needed),
                multiplier=float(needed / flops),
                ci95=ends,
                extrapolated=any(
                    not other.loss_R.min() * 0.999 <= loss <= other.loss_R.max() * 1.001
                    for other in others
                ),
            )
        )
    grown, grown_ci95 = _growth(points, times, degrees)
    warnings = tuple(_warnings(points, frontiers))
    return Comparison(tuple(points), (ours, theirs), frontiers, warnings, grown, grown_ci95)


def _growth(
    points: Sequence[Point], times: Sequence[np.ndarray], degrees: int
) -> tuple[float | None, Interval | None]:
    """The multiplier's factor for each decade of compute, from the first point to the last."""
    decades = np.log10(points[-1].flops / points[0].flops)
    if decades <= 0:
        return None, None
    value = (points[-1].multiplier / points[0].multiplier) ** (1 / decades)
    if not times:
        return float(value), None
    with np.errstate(all="ignore"):
        draws_B = (times[-1] / times[0]) ** (1 / decades)
    return float(value), interval(float(value), draws_B, degrees)


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


def _law(runs: Runs, floor: float, bootstrap: int, seed: int) -> Fit:
    (flops_R,) = runs.known("flops")
    if not 0 <= floor < runs.loss_R.min():
        raise DataError(
            f"--floor {floor:g}: must be below the smallest loss, {runs.loss_R.min():g}"
        )
    values = {"loss": runs.loss_R - floor}
    parameters, draws, objective = lines(flops_R, values, bootstrap=bootstrap, seed=seed)
    if draws:
        draws["E"] = np.full(bootstrap, floor)
    return Fit(
        law=Power(),
        parameters=parameters | {"E": floor},
        objective=objective,
        rows_used=len(runs),
        degrees=len(runs) - 2,
        draws=draws,
    )


def _given(constants: LawValues) -> Fit:
    """A law that others have fit: k_L and x, and E if it has one; raises DataError."""
    unknown = set(constants) - {"E", "k_L", "x"}
    lacking = {"k_L", "x"} - set(constants)
    if unknown or lacking:
        wrong = f"no {min(unknown)}" if unknown else f"{min(lacking)} is not given"
        raise DataError(
            f"--law: {wrong}; write k_L=95.18 x=0.0941, and E=1.6 if it has a floor"
        )
    values = {name: float(value) for name, value in constants.items()}
    for name, value in values.items():
        if value <= 0 and not (name == "E" and value == 0):
            raise DataError(f"--law {name}={value:g}: must be above 0")
    parameters = {"E": 0.0} | values
    return Fit(law=Power(), parameters=parameters, objective=0.0, rows_used=0, degrees=0)


def _places(flops_R: np.ndarray) -> np.ndarray:
    """The compute to compare at: the variant's own, or seven places where that is more."""
    distinct = np.unique(flops_R)
    return distinct if len(distinct) <= 7 else np.geomspace(distinct[0], distinct[-1], 7)


def _needed(ours: LawValues, theirs: LawValues, flops: float) -> tuple[Any, Any]:
    """The first variant's loss at this compute, and the second variant's compute for it."""
    log_loss = np.log(ours["k_L"]) - ours["x"] * np.log(flops)
    log_left = log_loss
    if np.any(ours["E"]) or np.any(theirs["E"]):
        with np.errstate(all="ignore"):  # no compute reaches a loss below the floor
            log_left = np.log(ours["E"] + np.exp(log_loss) - theirs["E"])
    needed = np.exp((np.log(theirs["k_L"]) - log_left) / theirs["x"])
    return ours["E"] + np.exp(log_loss), needed


def _warnings(points: Sequence[Point], frontiers: Sequence[Runs]) -> list[str]:
    warnings = []
    if beyond := [point for point in points if point.extrapolated]:
        warnings.append(
            f"extrapolated at {len(beyond)} of {len(points)} budgets: the second variant"
            " measured no such loss, its law is drawn on"
        )
    for name, runs in zip(("first", "second"), frontiers, strict=False):
        if len(runs) == 2:
            warnings.append(
                f"too few points: two in the {name} variant, so there are no error bars"
            )
        elif len(runs) < 5:
            warnings.append(
                f"too few points: {len(runs)} in the {name} variant; error bars are rough"
            )
    return warnings
