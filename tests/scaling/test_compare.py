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


PINNED = {"E": 1.6, "k_L": 95.18, "x": 0.0941}


def test_against_a_law_of_constants():
    """Fails if the floor of either is dropped, or the law's constants are given an error."""
    flops = np.geomspace(1e18, 1e22, 6)
    third = Runs(1.6 + 95.18 * (3 * flops) ** -0.0941, flops_R=flops)  # a third does
    found = compare(third, PINNED, floor=1.6, bootstrap=50)
    assert [point.multiplier for point in found.points] == pytest.approx([3.0] * 6)
    assert found.per_decade == pytest.approx(1.0)
    assert not any(point.extrapolated for point in found.points)
    noise = np.exp(0.002 * np.random.default_rng(0).normal(size=6))
    noisy = compare(Runs(third.loss_R * noise, flops_R=flops), PINNED, floor=1.6)
    assert all(point.ci95[0] < 3 < point.ci95[1] for point in noisy.points)
    assert noisy.per_decade_ci95[0] < 1 < noisy.per_decade_ci95[1]
    with pytest.raises(DataError, match="not above the second variant's floor"):
        compare(third, PINNED | {"E": 2.6})
    with pytest.raises(DataError, match="--law: x is not given"):
        compare(third, {"k_L": 95.18})
    with pytest.raises(DataError, match="--floor 5: must be below"):
        compare(third, PINNED, floor=5.0)


def test_how_the_multiplier_grows():
    """Fails if it is of another than ten times the compute."""
    found = compare(variant(1.0), variant(1.0, exponent=0.05), bootstrap=0)
    assert found.per_decade == pytest.approx(10**0.2) and found.per_decade_ci95 is None


def test_two_variants_of_the_pinned_law():
    """Fails if variants of one floor are compared without it: both need as much, within 7%."""
    flops = np.array([2.19e17, 1.7e18, 9e18, 2.83e19])
    losses = [3.8165, 3.4360, 3.1637, 3.0133], [3.8382, 3.4314, 3.1713, 3.0181]
    ours, theirs = (Runs(np.array(loss), flops_R=flops) for loss in losses)
    found = compare(ours, theirs, floor=1.6)
    for point in found.points:
        assert point.multiplier == pytest.approx(1.03, abs=0.06)
        assert point.ci95[0] < 1 < point.ci95[1]
