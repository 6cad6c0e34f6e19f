"""Metrics as functions of columns, and their intervals over items and seeds."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from lm.results.record import Record

Metric = Callable[[np.ndarray], float]
"""float64[items, columns] to a number."""

RESAMPLES = 1000
"""Draws of a bootstrap."""
LEVEL = 0.95
"""Of an interval."""


class Estimate(Record):
    """A number, and between which two it lies at `LEVEL`."""

    value: float
    low: float
    high: float


def mean(column: int) -> Metric:
    """The mean of a column.

    >>> mean(1)(np.array([[0, 1.0], [0, 2.0]]))
    1.5
    """

    def of(columns: np.ndarray) -> float:
        return float(columns[:, column].mean())

    return of


def ratio(part: int, whole: int) -> Metric:
    """The sum of a column over that of another: a mean over what items are made of.

    >>> ratio(1, 0)(np.array([[3, 3.0], [1, 0.0]]))
    0.75
    """

    def of(columns: np.ndarray) -> float:
        return float(columns[:, part].sum() / columns[:, whole].sum())

    return of


def f1(truth: int, guess: int) -> Metric:
    """F1 of class 1: the harmonic mean of precision and recall; 0 where nothing is found.

    >>> round(f1(0, 1)(np.array([[1, 1], [1, 0], [0, 1], [0, 0]])), 3)
    0.5
    """

    def of(columns: np.ndarray) -> float:
        true, guessed = columns[:, truth] == 1, columns[:, guess] == 1
        both = true.sum() + guessed.sum()
        return float(2 * (true & guessed).sum() / both) if both else 0.0

    return of


def matthews(truth: int, guess: int) -> Metric:
    """Matthews' correlation of two classes; 0 where a class is missing.

    >>> matthews(0, 1)(np.array([[1, 1], [0, 0], [1, 1], [0, 0]]))
    1.0
    """
    return _correlation(truth, guess, rank=False)


def pearson(first: int, second: int) -> Metric:
    """Pearson's correlation of two columns; 0 where one is constant.

    >>> round(pearson(0, 1)(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])), 6)
    1.0
    """
    return _correlation(first, second, rank=False)


def spearman(first: int, second: int) -> Metric:
    """Spearman's: the same of ranks, where equal values share theirs.

    >>> round(spearman(0, 1)(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 600.0]])), 6)
    1.0
    """
    return _correlation(first, second, rank=True)


def _correlation(first: int, second: int, *, rank: bool) -> Metric:
    def of(columns: np.ndarray) -> float:
        pair = columns[:, [first, second]].T
        if rank:
            from scipy import stats  # half a second, for which the command's help need not wait

            pair = stats.rankdata(pair, axis=1)
        centred = pair - pair.mean(axis=1, keepdims=True)
        lengths = np.sqrt((centred**2).sum(axis=1))
        if not lengths.all():
            return 0.0
        # Rounding must not make it more than one.
        return float(np.clip(centred[0] @ centred[1] / lengths.prod(), -1, 1))

    return of


def wilson(fraction: float, count: int) -> tuple[float, float]:
    """Between which two fractions that of all items lies at 95%, where `count` are asked.

    It is an interval even where none or all of them were right (Wilson 1927).

    >>> [round(end, 3) for end in wilson(1.0, 20)]
    [0.839, 1.0]
    >>> wilson(0.0, 14)[0]
    0.0
    """
    z = 1.959964
    middle = fraction + z**2 / (2 * count)
    half = z * math.sqrt(fraction * (1 - fraction) / count + (z / (2 * count)) ** 2)
    whole = 1 + z**2 / count
    # Rounding must not leave the fractions that there are, least of all as a negative zero.
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def estimate(of: Metric, columns_SIK: np.ndarray, *, seed: int = 0) -> Estimate:
    """A metric's mean over S seeds, with its percentile bootstrap interval.

    Items are drawn, and seeds where there are several: the same items under each, as each seed
    asked the same ones (Efron and Tibshirani 1993, section 13).

    >>> estimate(mean(0), np.ones((1, 9, 1)))
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    return estimate_all({"": of}, columns_SIK, seed=seed)[""]


def estimate_all(
    metrics: Mapping[str, Metric], columns_SIK: np.ndarray, *, seed: int = 0
) -> dict[str, Estimate]:
    """The same of several metrics by name, of the same draws."""
    means = {name: partial(_over_seeds, of) for name, of in metrics.items()}
    return _bootstrap(means, columns_SIK, seed)


def difference(
    of: Metric,
    mine_SIK: np.ndarray,
    others_SIK: np.ndarray,
    *,
    seed: int = 0,
) -> Estimate:
    """How far one candidate's metric lies above another's on the same items: paired.

    What makes an item hard for both does not count as error. Raises ValueError where the items
    are not as many.

    >>> hard = np.arange(8.0).reshape(1, 8, 1)
    >>> difference(mean(0), hard + 1, hard)
    Estimate(value=1.0, low=1.0, high=1.0)
    """
    if mine_SIK.shape[1] != others_SIK.shape[1]:
        raise ValueError("the candidates were not asked the same items")
    seeds = max(len(mine_SIK), len(others_SIK))
    # A candidate that draws nothing is the same under every seed.
    both_SIK2 = np.stack(
        [np.broadcast_to(each, (seeds, *each.shape[1:])) for each in (mine_SIK, others_SIK)],
        axis=-1,
    )

    def between(drawn: np.ndarray) -> float:
        return _over_seeds(of, drawn[..., 0]) - _over_seeds(of, drawn[..., 1])

    return _bootstrap({"": between}, both_SIK2, seed)[""]


def _over_seeds(of: Metric, columns_SIK: np.ndarray) -> float:
    return float(np.mean([of(columns_IK) for columns_IK in columns_SIK]))


def _bootstrap(
    metrics: Mapping[str, Metric], columns_SI: np.ndarray, seed: int
) -> dict[str, Estimate]:
    seeds, items = columns_SI.shape[:2]
    random = np.random.default_rng(seed)
    found = np.empty((len(metrics), RESAMPLES))
    for draw in range(RESAMPLES):
        drawn = columns_SI[:, random.integers(items, size=items)]
        if seeds > 1:
            drawn = drawn[random.integers(seeds, size=seeds)]
        found[:, draw] = [of(drawn) for of in metrics.values()]
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return {
        name: Estimate(value=of(columns_SI), low=float(low[number]), high=float(high[number]))
        for number, (name, of) in enumerate(metrics.items())
    }
