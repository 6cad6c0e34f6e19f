"""The mixture of all decoding orders: one order at a time, or all of them by their subsets.

A masked model writes n tokens in any order, so it has n! likelihoods of them, p_order. Its
any-order likelihood is their mean, p = E[p_order] over uniformly random orders (Uria et al.
2014). A long row is written in blocks, from left to right, each in a random order of its own
while all behind it stays masked: that is another model, the block model, and its likelihood is
the product over its blocks.

Dimension letters, beside those of scorers: S subsets of a block, P places of a block.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from lm.evaluate.layout import LayoutGiven
from lm.evaluate.scorers.base import ScoredRows, TokenNats, Usual, ask_masked, at_positions
from lm.example import Vocabulary
from lm.model.base import Module
from lm.objectives.base import MaskPrediction
from lm.results import Kind

MOST = 14
"""Tokens of a block of which all orders are summed, at most: 2^14 model calls."""
POSITIONS = 8192
"""Positions that the model is asked at once, of subsets and rows together."""


@dataclass(frozen=True)
class _ByBlocks(Usual):
    """What both have in common."""

    size: int = 8
    """Tokens of a block."""
    prediction: MaskPrediction = "masked"
    layout_given: ClassVar[LayoutGiven] = "ends of documents"
    samples: ClassVar[int] = 1
    only_by_name: ClassVar[bool] = True


@dataclass(frozen=True)
class OneOrder(_ByBlocks):
    """-log p_order of an order that is drawn: its mean is an upper bound on the code length.

    The order goes through the blocks from left to right, and is uniformly random in each.
    """

    name: ClassVar[str] = "a random order within blocks"
    kind: ClassVar[Kind] = "bound"

    def nats(
        self,
        module: Module,
        params: Any,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> TokenNats:
        tokens_BL, _, scored_BL = rows
        length = tokens_BL.shape[1]
        draw_BL = jax.vmap(lambda key: jax.random.uniform(key, (length,)))(key_B)
        rank_BL = jnp.where(scored_BL, blocks_of(rows, self.size) + draw_BL, jnp.inf)

        def step(carry: tuple[jax.Array, TokenNats]) -> tuple[jax.Array, TokenNats]:
            masked_BL, (nats_BL, likeliest_BL) = carry
            at_B1 = jnp.where(masked_BL, rank_BL, jnp.inf).argmin(axis=1, keepdims=True)
            nats_B1, least_B1 = ask_masked(
                module, params, rows, masked_BL, at_B1, self.prediction, vocabulary
            )
            # A row that has fewer tokens is done.
            used_B1 = jnp.take_along_axis(masked_BL, at_B1, axis=1)
            at_B1 = jnp.where(used_B1, at_B1, length)
            found = TokenNats(
                at_positions(nats_BL, at_B1).set(nats_B1, mode="drop"),
                at_positions(likeliest_BL, at_B1).set(nats_B1 <= least_B1, mode="drop"),
            )
            return at_positions(masked_BL, at_B1).set(False, mode="drop"), found

        none = TokenNats(jnp.zeros(tokens_BL.shape), jnp.ones(tokens_BL.shape, bool))
        return jax.lax.while_loop(lambda carry: carry[0].any(), step, (scored_BL, none))[1]


@dataclass(frozen=True)
class AllOrders(_ByBlocks):
    """-log of the mean of p_order over all orders of each block: exact, of the block model.

    With f(S) the mean over all orders of a subset S of the block of its probability, given all
    before the block, f of nothing is 1 and

        f(S) = 1/|S| sum over i in S of f(S without i) p(token i | S without i),

    as each of S's tokens is the last one of an order equally often. So 2^P - 1 calls take the
    place of P! orders. The block's nats are spread equally over its tokens; none of them has
    nats of its own.
    """

    name: ClassVar[str] = "all orders within blocks"
    kind: ClassVar[Kind] = "exact"

    def nats(
        self,
        module: Module,
        params: Any,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> TokenNats:
        places = min(self.size, rows.tokens_BL.shape[1])
        block_BL = blocks_of(rows, self.size)
        index_BL = jnp.broadcast_to(jnp.arange(rows.tokens_BL.shape[1]), block_BL.shape)

        def step(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            left_BL, nats_BL = carry
            next_B1 = jnp.where(left_BL, block_BL, jnp.inf).min(axis=1, keepdims=True)
            here_BL = left_BL & (block_BL == next_B1)
            # The block's places first, from left to right.
            at_BP = jnp.argsort(jnp.where(here_BL, index_BL, index_BL + 2 * left_BL.shape[1]))
            at_BP = at_BP[:, :places]
            used_BP = jnp.take_along_axis(here_BL, at_BP, axis=1)
            nats_SBP = self._asked(module, params, rows, left_BL, at_BP, used_BP, vocabulary)
            whole_B = -mixtures(nats_SBP)[2 ** used_BP.sum(axis=1) - 1, jnp.arange(len(at_BP))]
            share_B1 = (whole_B / jnp.maximum(here_BL.sum(axis=1), 1))[:, None]
            return left_BL & ~here_BL, jnp.where(here_BL, share_B1, nats_BL)

        carry = rows.scored_BL, jnp.zeros(block_BL.shape)
        _, nats_BL = jax.lax.while_loop(lambda carry: carry[0].any(), step, carry)
        return TokenNats(nats_BL, jnp.ones(block_BL.shape, bool))

    def _asked(
        self,
        module: Module,
        params: Any,
        rows: ScoredRows,
        left_BL: jax.Array,
        at_BP: jax.Array,
        used_BP: jax.Array,
        vocabulary: Vocabulary,
    ) -> jax.Array:
        """-log p of the block's tokens given those of each subset, float32[S, B, P].

        Subset s holds place i where bit i of s is set. The whole block is asked for too, and
        nobody reads what is said of it.
        """
        number, length = left_BL.shape
        places = at_BP.shape[1]
        together = min(2**places, max(1, POSITIONS // (number * length)))
        together = 2 ** (together.bit_length() - 1)  # divides the number of subsets
        many = [jnp.tile(array, (together, 1)) for array in (*rows, left_BL, at_BP, used_BP)]
        tokens_NL, segments_NL, scored_NL, left_NL, at_NP, used_NP = many
        several = ScoredRows(tokens_NL, segments_NL, scored_NL)

        def ask(first: jax.Array) -> jax.Array:
            subset_N1 = jnp.repeat(first + jnp.arange(together), number)[:, None]
            known_NP = (subset_N1 >> jnp.arange(places)[None]) & 1 == 1
            at = jnp.where(known_NP & used_NP, at_NP, length)
            masked_NL = at_positions(left_NL, at).set(False, mode="drop")
            nats_NP, _ = ask_masked(
                module, params, several, masked_NL, at_NP, self.prediction, vocabulary
            )
            return nats_NP.reshape(together, number, places)

        asked = jax.lax.map(ask, jnp.arange(0, 2**places, together))
        return asked.reshape(2**places, number, places)


def blocks_of(rows: ScoredRows, size: int) -> jax.Array:
    """Which block each scored token of a row belongs to, from left to right, float32[B, L].

    A block ends where a document does, so that each document's nats are its own.

    >>> rows = ScoredRows(*(jnp.array([row]) for row in (
    ...     [2, 5, 6, 7, 3, 2, 5, 3], [1, 1, 1, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 0, 1, 1])))
    >>> blocks_of(rows._replace(scored_BL=rows.scored_BL == 1), 3).tolist()
    [[0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]]
    """
    scored_BL = rows.scored_BL
    count_BL = jnp.cumsum(scored_BL, axis=1)
    new_BL = jnp.diff(rows.segments_BL, axis=1, prepend=-1) != 0
    # How many were scored before the token's document.
    before_BL = jax.lax.cummax(jnp.where(new_BL, count_BL - scored_BL, 0), axis=1)
    starts_BL = scored_BL & ((count_BL - 1 - before_BL) % size == 0)
    return jnp.cumsum(starts_BL, axis=1).astype(jnp.float32)


def mixtures(nats_SBP: jax.Array) -> jax.Array:
    """Log f of each subset of P places, given -log p of each place given each subset: [S, B].

    >>> first, then = [0.5, 0.25], [[0.5, 0.1], [0.2, 0.25]]  # p(i), and p(i | the other)
    >>> nats = -jnp.log(jnp.array([first, [1, then[0][1]], [then[1][0], 1], [1, 1]]))[:, None]
    >>> np.asarray(jnp.exp(mixtures(nats)))[:, 0].round(3)  # (0.5 x 0.1 + 0.25 x 0.2) / 2
    array([1.  , 0.5 , 0.25, 0.05], dtype=float32)
    """
    places = nats_SBP.shape[2]
    log_SB = jnp.zeros(nats_SBP.shape[:2])
    for layer in _layers(places):
        # What each has without one of its places, times the probability of that one.
        terms = log_SB[layer.without] - nats_SBP[layer.without, :, layer.place]
        log_SB = log_SB.at[layer.subsets].set(
            logsumexp(terms, axis=1) - np.log(layer.place.shape[1])
        )
    return log_SB


class _Layer(NamedTuple):
    """Subsets of one size m: each, without one of its places, is one of the layer before."""

    subsets: np.ndarray
    """int[N]"""
    place: np.ndarray
    """int[N, m]: its places."""
    without: np.ndarray
    """int[N, m]: the subset that lacks this place."""


@lru_cache
def _layers(places: int) -> tuple[_Layer, ...]:
    """All subsets that are not empty, by their sizes."""
    held_SP = (np.arange(2**places)[:, None] >> np.arange(places)) & 1 == 1
    found = []
    for size in range(1, places + 1):
        subsets = np.flatnonzero(held_SP.sum(axis=1) == size)
        place = np.nonzero(held_SP[subsets])[1].reshape(-1, size)
        found.append(_Layer(subsets, place, subsets[:, None] - 2**place))
    return tuple(found)
