"""The compute between two variants, and what they held equal."""

import numpy as np
import pytest

from lm.scaling.compare import compare, frontier, held_equal
from lm.scaling.table import DataError, Runs

C = np.geomspace(1e18, 1e20, 6)


def variant(handicap, *, noise=0.0, seed=0, exponent=0.06):
    random = np.random.default_rng(seed)
    loss = 20 * (C / handicap) ** -exponent * np.exp(noise * random.normal(size=len(C)))
    return Runs(loss, flops_R=C)


@pytest.mark.parametrize("handicap", [0.5, 1.0, 16.0])
def test_a_handicap_comes_back(handicap):
    """Fails when the variants are exchanged: the inverse comes back."""
    found = compare(variant(1.0), variant(handicap), bootstrap=0)
    assert [point.multiplier for point in found.points] == pytest.approx([handicap] * 6)
    assert [point.flops_needed for point in found.points] == pytest.approx(handicap * C)


def test_the_multiplier_depends_on_compute():
    """Fails when one number is reported for variants of different exponents."""
    found = compare(variant(1.0), variant(1.0, exponent=0.05), bootstrap=0)
    times = [point.multiplier for point in found.points]
    assert times == pytest.approx((C**0.2).tolist())


def test_intervals_cover():
    """Fails when one variant's noise is left out."""
    inside = []
    for seed in range(150):
        ours, theirs = (
            variant(1.0, noise=0.01, seed=seed),
            variant(8.0, noise=0.01, seed=1000 + seed),
        )
        if np.all(np.diff(ours.loss_R) < 0) and np.all(np.diff(theirs.loss_R) < 0):
            point = compare(ours, theirs, bootstrap=200).points[2]
            inside.append(point.ci95[0] <= 8 <= point.ci95[1])
    assert np.mean(inside) > 0.89


def test_extrapolation_is_said():
    """Fails when a law drawn on is passed off as measured."""
    found = compare(variant(1.0), variant(30.0), bootstrap=0)
    # Within its rows, the second reaches what the first has at a thirtieth of 1e20.
    assert [point.extrapolated for point in found.points] == [
        p.flops > 1e20 / 30 for p in found.points
    ]
    assert any("extrapolated at 4 of 6" in warning for warning in found.warnings)


def test_only_the_frontier_counts():
    """Fails when runs that others beat with less compute are in the line."""
    worse = Runs(
        np.concatenate([variant(1.0).loss_R, variant(1.0).loss_R * 1.1]), flops_R=np.tile(C, 2)
    )
    assert frontier(worse).loss_R == pytest.approx(variant(1.0).loss_R)
    with pytest.raises(DataError, match="two budgets"):
        frontier(Runs(np.array([2.0, 3.0]), flops_R=np.array([1e18, 1e19])))
    with pytest.raises(DataError, match="two budgets"):
        compare(Runs(np.array([2.0]), flops_R=np.array([1e18])), variant(1.0))


def test_two_points_have_no_error_bars():
    """Fails when a line through two points claims to know its error."""
    two = variant(1.0).take(np.array([0, 5]))
    found = compare(two, variant(4.0))
    assert all(point.ci95 is None for point in found.points)
    assert any("no error bars" in warning for warning in found.warnings)


def test_what_was_held_equal():
    """Fails when order or repeats count, or text that is the same is told apart."""
    ours = {
        "tokens": ["1e9", "2e9"],
        "flops": [1.0, 2.0],
        "seed": [0, 0],
        "corpus_digest": ["a"],
    }
    theirs = {
        "tokens": [2e9, 1e9, 1e9],
        "flops": [2.0, 4.0],
        "seed": ["0"],
        "corpus_digest": ["b"],
    }
    equal, differ = held_equal(ours, theirs)
    assert equal == ["tokens", "seed"]
    assert differ == {"flops": 2.0, "corpus_digest": None}
