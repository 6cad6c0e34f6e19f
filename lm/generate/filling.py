"""What stands at a blank: tokens for masks, and the likeliest tokens at a place."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from lm.config import UserError
from lm.distributed.hosts import fetch
from lm.example import Causal, Full, Visible, Vocabulary, positions_of
from lm.generate.question import ordinary, possible, question
from lm.loss import logits
from lm.model import Body
from lm.objectives.base import Blank


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
        scores_PV = np.where(ordinary(vocabulary)[None, :], scores_PV, -np.inf)
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
    scores_PV = np.where(possible(vocabulary)[None, :], scores_PV, -np.inf)
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
    example = question(tokens_BL, predict_BP, segments_BL, positions_BL, visible)
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
    temperature = max(temperature, 1e-6)
    if top_k is not None:
        best = np.argsort(-scores_V, kind="stable")[:top_k]
        scores_V = np.where(np.isin(np.arange(len(scores_V)), best), scores_V, -np.inf)
    probability_V = _probabilities(scores_V / temperature)
    return int(random.choice(len(probability_V), p=probability_V))


def _probabilities(scores: np.ndarray) -> np.ndarray:
    share = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return share / share.sum(axis=-1, keepdims=True)
