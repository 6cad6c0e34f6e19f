"""Say a number of each document, as its label does: how alike two sentences are (STS-B)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.example import Batch, Example, Head, Output, Vocabulary
from lm.loss import Sum, logits
from lm.numerics import Einsum
from lm.objectives.labelled import LABEL, Labelled, Pooling, by_document


class Regress(Labelled, tag="regress"):
    """Say the number of each document that the channel `label` says, from its states.

    The head says (number - center) / scale: with the labels' middle and spread, which are told
    and not measured, it begins near their mean, and one learning rate suits labels of any unit.
    Documents whose label is not a number (nan) have none, and are not asked for. Classes may be
    numbers, too, as stars are: in their order, from 0 on.
    """

    center: Annotated[float, Meta(description="what an output of 0 stands for")] = 0.0
    scale: Annotated[float, Meta(gt=0, description="how far from it an output of 1 is")] = 1.0
    pool: Pooling = "mean"

    @property
    def head(self) -> Head:
        return Head(LABEL, 1, self.pool)

    @property
    def needs(self) -> dict[str, int | None]:
        return {LABEL: None}

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Asks for the number of each document of a row, at the slot of its segment.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> segments = jnp.array([[1, 1, 1, 2, 2, 2]])
        >>> label = jnp.array([[3.5, 3.5, 3.5, jnp.nan, jnp.nan, jnp.nan]])
        >>> batch = Batch(jnp.full((1, 6), 5), segments, {"label": label})
        >>> example = Regress(center=2.5, scale=2)(batch, vocabulary, jax.random.key(0))
        >>> example.targets.tolist(), example.weights.tolist()
        ([[0.5, 0.0]], [[1.0, 0.0]])
        """
        targets = self.target_count(batch.tokens_BL.shape[1])
        label_BL = batch.channels[LABEL]
        if jnp.issubdtype(label_BL.dtype, jnp.integer):  # classes in order, below 0 none
            label_BL = jnp.where(label_BL < 0, jnp.nan, label_BL)
        label_BP = by_document(label_BL, batch, targets, jnp.nan)
        return self.example_of(
            batch, (label_BP - self.center) / self.scale, ~jnp.isnan(label_BP)
        )

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """The squared error of the head's output; `absolute_error` is in the labels' unit."""
        error_BP = logits(output, einsum=einsum)[..., 0] - example.targets
        weights_BP, weight = example.weights, example.weights.sum()
        return {
            "loss": Sum(jnp.sum(weights_BP * jnp.square(error_BP)), weight),
            "absolute_error": Sum(self.scale * jnp.sum(weights_BP * jnp.abs(error_BP)), weight),
        }

    def answers(self, output: Output, example: Example, *, einsum: Einsum) -> jax.Array:
        said_BP = logits(output, einsum=einsum)[..., 0]
        return self.center + self.scale * jnp.stack([example.targets, said_BP], axis=-1)
