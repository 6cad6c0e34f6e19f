"""The chain rule: the exact code length by a model that predicts the next token."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.evaluate.layout import LayoutGiven
from lm.evaluate.scorers.base import ExampleScorer, ScoredRows, shift_left
from lm.example import CausalMask, Example, Vocabulary, positions_of
from lm.objectives import Prediction
from lm.results import Kind


@dataclass(frozen=True)
class ChainRule(ExampleScorer):
    """-log p(token | all before it) of a model that says what is next: the exact code length.

    A prefix model is asked with an empty prefix: only the bos token is given.
    """

    name: ClassVar[str] = "chain rule"
    kind: ClassVar[Kind] = "exact"
    prediction: ClassVar[Prediction] = "next"
    layout_given: ClassVar[LayoutGiven] = "nothing"
    samples: ClassVar[int] = 1

    def build_example(
        self,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """Every position speaks of the next one, where that is scored."""
        tokens_BL, segments_BL, scored_BL = rows
        example = Example(
            inputs=tokens_BL,
            target_positions=None,
            targets=shift_left(tokens_BL),
            weights=shift_left(scored_BL).astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=CausalMask(),
        )
        return example, jnp.broadcast_to(1 + jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
