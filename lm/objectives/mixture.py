"""Draw which of several objectives a row, or a step, is trained by (UL2, GPT-BERT)."""

import bisect
import hashlib
import itertools
from collections import Counter
from dataclasses import fields
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.config import Config
from lm.example import (
    AttentionMask,
    Batch,
    BidirectionalMask,
    CausalMask,
    Example,
    UntilMask,
    Vocabulary,
)
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal
from lm.objectives.masked import Masked
from lm.objectives.plain import Plain
from lm.objectives.shifted import Shifted


class Part(Config):
    """An objective and how often it is drawn."""

    objective: Annotated[Plain, Meta(description="one of the objectives")] = Causal()
    weight: Annotated[
        float, Meta(ge=1e-30, le=1e30, description="in proportion to the others'")
    ] = 1.0


GPT_BERT = (Part(objective=Causal()), Part(objective=Shifted(of=Masked(mask=1.0, random=0.0))))
"""Charpentier & Samuel 2024 (arXiv:2410.24159), at their ratio of one to one."""


class Mixture(Base, tag="mixture"):
    """Several objectives, one of them drawn for every row or for every step (UL2, GPT-BERT)."""

    attention_mask: ClassVar[AttentionMask] = BidirectionalMask()
    mixed: Annotated[
        tuple[Part, ...], Meta(min_length=2, description="the objectives and their weights")
    ] = GPT_BERT
    draw: Annotated[
        Literal["row", "step"],
        Meta(description="row: all kinds in each batch; step: a batch has one, and its cost"),
    ] = "row"

    @property
    def predictions(self) -> frozenset[Prediction]:  # type: ignore[override]
        """What any of its parts teaches."""
        return frozenset().union(*(part.objective.predictions for part in self.mixed))

    @property
    def masks(self) -> frozenset[type[AttentionMask]]:
        """Rows of several kinds share one; a step's is that of its part."""
        steps = self.mixed if self.draw == "step" else ()
        return frozenset({UntilMask}).union(*(part.objective.masks for part in steps))

    def target_count(self, length: int) -> int:
        """The most that any part needs."""
        return max(part.objective.target_count(length) for part in self.mixed)

    def positions(self, length: int) -> int:
        return max(part.objective.positions(length) for part in self.mixed)

    def check(self, *, length: int, sentinels: int) -> str | None:
        for number, part in enumerate(self.mixed):
            if why := part.objective.check(length=length, sentinels=sentinels):
                return f"mixed[{number}].objective.{why}"
            if getattr(part.objective, "stack", "single") != "single":
                return (
                    f"mixed[{number}].objective.stack=encoder_decoder: has a source, and other"
                    " parts have none; must be single"
                )
        return None

    def at(self, step: int, steps: int, seed: int) -> Base:  # type: ignore[override]
        """The part that a step draws; if rows draw, all of them."""
        if self.draw == "row":
            return self
        return self.mixed[self._drawn(range(step, step + 1), seed)[0]].objective

    def parts(self, steps: int, seed: int) -> dict[Base, int]:  # type: ignore[override]
        if self.draw == "row":
            return {self: steps}
        counts: Counter[Base] = Counter()
        # Objectives are slow to hash, and two parts may have the same.
        for number, times in Counter(self._drawn(range(steps), seed)).items():
            counts[self.mixed[number].objective] += times
        return counts

    def _drawn(self, steps: range, seed: int) -> list[int]:
        """Which part each of these steps draws."""
        fractions = [part.weight for part in self.mixed]
        ends, total = list(itertools.accumulate(fractions)), sum(fractions)
        drawn = (bisect.bisect(ends, _uniform(seed, step) * total) for step in steps)
        return [min(number, len(ends) - 1) for number in drawn]

    @property
    def last(self) -> Base:  # type: ignore[override]
        """Validation mixes by row, as every evaluation must ask the same."""
        return msgspec.structs.replace(self, draw="row")

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """Each row has the example that one part makes of it.

        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> tokens = jnp.tile(jnp.array([2, 5, 6, 7, 3]), (64, 1))
        >>> example = Mixture()(Batch(tokens, tokens // tokens), vocabulary, jax.random.key(0))
        >>> sorted(set(example.weights.sum(axis=1).astype(int).tolist()))  # 15% of 4; all
        [1, 4]
        """
        rows, length = batch.tokens_BL.shape
        drawn, *keys = jax.random.split(key, 1 + len(self.mixed))
        fractions = jnp.log(jnp.array([part.weight for part in self.mixed]))
        which_B = jax.random.categorical(drawn, fractions, shape=(rows,))
        targets, positions = self.target_count(length), self.positions(length)
        examples = [
            _alike(
                part.objective(batch, vocabulary, key, progress),
                targets,
                positions,
            )
            for part, key in zip(self.mixed, keys, strict=True)
        ]
        rows_B = jnp.arange(rows)
        return jax.tree.map(lambda *x: jnp.stack(x)[which_B, rows_B], *examples)


def _alike(example: Example, targets: int, positions: int) -> Example:
    """The same example in the one form that all have, filled up to these sizes."""
    batch, length = example.inputs.shape
    index_BL = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
    match example.attention_mask:
        case CausalMask():
            until_BL = index_BL
        case BidirectionalMask():
            until_BL = jnp.full_like(index_BL, length - 1)
        case UntilMask(until_BL):
            pass
    values = {field.name: getattr(example, field.name) for field in fields(example)}
    values["target_positions"] = (
        index_BL if example.target_positions is None else example.target_positions
    )
    for name in ("source", "attention_mask", "head", "token_types", "facts"):
        del values[name]
    for name, value in values.items():
        size = targets if name in ("target_positions", "targets", "weights") else positions
        values[name] = jnp.pad(value, ((0, 0), (0, size - value.shape[1])))
    until_BL = jnp.pad(until_BL, ((0, 0), (0, positions - length)))
    return Example(**values, attention_mask=UntilMask(until_BL))


def _uniform(seed: int, step: int) -> float:
    """A number from [0, 1) that only (seed, step) decide, on every host alike."""
    head = hashlib.sha256(f"mixture/{seed}/{step}".encode()).digest()[:6]
    return int.from_bytes(head, "big") / 2**48
