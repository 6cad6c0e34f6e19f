"""Predict a hidden piece from the position before it, as a GPT does: shifted masked."""

from dataclasses import replace
from typing import Annotated, ClassVar

import jax
from msgspec import Meta

from lm.example import Batch, Example, Full, Visible, Vocabulary
from lm.objectives.any_order import AnyOrder
from lm.objectives.base import Answer, Base
from lm.objectives.diffusion import Diffusion
from lm.objectives.masked import Masked


class Shifted(Base, tag="shifted"):
    """A masked objective that speaks one position early, so that a GPT can learn it too."""

    visible: ClassVar[Visible] = Full()
    answers: ClassVar[frozenset[Answer]] = frozenset({"hidden before"})
    of: Annotated[
        Masked | AnyOrder | Diffusion, Meta(description="what is hidden, and how it counts")
    ] = Masked()

    def slots(self, length: int) -> int:
        """Those of the objective that is shifted."""
        return self.of.slots(length)

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
        """Asks for the piece at i of what the model says at i - 1 (Charpentier & Samuel 2024).

        There is always one before it: a segment begins with a piece that is never hidden.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, begin=2, end=3, ordinary=4, begins_word=(True,) * 9
        ... )
        >>> import jax.numpy as jnp
        >>> tokens = jnp.array([[2, 5, 6, 7, 3]])
        >>> batch = Batch(tokens, jnp.ones((1, 5), int))
        >>> example = Shifted()(batch, vocabulary, jax.random.key(0))
        >>> (tokens[0, example.predict[0] + 1] == example.targets[0]).tolist()
        [True]
        """
        example = self.of(batch, vocabulary, key, progress)
        assert example.predict is not None
        # An unused slot may stand at 0, where nothing is before it; nobody reads what it says.
        return replace(example, predict=(example.predict - 1).clip(0))
