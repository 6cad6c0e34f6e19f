"""The chain rule behind a sentinel, for models that were trained on spans: exact."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import jax

from lm.evaluate.effort import Effort
from lm.evaluate.layout import LayoutGiven
from lm.evaluate.scorers.base import ExampleScorer, ScoredRows
from lm.example import Example, Vocabulary
from lm.objectives import Prediction
from lm.objectives.base import Base
from lm.objectives.spans import Spans, lay_out
from lm.results import Kind


@dataclass(frozen=True)
class BehindSentinel(ExampleScorer):
    """The chain rule where all content of a document stands behind one sentinel: exact.

    A span model is given how many documents a row has, for which the length model pays, and
    says each in one span, from left to right. Sentinels are given, as they are no text: only
    tokens of the row count.
    """

    stack: Literal["single", "encoder_decoder"] = "single"
    name: ClassVar[str] = "chain rule behind a sentinel"
    kind: ClassVar[Kind] = "exact"
    prediction: ClassVar[Prediction] = "spans"
    layout_given: ClassVar[LayoutGiven] = "number of documents"
    samples: ClassVar[int] = 1

    def fitted(self, objective: Base, *, length: int, effort: Effort) -> Self:
        last = objective.last
        return replace(self, stack=last.stack) if isinstance(last, Spans) else self

    def build_example(
        self,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """Shows a bos token and a sentinel for each document, and asks for all the rest.

        >>> import jax.numpy as jnp
        >>> vocabulary = Vocabulary(
        ...     size=12, pad=0, mask=1, bos=2, eos=3, first_ordinary=6,
        ...     begins_word=(True,) * 12, sentinels=(4, 5),
        ... )
        >>> tokens = jnp.array([[2, 7, 8, 3]])
        >>> example, at = BehindSentinel().build_example(
        ...     ScoredRows(tokens, jnp.ones_like(tokens), tokens != 2),
        ...     vocabulary=vocabulary, key_B=jax.random.key(0)[None], sample=0,
        ... )
        >>> example.inputs.tolist(), example.targets.tolist(), at.tolist()
        ([[2, 4, 0, 0, 2, 4, 7, 8, 3, 5]], [[4, 7, 8, 3, 5, 0]], [[4, 1, 2, 3, 4, 4]])
        """
        tokens_BL, segments_BL, scored_BL = rows
        length = tokens_BL.shape[1]
        layout = lay_out(
            tokens_BL,
            segments_BL,
            scored_BL,
            vocabulary,
            text=length,
            # A document of two positions or more takes one more: at most half as many again.
            spans=length + -(-length // 2),
        )
        return layout.example(self.stack), layout.origin_BP
