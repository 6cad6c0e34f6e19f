"""What stands at a blank: tokens for masks, and the likeliest tokens at a place."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import numpy as np

from lm.config import UserError
from lm.distributed.hosts import fetch
from lm.example import (
    AttentionMask,
    BidirectionalMask,
    CausalMask,
    Vocabulary,
    unanswered,
)
from lm.generate.question import possible
from lm.loss import logits
from lm.model import Module
from lm.objectives.base import MaskPrediction


def fill(
    module: Module,
    params: Any,
    tokens: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    prediction: MaskPrediction = "masked",
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[int]:
    """`tokens` with each mask token replaced by what a masked model puts there.

    One blank at a time, the most confident first; confidence is the probability of the
    likeliest token, so it depends on predictions only. Temperature 0 takes the likeliest token.
    """
    seen = _row(tokens, vocabulary, length, whole=True)
    random = np.random.default_rng(seed)
    blanks = [i for i, token in enumerate(seen) if token == vocabulary.mask_token]
    targets = len(blanks)
    while blanks:
        # filled up to the first number of blanks, so that one compiled function serves all
        asked = [*blanks, *blanks[:1] * (targets - len(blanks))]
        if prediction == "masked before":
            asked = [position - 1 for position in asked]
        scores_PV = _scores(
            module, params, seen, asked, length, attention_mask=BidirectionalMask()
        )[: len(blanks)]
        scores_PV = np.where(vocabulary.is_ordinary[None, :], scores_PV, -np.inf)
        at = int(_probabilities(scores_PV).max(axis=1).argmax())
        seen[blanks.pop(at)] = _draw(scores_PV[at], temperature, top_k, random)
    return seen[1 : 1 + len(tokens)]


def likeliest(
    module: Module,
    params: Any,
    tokens: Sequence[int],
    positions: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    prediction: Literal["next"] | MaskPrediction,
    count: int = 5,
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int[P, count] and probabilities of the likeliest tokens for the given `tokens`.

    Asked what is next, a model predicts a token from those before it; else put mask tokens at
    the positions. Probabilities are fractions of all tokens that the text may hold there:
    ordinary ones and the end.
    """
    seen = _row(tokens, vocabulary, length, whole=prediction != "next")
    shift = 1 if prediction == "masked" else 0
    asked = [position + shift for position in positions]
    attention_mask = CausalMask() if prediction == "next" else BidirectionalMask()
    scores_PV = _scores(module, params, seen, asked, length, attention_mask=attention_mask)
    scores_PV = np.where(possible(vocabulary)[None, :], scores_PV, -np.inf)
    probability_PV = _probabilities(scores_PV)
    probability_PV[:, vocabulary.eos] = 0
    best_PC = np.argsort(-probability_PV, axis=1, kind="stable")[:, :count]
    return best_PC, np.take_along_axis(probability_PV, best_PC, axis=1)


def _row(
    tokens: Sequence[int], vocabulary: Vocabulary, length: int, *, whole: bool
) -> list[int]:
    """The tokens with what stands before them and, where it is told, after a whole text."""
    after = [vocabulary.eos] if whole and not vocabulary.eos_counts else []
    most = length - 1 - len(after)
    if len(tokens) > most:
        raise UserError(f"text of {len(tokens)} tokens: the model sees at most {most}")
    return [vocabulary.bos, *tokens, *after]


def _scores(
    module: Module,
    params: Any,
    seen: Sequence[int],
    positions: Sequence[int],
    length: int,
    *,
    attention_mask: AttentionMask,
) -> np.ndarray:
    """Logits at positions of a row that starts with `seen`, float32[P, V]."""
    tokens_L, segments_L = np.zeros((2, length), np.int32)
    tokens_L[: len(seen)], segments_L[: len(seen)] = seen, 1
    target_positions_BP = np.array([positions], np.int32)
    arrays = tokens_L[None], segments_L[None], target_positions_BP
    return fetch(_logits(module, params, *arrays, attention_mask))[0]


@partial(jax.jit, static_argnums=0)
def _logits(
    module: Module,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    target_positions_BP: jax.Array,
    attention_mask: AttentionMask,
) -> jax.Array:
    example = unanswered(
        tokens_BL, segments_BL, attention_mask, target_positions_BP=target_positions_BP
    )
    return logits(module.apply({"params": params}, example), einsum=module.einsum)


def _draw(
    scores_V: np.ndarray, temperature: float, top_k: int | None, random: np.random.Generator
) -> int:
    """A token drawn from the scores.

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
    fraction = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return fraction / fraction.sum(axis=-1, keepdims=True)
