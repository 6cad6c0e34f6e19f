"""Predict the next token from those before it (GPT)."""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from msgspec import Meta

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
from lm.objectives.masked import Drawn


class Causal(Base, tag="causal"):
    """Predict each next token from those before it (GPT)."""

    attention_mask: ClassVar[AttentionMask] = CausalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"next"})
    masked: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | Drawn,
        Meta(
            description="fraction of the tokens before that are shown masked, as noise in"
            " training; scorers show all of them"
        ),
    ] = 0.0

    def check(self, *, length: int, sentinels: int) -> str | None:
        match self.masked:
            case Drawn(low=low, high=high) if low > high:
                return f"masked.low={low} is above its high={high}"
        return None

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
        """Targets are the tokens shifted by one, within a segment, whatever of them is shown.

        Each content token is masked with the row's probability, independently of the others;
        the token that follows is asked for all the same.

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
        >>> example = Causal(masked=1.0)(
        ...     Batch(jnp.array([[2, 5, 6, 3, 2, 7]]), segments), vocabulary, key
        ... )
        >>> example.inputs.tolist(), example.targets.tolist()
        ([[2, 1, 1, 1, 2, 1]], [[5, 6, 3, 2, 7, 0]])
        """
        tokens_BL, segments_BL = batch.tokens_BL, batch.segments_BL
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        counts_BL = shift(content_BL, False) & (shift(segments_BL, 0) == segments_BL)
        return Example(
            inputs=self._shown(tokens_BL, content_BL, vocabulary, key),
            target_positions=None,
            targets=shift(tokens_BL, vocabulary.pad),
            weights=counts_BL.astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=self.attention_mask,
        )

    def _shown(
        self,
        tokens_BL: jax.Array,
        content_BL: jax.Array,
        vocabulary: Vocabulary,
        key: jax.Array,
    ) -> jax.Array:
        rate: float | jax.Array
        match self.masked:
            case Drawn(low=low, high=high):
                shape, rates = (len(tokens_BL), 1), jax.random.fold_in(key, 1)
                rate = jax.random.uniform(rates, shape, minval=low, maxval=high)
            case rate:
                if not rate:
                    return tokens_BL
        drawn_BL = jax.random.uniform(key, tokens_BL.shape) < rate
        return jnp.where(drawn_BL & content_BL, vocabulary.mask_token, tokens_BL)


def shift(x_BL: jax.Array, last: float | bool) -> jax.Array:
    """What stands one position on, and at the end of a row `last`."""
    return jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)), constant_values=last)
