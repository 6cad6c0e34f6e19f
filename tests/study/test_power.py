"""What a comparison can show: formulas against repeated made-up studies."""

import numpy as np
import pytest

from lm.evaluate.tasks.metrics import f1, matthews, mean, spearman
from lm.study.power import accuracy_se, metric_se, smallest_effect, with_seeds

STUDIES = 4000


@pytest.mark.parametrize(("items", "accuracy", "spread", "seeds"), [
    (872, 0.8, 0.0, 1), (408, 0.7, 0.05, 3), (1500, 0.6, 0.04, 5),
])  # fmt: skip
def test_the_smallest_effect_is_found_in_four_of_five_studies(items, accuracy, spread, seeds):
    """Fails if the power, the level or a part of the error is another: 1.96 for 2.8, say."""
    random = np.random.default_rng(items)
    se = with_seeds(accuracy_se(accuracy, items), spread, seeds)

    def found(effect: float) -> float:
        """How often a study's difference is beyond 1.96 of its standard errors."""
        rates = accuracy + np.array([effect, -effect])[:, None] / 2
        # Seeds move a model's accuracy, and items are the same under each: the mean is asked.
        moved = random.normal(0, spread / np.sqrt(seeds), (2, STUDIES))
        right = random.binomial(items, np.clip(rates + moved, 0, 1)) / items
        return float((np.abs(right[0] - right[1]) > 1.96 * se).mean())

    assert found(smallest_effect(se)) == pytest.approx(0.8, abs=0.03)
    assert found(0.0) == pytest.approx(0.05, abs=0.012)


def test_what_makes_items_hard_for_both_is_no_noise():
    """Fails if agreement is left out of the variance, or added to it."""
    random = np.random.default_rng(0)
    items, accuracy, agreement = 200, 0.7, 0.6
    # With the probability `agreement` both are right or wrong together.
    together = random.random((STUDIES, items)) < agreement
    first, second, both = random.random((3, STUDIES, items)) < accuracy
    gap = (np.where(together, both, first) - np.where(together, both, second) * 1.0).mean(1)
    expected = accuracy_se(accuracy, items, agreement=agreement)
    assert gap.std() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("metric", ["accuracy", "matthews", "f1", "spearman"])
def test_a_metrics_noise_is_that_of_made_up_models(metric):
    """Fails if a metric has another's noise, or more items do not lower it as they do."""
    of = {"accuracy": mean(2), "matthews": matthews(0, 1), "f1": f1(0, 1)}
    classes = 2 if metric in of else 1
    truth = np.arange(400) % 2.0 if classes == 2 else np.arange(400.0)
    se = metric_se(of.get(metric, spearman(0, 1)), truth, 0.7, classes=classes)
    known = {
        "accuracy": accuracy_se(0.7, 400),
        # Of balanced classes, twice the accuracy less 1.
        "matthews": 2 * accuracy_se(0.7, 400),
    }
    if metric in known:
        assert se == pytest.approx(known[metric], rel=0.1)
    more = metric_se(of.get(metric, spearman(0, 1)), np.tile(truth, 4), 0.7, classes=classes)
    assert more == pytest.approx(se / 2, rel=0.15)
