"""Predict nothing: an encoder whose states alone are of use."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import (
    AttentionMask,
    Batch,
    BidirectionalMask,
    Example,
    Vocabulary,
    positions_of,
)
from lm.objectives.base import Base, Prediction


class StatesOnly(Base, tag="states"):
    """Nothing is predicted: what an encoder without a head was left with. Not to train on."""

    attention_mask: ClassVar[AttentionMask] = BidirectionalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset()

    def target_count(self, length: int) -> int:
        """Target positions of a row: the state at every position."""
        return length

    def refuse_training(self) -> str | None:
        return (
            "objective.type=states predicts nothing, so there is nothing to train on; masked,"
            " causal or classify do"
        )

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """The rows as they are; no position weighs anything.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> batch = Batch(jnp.array([[2, 5, 3]]), jnp.ones((1, 3), int))
        >>> StatesOnly()(batch, vocabulary, jax.random.key(0)).weights.tolist()
        [[0.0, 0.0, 0.0]]
        """
        return Example(
            inputs=batch.tokens_BL,
            target_positions=None,
            targets=batch.tokens_BL,
            weights=jnp.zeros(batch.tokens_BL.shape, jnp.float32),
            segments=batch.segments_BL,
            positions=positions_of(batch.segments_BL),
            attention_mask=self.attention_mask,
        )
