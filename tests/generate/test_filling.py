"""Masked tokens that are filled in several orders, against doing it by hand."""

from itertools import groupby

import numpy as np
import pytest

from lm.example import BidirectionalMask
from lm.generate import Sampling, fill_blanks
from tests.generate.test_generate import BEGIN, LENGTH, MASK, probabilities

TEXT = [MASK, 5, MASK, MASK, 4, MASK, MASK]


@pytest.mark.parametrize("steps", [None, 2, 9])
@pytest.mark.parametrize("order", ["certain", "left", "random", "diffusion"])
def test_blanks_are_filled_in_order(module, vocabulary, order, steps):
    """Fails if a step sees what it puts itself, takes another number of blanks or the wrong
    ones, or tells of another place.
    """
    for seed in range(3):
        params, row = module.init(seed), [BEGIN, *TEXT]
        found = fill_blanks(
            *(module, params, TEXT),
            vocabulary=vocabulary,
            length=LENGTH,
            order=order,
            steps=steps,
            sampling=Sampling(temperature=0, seed=seed),
            alternatives=2,
        )
        assert sorted(one.place for one in found) == [0, 2, 3, 5, 6]
        sizes = []
        for _, together in groupby(found, key=lambda one: one.step):
            step, left = [*together], [place for place, t in enumerate(row) if t == MASK]
            p = probabilities(module, params, row, BidirectionalMask())[:, 4:]
            p /= p.sum(-1, keepdims=True)
            places = [one.place + 1 for one in step]
            if order == "left":
                assert sorted(places) == left[: len(places)]
            if order == "certain":
                best = sorted(left, key=lambda place: -p[place].max())
                assert set(places) == set(best[: len(places)])
            for one in step:
                here = p[one.place + 1]
                assert one.token == 4 + here.argmax()
                assert one.log_p == pytest.approx(np.log(here.max()), abs=1e-4)
                assert [4 + place for place in np.argsort(-here)[:2]] == [
                    token for token, _ in one.alternatives
                ]
            for one in step:
                row[one.place + 1] = one.token
            sizes.append(len(places))
        if order != "diffusion":
            assert sizes == {None: [1] * 5, 2: [3, 2], 9: [1] * 5}[steps]


def test_diffusion_keeps_each_masked_by_chance(module, params, vocabulary):
    """Fails if what a step of diffusion fills is no binomial number of what is left, as the
    noise of training has it.
    """
    steps, first = 4, []
    for seed in range(300):
        found = fill_blanks(
            *(module, params, [MASK] * 8),
            vocabulary=vocabulary,
            length=LENGTH,
            order="diffusion",
            steps=steps,
            sampling=Sampling(seed=seed),
        )
        first.append([sum(one.step == step for one in found) for step in range(steps)])
    counts = np.array(first)
    assert (counts.sum(axis=1) == 8).all()
    # Each of 8 goes at a step that is uniform: binomial, with 8 x 1/4 x 3/4 as its variance.
    assert np.abs(counts.mean(axis=0) - 2).max() < 4 * (1.5 / 300) ** 0.5
    assert np.abs(counts.var(axis=0) - 1.5).max() < 0.5
