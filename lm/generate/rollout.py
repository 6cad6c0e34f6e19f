"""What a model puts behind prompts while it learns: a loop inside the jitted step."""

from typing import Any

import jax
import jax.numpy as jnp

from lm.example import CausalMask, Vocabulary, unanswered
from lm.loss import logits
from lm.model import Module
from lm.objectives.rollout import RolledOut


def roll_out(
    module: Module,
    params: Any,
    tokens_BL: jax.Array,
    prompt_B: jax.Array,
    end_B: jax.Array,
    key: jax.Array,
    count: int,
    *,
    vocabulary: Vocabulary,
) -> RolledOut:
    """Rows whose prompts go on as the model has it: see `lm.objectives.rollout.Generate`.

    Every token of the vocabulary may be drawn, by its probability: what is left out or made
    flatter would be samples of another model than the one that is to learn from them.
    """
    batch, length = tokens_BL.shape
    index_1L = jnp.arange(length)[None]
    room_B = jnp.where(prompt_B > 0, length - prompt_B, 0)

    def read(
        inputs_BL: jax.Array,
        segments_BL: jax.Array,
        positions_BL: jax.Array,
        last_B: jax.Array,
        cache: Any,
    ) -> tuple[jax.Array, Any]:
        """Scores of the token that comes next."""
        example = unanswered(
            inputs_BL,
            segments_BL.astype(jnp.int32),
            CausalMask(),
            positions_BL=positions_BL,
            target_positions_BP=last_B[:, None],
        )
        output, cache = module.apply({"params": params}, example, cache)
        return logits(output, einsum=module.einsum)[:, 0], cache

    def draw(scores_BV: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        token_B = jax.random.categorical(key, scores_BV)
        log_p_BV = jax.nn.log_softmax(scores_BV)
        log_p_B = jnp.take_along_axis(log_p_BV, token_B[:, None], axis=1)[:, 0]
        return token_B, log_p_B, -jnp.sum(jnp.exp(log_p_BV) * log_p_BV, axis=1)

    def is_end(token_B: jax.Array) -> jax.Array:
        return (token_B == vocabulary.eos) | (token_B == end_B)

    def goes_on(carry: tuple[Any, ...]) -> Any:
        step, _, ended_B, *_ = carry
        return (step < count) & ~ended_B.all()

    def one(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, drawn, ended_B, scores_BV, cache = carry
        new = draw(scores_BV, jax.random.fold_in(key, step))
        drawn = tuple(
            jax.lax.dynamic_update_slice_in_dim(x_BS, x_B[:, None], step, axis=1)
            for x_BS, x_B in zip(drawn, new, strict=True)
        )
        ended_B |= is_end(new[0]) | (step + 1 >= room_B)
        place_B1, first_B = (prompt_B + step)[:, None], jnp.zeros_like(prompt_B)
        scores_BV, cache = read(new[0][:, None], ~ended_B[:, None], place_B1, first_B, cache)
        return step + 1, drawn, ended_B, scores_BV, cache

    scores_BV, cache = read(
        tokens_BL,
        index_1L < prompt_B[:, None],
        jnp.broadcast_to(index_1L, tokens_BL.shape),
        jnp.maximum(prompt_B - 1, 0),
        module.init_cache(batch, length),
    )
    nothing_BS = jnp.zeros((batch, count))
    drawn = nothing_BS.astype(jnp.int32), nothing_BS, nothing_BS
    carry = jnp.int32(0), drawn, room_B == 0, scores_BV, cache
    _, drawn, *_ = jax.lax.while_loop(goes_on, one, carry)
    # What a row draws behind its end is nobody's.
    index_BL = index_1L - prompt_B[:, None]
    kept_BL = jnp.clip(index_BL, 0, count - 1)
    tokens, log_p_BL, entropy_BL = (jnp.take_along_axis(x, kept_BL, axis=1) for x in drawn)
    inside_BL = (index_BL >= 0) & (index_BL < jnp.minimum(room_B, count)[:, None])
    ends_BL = inside_BL & jax.vmap(is_end, 1, 1)(tokens)
    # A sample goes up to its first end, and holds it.
    sampled_BL = inside_BL & (jnp.cumsum(ends_BL, axis=1) - ends_BL == 0)
    prompts_BL = jnp.where(index_BL < 0, tokens_BL, vocabulary.pad)
    return RolledOut(
        jnp.where(sampled_BL, tokens, prompts_BL),
        sampled_BL,
        jnp.where(sampled_BL, log_p_BL, 0.0),
        jnp.where(sampled_BL, entropy_BL, 0.0),
        ends_BL.any(axis=1),
    )
