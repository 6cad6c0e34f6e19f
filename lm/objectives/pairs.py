"""Pairs of answers, of which one was chosen: rows of them, whoever compares the two.

A pair is one document: what was chosen, then what was rejected, each with its prompt. The
channel `choice` says which of the two a token belongs to, and `loss` which tokens are the
answer's, with the one that ends it.
"""

import jax
import jax.numpy as jnp

from lm.data import sources
from lm.example import Batch, Vocabulary

CHOICE, LOSS = sources.CHOICE.name, sources.LOSS.name
SHORTEST = 4
"""Tokens of a pair at least: of either, one that is given and one of its answer."""


def most_pairs(length: int) -> int:
    """How many pairs find room in a row.

    >>> most_pairs(9)
    2
    """
    return max(1, length // SHORTEST)


def sides(batch: Batch) -> jax.Array:
    """The rows with a segment for each side of a pair, int32[B, L].

    What was chosen of the pair that was segment s becomes 2s - 1, and what was rejected 2s: so
    neither sees the other, and both begin at position 0.

    >>> segments, choice = jnp.array([[1, 1, 1, 2, 2, 0]]), jnp.array([[0, 0, 1, 0, 1, 0]])
    >>> sides(Batch(segments, segments, {"choice": choice})).tolist()
    [[1, 1, 2, 3, 4, 0]]
    """
    segments_BL, choice_BL = batch.segments_BL, batch.channels[CHOICE]
    return jnp.where(segments_BL > 0, 2 * segments_BL - 1 + choice_BL, 0)


def answers(batch: Batch, vocabulary: Vocabulary) -> jax.Array:
    """Which tokens are of an answer of a pair that counts, bool[B, L].

    A pair counts if both sides have an answer, behind some token, and neither is cut. A row's
    last token of an answer that is no special one does not end it: what was behind found no
    room.

    >>> vocabulary = Vocabulary(
    ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
    ... )
    >>> tokens, ones = jnp.array([[5, 6, 3, 5, 7, 3, 5, 8, 5, 8]]), jnp.ones((1, 10), int)
    >>> choice = jnp.array([[0, 0, 0, 1, 1, 1, 0, 0, 1, 1]])
    >>> channels = {"choice": choice, "loss": jnp.array([[0, 1, 1] * 2 + [0, 1] * 2])}
    >>> batch = Batch(tokens, jnp.array([[1] * 6 + [2] * 4]), channels)
    >>> answers(batch, vocabulary).astype(int).tolist()
    [[0, 1, 1, 0, 1, 1, 0, 0, 0, 0]]
    """
    segments_BL = sides(batch)
    after_BL = jnp.pad(segments_BL[:, :-1], ((0, 0), (1, 0))) == segments_BL
    answer_BL = after_BL & (segments_BL > 0) & (batch.channels[LOSS] > 0)
    ordinary_B = jnp.array(vocabulary.is_ordinary)[batch.tokens_BL[:, -1]]
    cut_B = ordinary_B & answer_BL[:, -1]
    last_B = segments_BL[:, -1]
    whole_BL = ~cut_B[:, None] | ((segments_BL + 1) // 2 != (last_B[:, None] + 1) // 2)
    there_BS2 = by_side(answer_BL.astype(jnp.float32), segments_BL) > 0
    pair_BL = jnp.maximum((segments_BL + 1) // 2 - 1, 0)
    both_BS = there_BS2.all(2)
    both_BL = jnp.take_along_axis(both_BS, pair_BL, axis=1, mode="fill", fill_value=False)
    return answer_BL & whole_BL & both_BL


def by_side(x_BL: jax.Array, segments_BL: jax.Array, pairs: int | None = None) -> jax.Array:
    """The sum over each side of each pair, [B, S, 2]: chosen, then rejected.

    S is the number of `pairs`, or `most_pairs` of a row.

    >>> by_side(jnp.array([[1.0, 2.0, 4.0, 8.0]]), jnp.array([[1, 1, 2, 0]])).tolist()
    [[[3.0, 4.0]]]
    """
    rows, length = x_BL.shape
    slots = 2 * (pairs or most_pairs(length))
    # Padding points past the slots, where `drop` ignores it.
    slot_BL = jnp.where(segments_BL > 0, segments_BL - 1, slots)
    sums_BS = jnp.zeros((rows, slots), x_BL.dtype)
    sums_BS = sums_BS.at[jnp.arange(rows)[:, None], slot_BL].add(x_BL, mode="drop")
    return sums_BS.reshape(rows, -1, 2)
