"""How a token is drawn from scores, each row by its own settings: flattened, cut, penalized.

Only the probabilities that are drawn from change: log-probabilities that are told are the
model's own.
"""

from typing import Annotated, Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from msgspec import Meta

from lm.config import Config, Count


class Sampling(Config):
    """How the tokens of one text are drawn; by default from what the model says."""

    temperature: Annotated[
        float, Meta(ge=0, description="that scores are divided by; 0 takes the likeliest")
    ] = 1.0
    top_k: (
        Annotated[Count, Meta(description="draw from this many likeliest; null: all")] | None
    ) = None
    top_p: Annotated[
        float,
        Meta(gt=0, le=1, description="draw from the likeliest that make up this probability"),
    ] = 1.0
    min_p: Annotated[
        float,
        Meta(
            ge=0, le=1, description="leave out what is less likely, relative to the likeliest"
        ),
    ] = 0.0
    repetition_penalty: Annotated[
        float,
        Meta(gt=0, description="that scores of tokens in the text so far are divided by"),
    ] = 1.0
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="of the draws")] = 0


class RowSettings(NamedTuple):
    """The `Sampling` of each row, on the device."""

    temperature_B: Any
    top_k_B: Any
    """int32[B]: the size of the vocabulary, where all may be drawn."""
    top_p_B: Any
    min_p_B: Any
    penalty_B: Any
    seed_B: Any

    @classmethod
    def of(cls, sampling: Sampling, size: int) -> Self:
        """The settings of one row, for a vocabulary of a size."""
        return cls(
            # What is colder than this is 0: scores divided by it may be no numbers.
            np.full(1, sampling.temperature if sampling.temperature >= 1e-6 else 0, np.float32),
            np.full(1, min(size, sampling.top_k or size), np.int32),
            np.full(1, sampling.top_p, np.float32),
            np.full(1, sampling.min_p, np.float32),
            np.full(1, sampling.repetition_penalty, np.float32),
            np.full(1, sampling.seed, np.uint32),
        )


def draw(
    scores_BV: jax.Array,
    settings: RowSettings,
    *,
    seen_BV: jax.Array,
    allowed_BV: jax.Array,
    step_B: jax.Array,
) -> jax.Array:
    """A token of each row, int32[B]; what a row draws depends on nothing but itself.

    `seen` are the tokens that are penalized, `allowed` those that may come, and `step` says how
    many the row has drawn: with its seed it is the key of this draw.
    """
    scores_BV = weighted(scores_BV, settings, seen_BV=seen_BV, allowed_BV=allowed_BV)
    likeliest_B = scores_BV.argmax(axis=1)

    def drawn_B() -> jax.Array:
        def one(seed: jax.Array, step: jax.Array, scores_V: jax.Array) -> jax.Array:
            key = jax.random.fold_in(jax.random.key(seed), step)
            return jax.random.categorical(key, scores_V)

        return jax.vmap(one)(settings.seed_B, step_B, scores_BV)

    random_B = settings.temperature_B > 0
    # Random numbers for a whole vocabulary cost as much as a small model does.
    token_B = jax.lax.cond(random_B.any(), drawn_B, lambda: likeliest_B)
    return jnp.where(random_B, token_B, likeliest_B).astype(jnp.int32)


def weighted(
    scores_BV: jax.Array, settings: RowSettings, *, seen_BV: jax.Array, allowed_BV: jax.Array
) -> jax.Array:
    """Scores whose softmax is what each row is drawn from; -inf is what is not drawn.

    The penalty comes first, then the temperature, then top-k, then top-p of what that left
    (Holtzman et al. 2020), then min-p (Nguyen et al. 2024). A score of a token in the text so
    far is divided by the penalty (Keskar et al. 2019, section 4.1), a negative one multiplied:
    divided, it would be made likelier.
    """
    penalty_B1 = settings.penalty_B[:, None]
    less_BV = jnp.where(scores_BV > 0, scores_BV / penalty_B1, scores_BV * penalty_B1)
    scores_BV = jnp.where(seen_BV, less_BV, scores_BV)
    temperature_B = settings.temperature_B
    # Of a row without one the likeliest is taken, which no temperature changes.
    scores_BV = scores_BV / jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None]
    scores_BV = jnp.where(allowed_BV, scores_BV, -jnp.inf)
    cuts_B = (settings.top_k_B < scores_BV.shape[1]) | (settings.top_p_B < 1)
    cuts_B |= settings.min_p_B > 0
    return jax.lax.cond(
        cuts_B.any(), _cut_off, lambda scores_BV, _: scores_BV, *(scores_BV, settings)
    )


def _cut_off(scores_BV: jax.Array, settings: RowSettings) -> jax.Array:
    ones_BV = jnp.ones_like(scores_BV)
    kept_BV = _top(scores_BV, ones_BV, settings.top_k_B.astype(jnp.float32))
    scores_BV = jnp.where(kept_BV, scores_BV, -jnp.inf)
    p_BV = jax.nn.softmax(scores_BV, axis=1)
    kept_BV = _top(scores_BV, p_BV, settings.top_p_B) | (settings.top_p_B >= 1)[:, None]
    kept_BV &= p_BV >= settings.min_p_B[:, None] * p_BV.max(axis=1, keepdims=True)
    return jnp.where(kept_BV, scores_BV, -jnp.inf)


def _top(scores_BV: jax.Array, weight_BV: jax.Array, enough_B: jax.Array) -> jax.Array:
    """The fewest highest scores whose weights sum up to enough, bool[B, V].

    Of equal scores the first ones are taken. The lowest score that is needed is found bit by
    bit, in 32 passes and without a sort.

    >>> scores = jnp.array([[1.0, 3.0, 1.0, 2.0]])
    >>> _top(scores, jnp.ones_like(scores), jnp.array([3.0])).tolist()
    [[True, True, False, True]]
    """
    # As unsigned numbers in the same order.
    bits_BV = jax.lax.bitcast_convert_type(scores_BV.astype(jnp.float32), jnp.uint32)
    sign = jnp.uint32(1 << 31)
    order_BV = jnp.where(bits_BV >= sign, ~bits_BV, bits_BV | sign)

    def one(number: jax.Array, least_B: jax.Array) -> jax.Array:
        higher_B = least_B | (sign >> number.astype(jnp.uint32))
        above_BV = order_BV >= higher_B[:, None]
        found_B = jnp.where(above_BV, weight_BV, 0.0).sum(axis=1)
        return jnp.where(found_B >= enough_B, higher_B, least_B)

    least_B1 = jax.lax.fori_loop(0, 32, one, jnp.zeros(len(scores_BV), jnp.uint32))[:, None]
    above_BV, equal_BV = order_BV > least_B1, order_BV == least_B1
    sum_B1 = jnp.where(above_BV, weight_BV, 0.0).sum(axis=1, keepdims=True)
    weight_BV = jnp.where(equal_BV, weight_BV, 0.0)
    before_BV = sum_B1 + jnp.cumsum(weight_BV, axis=1) - weight_BV
    return above_BV | (equal_BV & (before_BV < enough_B[:, None]))
