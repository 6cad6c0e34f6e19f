"""Say which class each word is of, as its label does: its part of speech, or of a name."""

from typing import Annotated

import jax
from msgspec import Meta

from lm.example import Batch, Example, Head, Vocabulary
from lm.objectives.labelled import LABEL, Labelled


class Tag(Labelled, tag="tag"):
    """Say which class each token is of, from its state: the channel `label` says which.

    Tokens whose label is below 0 have none, and are not asked for: all but the first of a word
    (Devlin et al. 2019, section 5.3).
    """

    classes: Annotated[int, Meta(ge=2, le=2**16, description="how many there are (C)")] = 2

    @property
    def head(self) -> Head:
        return Head(LABEL, self.classes)

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
        """Asks for the label of each token of a document that has one.

        >>> import jax.numpy as jnp
        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> batch = Batch(
        ...     jnp.full((1, 5), 5),
        ...     jnp.array([[1, 1, 1, 1, 0]]),
        ...     {"label": jnp.array([[-1, 1, -1, 0, 0]])},
        ... )
        >>> example = Tag()(batch, vocabulary, jax.random.key(0))
        >>> example.targets.tolist(), example.weights.astype(int).tolist()
        ([[0, 1, 0, 0, 0]], [[0, 1, 0, 1, 0]])
        """
        label_BL = batch.channels[LABEL]
        # Rows that fill up a batch are all zeros, labels too.
        return self.example_of(batch, label_BL, (label_BL >= 0) & (batch.segments_BL > 0))
