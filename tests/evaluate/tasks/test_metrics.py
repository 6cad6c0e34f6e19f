"""Metrics by hand and by scipy; intervals that hold what they say."""

import math

import numpy as np
import pytest
from scipy import stats

from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.metrics import (
    difference,
    estimate,
    f1,
    matthews,
    mean,
    pearson,
    spearman,
)


def columns(true_positive, false_positive, false_negative, true_negative):
    counts = (true_positive, false_positive, false_negative, true_negative)
    return np.repeat([[1.0, 1], [0, 1], [1, 0], [0, 0]], counts, axis=0)


def test_f1_and_matthews_by_hand():
    """Fails if truth and guess change places, or the other class is the one that counts."""
    tp, fp, fn, tn = 7, 2, 4, 9
    found = columns(tp, fp, fn, tn)
    precision, recall = tp / (tp + fp), tp / (tp + fn)
    assert f1(0, 1)(found) == pytest.approx(2 * precision * recall / (precision + recall))
    wanted = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(0, 1)(found) == pytest.approx(wanted)
    assert matthews(0, 1)(1 - found) == pytest.approx(wanted)
    assert f1(0, 1)(1 - found) == pytest.approx(2 * tn / (2 * tn + fp + fn))
    assert matthews(0, 1)(columns(3, 4, 0, 0)) == 0 == f1(0, 1)(columns(0, 0, 0, 5))


def test_correlations_are_scipys():
    """Fails if ties have other ranks than their mean, or ranks are taken for values."""
    random = np.random.default_rng(0)
    found = np.stack([random.integers(6, size=40), random.normal(size=40)], axis=1)
    found[:, 1] = np.exp(found[:, 0] + found[:, 1]).round(1)
    for of, theirs in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        assert of(0, 1)(found) == pytest.approx(theirs(*found.T).statistic)
    found[:, 1] = 2
    assert pearson(0, 1)(found) == 0 == spearman(0, 1)(found)


def test_an_interval_holds_the_truth_as_often_as_it_says(monkeypatch):
    """Fails if too few are drawn, without replacement, or the quantiles are others."""
    monkeypatch.setattr(metrics, "RESAMPLES", 100)
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        found = estimate(mean(0), random.random((1, 60, 1)) < 0.7)
        assert found.low <= found.value <= found.high
        inside += found.low <= 0.7 <= found.high
    # 95, but for four errors of a count; percentiles of 60 items are a bit narrow.
    assert inside >= 85


def test_an_interval_is_as_wide_as_the_error():
    """Fails if items of one seed are drawn apart from those of another, or seeds are not
    drawn.
    """
    random = np.random.default_rng(0)
    one = random.normal(size=(1, 400, 1))
    found = estimate(mean(0), one)
    width = 2 * 1.96 * one.std() / math.sqrt(400)
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    assert found.value == pytest.approx(one.mean())
    # Five seeds with the same answers know no more than one does.
    same = estimate(mean(0), np.repeat(one, 5, axis=0))
    assert same.high - same.low == pytest.approx(width, rel=0.1)
    # Seeds that differ by more than items do make it wider.
    apart = one + np.arange(5.0)[:, None, None]
    spread = estimate(mean(0), apart)
    assert spread.value == pytest.approx(one.mean() + 2)
    error = math.sqrt(2 / 5 + one.var() / 400)
    assert spread.high - spread.low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_a_paired_difference_knows_less_error_than_both_have():
    """Fails if each candidate's items are drawn apart, or the sign is turned round."""
    random = np.random.default_rng(0)
    hard = random.normal(size=(1, 300, 1), scale=5)
    mine, other = hard + 0.5 + random.normal(size=(1, 300, 1)) / 5, hard
    found = difference(mean(0), mine, other)
    assert 0.4 < found.low < found.value < found.high < 0.6
    assert difference(mean(0), other, mine).value == pytest.approx(-found.value)
    assert set(difference(mean(0), hard, hard).values()) == {0}
    # One that draws nothing is the same under each of the other's seeds.
    several = np.concatenate([hard, hard + 2])
    found = difference(mean(0), several, hard)
    assert found.value == pytest.approx(1) and found.low == 0 and found.high == 2
    with pytest.raises(ValueError, match="not asked the same items"):
        difference(mean(0), hard, hard[:, :4])


def test_a_metric_of_several_seeds_is_the_mean_of_theirs():
    """Fails if the seeds' items are thrown together, which F1 is not the mean of."""
    one, other = columns(4, 1, 1, 4), columns(1, 0, 8, 1)
    found = estimate(f1(0, 1), np.stack([one, other]))
    assert found.value == pytest.approx((f1(0, 1)(one) + f1(0, 1)(other)) / 2)
