"""What masked models say of a text: what fills its masks, and how likely each token is.

What fills a mask is as likely as it was when it was put there. How likely a token of a text is
means: masked alone, given all others as they are (Wang and Cho 2019;
Salazar et al. 2020). These do not chain to a likelihood of the text.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.distributed.hosts import fetch
from lm.example import BidirectionalMask, unanswered
from lm.generate.filling import fill_blanks
from lm.generate.question import possible
from lm.loss import logits
from lm.model import Module
from lm.serve.models import PromptIds, ServedModel, sampling_of
from lm.serve.protocol import ALTERNATIVES, ApiError, FillQuery
from lm.serve.writing import Alternatives, PlacedToken


def masked_ids(served: ServedModel, text: str, mark: str, *, param: str) -> list[int]:
    """A text in ids, of which each mark is a mask token; raises ApiError where none is there,
    or it does not fit.
    """
    if mark not in text:
        raise ApiError(400, f"{param}: no {mark} in it, which stands for a token", param=param)
    ids: list[int] = []
    for number, part in enumerate(text.split(mark)):
        (prompt,) = served.prompts(part, param=param)
        ids += [served.tokenizer.vocabulary.mask_token] * (number > 0)
        ids += prompt.ids[prompt.before :]
    served.framed(PromptIds(ids, text, 0), param=param)
    return ids


def filled(served: ServedModel, ids: Sequence[int], query: FillQuery) -> dict[int, PlacedToken]:
    """What is put in place of each mask token, by its place; see `fill_blanks`."""
    assert served.mask_prediction is not None
    before, behind = served.around
    found = fill_blanks(
        served.model.program.module,
        served.model.params,
        ids,
        vocabulary=served.tokenizer.vocabulary,
        length=served.width(len(before) + len(ids) + len(behind)),
        prediction=served.mask_prediction,
        order=query.order,
        sampling=sampling_of(query),
        alternatives=query.alternatives,
    )
    return {
        each.place: PlacedToken(each.token, 0, each.log_p, each.alternatives) for each in found
    }


def likelihoods(
    served: ServedModel, row: Sequence[int], places: Sequence[int]
) -> list[tuple[float, Alternatives]]:
    """The log-probability of the token at each place of a row, and the likeliest ones there."""
    vocabulary = served.tokenizer.vocabulary
    masked = [[*row[:place], vocabulary.mask_token, *row[place + 1 :]] for place in places]
    tokens_BL, segments_BL = served.batch(masked)
    filled_up = [*places] + [places[-1]] * (len(tokens_BL) - len(places))
    asked_B1 = np.array(filled_up)[:, None] - (served.mask_prediction == "masked before")
    token_B = np.array([row[place] for place in filled_up])
    program, count = served.model.program, min(ALTERNATIVES, vocabulary.size)
    given = tokens_BL, segments_BL, asked_B1, token_B, possible(vocabulary)
    log_p_B, top_BC, ids_BC = map(
        fetch, _likelihoods(program.module, count, served.model.params, *given)
    )
    return [
        (float(log_p_B[r]), [*zip(ids_BC[r].tolist(), top_BC[r].tolist(), strict=True)])
        for r in range(len(places))
    ]


@partial(jax.jit, static_argnums=(0, 1))
def _likelihoods(
    module: Module,
    count: int,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    asked_B1: jax.Array,
    token_B: jax.Array,
    possible_V: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log p of a token of each row, and the likeliest of those that a text may have."""
    example = unanswered(
        tokens_BL, segments_BL, BidirectionalMask(), target_positions_BP=asked_B1
    )
    output = module.apply({"params": params}, example)
    scores_BV = logits(output, einsum=module.einsum)[:, 0].astype(jnp.float32)
    log_p_BV = jax.nn.log_softmax(scores_BV)
    top_BC, ids_BC = jax.lax.top_k(jnp.where(possible_V[None], log_p_BV, -jnp.inf), count)
    return jnp.take_along_axis(log_p_BV, token_B[:, None], axis=1)[:, 0], top_BC, ids_BC
