"""What comes after a text: one token after the other, by a causal model with its cache."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lm.distributed.hosts import fetch
from lm.example import CausalMask, Source, Vocabulary, positions_of, unanswered
from lm.generate.question import possible
from lm.loss import logits
from lm.model import Module


def generate(
    module: Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    length: int,
    begin: Literal["bos", "given"] = "bos",
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Up to `count` tokens that a causal model puts after each prompt; fewer if a text ends.

    All rows at once, each position read once. The model sees a bos token, unless the prompts
    have what begins a text (`given`), and what came before, of which it forgets the older half
    whenever a row is `length` positions long.
    Temperature 0 takes the likeliest token; `top_k` leaves out all but that many.
    """
    texts = [list(prompt) for prompt in prompts]
    before = [vocabulary.bos] if begin == "bos" else []
    room = length - len(before)
    going = list(range(len(texts)))
    key = jax.random.key(seed)
    done = 0
    while done < count and going:
        longest = max(len(texts[row]) for row in going)
        half = min(length // 2, length - 2)
        window = room if longest + count - done <= room else half
        seen = [[*before, *texts[row][max(0, len(texts[row]) - window) :]] for row in going]
        width = max(map(len, seen))
        steps = min(count - done, length - width)
        # Few widths and capacities, so that few programs are compiled. Rows end at the right.
        width = min(length - steps, _power_of_two(width))
        capacity = min(length, _power_of_two(width + steps))
        tokens_BL, segments_BL = np.zeros((2, len(seen), width), np.int32)
        for row, tokens in enumerate(seen):
            tokens_BL[row, width - len(tokens) :] = tokens
            segments_BL[row, width - len(tokens) :] = 1
        said_BL = fetch(
            _continue(
                module,
                params,
                tokens_BL,
                segments_BL,
                jax.random.fold_in(key, done),
                jnp.int32(steps),
                jnp.float32(temperature),
                capacity,
                top_k,
                vocabulary,
            )
        )[:, :steps]
        for row, said_L in zip(going, said_BL.tolist(), strict=True):
            texts[row] += said_L
        going = [
            row
            for row, said_L in zip(going, said_BL, strict=True)
            if vocabulary.eos not in said_L
        ]
        done += steps
    said = [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
    return [row[: row.index(vocabulary.eos)] if vocabulary.eos in row else row for row in said]


def answer(
    module: Module,
    params: Any,
    sources: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Up to `count` tokens that a decoder says of what its encoder reads; fewer if it ends.

    All rows at once. Spans come as training has them: a sentinel, then what it stands for.
    """
    width = _power_of_two(max(map(len, sources)))
    inputs_BM, segments_BM = np.zeros((2, len(sources), width), np.int32)
    for row, tokens in enumerate(sources):
        inputs_BM[row, : len(tokens)], segments_BM[row, : len(tokens)] = tokens, 1
    read_BM, known_BM = jnp.asarray(inputs_BM), jnp.asarray(segments_BM)
    said_BL = fetch(
        _continue(
            module,
            params,
            np.full((len(sources), 1), vocabulary.bos, np.int32),
            np.ones((len(sources), 1), np.int32),
            jax.random.key(seed),
            jnp.int32(count),
            jnp.float32(temperature),
            _power_of_two(1 + count),
            top_k,
            vocabulary,
            Source(read_BM, known_BM, positions_of(known_BM)),
        )
    )[:, :count]
    rows = said_BL.tolist()
    return [row[: row.index(vocabulary.eos)] if vocabulary.eos in row else row for row in rows]


@partial(jax.jit, static_argnums=(0, 7, 8, 9))
def _continue(
    module: Module,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    key: jax.Array,
    steps: jax.Array,
    temperature: jax.Array,
    capacity: int,
    top_k: int | None,
    vocabulary: Vocabulary,
    source: Source | None = None,
) -> jax.Array:
    """`steps` tokens after each row, int32[B, M]; a row that has ended repeats the end."""
    batch = len(tokens_BL)
    possible_V = possible(vocabulary)
    if source is not None:
        possible_V[list(vocabulary.sentinels)] = True

    def read(
        inputs_BL: jax.Array,
        segments_BL: jax.Array,
        positions_BL: jax.Array,
        cache: Any,
        source: Source | None = None,
    ) -> tuple[jax.Array, Any]:
        """Scores of the token that comes next."""
        last_B1 = jnp.full((batch, 1), inputs_BL.shape[1] - 1)
        example = unanswered(
            inputs_BL,
            segments_BL,
            CausalMask(),
            positions_BL=positions_BL,
            target_positions_BP=last_B1,
            source=source,
        )
        output, cache = module.apply({"params": params}, example, cache)
        return logits(output, einsum=module.einsum)[:, 0], cache

    def draw(scores_BV: jax.Array, key: jax.Array) -> jax.Array:
        scores_BV = jnp.where(possible_V[None], scores_BV, -jnp.inf)
        if top_k is not None:
            # By rank, not by score: of equal scores no more may be drawn either.
            best_BK = jax.lax.top_k(scores_BV, min(top_k, vocabulary.size))[1]
            kept_BV = jnp.zeros(scores_BV.shape, bool)
            kept_BV = kept_BV.at[jnp.arange(batch)[:, None], best_BK].set(True)
            scores_BV = jnp.where(kept_BV, scores_BV, -jnp.inf)
        drawn_B = jax.random.categorical(key, scores_BV / jnp.maximum(temperature, 1e-6))
        return jnp.where(temperature == 0, scores_BV.argmax(axis=-1), drawn_B)

    def goes_on(carry: tuple[jax.Array, ...]) -> jax.Array:
        step, _, ended_B, *_ = carry
        return (step < steps) & ~ended_B.all()

    def one(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, said_BL, ended_B, scores_BV, cache = carry
        token_B = draw(scores_BV, jax.random.fold_in(key, step))
        token_B = jnp.where(ended_B, vocabulary.eos, token_B)
        said_BL = jax.lax.dynamic_update_slice_in_dim(said_BL, token_B[:, None], step, axis=1)
        ones_B1 = jnp.ones((batch, 1), jnp.int32)
        scores_BV, cache = read(token_B[:, None], ones_B1, read_B1 + step, cache)
        return step + 1, said_BL, ended_B | (token_B == vocabulary.eos), scores_BV, cache

    read_B1 = (segments_BL > 0).sum(axis=1, keepdims=True)
    of_source = () if source is None else (source.inputs_BM.shape[1],)
    cache = module.init_cache(batch, capacity, *of_source)
    scores_BV, cache = read(tokens_BL, segments_BL, positions_of(segments_BL), cache, source)
    said_BL = jnp.full((batch, capacity), vocabulary.eos, jnp.int32)
    ended_B = jnp.zeros(batch, bool)
    carry = jnp.int32(0), said_BL, ended_B, scores_BV, cache
    _, said_BL, *_ = jax.lax.while_loop(goes_on, one, carry)
    return said_BL


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
