"""Mask a number of tokens drawn anew for every row, from one to all: masked at all rates."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, Batch, BidirectionalMask, Example, Vocabulary, content_of
from lm.objectives.base import Base, Prediction
from lm.objectives.masked import choose_masked, mask_tokens


class AnyOrder(Base, tag="any_order"):
    """Predict masked tokens at all masking rates; its loss bounds -log p over any order."""

    attention_mask: ClassVar[AttentionMask] = BidirectionalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"masked"})

    def target_count(self, length: int) -> int:
        """Target positions of a row: all but the bos token may be masked."""
        return length - 1

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Of n content tokens hides m, uniform on 1..n, and weighs each by n/m.

        The expected weighted sum is the code length of the row over uniformly random orders
        (Uria et al. 2014, equation 7; Ou et al. 2025 for its masked-diffusion form).

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> key = jax.random.key(0)
        >>> example = AnyOrder()(
        ...     Batch(jnp.array([[2, 5, 6, 7, 3]]), jnp.ones((1, 5), int)), vocabulary, key
        ... )
        >>> float(example.weights.sum())
        4.0
        """
        tokens_BL, segments_BL = batch.tokens_BL, batch.segments_BL
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        number, chosen = jax.random.split(key)
        content_B = content_BL.sum(1)
        uniform_B = jax.random.uniform(number, content_B.shape)
        # A float32 uniform is below 1, but its product with n may round up to n.
        masked_B = jnp.minimum(
            1 + jnp.floor(uniform_B * content_B).astype(jnp.int32), content_B
        )
        target_positions_BP, used_BP = choose_masked(
            chosen, content_BL, masked_B, self.target_count(tokens_BL.shape[1])
        )
        weight_B1 = (content_B / jnp.maximum(masked_B, 1))[:, None]
        return mask_tokens(
            tokens_BL,
            segments_BL,
            target_positions_BP,
            vocabulary.mask_token,
            used_BP * weight_B1,
        )
