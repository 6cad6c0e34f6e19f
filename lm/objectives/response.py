"""Predict the tokens of answers from all that is before them (instruction tuning)."""

from dataclasses import replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.data import sources
from lm.example import Batch, Example, Vocabulary
from lm.objectives.causal import Causal, shift

COUNTS = sources.LOSS.name


class Response(Causal, tag="response"):
    """Predict each token that the channel `loss` says counts, from those before it.

    So a model learns to answer (Ouyang et al. 2022, "Training language models to follow
    instructions with human feedback"), and the tokens that end an answer are among what counts,
    whichever they are.
    """

    whole: ClassVar[bool] = True

    @property
    def needs(self) -> dict[str, int | None]:
        return {COUNTS: None}

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """As with `Causal`, with the weights of answers alone.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> tokens, segments = jnp.array([[2, 5, 6, 3, 5, 7]]), jnp.array([[1, 1, 1, 1, 2, 2]])
        >>> batch = Batch(tokens, segments, {"loss": jnp.array([[0, 0, 1, 1, 1, 0]])})
        >>> example = Response()(batch, vocabulary, jax.random.key(0))
        >>> example.targets.tolist(), example.weights.astype(int).tolist()
        ([[5, 6, 3, 5, 7, 0]], [[0, 1, 1, 0, 0, 0]])
        """
        example = super().__call__(batch, vocabulary, key, progress)
        segments_BL = batch.segments_BL
        counts_BL = shift(batch.channels[COUNTS], 0) * (shift(segments_BL, 0) == segments_BL)
        return replace(example, weights=(counts_BL * (segments_BL > 0)).astype(jnp.float32))
