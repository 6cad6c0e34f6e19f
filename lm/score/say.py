"""What a model would say: continue a text, fill its blanks, or name the likeliest pieces."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.example import Causal, Example, Full, Visible, Vocabulary, positions_of
from lm.loss import logits
from lm.score.likelihood import Body


def continue_(
    body: Body,
    params: Any,
    tokens: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    count: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[int]:
    """Up to `count` pieces that a causal model puts after `tokens`; fewer if it ends the text.

    The model sees a begin piece and the last `length - 1` pieces. Temperature 0 takes the
    likeliest piece; `top_k` leaves out all but that many.
    """
    random = np.random.default_rng(seed)
    said: list[int] = []
    possible_V = _ordinary(vocabulary)
    possible_V[vocabulary.end] = True
    while len(said) < count:
        seen = [vocabulary.begin, *[*tokens, *said][-(length - 1) :]]
        scores_V = _scores(body, params, seen, [len(seen) - 1], length, visible=Causal())[0]
        piece = _draw(np.where(possible_V, scores_V, -np.inf), temperature, top_k, random)
        if piece == vocabulary.end:
            break
        said.append(piece)
    return said


def fill(
    body: Body,
    params: Any,
    tokens: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
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
        asked = blanks + blanks[:1] * (slots - len(blanks))
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
    visible: Visible,
    count: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int[P, count] and probabilities of the likeliest pieces for the given `tokens`.

    With `Causal()` a piece is predicted from those before it; else put mask pieces at the
    positions. Probabilities are shares of all pieces that the text may hold there: ordinary
    ones and the end.
    """
    if len(tokens) >= length:
        raise UserError(f"text of {len(tokens)} pieces: the model sees at most {length - 1}")
    seen = [vocabulary.begin, *tokens]
    shift = 0 if isinstance(visible, Causal) else 1
    asked = [position + shift for position in positions]
    scores_PV = _scores(body, params, seen, asked, length, visible=visible)
    possible_V = _ordinary(vocabulary)
    possible_V[vocabulary.end] = True
    probability_PV = _probabilities(np.where(possible_V[None, :], scores_PV, -np.inf))
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
    return np.asarray(
        _logits(body, params, tokens_L[None], segments_L[None], predict_BP, visible)[0]
    )


@partial(jax.jit, static_argnums=0)
def _logits(
    body: Body,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    predict_BP: jax.Array,
    visible: Visible,
) -> jax.Array:
    example = Example(
        inputs=tokens_BL,
        predict=predict_BP,
        targets=jnp.zeros_like(predict_BP),
        weights=jnp.zeros(predict_BP.shape),
        segments=segments_BL,
        positions=positions_of(segments_BL),
        visible=visible,
    )
    hidden_BPD, unembedding_VD = body.apply({"params": params}, example)
    return logits(hidden_BPD, unembedding_VD, einsum=body.einsum)


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
    if top_k is not None:
        best = np.argsort(-scores_V, kind="stable")[:top_k]
        scores_V = np.where(np.isin(np.arange(len(scores_V)), best), scores_V, -np.inf)
    probability_V = _probabilities(scores_V / (temperature or 1.0))
    return int(random.choice(len(probability_V), p=probability_V))


def _probabilities(scores: np.ndarray) -> np.ndarray:
    share = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return share / share.sum(axis=-1, keepdims=True)


def _ordinary(vocabulary: Vocabulary) -> np.ndarray:
    return np.arange(vocabulary.size) >= vocabulary.ordinary
