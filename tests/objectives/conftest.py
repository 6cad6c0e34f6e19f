"""Rows that every objective must take: two documents with an eos token each, then padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.example import Batch, Vocabulary
from lm.verify.rows import channel

LENGTH = 64
SENTINELS = tuple(range(4, 20))
VOCABULARY = Vocabulary(
    size=66,
    pad=0,
    mask=1,
    bos=2,
    eos=3,
    first_ordinary=20,
    # Two in five ordinary tokens begin a word.
    begins_word=(True,) * 20 + tuple(token % 5 < 2 for token in range(46)),
    sentinels=SENTINELS,
)


def make_rows(batch: int = 8, seed: int = 0, length: int = LENGTH):
    random = np.random.default_rng(seed)
    tokens = random.integers(20, 66, (batch, length))
    segments = np.ones((batch, length), int)
    for row in range(batch):
        cut, stop = sorted(random.choice(np.arange(4, length), 2, replace=False))
        tokens[row, [0, cut]], tokens[row, [cut - 1, stop - 1]] = 2, 3
        segments[row, cut:] = 2
        tokens[row, stop:], segments[row, stop:] = 0, 0
    return jnp.array(tokens), jnp.array(segments)


def make_whole_rows(batch: int, length: int, seed: int = 0):
    """Rows of one document that goes on: all but the bos token is content."""
    tokens = np.random.default_rng(seed).integers(20, 66, (batch, length))
    tokens[:, 0] = 2
    return jnp.array(tokens), jnp.ones((batch, length), int)


def batch_of(objective, tokens, segments) -> Batch:
    """The rows with the channels that an objective needs: every third document has no label.

    Documents are pairs, of which the first half was chosen.
    """
    first = jnp.arange(len(tokens))[:, None] + segments
    pairs = {"reference": -jnp.ones(tokens.shape)}
    by_half = "choice", "loss", "side"
    pairs |= {name: channel(name, segments, jnp.int32(0)) for name in by_half}
    labelled = (segments > 0) & (first % 3 > 0)
    found = {
        name: pairs[name]
        if name in pairs
        else jnp.where(labelled, first % classes, -1)
        if classes
        else jnp.where(labelled, first / 4, jnp.nan)
        for name, classes in objective.needs.items()
    }
    return Batch(tokens, segments, found)


@functools.cache
def _jitted(objective, vocabulary):
    def call(tokens, segments, key, progress):
        batch = batch_of(objective, tokens, segments)
        return objective(batch, vocabulary, key, progress)

    return jax.jit(call)


@pytest.fixture
def ask():
    """An objective's example, compiled once for each objective and shape."""

    def ask(objective, rows, *, seed=0, progress=1.0, vocabulary=VOCABULARY):
        return _jitted(objective, vocabulary)(*rows, jax.random.key(seed), progress)

    return ask


@pytest.fixture
def channels():
    return batch_of


@pytest.fixture
def vocabulary() -> Vocabulary:
    return VOCABULARY


@pytest.fixture
def rows():
    return make_rows


@pytest.fixture
def whole_rows():
    return make_whole_rows
