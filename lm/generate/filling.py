"""What stands at a blank: tokens for masks, and the likeliest tokens at a place."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
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
from lm.generate.sampling import RowSettings, Sampling, weighted
from lm.loss import logits
from lm.model import Module
from lm.objectives.base import MaskPrediction

FillOrder = Literal["certain", "left", "random", "diffusion"]
"""In which blanks are filled: see `fill_blanks`."""
LIKELIEST = Sampling(temperature=0)


class Filled(NamedTuple):
    """What was put in place of a mask token, and what the model said of it then."""

    place: int
    """Of the mask token among the tokens."""
    token: int
    log_p: float
    """In nats, of the tokens that may stand there, when it was put there."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The likeliest with theirs."""
    step: int = 0
    """In which it was put there, from 0."""


def fill(
    module: Module,
    params: Any,
    tokens: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    prediction: MaskPrediction = "masked",
    order: FillOrder = "certain",
    steps: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
) -> list[int]:
    """`tokens` with each mask token replaced by what a masked model puts there.

    `order` and `steps` are those of `fill_blanks`; temperature 0 takes the likeliest token.
    """
    found = fill_blanks(
        *(module, params, tokens),
        vocabulary=vocabulary,
        length=length,
        prediction=prediction,
        order=order,
        steps=steps,
        sampling=Sampling(temperature=temperature, top_k=top_k, seed=seed),
    )
    put = {one.place: one.token for one in found}
    return [put.get(place, token) for place, token in enumerate(tokens)]


def fill_blanks(
    module: Module,
    params: Any,
    tokens: Sequence[int],
    *,
    vocabulary: Vocabulary,
    length: int,
    prediction: MaskPrediction = "masked",
    order: FillOrder = "certain",
    steps: int | None = None,
    sampling: Sampling = LIKELIEST,
    alternatives: int = 0,
) -> list[Filled]:
    """What a masked model puts in place of each mask token, in the order in which it did.

    In `steps` equal steps (None: one token at a time), and in this order: `certain`, the most
    certain first, by the probability of their likeliest token (Ghazvininejad et al. 2019; Nie
    et al. 2025); `left` to right; `random`; or `diffusion`, as masked diffusion is sampled:
    in the step from time t to s each is kept masked with probability s/t (Sahoo et al. 2024,
    section 4.2, of a linear schedule). What was put there is not changed again.
    """
    seen = _row(tokens, vocabulary, length, whole=True)
    random = np.random.default_rng(sampling.seed)
    blanks = [i for i, token in enumerate(seen) if token == vocabulary.mask_token]
    targets, found = len(blanks), []
    steps = min(targets, steps or targets) if order != "diffusion" else steps or max(1, targets)
    for left in range(steps, 0, -1):
        number = math.ceil(len(blanks) / left)
        if order == "diffusion":
            number = int(random.binomial(len(blanks), 1 / left))
        if not number:
            continue
        # filled up to the first number of blanks, so that one compiled function serves all
        asked = [*blanks, *blanks[:1] * (targets - len(blanks))]
        if prediction == "masked before":
            asked = [position - 1 for position in asked]
        scores_PV = _scores(
            module, params, seen, asked, length, attention_mask=BidirectionalMask()
        )[: len(blanks)]
        scores_PV = np.where(vocabulary.is_ordinary[None, :], scores_PV, -np.inf)
        log_p_PV = np.log(_probabilities(scores_PV) + 1e-300)
        for at in sorted(_chosen(order, log_p_PV, number, random), reverse=True):
            token = _draw(scores_PV[at], seen, sampling, random)
            best = np.argsort(-log_p_PV[at], kind="stable")[:alternatives]
            pairs = tuple((int(each), float(log_p_PV[at, each])) for each in best)
            log_p = float(log_p_PV[at, token])
            found.append(Filled(blanks[at] - 1, token, log_p, pairs, steps - left))
            seen[blanks.pop(at)] = token
    return found


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


def _chosen(
    order: FillOrder, log_p_PV: np.ndarray, number: int, random: np.random.Generator
) -> list[int]:
    """Which blanks are filled now.

    >>> _chosen("certain", np.log([[0.6, 0.4], [0.1, 0.9]]), 1, np.random.default_rng(0))
    [1]
    """
    if order == "certain":
        return [int(at) for at in np.argsort(-log_p_PV.max(axis=1), kind="stable")[:number]]
    if order == "left":
        return list(range(number))
    return [int(at) for at in random.permutation(len(log_p_PV))[:number]]


def _draw(
    scores_V: np.ndarray, seen: Sequence[int], sampling: Sampling, random: np.random.Generator
) -> int:
    """A token drawn from the scores; those of the row so far are penalized.

    >>> scores, random = np.log([0.2, 0.5, 0.3]), np.random.default_rng(0)
    >>> two = Sampling(top_k=2)
    >>> _draw(scores, [], LIKELIEST, random), {_draw(scores, [], two, random) for _ in range(9)}
    (1, {1, 2})
    """
    size = len(scores_V)
    settings = RowSettings.of(sampling, size)
    weighted_1V = _weighted(
        jnp.asarray(scores_V, jnp.float32)[None],
        settings,
        seen_BV=jnp.isin(jnp.arange(size), jnp.array([*seen, -1]))[None],
        allowed_BV=jnp.isfinite(scores_V)[None],
    )
    if settings.temperature_B[0] == 0:
        return int(np.argmax(weighted_1V[0]))
    return int(random.choice(size, p=_probabilities(np.asarray(weighted_1V[0]))))


_weighted = jax.jit(weighted)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    fraction = np.exp((scores - scores.max(axis=-1, keepdims=True)).astype(np.float64))
    return fraction / fraction.sum(axis=-1, keepdims=True)
