"""The chain rule: the exact code length by a model that predicts the next token."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.evaluate.layout import Told
from lm.evaluate.scorers.base import Asking, shift_left
from lm.example import Causal, Example, Vocabulary, content_of, positions_of
from lm.objectives import Answer
from lm.results import Kind


@dataclass(frozen=True)
class ChainRule(Asking):
    """-log p(token | all before it) of a model that says what is next: the exact code length.

    A prefix model is asked with an empty prefix: only the begin piece is given.
    """

    name: ClassVar[str] = "chain rule"
    kind: ClassVar[Kind] = "exact"
    answer: ClassVar[Answer] = "next"
    told: ClassVar[Told] = "nothing"
    samples: ClassVar[int] = 1

    def ask(
        self,
        tokens_BL: jax.Array,
        segments_BL: jax.Array,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """Every position speaks of the next one, where that is content."""
        content_BL = content_of(tokens_BL, segments_BL, vocabulary)
        example = Example(
            inputs=tokens_BL,
            predict=None,
            targets=shift_left(tokens_BL),
            weights=shift_left(content_BL).astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            visible=Causal(),
        )
        return example, jnp.broadcast_to(1 + jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
