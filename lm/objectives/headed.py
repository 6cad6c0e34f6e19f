"""What objectives share that ask a head of their own, and not the vocabulary."""

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
    positions_of,
)
from lm.objectives.base import Base, Prediction

PART = "part"


class Headed(Base):
    """An objective whose targets a head names, of documents or of their tokens."""

    attention: Annotated[
        Literal["bidirectional", "causal"],
        Meta(description="what a token sees of its document: all, or what is before it"),
    ] = "bidirectional"

    @property
    def attention_mask(self) -> AttentionMask:  # type: ignore[override]
        return CausalMask() if self.attention == "causal" else BidirectionalMask()

    @property
    def predictions(self) -> frozenset[Prediction]:  # type: ignore[override]
        """Nothing that is asked of tokens."""
        return frozenset()

    @property
    def whole(self) -> bool:  # type: ignore[override]
        """A document that is cut in two would be asked twice, and is not what was labelled."""
        return True

    @property
    def head(self) -> Head:
        """What answers."""
        raise NotImplementedError

    @property
    def heads(self) -> tuple[Head, ...]:
        return (self.head,)

    def check(self, *, length: int, sentinels: int) -> str | None:
        if self.attention == "causal" and self.head.pool == "first":
            return "pool=first has seen nothing of the text with attention=causal; last or mean"
        return None

    def example_of(
        self,
        batch: Batch,
        targets_BP: jax.Array,
        used_BP: jax.Array,
        segments_BL: jax.Array | None = None,
    ) -> Example:
        """The rows, and targets of which those count that are used; what is not used is 0.

        Segments are the rows' own unless others are given.
        """
        segments_BL = batch.segments_BL if segments_BL is None else segments_BL
        return Example(
            inputs=batch.tokens_BL,
            target_positions=None,
            targets=jnp.where(used_BP, targets_BP, 0),
            weights=used_BP.astype(jnp.float32),
            segments=segments_BL,
            positions=positions_of(segments_BL),
            attention_mask=self.attention_mask,
            head=self.head,
            token_types=batch.channels.get(PART),
        )
