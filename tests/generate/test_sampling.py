"""Draws against distributions that are computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from lm.generate.sampling import RowSettings, Sampling, draw

SCORES = np.array([2.0, -1.0, 0.5, 2.0, 1.5, -0.5, 0.0, 3.0, 1.0])
SEEN, ALLOWED = np.arange(9) % 4 == 1, np.arange(9) != 7
DRAWS = 20_000


def by_hand(sampling: Sampling) -> np.ndarray:
    """The probability of each token, the plainest way."""
    theta, scores = sampling.repetition_penalty, SCORES.copy()
    for token in np.flatnonzero(SEEN):
        scores[token] = scores[token] / theta if scores[token] > 0 else scores[token] * theta
    p = np.where(ALLOWED, np.exp(scores / sampling.temperature), 0.0)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    p[order[sampling.top_k or len(p) :]] = 0
    p /= p.sum()
    order, total = np.argsort(-p, kind="stable"), 0.0
    for token in order:
        if total >= sampling.top_p:
            p[token] = 0
        total += p[token]
    p[p < sampling.min_p * p.max()] = 0
    return p / p.sum()


FILTERS = [
    Sampling(),
    Sampling(temperature=2.5),
    Sampling(top_k=3),
    Sampling(top_p=0.7),
    Sampling(min_p=0.3),
    Sampling(repetition_penalty=3.0),
    Sampling(temperature=1.5, top_k=6, top_p=0.9, min_p=0.2, repetition_penalty=1.3),
]


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
def test_small_draws_are_distributed_as_by_hand(sampling):
    """Fails if a filter keeps one token more or less, comes at another place, or scales p."""
    settings = RowSettings.of(sampling, len(SCORES))
    many = RowSettings(*(np.repeat(x, DRAWS) for x in settings))
    # Each row a seed of its own, and each seed at two of its steps.
    many = many._replace(seed_B=np.arange(DRAWS, dtype=np.uint32) // 2)
    rows = [np.tile(x, (DRAWS, 1)) for x in (SCORES.astype(np.float32), SEEN, ALLOWED)]
    drawn = jax.jit(draw)(
        jnp.array(rows[0]),
        many,
        seen_BV=rows[1],
        allowed_BV=rows[2],
        step_B=np.arange(DRAWS, dtype=np.int32) % 2,
    )
    found, p = np.bincount(drawn, minlength=len(SCORES)), by_hand(sampling)
    assert not found[p == 0].any()
    expected = DRAWS * p[p > 0]
    statistic = ((found[p > 0] - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(0.999, max(1, len(expected) - 1))


def test_small_the_likeliest_is_that_of_penalized_scores():
    """Fails if temperature 0 draws, or if what was written is not penalized then."""
    first = [Sampling(temperature=0), Sampling(temperature=0, repetition_penalty=2.0)]
    for sampling, seen, best in zip(first, (0, 0), (0, 3), strict=True):
        drawn = draw(
            jnp.array(SCORES, jnp.float32)[None],
            RowSettings.of(sampling, len(SCORES)),
            seen_BV=(np.arange(9) == seen)[None],
            allowed_BV=ALLOWED[None],
            step_B=np.zeros(1, np.int32),
        )
        assert drawn.tolist() == [best]
