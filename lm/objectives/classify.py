"""Say which class each document is of, as its label does (GLUE's tasks, of one text or two)."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.example import (
    AttentionMask,
    Batch,
    BidirectionalMask,
    CausalMask,
    Example,
    Head,
    Output,
    Vocabulary,
    positions_of,
)
from lm.loss import Sum, logits
from lm.numerics import Einsum
from lm.objectives.base import Base, Prediction

LABEL = "label"
SHORTEST = 3
"""Tokens of a document at least: begin, one of its text, end."""


class Classify(Base, tag="classify"):
    """Say which class each document is of, from its states: the channel `label` says which.

    Documents whose label is below 0 have none, and are not asked for.
    """

    classes: Annotated[int, Meta(ge=2, le=2**16, description="how many there are (C)")] = 2
    attention: Annotated[
        Literal["bidirectional", "causal"],
        Meta(description="what a token sees of its document: all, or what is before it"),
    ] = "bidirectional"
    pool: Annotated[
        Literal["first", "last", "mean"],
        Meta(description="which of a document's states tells its class, or their mean"),
    ] = "mean"

    @property
    def attention_mask(self) -> AttentionMask:  # type: ignore[override]
        return CausalMask() if self.attention == "causal" else BidirectionalMask()

    @property
    def predictions(self) -> frozenset[Prediction]:  # type: ignore[override]
        """Nothing that is asked of tokens."""
        return frozenset()

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """A document that is cut in two would be asked twice."""
        return True

    @property
    def head(self) -> Head:
        return Head(LABEL, self.classes, self.pool)

    @property
    def heads(self) -> tuple[Head, ...]:
        return (self.head,)

    @property
    def needs(self) -> dict[str, int | None]:
        return {LABEL: self.classes}

    def target_count(self, length: int) -> int:
        """As many as documents find room in a row."""
        return max(1, length // SHORTEST)

    def check(self, *, length: int, sentinels: int) -> str | None:
        if self.attention == "causal" and self.pool == "first":
            return "pool=first has seen nothing of the text with attention=causal; last or mean"
        return None

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Asks for the label of each document of a row, at the slot of its segment.

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
        segments_BL, label_BL = batch.segments_BL, batch.channels[LABEL]
        rows, length = segments_BL.shape
        targets = self.target_count(length)
        # Padding, and what finds no slot, points past the slots, where `drop` ignores it.
        slot_BL = jnp.where(segments_BL > 0, segments_BL - 1, targets)
        label_BP = jnp.full((rows, targets), -1, jnp.int32)
        label_BP = label_BP.at[jnp.arange(rows)[:, None], slot_BL].set(label_BL, mode="drop")
        return Example(
            inputs=batch.tokens_BL,
            target_positions=None,
            targets=jnp.maximum(label_BP, 0),
            weights=(label_BP >= 0).astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=self.attention_mask,
            head=self.head,
        )

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """Cross-entropy in nats a document, and `accuracy`: the fraction named rightly."""
        logits_BPC = logits(output, einsum=einsum)
        targets_BP, weights_BP = example.targets, example.weights
        right_BP = logits_BPC.argmax(-1) == targets_BP
        at_BP1 = targets_BP[..., None]
        nats_BP = -jnp.take_along_axis(jax.nn.log_softmax(logits_BPC), at_BP1, axis=-1)[..., 0]
        weight = weights_BP.sum()
        return {
            "loss": Sum(jnp.sum(weights_BP * nats_BP), weight),
            "accuracy": Sum(jnp.sum(weights_BP * right_BP), weight),
        }
