"""What scorers have in common that mask tokens and ask for them."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from lm.evaluate.effort import Effort
from lm.evaluate.layout import LayoutGiven
from lm.evaluate.scorers.base import (
    ExampleScorer,
    ScoredRows,
    answer_positions,
    at_positions,
    mask_prediction_of,
)
from lm.example import BidirectionalMask, Example, Vocabulary, positions_of
from lm.objectives.base import Base, MaskPrediction


@dataclass(frozen=True)
class MaskedScorer(ExampleScorer):
    """Masks a uniform set of m of a row's n scored tokens and counts each of them n/m times.

    The samples' sets are successive stretches of one random circle of the scored positions:
    each is uniform by itself, and together they cover all positions equally often, within one.
    """

    samples: int
    prediction: MaskPrediction
    layout_given: ClassVar[LayoutGiven] = "ends of documents"

    def fitted(self, objective: Base, *, length: int, effort: Effort) -> Self:
        return replace(self, prediction=mask_prediction_of(objective.predictions) or "masked")

    def mask_counts(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        """The m of each sample, int32[K, B], given n and a number from [0, 1) for each row."""
        raise NotImplementedError

    def target_count(self, length: int) -> int:
        """The largest m."""
        raise NotImplementedError

    def build_example(
        self,
        rows: ScoredRows,
        *,
        vocabulary: Vocabulary,
        key_B: jax.Array,
        sample: jax.Array | int,
    ) -> tuple[Example, jax.Array]:
        """Shows the mask token at the set's positions and asks for what stood there.

        >>> from lm.evaluate.scorers.curve import MaskFractions
        >>> from lm.example import content_of
        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> tokens, segments = jnp.array([[2, 5, 6, 7, 3, 0]]), jnp.array([[1, 1, 1, 1, 1, 0]])
        >>> rows = ScoredRows(tokens, segments, content_of(tokens, segments, vocabulary))
        >>> example, at = MaskFractions((0.5,)).build_example(
        ...     rows, vocabulary=vocabulary, key_B=jax.random.key(0)[None], sample=0
        ... )
        >>> int((example.inputs == 1).sum()), example.weights.tolist()  # 2 of 4, n/m = 2
        (2, [[2.0, 2.0, 0.0]])
        """
        tokens_BL, segments_BL, scored_BL = rows
        length = tokens_BL.shape[1]
        scored_B = scored_BL.sum(1)
        draws_BL = jax.vmap(lambda key: jax.random.uniform(key, (length + 1,)))(key_B)
        # what is scored first, in random order
        circle_BL = jnp.argsort(jnp.where(scored_BL, draws_BL[:, 1:], 2.0), axis=1)
        masked_KB = self.mask_counts(scored_B, draws_BL[:, 0], length)
        masked_KB = jnp.minimum(masked_KB, scored_B[None, :])  # a row of padding has none
        masked_B, start_B = masked_KB[sample], (masked_KB.cumsum(0) - masked_KB)[sample]

        slot_1P = jnp.arange(self.target_count(length))[None, :]
        used_BP = slot_1P < masked_B[:, None]
        place_BP = (start_B[:, None] + slot_1P) % jnp.maximum(scored_B, 1)[:, None]
        at_BP = jnp.take_along_axis(circle_BL, place_BP, axis=1)
        example = Example(
            inputs=at_positions(tokens_BL, jnp.where(used_BP, at_BP, length)).set(
                vocabulary.mask_token, mode="drop"
            ),
            target_positions=answer_positions(at_BP, self.prediction),
            targets=jnp.take_along_axis(tokens_BL, at_BP, axis=1),
            weights=used_BP * (scored_B / jnp.maximum(masked_B, 1))[:, None],
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=BidirectionalMask(),
        )
        return example, at_BP
