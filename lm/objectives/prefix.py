"""See a first part of the row whole and predict the rest piece by piece: a prefix model."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import Batch, Example, Full, Until, Visible, Vocabulary
from lm.objectives.base import Answer, Base
from lm.objectives.causal import Causal


class Prefix(Base, tag="prefix"):
    """See a prefix in both directions, predict each next piece after it (prefix LM)."""

    # Which positions lie in the prefix is drawn on device, so all pairs are computed.
    visible: ClassVar[Visible] = Full()
    answers: ClassVar[frozenset[Answer]] = frozenset({"next"})

    @property
    def masks(self) -> frozenset[type[Visible]]:
        return frozenset({Until})

    def slots(self, length: int) -> int:
        """Prediction slots of a row: every position has one; those in the prefix are unused."""
        return length

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """The prefix of a row ends at a position drawn from all but the last (Raffel et al.
        2020, section 3.2.1); with the smallest it is the begin piece and the model a GPT.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, begin=2, end=3, ordinary=4, begins_word=(True,) * 9
        ... )
        >>> batch = Batch(jnp.array([[2, 5, 6, 7, 3]]), jnp.ones((1, 5), int))
        >>> example = Prefix()(batch, vocabulary, jax.random.key(0))
        >>> example.visible.until_BL.tolist(), example.weights.astype(int).tolist()
        ([[1, 1, 2, 3, 4]], [[0, 1, 1, 1, 0]])
        """
        example = Causal()(batch, vocabulary, key, progress)
        number, length = batch.tokens_BL.shape
        last_B1 = jax.random.randint(key, (number, 1), 0, length - 1)
        index_1L = jnp.arange(length)[None, :]
        return replace(
            example,
            weights=jnp.where(index_1L >= last_B1, example.weights, 0.0),
            visible=Until(jnp.maximum(index_1L, last_B1)),
        )
