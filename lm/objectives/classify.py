"""Say which class each document is of, as its label does (GLUE's tasks, of one text or two)."""

from typing import Annotated

import jax
from msgspec import Meta

from lm.example import Batch, Example, Head, Vocabulary
from lm.objectives.labelled import LABEL, Labelled, Pooling, by_document


class Classify(Labelled, tag="classify"):
    """Say which class each document is of, from its states: the channel `label` says which.

    Documents whose label is below 0 have none, and are not asked for.
    """

    classes: Annotated[int, Meta(ge=2, le=2**16, description="how many there are (C)")] = 2
    pool: Pooling = "mean"

    @property
    def head(self) -> Head:
        return Head(LABEL, self.classes, self.pool)

    @property
    def needs(self) -> dict[str, int | None]:
        return {LABEL: self.classes}

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Asks for the label of each document of a row, at the slot of its segment.

        >>> import jax.numpy as jnp
        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> segments = jnp.array([[1, 1, 1, 2, 2, 2, 3, 3, 3, 0]])
        >>> label = jnp.array([[1, 1, 1, 0, 0, 0, -1, -1, -1, -1]])
        >>> batch = Batch(jnp.full((1, 10), 5), segments, {"label": label})
        >>> example = Classify()(batch, vocabulary, jax.random.key(0))
        >>> example.targets.tolist(), example.weights.astype(int).tolist()
        ([[1, 0, 0]], [[1, 1, 0]])
        """
        targets = self.target_count(batch.tokens_BL.shape[1])
        label_BP = by_document(batch.channels[LABEL], batch, targets, -1)
        return self.example_of(batch, label_BP, label_BP >= 0)
