"""The likeliest texts: beam search, several beginnings at once by one cache."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.distributed.hosts import fetch
from lm.example import CausalMask, Source, Vocabulary, positions_of, unanswered
from lm.loss import logits
from lm.model import Module

LENGTH_PENALTY = 0.6
"""Of Wu et al. (2016), who found it best of translations."""


class Beam(NamedTuple):
    """A text that may come."""

    tokens: list[int]
    """Without what ends it."""
    score: float
    """Its log-probability, in nats, over the length penalty."""
    ended: bool
    """Whether it came to an end; else it was cut."""


def beam_search(
    module: Module,
    params: Any,
    prompt: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    begin: Literal["bos", "given"] = "bos",
    count: int,
    beams: int = 4,
    length_penalty: float = LENGTH_PENALTY,
    ends: Sequence[int] | None = None,
    source: Sequence[int] | None = None,
) -> list[Beam]:
    """The best `beams` texts of up to `count` tokens after a prompt, the best first.

    Texts y are ranked by log p(y) / ((5 + |y|) / 6)^length_penalty, their ends counted (Wu et
    al. 2016, equation 14); p is what the model says, of the tokens that may come. Raises
    UserError where prompt and `count` do not fit into `length`: nothing is forgotten.
    """
    known = [*([vocabulary.bos] if begin == "bos" else []), *prompt]
    if not known:
        raise UserError("a prompt of no tokens: give it what begins a text at least")
    if len(known) + count > length:
        raise UserError(
            f"count={count} after a prompt of {len(known)} tokens: beams forget nothing, and a"
            f" row holds {length}"
        )
    allowed_V = np.array(vocabulary.is_ordinary)
    ends_V = np.zeros(vocabulary.size, bool)
    ends_V[list((vocabulary.eos,) if ends is None else ends)] = True
    source_1M = None
    if source is not None:
        allowed_V[list(vocabulary.sentinels)] = True
        source_1M = np.array([source], np.int32)
    found = _search(
        *module.for_generating(params, rows=beams),
        np.array([known], np.int32),
        source_1M,
        allowed_V | ends_V,
        ends_V,
        np.float32(length_penalty),
        count,
        beams,
    )
    return [
        Beam(tokens[: size - ended], float(score), bool(ended))
        for tokens, size, score, ended in zip(
            fetch(found.tokens_KL).tolist(),
            *(fetch(x).tolist() for x in (found.size_K, found.score_K, found.ended_K)),
            strict=True,
        )
        if score > -np.inf
    ]


class _Texts(NamedTuple):
    """Texts that may come, the best first."""

    tokens_KL: Any
    score_K: Any
    size_K: Any
    ended_K: Any


@partial(jax.jit, static_argnums=(0, 7, 8))
def _search(
    module: Module,
    params: Any,
    prompt_1L: jax.Array,
    source_1M: jax.Array | None,
    allowed_V: jax.Array,
    ends_V: jax.Array,
    length_penalty: jax.Array,
    count: int,
    beams: int,
) -> _Texts:
    size, length = prompt_1L.shape[1], prompt_1L.shape[1] + count
    of_source: tuple[int, ...] = ()
    source = None
    if source_1M is not None:
        ones_1M = jnp.ones_like(source_1M)
        source, of_source = (
            Source(source_1M, ones_1M, positions_of(ones_1M)),
            source_1M.shape[1:],
        )

    def read(
        tokens_KL: jax.Array, first: Any, cache: Any, source: Source | None = None
    ) -> tuple[jax.Array, Any]:
        """Log-probabilities of the token that comes next, of those that may."""
        rows, width = tokens_KL.shape
        positions_KL = jnp.broadcast_to(first + jnp.arange(width)[None], tokens_KL.shape)
        example = unanswered(
            tokens_KL,
            jnp.ones_like(tokens_KL),
            CausalMask(),
            positions_BL=positions_KL,
            target_positions_BP=jnp.full((rows, 1), width - 1),
            source=source,
        )
        output, cache = module.apply({"params": params}, example, cache)
        scores_KV = logits(output, einsum=module.einsum)[:, 0]
        return jax.nn.log_softmax(jnp.where(allowed_V[None], scores_KV, -jnp.inf)), cache

    def over_penalty(score: jax.Array, size: jax.Array | int) -> jax.Array:
        return score / ((5 + size) / 6) ** length_penalty

    def goes_on(carry: tuple[Any, ...]) -> Any:
        step, _, score_K, _, _, best = carry
        # What goes on has this at the very best, as its score only falls.
        most = over_penalty(score_K.max(), jnp.where(length_penalty > 0, count, step + 1))
        return (step < count) & (most > best.score_K.min())

    def one(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, tokens_KL, score_K, log_p_KV, cache, best = carry
        all_KV = score_K[:, None] + log_p_KV
        # A text that ends now is ranked with those that have ended.
        over_KV = over_penalty(jnp.where(ends_V[None], all_KV, -jnp.inf), step + 1)
        best = _best(best, tokens_KL, over_KV, step, beams)
        score_K, parent_K, token_K = _top(jnp.where(ends_V[None], -jnp.inf, all_KV), beams)
        tokens_KL = tokens_KL[parent_K].at[:, step].set(token_K)
        cache = jax.tree.map(lambda x, axis: jnp.take(x, parent_K, axis), cache, axes)
        log_p_KV, cache = read(token_K[:, None], size + step, cache)
        return step + 1, tokens_KL, score_K, log_p_KV, cache, best

    log_p_1V, cache = read(prompt_1L, 0, module.init_cache(1, length, *of_source), source)
    # What a model keeps has the rows along the axis that two rows have two of.
    shapes = [
        jax.eval_shape(lambda n=n: module.init_cache(n, length, *of_source)) for n in (1, 2)
    ]
    axes = jax.tree.map(
        lambda one, two: next(
            at
            for at, pair in enumerate(zip(one.shape, two.shape, strict=True))
            if len({*pair}) > 1
        ),
        *shapes,
    )
    cache = jax.tree.map(lambda x, axis: jnp.repeat(x, beams, axis), cache, axes)
    nothing_KL = jnp.zeros((beams, count), jnp.int32)
    none_K = jnp.full(beams, -jnp.inf)
    zeros_K = jnp.zeros(beams, jnp.int32)
    best = _Texts(nothing_KL, none_K, zeros_K, zeros_K.astype(bool))
    # At first all beams are the same text: one of them counts.
    score_K, log_p_KV = none_K.at[0].set(0.0), jnp.repeat(log_p_1V, beams, 0)
    carry = jnp.int32(0), nothing_KL, score_K, log_p_KV, cache, best
    step, tokens_KL, score_K, _, _, best = jax.lax.while_loop(goes_on, one, carry)
    # Those that are cut count where the search went to the end, and else are no better.
    cut_K = jnp.where(step == count, over_penalty(score_K, count), -jnp.inf)
    both = _Texts(tokens_KL, cut_K, zeros_K + count, zeros_K.astype(bool))
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), best, both)
    _, order_K = jax.lax.top_k(joined.score_K, beams)
    return jax.tree.map(lambda x: x[order_K], joined)


def _best(
    best: _Texts, tokens_KL: jax.Array, over_KV: jax.Array, step: jax.Array, beams: int
) -> _Texts:
    """The best texts of those that have ended and those that end with this step."""
    score_K, parent_K, token_K = _top(over_KV, beams)
    new = _Texts(
        tokens_KL[parent_K].at[:, step].set(token_K),
        score_K,
        jnp.full(beams, step + 1),
        jnp.ones(beams, bool),
    )
    joined = jax.tree.map(lambda *x: jnp.concatenate(x), best, new)
    _, order_K = jax.lax.top_k(joined.score_K, beams)
    return jax.tree.map(lambda x: x[order_K], joined)


def _top(score_KV: jax.Array, beams: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The highest scores, their rows and their tokens."""
    flat = score_KV.reshape(-1)
    score_K, at_K = jax.lax.top_k(flat, min(beams, len(flat)))
    missing = (0, beams - len(score_K))
    score_K, at_K = jnp.pad(score_K, missing, constant_values=-jnp.inf), jnp.pad(at_K, missing)
    return score_K, at_K // score_KV.shape[1], at_K % score_KV.shape[1]
