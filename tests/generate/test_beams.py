"""Beam search against all texts there are."""

import itertools

import numpy as np
import pytest

from lm.config import UserError
from lm.example import CausalMask
from lm.generate.beams import beam_search
from tests.generate.test_generate import probabilities

BEGIN, END, ORDINARY = 2, 3, (4, 5, 6)
COUNT = 3


def all_texts(module, params, prompt):
    """Log-probabilities of all texts of up to COUNT tokens, of the tokens that may come."""
    found = {}
    for size in range(COUNT):
        for begun in itertools.product(ORDINARY, repeat=size):
            row = [BEGIN, *prompt, *begun]
            p = probabilities(module, params, row, CausalMask())[-1, END:]
            for token, each in zip((END, *ORDINARY), np.log(p / p.sum()), strict=True):
                found[(*begun, token)] = found.get(begun, 0.0) + each
    return {y: p for y, p in found.items() if y[-1] == END or len(y) == COUNT}


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_wide_beams_find_what_exhaustive_search_finds(tiny, vocabulary, penalty):
    """Fails if a cache goes with another beam, the penalty leaves the end out, texts that
    ended are lost, or the search ends too soon.
    """
    module = tiny(end=0.5)
    for seed in range(3):
        params, prompt = module.init(seed), [5, 4]
        scored = {
            y: p / ((5 + len(y)) / 6) ** penalty
            for y, p in all_texts(module, params, prompt).items()
        }
        best = sorted(scored, key=lambda y: -scored[y])
        how = {"vocabulary": vocabulary, "length": 12, "count": COUNT}
        found = beam_search(*(module, params, prompt), beams=27, length_penalty=penalty, **how)
        for beam, y in zip(found[:10], best, strict=False):
            assert (*beam.tokens, *([END] if beam.ended else [])) == y
            assert beam.score == pytest.approx(scored[y], abs=1e-4)
        (one,) = beam_search(*(module, params, prompt), beams=1, length_penalty=penalty, **how)
        assert one.score <= found[0].score + 1e-5


def test_beams_forget_nothing(module, params, vocabulary):
    """Fails if a row overflows in silence."""
    with pytest.raises(UserError, match="count=9 after a prompt of 4 tokens"):
        beam_search(module, params, [4, 5, 6], vocabulary=vocabulary, length=12, count=9)
