"""What each objective hides, shows and asks for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.example import Vocabulary, content_of
from lm.objectives import AnyOrder, Causal, Masked

VOCABULARY = Vocabulary(
    size=50, pad=0, mask=1, begin=2, end=3, ordinary=4, begins_word=(True,) * 50
)
LENGTH = 64


def rows(batch: int = 8, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Rows of two documents with an end piece each, and padding of varying length."""
    random = np.random.default_rng(seed)
    tokens = random.integers(4, 50, (batch, LENGTH))
    segments = np.ones((batch, LENGTH), int)
    for row in range(batch):
        cut, stop = sorted(random.choice(np.arange(4, LENGTH), 2, replace=False))
        tokens[row, [0, cut]], tokens[row, [cut - 1, stop - 1]] = 2, 3
        segments[row, cut:] = 2
        tokens[row, stop:], segments[row, stop:] = 0, 0
    return jnp.array(tokens), jnp.array(segments)


def asked(example, length=LENGTH):
    """(row, position, target) of every prediction that counts."""
    positions = np.asarray(example.predict)
    used = np.asarray(example.weights) > 0
    return [
        (row, int(positions[row, slot]), int(example.targets[row, slot]))
        for row, slot in np.argwhere(used)
    ]


def test_causal_asks_for_every_content_piece_once_from_the_position_before():
    """Fails if the last position of a segment is asked for the next segment's piece."""
    tokens, segments = rows()
    example = Causal()(tokens, segments, VOCABULARY, jax.random.key(0))
    content = np.asarray(content_of(tokens, segments, VOCABULARY))
    weights = np.asarray(example.weights)
    assert weights.sum() == content.sum()
    for row, position in np.argwhere(weights > 0):
        assert content[row, position + 1]
        assert example.targets[row, position] == tokens[row, position + 1]
        assert segments[row, position] == segments[row, position + 1]


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5, 1.0])
def test_masked_hides_round_rate_times_content(rate):
    """Fails if the number is drawn per position (binomial) or floors in place of rounding."""
    tokens, segments = rows()
    example = Masked(rate=rate)(tokens, segments, VOCABULARY, jax.random.key(0))
    content = np.asarray(content_of(tokens, segments, VOCABULARY)).sum(1)
    expected = np.floor(np.float32(rate) * content + 0.5)
    assert (np.asarray(example.weights).sum(1) == expected).all()
    assert example.predict.shape[1] == Masked(rate=rate).slots(LENGTH)


@pytest.mark.parametrize("objective", [Masked(rate=0.4, mask=0.5, random=0.3), AnyOrder()])
def test_hidden_pieces_are_distinct_content_and_the_rest_is_shown(objective):
    """Fails if a begin piece or padding may be hidden, or an unused slot changes an input."""
    tokens, segments = rows()
    example = objective(tokens, segments, VOCABULARY, jax.random.key(1))
    content = np.asarray(content_of(tokens, segments, VOCABULARY))
    places = [(row, position) for row, position, _ in asked(example)]
    assert len(set(places)) == len(places)
    assert all(content[place] for place in places)
    assert all(int(tokens[row, at]) == target for row, at, target in asked(example))
    shown = np.ones(tokens.shape, bool)
    shown[tuple(np.transpose(places))] = False
    assert (np.asarray(example.inputs)[shown] == np.asarray(tokens)[shown]).all()


def test_masked_corruption_is_the_configured_split():
    """Fails if mask and random swap, or if random pieces may be special ones."""
    objective = Masked(rate=0.5, mask=0.6, random=0.3)
    tokens, segments = rows(batch=256)
    example = objective(tokens, segments, VOCABULARY, jax.random.key(2))
    row, at, target = np.transpose(asked(example))
    seen = np.asarray(example.inputs)[row, at]
    masked, kept = (seen == 1).mean(), (seen == target).mean()
    error = 4 * 0.5 / len(seen) ** 0.5
    assert masked == pytest.approx(0.6, abs=error)
    # A random piece is the true one at times.
    assert kept == pytest.approx(0.1 + 0.3 / 46, abs=error)
    assert set(seen[seen != 1]) <= set(range(3, 50))
    assert set(seen[(seen != 1) & (seen != target)]) == set(range(4, 50))


def test_any_order_draws_the_number_hidden_uniformly_and_weighs_by_its_inverse():
    """Fails if the number starts at 0, never reaches n, or if the weight is n or 1/m."""
    tokens = jnp.tile(jnp.array([[2, 5, 6, 7, 3]]), (4000, 1))
    example = AnyOrder()(tokens, jnp.ones_like(tokens), VOCABULARY, jax.random.key(3))
    number = (np.asarray(example.weights) > 0).sum(1)
    assert np.bincount(number, minlength=5)[1:] / 4000 == pytest.approx([0.25] * 4, abs=0.03)
    assert np.asarray(example.weights).sum(1) == pytest.approx(4.0)
    assert ((np.asarray(example.inputs) == 1).sum(1) == number).all()


@pytest.mark.parametrize("objective", [Causal(), Masked(), AnyOrder()])
def test_rows_of_padding_ask_for_nothing(objective):
    """Fails if a count of at least one is forced on an empty row."""
    zeros = jnp.zeros((2, LENGTH), int)
    example = objective(zeros, zeros, VOCABULARY, jax.random.key(0))
    assert np.asarray(example.weights).sum() == 0
    assert (np.asarray(example.inputs) == 0).all()


@pytest.mark.parametrize("objective", [Masked(), AnyOrder()])
def test_the_key_decides_the_masks(objective):
    """Fails if the key is ignored, or if anything else than the key is drawn from."""
    tokens, segments = rows()
    one, same, other = (
        objective(tokens, segments, VOCABULARY, jax.random.key(seed)).inputs
        for seed in (0, 0, 1)
    )
    assert (one == same).all()
    assert (one != other).any()
