"""Error bars: rows drawn again and again, and intervals that are honest where rows are few."""

import numpy as np
from scipy import special


def resample(rows: int, draws: int, seed: int) -> np.ndarray:
    """How often each row is in each draw of as many rows with replacement, BR.

    >>> resample(4, 2, seed=0).sum(axis=1).tolist()
    [4.0, 4.0]
    """
    shares_R = np.full(rows, 1 / rows)
    counts_BR = np.random.default_rng(seed).multinomial(rows, shares_R, size=draws)
    return counts_BR.astype(float)


def interval(
    value: float, draws_B: np.ndarray, degrees: int, level: float = 0.95
) -> tuple[float, float] | None:
    """The percentiles of the draws, their distance from the value widened where rows are few.

    With so many degrees of freedom (rows less parameters) Student's quantile over the normal
    one is what plain percentiles lack (Hesterberg 2015, section 4.1). Positive numbers are
    widened by factors. None, where there is nothing to draw from.

    >>> draws_B = np.random.default_rng(0).normal(10, 1, 100_000)
    >>> [round(end, 1) for end in interval(10.0, draws_B, degrees=1000)]
    [8.0, 12.0]
    >>> interval(10.0, draws_B, degrees=0) is None
    True
    """
    draws_B = draws_B[np.isfinite(draws_B)]
    if degrees < 1 or len(draws_B) < 20:
        return None
    tail = (1 - level) / 2
    widening = float(special.stdtrit(degrees, 1 - tail) / special.ndtri(1 - tail))
    low, high = np.quantile(draws_B, [tail, 1 - tail])
    if value > 0 and draws_B.min() > 0:
        return float(value * (low / value) ** widening), float(
            value * (high / value) ** widening
        )
    return float(value + widening * (low - value)), float(value + widening * (high - value))
