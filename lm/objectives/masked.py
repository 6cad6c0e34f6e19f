"""Hide some pieces and predict them from all the others (BERT)."""

import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.config import Config
from lm.example import Example, Full, Visible, Vocabulary, content_of, positions_of


class Masked(Config, tag="masked"):
    """Predict a fixed share of hidden pieces from all the others (BERT)."""

    visible: ClassVar[Visible] = Full()
    rate: Annotated[float, Meta(gt=0, le=1, description="share of content pieces hidden")] = (
        0.15
    )
    mask: Annotated[
        float, Meta(ge=0, le=1, description="of these, shown as the mask piece")
    ] = 0.8
    random: Annotated[
        float, Meta(ge=0, le=1, description="of these, shown as a random piece")
    ] = 0.1

    def slots(self, length: int) -> int:
        """Prediction slots of a row of which all but the begin piece is content.

        >>> Masked(rate=0.15).slots(257)
        38
        """
        return max(1, math.floor(self.rate * (length - 1) + 0.5))

    def __call__(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        vocabulary: Vocabulary,
        key: jax.Array,
    ) -> Example:
        """Hides round(rate x content) pieces of each row, uniformly chosen.

        What is neither masked nor replaced is shown as it is, and predicted all the same
        (Devlin et al. 2019, section 3.1: 80/10/10).

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, begin=2, end=3, ordinary=4, begins_word=(True,) * 9
        ... )
        >>> key = jax.random.key(0)
        >>> example = Masked(rate=0.5, mask=1, random=0)(
        ...     jnp.array([[2, 5, 6, 7, 3]]), jnp.ones((1, 5), int), vocabulary, key
        ... )
        >>> int((example.inputs == 1).sum()), example.weights.tolist()
        (2, [[1.0, 1.0]])
        """
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        hidden_B = jnp.floor(self.rate * content_BL.sum(1) + 0.5).astype(jnp.int32)
        chosen, corrupted = jax.random.split(key)
        predict_BP, used_BP = choose(
            chosen, content_BL, hidden_B, self.slots(tokens_BL.shape[1])
        )
        targets_BP = jnp.take_along_axis(tokens_BL, predict_BP, axis=1)
        which, replacement = jax.random.split(corrupted)
        draw_BP = jax.random.uniform(which, predict_BP.shape)
        random_BP = jax.random.randint(
            replacement, predict_BP.shape, vocabulary.ordinary, vocabulary.size
        )
        shown_BP = jnp.where(
            draw_BP < self.mask,
            vocabulary.mask,
            jnp.where(draw_BP < self.mask + self.random, random_BP, targets_BP),
        )
        return Example(
            inputs=replace(tokens_BL, predict_BP, shown_BP, used_BP),
            predict=predict_BP,
            targets=targets_BP,
            weights=used_BP.astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            visible=self.visible,
        )


def choose(
    key: jax.Array, content_BL: jax.Array, count_B: jax.Array, slots: int
) -> tuple[jax.Array, jax.Array]:
    """A uniform set of `count_B` content positions a row, in `slots` static slots.

    Returns positions int32[B, P], in random order, and which slots are used, bool[B, P].

    >>> content = jnp.array([[False, True, True, True]])
    >>> predict, used = choose(jax.random.key(0), content, jnp.array([2]), 3)
    >>> used.tolist(), 0 in predict[used]
    ([[True, True, False]], False)
    """
    score_BL = jnp.where(content_BL, jax.random.uniform(key, content_BL.shape), -1.0)
    _, predict_BP = jax.lax.top_k(score_BL, slots)
    return predict_BP, jnp.arange(slots)[None, :] < count_B[:, None]


def replace(
    tokens_BL: jax.Array, predict_BP: jax.Array, shown_BP: jax.Array, used_BP: jax.Array
) -> jax.Array:
    """Puts `shown` in place of the tokens at the used slots.

    >>> replace(*map(jnp.array, ([[5, 6, 7]], [[2, 0]], [[1, 1]], [[True, False]]))).tolist()
    [[5, 6, 1]]
    """
    # An unused slot points past the row, where `drop` ignores it.
    at_BP = jnp.where(used_BP, predict_BP, tokens_BL.shape[1])
    rows_B1 = jnp.arange(tokens_BL.shape[0])[:, None]
    return tokens_BL.at[rows_B1, at_BP].set(shown_BP, mode="drop")
