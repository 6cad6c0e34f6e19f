"""Predict the next token from those before it (GPT)."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import (
    AttentionMask,
    Batch,
    CausalMask,
    Example,
    Vocabulary,
    content_of,
    positions_of,
)
from lm.objectives.base import Base, Prediction


class Causal(Base, tag="causal"):
    """Predict each next token from those before it (GPT)."""

    attention_mask: ClassVar[AttentionMask] = CausalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"next"})

    def target_count(self, length: int) -> int:
        """Target positions of a row: every position has one."""
        return length

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Targets are the inputs shifted by one, within a segment.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> key = jax.random.key(0)
        >>> segments = jnp.array([[1, 1, 1, 1, 2, 2]])
        >>> example = Causal()(
        ...     Batch(jnp.array([[2, 5, 6, 3, 2, 7]]), segments), vocabulary, key
        ... )
        >>> example.targets.tolist(), example.weights.astype(int).tolist()
        ([[5, 6, 3, 2, 7, 0]], [[1, 1, 1, 0, 1, 0]])
        """
        tokens_BL, segments_BL = batch.tokens_BL, batch.segments_BL
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        counts_BL = shift(content_BL, False) & (shift(segments_BL, 0) == segments_BL)
        return Example(
            inputs=tokens_BL,
            target_positions=None,
            targets=shift(tokens_BL, vocabulary.pad),
            weights=counts_BL.astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=self.attention_mask,
        )


def shift(x_BL: jax.Array, last: float | bool) -> jax.Array:
    """What stands one position on, and at the end of a row `last`."""
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)), constant_values=last)
