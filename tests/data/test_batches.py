"""Rows: each token a target once an epoch, the same whoever asks and wherever they start."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from lm.config import UserError
from lm.data import (
    Batches,
    Bytes,
    Data,
    Split,
    Text,
    n_rows,
    open_tokenizer,
    open_tokens,
    rows,
    unique_rows,
)
from lm.data.batches import shuffled
from lm.data.digest import array_digest, chained
from lm.example import Batch

TOKENIZER = open_tokenizer(Bytes())
VOCABULARY = TOKENIZER.vocabulary


def assert_same(a: Batch, b: Batch) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def numbered(sizes: list[int]) -> Split:
    """A stream of documents of these lengths whose token at index i is 100 + i."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    tokens = ts.array(np.arange(100, 100 + offsets[-1], dtype=np.int32))
    return Split(tokens, offsets, np.array(sizes), [str(size) for size in sizes], TOKENIZER)


streams = st.lists(st.integers(2, 12), min_size=1, max_size=12).map(numbered)


@given(split=streams, length=st.integers(2, 20), batch=st.integers(1, 9), seed=st.integers(0))
def test_every_token_is_a_target_candidate_once_an_epoch(
    split: Split, length: int, batch: int, seed: int
) -> None:
    """Fails if windows overlap by none or two, the last is lost, or the shuffle repeats."""
    n = n_rows(split, length)
    batches = Batches(split, VOCABULARY, length, batch, seed)
    for epoch in (0, 1):
        first, last = epoch * n, (epoch + 1) * n
        found = [batches(step) for step in range(first // batch, -(-last // batch))]
        tokens = np.concatenate([part.tokens_BL for part in found])
        segments = np.concatenate([part.segments_BL for part in found])
        skip = first - first // batch * batch
        tokens, segments = tokens[skip : skip + n], segments[skip : skip + n]
        targets = np.sort(tokens[:, 1:][segments[:, 1:] > 0])
        np.testing.assert_array_equal(targets, np.arange(101, 100 + split.size))
        assert np.all(tokens[:, 0] == VOCABULARY.bos)
        assert np.all(segments[:, :2] > 0)  # a row has something to predict


@given(split=streams, length=st.integers(2, 20))
def test_segments_follow_the_documents(split: Split, length: int) -> None:
    """Fails if the search takes the wrong side of a boundary, or segments do not start at 1."""
    found = rows(split, range(n_rows(split, length)), length, VOCABULARY)
    owner = np.repeat(np.arange(len(split.bytes)), split.bytes)
    for row, (tokens, segments) in enumerate(zip(*jax.tree.leaves(found), strict=True)):
        window = owner[row * (length - 1) :][:length]
        expected = np.zeros(length, np.int32)
        expected[: len(window)] = window - window[0] + 1
        np.testing.assert_array_equal(segments, expected)
        assert np.all((tokens == VOCABULARY.pad) == (segments == 0))
    padded = np.any(found.segments_BL == 0, axis=1)
    assert not padded[:-1].any()


def test_shuffles_are_permutations_of_their_own() -> None:
    """Fails if epochs or seeds share an order, or neighbours of both meet (seed + epoch)."""
    orders = {
        tuple(shuffled(index, n, seed=seed, epoch=epoch) for index in range(n))
        for n in (50, 3000)
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 18
    assert all(sorted(order) == list(range(len(order))) for order in orders)
    assert shuffled(0, 1, seed=2**70, epoch=0) == 0


def test_the_next_epoch_has_another_order(batches: Batches) -> None:
    """Fails if the epoch is left out of the shuffle's seed."""
    n = n_rows(batches.split, 32)
    epoch = Batches(batches.split, VOCABULARY, 32, n, 0)
    first, second = epoch(0).tokens_BL, epoch(1).tokens_BL
    assert not np.array_equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist())


@given(
    split=streams,
    length=st.integers(2, 8),
    batch=st.integers(1, 5),
    seed=st.integers(0),
    fraction=st.floats(0.01, 1),
)
def test_a_part_of_the_text_is_read_again_and_again(
    split, length, batch, seed, fraction
) -> None:
    """Fails if other rows come in, a row is left out of an epoch, or the first is another."""
    n = n_rows(split, length)
    few = max(1, round(fraction * n))
    every = Batches(split, VOCABULARY, length, batch, seed)
    part = Batches(split, VOCABULARY, length, batch, seed, unique=few * length)
    steps = range(-(-3 * few // batch))
    found = np.concatenate([part(step).tokens_BL for step in steps])
    first = np.concatenate([every(step).tokens_BL for step in steps])[:few]
    np.testing.assert_array_equal(found[:few], first)
    for epoch in (1, 2):
        again = found[epoch * few : (epoch + 1) * few]
        assert sorted(again.tolist()) == sorted(first.tolist())


def test_repeated_text_has_another_order_each_time(batches: Batches) -> None:
    """Fails if the epochs of a part of the text are all in the first one's order."""
    part = Batches(batches.split, VOCABULARY, 32, 12, 7, unique=12 * 32)
    orders = {part(epoch).tokens_BL.tobytes() for epoch in range(4)}
    assert len(orders) == 4


def test_unique_tokens_are_whole_rows_of_those_that_there_are(batches: Batches) -> None:
    """Fails if the last row is cut, or more is promised than the text has."""
    n = n_rows(batches.split, 32)
    for unique, found in ((None, n), (32, 1), (33, 2), (32 * n, n)):
        assert unique_rows(batches.split, 32, unique) == found
    with pytest.raises(UserError, match=rf"^data.unique=.*has {32 * n:,} tokens[^\n]*$"):
        unique_rows(batches.split, 32, 32 * n + 1)


def test_the_order_of_rows_is_pinned() -> None:
    """Fails if a release of grain or NumPy shuffles otherwise: runs could not be resumed."""
    small = [shuffled(index, 12, seed=3, epoch=1) for index in range(12)]
    assert small == [4, 6, 3, 10, 9, 11, 2, 7, 8, 5, 1, 0]
    large = [shuffled(index, 10**6, seed=3, epoch=1) for index in range(5)]
    assert large == [386252, 294681, 980677, 444051, 107657]


@pytest.fixture
def batches(corpus: Text) -> Batches:
    tokens = open_tokens(Data(corpus=corpus, tokenizer=Bytes(), validation=0.2))
    return Batches(tokens.train, tokens.tokenizer.vocabulary, 32, 16, 7)


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_together_read_the_global_batch(batches: Batches, hosts: int) -> None:
    """Fails if a host shuffles its own share, or reads another's."""
    fraction = batches.batch // hosts
    for step in (0, 3, 40):
        parts = [batches(step, slice(h * fraction, (h + 1) * fraction)) for h in range(hosts)]
        assert all(len(part.tokens_BL) == fraction for part in parts)
        for whole, *fractions in zip(
            *map(jax.tree.leaves, [batches(step), *parts]), strict=True
        ):
            np.testing.assert_array_equal(whole, np.concatenate(fractions))


def test_starting_at_a_step_is_resuming(batches: Batches) -> None:
    """Fails if iteration has state, skips what was read ahead, or ends early or late."""
    whole = list(batches.iterate(0, 60))
    assert len(whole) == 60 and 60 * batches.batch > n_rows(batches.split, 32)
    for start in (0, 17, 59):
        for step, found in enumerate(batches.iterate(start, 60), start):
            assert_same(found, whole[step])
            assert_same(found, batches(step))
    assert list(batches.iterate(60, 60)) == []
    part = next(batches.iterate(5, 60, slice(4, 8)))
    np.testing.assert_array_equal(part.tokens_BL, whole[5].tokens_BL[4:8])


def test_rows_are_the_text(batches: Batches) -> None:
    """Fails if tokens and offsets disagree: a whole segment is a document."""
    texts = {batches.split.text(document) for document in range(len(batches.split.ids))}
    found = rows(batches.split, np.arange(n_rows(batches.split, 400)), 400, VOCABULARY)
    whole = 0
    for tokens, segments in zip(*jax.tree.leaves(found), strict=True):
        for segment in range(2, segments.max()):
            text = TOKENIZER.decode(tokens[segments == segment])
            assert text in texts
            whole += 1
    assert whole > 5


def test_batches_outrun_training_tenfold() -> None:
    """Fails if each row decodes a whole shard: 20,000 tokens a second train, times ten."""
    fast = Batches(open_tokens(Data(tokenizer=Bytes())).train, VOCABULARY, 256, 32, 0)
    start = time.monotonic()
    for step in range(50):
        fast(step)
    assert 50 * 32 * 256 / (time.monotonic() - start) > 200_000


def test_the_digest_of_a_batch_is_of_its_channels_too() -> None:
    """Fails if two labels of one text are one batch, or if rows without any have another."""
    tokens, segments = jnp.arange(12).reshape(2, 6), jnp.ones((2, 6), int)
    before = jnp.array([1, 2], jnp.uint32)
    plain = chained(before, Batch(tokens, segments))
    parts = [before, array_digest(tokens), array_digest(segments)]
    assert plain.tolist() == array_digest(jnp.concatenate(parts)).tolist()
    zeros, ones = jnp.zeros((2, 6), int), jnp.ones((2, 6, 3), int)
    digests = {
        str(chained(before, Batch(tokens, segments, channels)))
        for channels in ({}, {"a": zeros}, {"a": ones}, {"a": zeros, "b": ones})
    }
    assert len(digests) == 4
