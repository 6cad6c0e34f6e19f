"""Predict a masked token from the position before it, as a GPT does: shifted masked."""

from dataclasses import replace
from typing import Annotated, ClassVar

import jax
from msgspec import Meta

from lm.example import AttentionMask, Batch, BidirectionalMask, Example, Vocabulary
from lm.objectives.any_order import AnyOrder
from lm.objectives.base import Base, Prediction
from lm.objectives.diffusion import Diffusion
from lm.objectives.masked import Masked


class Shifted(Base, tag="shifted"):
    """A masked objective that speaks one position early, so that a GPT can learn it too."""

    attention_mask: ClassVar[AttentionMask] = BidirectionalMask()
    predictions: ClassVar[frozenset[Prediction]] = frozenset({"masked before"})
    of: Annotated[
        Masked | AnyOrder | Diffusion, Meta(description="what is masked, and how it counts")
    ] = Masked()

    def target_count(self, length: int) -> int:
        """Those of the objective that is shifted."""
        return self.of.target_count(length)

    def check(self, *, length: int, sentinels: int) -> str | None:
        why = self.of.check(length=length, sentinels=sentinels)
        return why and f"of.{why}"

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Asks for the token at i of what the model says at i - 1 (Charpentier & Samuel 2024).

        There is always one before it: a segment begins with a token that is never masked.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> import jax.numpy as jnp
        >>> tokens = jnp.array([[2, 5, 6, 7, 3]])
        >>> batch = Batch(tokens, jnp.ones((1, 5), int))
        >>> example = Shifted()(batch, vocabulary, jax.random.key(0))
        >>> (tokens[0, example.target_positions[0] + 1] == example.targets[0]).tolist()
        [True]
        """
        example = self.of(batch, vocabulary, key, progress)
        assert example.target_positions is not None
        # An unused slot may stand at 0, where nothing is before it; nobody reads what it says.
        return replace(example, target_positions=(example.target_positions - 1).clip(0))
