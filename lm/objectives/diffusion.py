"""Hide each piece with a probability of its row, drawn anew from 0 to 1: masked diffusion."""

from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.example import Example, Full, Visible, Vocabulary, content_of, positions_of
from lm.objectives.base import Answer, Base
from lm.objectives.masked import choose, replace


class Diffusion(Base, tag="diffusion"):
    """Masked diffusion: rates spread evenly over the batch, each weighted by its inverse."""

    visible: ClassVar[Visible] = Full()
    answers: ClassVar[frozenset[Answer]] = frozenset({"hidden"})

    def slots(self, length: int) -> int:
        """Prediction slots of a row: all but the begin piece may be hidden."""
        return length - 1

    def __call__(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Row b of B hides every content piece with probability t, uniform on [b, b + 1] / B.

        The weight 1/t makes the expected weighted sum the continuous-time bound for a linear
        schedule (Sahoo et al. 2024, equation 10; Shi et al. 2024, equation 7), the same number
        as that of `AnyOrder`, whose counts vary less. Rates drawn in equal parts of the batch
        are Kingma et al. 2021, appendix I.1.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, begin=2, end=3, ordinary=4, begins_word=(True,) * 9
        ... )
        >>> tokens, segments = jnp.full((8, 1000), 5), jnp.ones((8, 1000), int)
        >>> example = Diffusion()(tokens, segments, vocabulary, jax.random.key(0))
        >>> shares = (example.inputs == 1).mean(axis=1)
        >>> bool((abs(8 * shares - jnp.arange(8)) < 1.5).all())
        True
        """
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        batch, length = tokens_BL.shape
        rates, number, chosen = jax.random.split(key, 3)
        # From (0, 1], as 1/t must be finite.
        rate_B = (jnp.arange(1, batch + 1) - jax.random.uniform(rates, (batch,))) / batch
        draws_BL = jax.random.uniform(number, content_BL.shape)
        # Given how many are hidden, which ones is a uniform draw, as in the other objectives.
        hidden_B = (content_BL & (draws_BL < rate_B[:, None])).sum(1)
        predict_BP, used_BP = choose(chosen, content_BL, hidden_B, self.slots(length))
        masks_BP = jnp.full_like(predict_BP, vocabulary.mask)
        return Example(
            inputs=replace(tokens_BL, predict_BP, masks_BP, used_BP),
            predict=predict_BP,
            targets=jnp.take_along_axis(tokens_BL, predict_BP, axis=1),
            weights=used_BP / rate_B[:, None],
            segments=segments_BL,
            positions=positions_of(segments_BL),
            visible=self.visible,
        )
