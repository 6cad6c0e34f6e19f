"""What comes after a text: one token after the other, by a causal model with its cache."""

from collections.abc import Callable, Sequence
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
from lm.objectives.rollout import RolledOut


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

    def draw(scores_BV: jax.Array, key: jax.Array) -> tuple[jax.Array]:
        scores_BV = jnp.where(possible_V[None], scores_BV, -jnp.inf)
        if top_k is not None:
            # By rank, not by score: of equal scores no more may be drawn either.
            best_BK = jax.lax.top_k(scores_BV, min(top_k, vocabulary.size))[1]
            kept_BV = jnp.zeros(scores_BV.shape, bool)
            kept_BV = kept_BV.at[jnp.arange(batch)[:, None], best_BK].set(True)
            scores_BV = jnp.where(kept_BV, scores_BV, -jnp.inf)
        drawn_B = jax.random.categorical(key, scores_BV / jnp.maximum(temperature, 1e-6))
        return (jnp.where(temperature == 0, scores_BV.argmax(axis=-1), drawn_B),)

    (said_BL,) = _sample(
        module,
        params,
        tokens_BL,
        segments_BL,
        key,
        draw,
        lambda token_B, _: token_B == vocabulary.eos,
        steps=steps,
        count=capacity,
        capacity=capacity,
        vocabulary=vocabulary,
        ended_B=jnp.zeros(batch, bool),
        source=source,
    )
    return said_BL


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
    length = tokens_BL.shape[1]
    index_1L = jnp.arange(length)[None]
    # Prompts end at the right, as all go on at one place of the cache.
    room_B = jnp.where(prompt_B > 0, length - prompt_B, 0)
    begin_B1 = (length - prompt_B)[:, None]
    ahead_BL = jnp.take_along_axis(tokens_BL, (index_1L - begin_B1) % length, axis=1)

    def draw(scores_BV: jax.Array, key: jax.Array) -> tuple[jax.Array, ...]:
        token_B = jax.random.categorical(key, scores_BV)
        log_p_BV = jax.nn.log_softmax(scores_BV)
        log_p_B = jnp.take_along_axis(log_p_BV, token_B[:, None], axis=1)[:, 0]
        return token_B, log_p_B, -jnp.sum(jnp.exp(log_p_BV) * log_p_BV, axis=1)

    def is_end(token_B: jax.Array) -> jax.Array:
        return (token_B == vocabulary.eos) | (token_B == end_B)

    drawn = _sample(
        module,
        params,
        ahead_BL,
        (index_1L >= begin_B1).astype(jnp.int32),
        key,
        draw,
        lambda token_B, step: is_end(token_B) | (step + 1 >= room_B),
        steps=count,
        count=count,
        capacity=length + count,
        vocabulary=vocabulary,
        ended_B=room_B == 0,
    )
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


def _sample(
    module: Module,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    key: jax.Array,
    draw: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]],
    ends: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    steps: jax.Array | int,
    count: int,
    capacity: int,
    vocabulary: Vocabulary,
    ended_B: jax.Array,
    source: Source | None = None,
) -> tuple[jax.Array, ...]:
    """`steps` tokens after each row, int32[B, count], and what else `draw` says of each.

    `draw` makes of scores [B, V] and a key a token for each row and further numbers [B]. A row
    for which `ends` says so, of its token and the step, has eos tokens from then on; when all
    have ended, no more is drawn.
    """
    batch = len(tokens_BL)

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

    def goes_on(carry: tuple[Any, ...]) -> Any:
        step, _, ended_B, *_ = carry
        return (step < steps) & ~ended_B.all()

    def one(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, all_BL, ended_B, scores_BV, cache = carry
        token_B, *more_B = draw(scores_BV, jax.random.fold_in(key, step))
        token_B = jnp.where(ended_B, vocabulary.eos, token_B)
        all_BL = tuple(
            jax.lax.dynamic_update_slice_in_dim(x_BL, x_B[:, None], step, axis=1)
            for x_BL, x_B in zip(all_BL, (token_B, *more_B), strict=True)
        )
        ones_B1 = jnp.ones((batch, 1), jnp.int32)
        scores_BV, cache = read(token_B[:, None], ones_B1, read_B1 + step, cache)
        return step + 1, all_BL, ended_B | ends(token_B, step), scores_BV, cache

    read_B1 = (segments_BL > 0).sum(axis=1, keepdims=True)
    of_source = () if source is None else (source.inputs_BM.shape[1],)
    cache = module.init_cache(batch, capacity, *of_source)
    scores_BV, cache = read(tokens_BL, segments_BL, positions_of(segments_BL), cache, source)
    shapes = jax.eval_shape(draw, scores_BV, key)[1:]
    all_BL = (
        jnp.full((batch, count), vocabulary.eos, jnp.int32),
        *(jnp.zeros((batch, count), shape.dtype) for shape in shapes),
    )
    carry = jnp.int32(0), all_BL, ended_B, scores_BV, cache
    _, all_BL, *_ = jax.lax.while_loop(goes_on, one, carry)
    return all_BL


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
