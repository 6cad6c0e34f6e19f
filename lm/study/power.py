"""What a comparison can show, before it is made: its noise, and the smallest effect."""

import math
from statistics import NormalDist

import numpy as np

from lm.evaluate.tasks.metrics import Metric

POWER, LEVEL = 0.8, 0.05
"""How often an effect is to be found, and how often one that is not there."""
DRAWS = 400
"""Pairs of made-up models whose metrics tell how noisy one is."""


def accuracy_se(accuracy: float, items: int, *, agreement: float = 0.0) -> float:
    """The standard error of a difference of two accuracies on the same items.

    sqrt(2 p (1 - p) (1 - r) / n): both are right with probability p, and what makes an item
    hard for both (r, the correlation of being right) does not count. It is McNemar's variance
    without a difference, where they disagree on 2 p (1 - p) (1 - r) of the items (Card et al.
    2020, "With little power comes great responsibility", section 3).

    >>> round(accuracy_se(0.8, 872), 4), round(accuracy_se(0.8, 872, agreement=0.75), 4)
    (0.0192, 0.0096)
    """
    return math.sqrt(2 * accuracy * (1 - accuracy) * (1 - agreement) / items)


def metric_se(of: Metric, truth_I: np.ndarray, assumed: float, *, classes: int) -> float:
    """The same of any metric of columns as `lm.evaluate.labels` has them, by simulation.

    Two made-up models guess each item by themselves: of several classes the right one with the
    assumed probability, and a number (one class) with the assumed correlation to the truth.

    >>> from lm.evaluate.tasks.metrics import mean
    >>> round(metric_se(mean(2), np.zeros(872), 0.8, classes=2), 3)
    0.019
    """
    random = np.random.default_rng(0)
    values = [
        [of(_made_up(truth_I, assumed, random, classes=classes)) for _ in range(2)]
        for _ in range(DRAWS)
    ]
    return float(np.std(np.subtract(*np.transpose(values)), ddof=1))


def _made_up(
    truth_I: np.ndarray, assumed: float, random: np.random.Generator, *, classes: int
) -> np.ndarray:
    if classes > 1:
        wrong_I = random.random(len(truth_I)) >= assumed
        other_I = random.integers(1, classes, size=len(truth_I))
        guess_I = (truth_I + wrong_I * other_I) % classes
    else:
        standard_I = (truth_I - truth_I.mean()) / truth_I.std()
        noise_I = random.standard_normal(len(truth_I))
        guess_I = assumed * standard_I + math.sqrt(1 - assumed**2) * noise_I
    return np.stack([truth_I, guess_I, truth_I == guess_I], axis=1)


def with_seeds(se: float, spread: float, seeds: int) -> float:
    """An error over items together with that over seeds, drawn apart for both models.

    `spread` is the standard deviation of one model's metric between seeds.

    >>> with_seeds(0.03, 0.0, 3), round(with_seeds(0.03, 0.02, 2), 4)
    (0.03, 0.0361)
    """
    return math.sqrt(se**2 + 2 * spread**2 / seeds)


def smallest_effect(se: float, *, power: float = POWER, level: float = LEVEL) -> float:
    """The difference that a two-sided test at a level finds with a probability.

    (z(1 - level / 2) + z(power)) standard errors, 2.8 of them at 5% and 80% (Bloom 1995,
    "Minimum detectable effects", Evaluation Review 19(5)). It takes the error to be known:
    with few seeds it is not, and the truth lies higher.

    >>> round(smallest_effect(1.0), 3)
    2.802
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * se
