"""Say again what an encoder has read, through what lies between it and the decoder."""

from dataclasses import replace
from typing import Annotated, ClassVar

import jax
from msgspec import Meta

from lm.example import (
    AttentionMask,
    Batch,
    CausalMask,
    Example,
    Source,
    Vocabulary,
    positions_of,
)
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal


class Reconstruct(Base, tag="reconstruct"):
    """Say each token that the encoder has read, one after the other (an autoencoder).

    What the decoder does not know from the tokens before, it must find in the encoder's code
    (`model.code`). Its loss is no code length, as the code is not paid for.
    """

    attention_mask: ClassVar[AttentionMask] = CausalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset()
    reconstructs: ClassVar[bool] = True
    masked: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="fraction of the tokens before that the decoder is shown masked (Bowman"
            " et al. 2016); 1: it has the code alone",
        ),
    ] = 0.0

    @property
    def source(self) -> bool:
        return True

    def target_count(self, length: int) -> int:
        """Target positions of a row: every position has one."""
        return length

    def source_positions(self, length: int) -> int:
        return length

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """As with `Causal`, with the rows themselves as the source.

        >>> import jax.numpy as jnp
        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> batch = Batch(jnp.array([[2, 5, 6, 3]]), jnp.ones((1, 4), int))
        >>> example = Reconstruct(masked=1)(batch, vocabulary, jax.random.key(0))
        >>> example.source.inputs_BM.tolist(), example.inputs.tolist()
        ([[2, 5, 6, 3]], [[2, 1, 1, 1]])
        >>> example.targets.tolist()
        [[5, 6, 3, 0]]
        """
        tokens_BL, segments_BL = batch.tokens_BL, batch.segments_BL
        example = Causal(masked=self.masked)(batch, vocabulary, key, progress)
        source = Source(tokens_BL, segments_BL, positions_of(segments_BL))
        return replace(example, source=source)
