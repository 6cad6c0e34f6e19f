"""See a first part of the row whole and predict the rest token by token: a prefix model."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, Batch, BidirectionalMask, Example, UntilMask, Vocabulary
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal


class Prefix(Base, tag="prefix"):
    """See a prefix in both directions, predict each next token after it (prefix LM)."""

    # Which positions lie in the prefix is drawn on device, so all pairs are computed.
    attention_mask: ClassVar[AttentionMask] = BidirectionalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"next"})

    @property
    def masks(self) -> frozenset[type[AttentionMask]]:
        return frozenset({UntilMask})

    def target_count(self, length: int) -> int:
        """Target positions of a row: every position has one; those in the prefix are unused."""
        return length

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """The prefix of a row ends at a position drawn from all but the last (Raffel et al.
        2020, section 3.2.1); with the smallest it is the bos token and the model a GPT.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> batch = Batch(jnp.array([[2, 5, 6, 7, 3]]), jnp.ones((1, 5), int))
        >>> example = Prefix()(batch, vocabulary, jax.random.key(0))
        >>> example.attention_mask.until_BL.tolist(), example.weights.astype(int).tolist()
        ([[1, 1, 2, 3, 4]], [[0, 1, 1, 1, 0]])
        """
        example = Causal()(batch, vocabulary, key, progress)
        number, length = batch.tokens_BL.shape
        last_B1 = jax.random.randint(key, (number, 1), 0, length - 1)
        index_1L = jnp.arange(length)[None, :]
        return replace(
            example,
            weights=jnp.where(index_1L >= last_B1, example.weights, 0.0),
            attention_mask=UntilMask(jnp.maximum(index_1L, last_B1)),
        )
