"""What objectives share that read a label: their loss, and where each target stands."""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.example import Batch, Example, Output
from lm.loss import Sum, logits
from lm.numerics import Einsum
from lm.objectives.headed import Headed

LABEL = "label"
SHORTEST = 3
"""Tokens of a document at least: begin, one of its text, end."""

Pooling = Annotated[
    Literal["first", "last", "mean", "attention"],
    Meta(
        description="which of a document's states speaks, their mean, or their mean weighted by"
        " a learnt query"
    ),
]


class Labelled(Headed):
    """An objective that asks documents or tokens for what the channel `label` says of them.

    What is not overridden holds for labels that are classes.
    """

    def target_count(self, length: int) -> int:
        """As many as documents find room in a row; of tokens, all."""
        return length if self.head.pool is None else max(1, length // SHORTEST)

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """Cross-entropy in nats a label, and `accuracy`: the fraction of them named rightly."""
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

    def answers(self, output: Output, example: Example, *, einsum: Einsum) -> jax.Array:
        """The label of each target position and the model's answer, float32[B, P, 2].

        Both are as the source has them: the numbers of classes, or values.
        """
        said_BP = logits(output, einsum=einsum).argmax(-1)
        return jnp.stack([example.targets, said_BP], axis=-1).astype(jnp.float32)


def by_document(values_BL: jax.Array, batch: Batch, targets: int, none: float) -> jax.Array:
    """What a channel says of each document, [B, P], at the slot of its segment; else `none`.

    >>> batch = Batch(jnp.zeros((1, 5)), jnp.array([[1, 1, 2, 2, 0]]))
    >>> by_document(jnp.array([[7, 7, 8, 8, 9]]), batch, 3, -1).tolist()
    [[7, 8, -1]]
    """
    segments_BL = batch.segments_BL
    # Padding, and what finds no slot, points past the slots, where `drop` ignores it.
    slot_BL = jnp.where(segments_BL > 0, segments_BL - 1, targets)
    found_BP = jnp.full((len(segments_BL), targets), none, values_BL.dtype)
    rows_B1 = jnp.arange(len(segments_BL))[:, None]
    return found_BP.at[rows_B1, slot_BL].set(values_BL, mode="drop")
