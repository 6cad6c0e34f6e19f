"""What a model would say: continue a text, fill its blanks, or name the likeliest pieces."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.distributed.hosts import fetch
from lm.example import Causal, Example, Full, Visible, Vocabulary, positions_of
from lm.loss import logits
from lm.model.base import Body
from lm.objectives.base import Blank


def generate(
    body: Body,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    length: int,
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[list[int]]:
    """Up to `count` pieces that a causal model puts after each prompt; fewer if a text ends.

    All rows at once, each position read once. The model sees a begin piece and what came
    before, of which it forgets the older half whenever a row is `length` positions long.
    Temperature 0 takes the likeliest piece; `top_k` leaves out all but that many.
    """
    texts = [list(prompt) for prompt in prompts]
    going = list(range(len(texts)))
    key = jax.random.key(seed)
    done = 0
    while done < count and going:
        longest = max(len(texts[row]) for row in going)
        half = min(length // 2, length - 2)
        window = length - 1 if longest + count - done < length else half
        seen = [
            [vocabulary.begin, *texts[row][max(0, len(texts[row]) - window) :]] for row in going
        ]
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
                body,
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
            if vocabulary.end not in said_L
        ]
        done += steps
    said = [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]
    return [row[: row.index(vocabulary.end)] if vocabulary.end in row else row for row in said]


@partial(jax.jit, static_argnums=(0, 7, 8, 9))
def _continue(
    body: Body,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    key: jax.Array,
    steps: jax.Array,
    temperature: jax.Array,
    capacity: int,
    top_k: int | None,
    vocabulary: Vocabulary,
) -> jax.Array:
    """`steps` pieces after each row, int32[B, M]; a row that has ended repeats the end."""
    batch = len(tokens_BL)
    possible_V = _possible(vocabulary)

    def read(
        inputs_BL: jax.Array, segments_BL: jax.Array, positions_BL: jax.Array, past: Any
    ) -> tuple[jax.Array, Any]:
        """Scores of the piece that comes next."""
        last_B1 = jnp.full((batch, 1), inputs_BL.shape[1] - 1)
        example = _question(inputs_BL, last_B1, segments_BL, positions_BL, Causal())
        output, past = body.apply({"params": params}, example, past)
        return logits(*output, einsum=body.einsum)[:, 0], past

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
        step, said_BL, ended_B, scores_BV, past = carry
        piece_B = draw(scores_BV, jax.random.fold_in(key, step))
        piece_B = jnp.where(ended_B, vocabulary.end, piece_B)
        said_BL = jax.lax.dynamic_update_slice_in_dim(said_BL, piece_B[:, None], step, axis=1)
        ones_B1 = jnp.ones((batch, 1), jnp.int32)
        scores_BV, past = read(piece_B[:, None], ones_B1, read_B1 + step, past)
        return step + 1, said_BL, ended_B | (piece_B == vocabulary.end), scores_BV, past

    read_B1 = (segments_BL > 0).sum(axis=1, keepdims=True)
    scores_BV, past = read(
        tokens_BL, segments_BL, positions_of(segments_BL), body.nothing(batch, capacity)
    )
    said_BL = jnp.full((batch, capacity), vocabulary.end, jnp.int32)
    ended_B = jnp.zeros(batch, bool)
    carry = jnp.int32(0), said_BL, ended_B, scores_BV, past
    _, said_BL, *_ = jax.lax.while_loop(goes_on, one, carry)
    return said_BL


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def fill(
    body: Body,
    params: Any,
    tokens: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    answer: Blank = "hidden",
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[int]:
    """`tokens` with each mask piece replaced by what a masked model puts there.

    One blank at a time, the most confident first; confidence is the probability of the
    likeliest piece, so it depends on predictions only. Temperature 0 takes the likeliest piece.
    """
    if len(tokens) >= length:
        raise UserError(f"text of {len(tokens)} pieces: the model sees at most {length - 1}")
    random = np.random.default_rng(seed)
    seen = [vocabulary.begin, *tokens]
    blanks = [i for i, token in enumerate(seen) if token == vocabulary.mask]
    slots = len(blanks)
    while blanks:
        # filled up to the first number of blanks, so that one compiled function serves all
        asked = [*blanks, *blanks[:1] * (slots - len(blanks))]
        if answer == "hidden before":
            asked = [position - 1 for position in asked]
        scores_PV = _scores(body, params, seen, asked, length, visible=Full())[: len(blanks)]
        scores_PV = np.where(_ordinary(vocabulary)[None, :], scores_PV, -np.inf)
        at = int(_probabilities(scores_PV).max(axis=1).argmax())
        seen[blanks.pop(at)] = _draw(scores_PV[at], temperature, top_k, random)
    return seen[1:]


def likeliest(
    body: Body,
    params: Any,
    tokens: Sequence[int],
    positions: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    answer: Literal["next"] | Blank,
    count: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int[P, count] and probabilities of the likeliest pieces for the given `tokens`.

    Asked what is next, a model predicts a piece from those before it; else put mask pieces at
    the positions. Probabilities are shares of all pieces that the text may hold there: ordinary
    ones and the end.
    """
    if len(tokens) >= length:
        raise UserError(f"text of {len(tokens)} pieces: the model sees at most {length - 1}")
    seen = [vocabulary.begin, *tokens]
    shift = 1 if answer == "hidden" else 0
    asked = [position + shift for position in positions]
    visible = Causal() if answer == "next" else Full()
    scores_PV = _scores(body, params, seen, asked, length, visible=visible)
    scores_PV = np.where(_possible(vocabulary)[None, :], scores_PV, -np.inf)
    probability_PV = _probabilities(scores_PV)
    probability_PV[:, vocabulary.end] = 0
    best_PC = np.argsort(-probability_PV, axis=1, kind="stable")[:, :count]
    return best_PC, np.take_along_axis(probability_PV, best_PC, axis=1)


