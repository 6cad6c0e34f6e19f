"""Error bars: rows drawn again and again, and intervals that are honest where rows are few."""

import numpy as np

from lm.scaling.table import Runs


def resample(runs: Runs, draws: int, seed: int) -> np.ndarray:
    """How often each row is in each draw of as many rows, or clusters, with replacement, BR.

    >>> runs = Runs(np.array([3.0, 2.0, 2.5]), cluster_R=np.array([0, 1, 1]))
    >>> resample(runs, 3, seed=0).tolist()  # the last two rows are drawn together
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 2.0, 2.0]]
    """
    cluster_R = np.arange(len(runs)) if runs.cluster_R is None else runs.cluster_R
    _, place_R = np.unique(cluster_R, return_inverse=True)
    clusters = int(place_R.max()) + 1
    shares = np.full(clusters, 1 / clusters)
    counts = np.random.default_rng(seed).multinomial(clusters, shares, size=draws)
    return counts[:, place_R].astype(float)


FEWEST_DRAWS = 20
"""Fewer say nothing of ends that one in forty lies beyond."""


def interval(
    value: float, draws_B: np.ndarray, degrees: int, level: float = 0.95
) -> tuple[float, float] | None:
    """The percentiles of the draws, their distance from the value widened where rows are few.

    With so many degrees of freedom (rows less parameters) Student's quantile over the normal
    one is what plain percentiles lack (Hesterberg 2015, section 4.1). Positive numbers are
    widened by factors. None, where there is nothing to draw from, or no finite end.

    >>> draws_B = np.random.default_rng(0).normal(10, 1, 100_000)
    >>> [round(end, 1) for end in interval(10.0, draws_B, degrees=1000)]
    [8.0, 12.0]
    >>> interval(10.0, draws_B, degrees=0) is None
    True
    """
    draws_B = draws_B[np.isfinite(draws_B)]
    if degrees < 1 or len(draws_B) < FEWEST_DRAWS:
        return None
    from scipy import special  # without a bootstrap nothing asks for it

    tail = (1 - level) / 2
    widening = float(special.stdtrit(degrees, 1 - tail) / special.ndtri(1 - tail))
    low, high = np.quantile(draws_B, [tail, 1 - tail])
    with np.errstate(all="ignore"):
        if value > 0 and draws_B.min() > 0:
            ends = value * (low / value) ** widening, value * (high / value) ** widening
        else:
            ends = value + widening * (low - value), value + widening * (high - value)
    return (float(ends[0]), float(ends[1])) if np.isfinite(ends).all() else None
