"""The exact likelihood of a masked model in a given decoding order."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp

from lm.evaluate.effort import Effort
from lm.evaluate.layout import LayoutGiven
from lm.evaluate.scorers.base import (
    ScoredRows,
    TokenNats,
    Usual,
    ask_masked,
    at_positions,
    mask_prediction_of,
)
from lm.example import Vocabulary
from lm.model.base import Module
from lm.objectives.base import Base, MaskPrediction
from lm.results import Kind

Order = Literal["left to right", "random", "most confident first"]

PASSES = 32
"""Passes that a decoding order takes for a row, where its block is not given."""


@dataclass(frozen=True)
class FixedOrder(Usual):
    """-log p of a row that is written in one order, some tokens at a time: exact.

    At first all that is scored is masked. In each step the model says what the next `block`
    tokens of the order are, given those unmasked before, and they are unmasked. A block's
    tokens are taken as independent of each other, which is how such a model writes several at
    once; with one token a step this is the likelihood of an order (Uria et al. 2014). As each
    step's places are chosen without a look at what is masked, it sums to one over all strings.

    random: an order for each row, that the seed and the row's number fix for all models. most
    confident first: next are the places whose likeliest token has the highest probability, as
    they are in Chang et al. 2022, section 3.2 (Shih et al. 2022 on what the order does); what
    is true there is not looked at. As in the other scorers, a row's documents share its turns,
    and the model sees where they begin and end, for which the length model pays.
    """

    order: Order = "left to right"
    block: int = 1
    prediction: MaskPrediction = "masked"
    kind: ClassVar[Kind] = "exact"
    layout_given: ClassVar[LayoutGiven] = "ends of documents"
    samples: ClassVar[int] = 1
    only_by_name: ClassVar[bool] = True

    def fitted(self, objective: Base, *, length: int, effort: Effort) -> Self:
        block = effort.block or -(-(length - 1) // PASSES)
        return replace(
            self, block=block, prediction=mask_prediction_of(objective.predictions) or "masked"
        )

    def rows(self, effort: Effort) -> int | None:
        return effort.orders

    @property
    def name(self) -> str:
        """The order and the block, if it is not one token.

        >>> FixedOrder(block=4).name, FixedOrder("random").name
        ('order from left to right, 4 at once', 'random order')
        """
        names: dict[Order, str] = {
            "left to right": "order from left to right",
            "random": "random order",
            "most confident first": "order of confidence",
        }
        return names[self.order] + (f", {self.block} at once" if self.block > 1 else "")

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
        return self.unmask(module, params, rows, vocabulary=vocabulary, key_B=key_B)[1]

    def unmask(
        self,
        module: Module,
        params: Any,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
    ) -> tuple[jax.Array, TokenNats]:
        """The step in which each token is unmasked, from 1, and its nats; 0: not scored."""
        shape = rows.tokens_BL.shape
        length = shape[1]
        index_BL = jnp.broadcast_to(jnp.arange(length), shape)
        block = min(self.block, length)

        def predicted(
            masked_BL: jax.Array, at_BP: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            nats_BP, least_BP = ask_masked(
                module, params, rows, masked_BL, at_BP, self.prediction, vocabulary
            )
            return at_BP, nats_BP, least_BP

        def first(rank_BL: jax.Array, masked_BL: jax.Array) -> jax.Array:
            """The masked places of the lowest rank, the leftmost of those that are equal."""
            return jax.lax.top_k(-jnp.where(masked_BL, rank_BL, jnp.inf), block)[1]

        def known(
            rank_BL: jax.Array, masked_BL: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            return predicted(masked_BL, first(rank_BL, masked_BL))

        def confident(masked_BL: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            _, nats_BL, least_BL = predicted(masked_BL, index_BL)
            at_BP = first(least_BL, masked_BL)
            nats_BP = jnp.take_along_axis(nats_BL, at_BP, axis=1)
            return at_BP, nats_BP, jnp.take_along_axis(least_BL, at_BP, axis=1)

        choose: Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]
        match self.order:
            case "left to right":
                choose = partial(known, index_BL.astype(jnp.float32))
            case "random":
                draw = partial(jax.random.uniform, shape=(length,))
                choose = partial(known, jax.vmap(draw)(key_B))
            case _:
                choose = confident

        def step(carry: _Unmasked) -> _Unmasked:
            number, masked_BL, step_BL, (nats_BL, likeliest_BL) = carry
            at_BP, nats_BP, least_BP = choose(masked_BL)
            # A row that has fewer left than a block leaves slots unused.
            used_BP = jnp.take_along_axis(masked_BL, at_BP, axis=1)
            at_BP = jnp.where(used_BP, at_BP, length)
            masked_BL = at_positions(masked_BL, at_BP).set(False, mode="drop")
            step_BL = at_positions(step_BL, at_BP).set(number, mode="drop")
            nats_BL = at_positions(nats_BL, at_BP).set(nats_BP, mode="drop")
            likeliest_BL = at_positions(likeliest_BL, at_BP).set(
                nats_BP <= least_BP, mode="drop"
            )
            return number + 1, masked_BL, step_BL, TokenNats(nats_BL, likeliest_BL)

        never_BL = jnp.zeros(shape, jnp.int32)
        none = TokenNats(jnp.zeros(shape), jnp.ones(shape, bool))
        carry = jnp.int32(1), rows.scored_BL, never_BL, none
        _, _, step_BL, found = jax.lax.while_loop(lambda carry: carry[1].any(), step, carry)
        return step_BL, found


_Unmasked = tuple[jax.Array, jax.Array, jax.Array, TokenNats]
"""The next step, what is masked, and of each token its step and what is attributed to it."""