def _scores(
    body: Body,
    params: Any,
    seen: Sequence[int],
    positions: Sequence[int],
    length: int,
    *,
    visible: Visible,
) -> np.ndarray:
    """Logits at positions of a row that starts with `seen`, float32[P, V]."""
    tokens_L, segments_L = np.zeros((2, length), np.int32)
    tokens_L[: len(seen)], segments_L[: len(seen)] = seen, 1
    predict_BP = np.array([positions], np.int32)
    arrays = tokens_L[None], segments_L[None], predict_BP
    return fetch(_logits(body, params, *arrays, visible))[0]


@partial(jax.jit, static_argnums=0)
def _logits(
    body: Body,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    predict_BP: jax.Array,
    visible: Visible,
) -> jax.Array:
    positions_BL = positions_of(segments_BL)
    example = _question(tokens_BL, predict_BP, segments_BL, positions_BL, visible)
    hidden_BPD, unembedding_VD = body.apply({"params": params}, example)
    return logits(hidden_BPD, unembedding_VD, einsum=body.einsum)


def _question(
    inputs_BL: jax.Array,
    predict_BP: jax.Array,
    segments_BL: jax.Array,
    positions_BL: jax.Array,
    visible: Visible,
) -> Example:
    """An example that asks what stands somewhere and has no answer to hold it to."""
    return Example(
        inputs=inputs_BL,
        predict=predict_BP,
        targets=jnp.zeros_like(predict_BP),
        weights=jnp.zeros(predict_BP.shape),
        segments=segments_BL,
        positions=positions_BL,
        visible=visible,
    )


def _draw(
    scores_V: np.ndarray, temperature: float, top_k: int | None, random: np.random.Generator
) -> int:
    """A piece drawn from the scores.

    >>> scores, random = np.log([0.2, 0.5, 0.3]), np.random.default_rng(0)
    >>> _draw(scores, 0.0, None, random), {_draw(scores, 1.0, 2, random) for _ in range(9)}
    (1, {1, 2})
    """
    if temperature == 0:
        top_k = 1
    temperature = max(temperature, 1e-6)
    if top_k is not None:
        best = np.argsort(-scores_V, kind="stable")[:top_k]
        scores_V = np.where(np.isin(np.arange(len(scores_V)), best), scores_V, -np.inf)
    probability_V = _probabilities(scores_V / temperature)
    return int(random.choice(len(probability_V), p=probability_V))


def _probabilities(scores: np.ndarray) -> np.ndarray:
    share = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return share / share.sum(axis=-1, keepdims=True)


def _ordinary(vocabulary: Vocabulary) -> np.ndarray:
    return np.arange(vocabulary.size) >= vocabulary.ordinary


def _possible(vocabulary: Vocabulary) -> np.ndarray:
    """Which pieces may come next in a text, bool[V]: ordinary ones and the end."""
    possible_V = _ordinary(vocabulary)
    possible_V[vocabulary.end] = True
    return possible_V
