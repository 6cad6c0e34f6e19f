"""What each objective hides, shows and asks for."""

import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import UserError
from lm.example import content_of
from lm.objectives import AnyOrder, Causal, Drawn, Masked
from lm.run import Run, validate


def asked(example):
    """(row, position, target) of every prediction that counts."""
    positions = np.asarray(example.target_positions)
    used = np.asarray(example.weights) > 0
    return [
        (row, int(positions[row, slot]), int(example.targets[row, slot]))
        for row, slot in np.argwhere(used)
    ]


def test_causal_asks_for_every_content_token_once_from_the_position_before(
    rows, ask, vocabulary
):
    """Fails if the last position of a segment is asked for the next segment's token."""
    tokens, segments = rows()
    example = ask(Causal(), (tokens, segments))
    content = np.asarray(content_of(tokens, segments, vocabulary))
    weights = np.asarray(example.weights)
    assert weights.sum() == content.sum()
    for row, position in np.argwhere(weights > 0):
        assert content[row, position + 1]
        assert example.targets[row, position] == tokens[row, position + 1]
        assert segments[row, position] == segments[row, position + 1]


@pytest.mark.parametrize(
    ("masked", "spread"), [(0.3, 0.0), (Drawn(low=0.2, high=0.8), 0.6 / 12**0.5)]
)
def test_noise_masks_the_input_of_a_gpt_and_no_target(
    masked, spread, whole_rows, ask, vocabulary
):
    """Fails if a target or a bos token is masked, or all rows have one rate."""
    tokens, segments = whole_rows(400, 201)
    usual, noised = (
        ask(objective, (tokens, segments)) for objective in (Causal(), Causal(masked=masked))
    )
    seen, content = np.asarray(noised.inputs), np.asarray(tokens)
    blank = seen == vocabulary.mask
    assert (seen[~blank] == content[~blank]).all() and not blank[:, 0].any()
    for name in ("targets", "weights", "segments", "positions"):
        assert (getattr(noised, name) == getattr(usual, name)).all()
    rates = blank[:, 1:].mean(1)
    assert rates.mean() == pytest.approx(0.5 if spread else 0.3, abs=0.03)
    # What a binomial of 200 adds is the same for both.
    assert rates.std() == pytest.approx(np.hypot(spread, 0.0325), abs=0.01)


def test_noise_between_rates_that_are_turned_round_is_refused():
    """Fails if rates from 0.8 to 0.2 are drawn from nothing."""
    with pytest.raises(UserError, match=r"objective.masked.low=0.8 is above its high=0.2"):
        validate(Run(objective=Causal(masked=Drawn(low=0.8, high=0.2))))


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5, 1.0])
def test_masked_masks_round_rate_times_content(rate, rows, ask, vocabulary):
    """Fails if the number is drawn per position (binomial) or floors in place of rounding."""
    tokens, segments = rows()
    example = ask(Masked(rate=rate), (tokens, segments))
    content = np.asarray(content_of(tokens, segments, vocabulary)).sum(1)
    expected = np.floor(np.float32(rate) * content + 0.5)
    assert (np.asarray(example.weights).sum(1) == expected).all()
    assert example.target_positions.shape[1] == Masked(rate=rate).target_count(tokens.shape[1])


@pytest.mark.parametrize("objective", [Masked(rate=0.4, mask=0.5, random=0.3), AnyOrder()])
def test_masked_tokens_are_distinct_content_and_the_rest_is_shown(
    objective, rows, ask, vocabulary
):
    """Fails if a bos token or padding may be masked, or an unused target position changes an
    input.
    """
    tokens, segments = rows()
    example = ask(objective, (tokens, segments), seed=1)
    content = np.asarray(content_of(tokens, segments, vocabulary))
    places = [(row, position) for row, position, _ in asked(example)]
    assert len(set(places)) == len(places)
    assert all(content[place] for place in places)
    assert all(int(tokens[row, at]) == target for row, at, target in asked(example))
    shown = np.ones(tokens.shape, bool)
    shown[tuple(np.transpose(places))] = False
    assert (np.asarray(example.inputs)[shown] == np.asarray(tokens)[shown]).all()


def test_masked_corruption_is_the_configured_split(rows, ask, vocabulary):
    """Fails if mask and random swap, or if random tokens may be special ones."""
    objective = Masked(rate=0.5, mask=0.6, random=0.3)
    tokens, segments = rows(batch=256)
    example = ask(objective, (tokens, segments), seed=2)
    row, at, target = np.transpose(asked(example))
    seen = np.asarray(example.inputs)[row, at]
    masked, kept = (seen == 1).mean(), (seen == target).mean()
    error = 4 * 0.5 / len(seen) ** 0.5
    assert masked == pytest.approx(0.6, abs=error)
    # A random token is the true one at times.
    assert kept == pytest.approx(0.1 + 0.3 / 46, abs=error)
    ordinary = set(range(vocabulary.first_ordinary, vocabulary.size))
    assert set(seen[seen != 1]) <= ordinary | {vocabulary.eos}
    assert set(seen[(seen != 1) & (seen != target)]) == ordinary


def test_any_order_draws_the_number_masked_uniformly_and_weighs_by_its_inverse(ask):
    """Fails if the number starts at 0, never reaches n, or if the weight is n or 1/m."""
    tokens = jnp.tile(jnp.array([[2, 5, 6, 7, 3]]), (4000, 1))
    example = ask(AnyOrder(), (tokens, jnp.ones_like(tokens)), seed=3)
    number = (np.asarray(example.weights) > 0).sum(1)
    assert np.bincount(number, minlength=5)[1:] / 4000 == pytest.approx([0.25] * 4, abs=0.03)
    assert np.asarray(example.weights).sum(1) == pytest.approx(4.0)
    assert ((np.asarray(example.inputs) == 1).sum(1) == number).all()
