"""Mask each token with a probability of its row, drawn anew from 0 to 1: masked diffusion."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, Batch, BidirectionalMask, Example, Vocabulary, content_of
from lm.objectives.base import Base, Prediction
from lm.objectives.masked import choose_masked, mask_tokens


class Diffusion(Base, tag="diffusion"):
    """Masked diffusion: rates spread evenly over the batch, each weighted by its inverse."""

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
        """Each row masks every content token with a probability t of its own, uniform on one of
        B equal parts of [0, 1]; which row has which part is drawn (Kingma et al. 2021, I.1).

        The weight 1/t makes the expected weighted sum the continuous-time bound for a linear
        schedule (Sahoo et al. 2024, equation 10; Shi et al. 2024, equation 7), the same number
        as that of `AnyOrder`. The loss divides it by the sum of the weights, which is the
        number of content tokens in expectation here, and always there.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> batch = Batch(jnp.full((8, 1000), 5), jnp.ones((8, 1000), int))
        >>> example = Diffusion()(batch, vocabulary, jax.random.key(0))
        >>> shares = (example.inputs == 1).mean(axis=1)
        >>> bool((abs(8 * jnp.sort(shares) - jnp.arange(8)) < 1.5).all())
        True
        """
        tokens_BL, segments_BL = batch.tokens_BL, batch.segments_BL
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        rows, length = tokens_BL.shape
        rates, number, chosen, shuffled = jax.random.split(key, 4)
        # From (0, 1], as 1/t must be finite. Shuffled, as rows of padding come last.
        part_B = jax.random.permutation(shuffled, rows) + 1
        rate_B = (part_B - jax.random.uniform(rates, (rows,))) / rows
        draws_BL = jax.random.uniform(number, content_BL.shape)
        # Given how many are masked, which ones is a uniform draw, as in the other objectives.
        masked_B = jnp.sum(content_BL & (draws_BL < rate_B[:, None]), axis=1)
        target_positions_BP, used_BP = choose_masked(
            chosen, content_BL, masked_B, self.target_count(length)
        )
        weights_BP = used_BP / rate_B[:, None]
        return mask_tokens(
            tokens_BL, segments_BL, target_positions_BP, vocabulary.mask_token, weights_BP
        )
