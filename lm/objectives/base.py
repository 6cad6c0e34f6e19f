"""What every objective has, and what it need not say if it is the usual."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import jax

from lm.config import Config
from lm.example import AttentionMask, Batch, Example, Head, Output, Vocabulary
from lm.loss import Sum, cross_entropy
from lm.numerics import Einsum
from lm.objectives.rollout import Companion, Generate, Named, Taught

Prediction = Literal["next", "masked", "masked before", "spans"]
"""A question that a model was trained to answer, so that scorers know what they may ask.

next: which token follows, given all before it. masked: which token stands where the mask token
is shown, asked at that place. masked before: the same, asked at the place before it. spans:
which tokens stand where a sentinel is shown, one after the other.
"""

MaskPrediction = Literal["masked", "masked before"]
"""Where a model says what stands at a mask token: there, or at the position before."""


class Base(Config):
    """An objective: a frozen value that turns rows into an `Example`, on device.

    It is called inside the jitted step, so it is a pure function of its arguments. What is not
    overridden here holds for an objective that is the same at every step and keeps the rows'
    length.
    """

    attention_mask: ClassVar[AttentionMask]
    """The widest that its examples see: what attention computes, and the ledger counts. Where
    steps differ, that of the last one, as with `target_count` and `positions`; see `parts`."""
    predictions: ClassVar[frozenset[Prediction]]
    """What a model trained with it may be asked."""
    whole: ClassVar[bool] = False
    """Whether its rows must hold whole documents."""
    logits_again: ClassVar[bool] = False
    """Whether the backward pass computes its logits again: where what a target counts for is
    known only when all of them are."""
    single: ClassVar[bool] = False
    """Whether each row must hold one document alone."""
    reconstructs: ClassVar[bool] = False
    """Whether its source holds what it asks for, on purpose: proofs ask of all else."""
    couples_rows: ClassVar[bool] = False
    """Whether its loss holds rows of a batch against each other, so that a batch's is no sum
    over its parts: microbatches are refused, and devices exchange what they have."""

    @property
    def masks(self) -> frozenset[type[AttentionMask]]:
        """The kinds of attention mask that its examples have, so that a model can refuse."""
        return frozenset({type(self.attention_mask)})

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """The example to train on; `progress` is the fraction of training that is done."""
        raise NotImplementedError

    def loss(
        self,
        output: Output,
        example: Example,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """What training makes small, by the name `loss`, and further numbers to be recorded.

        `output` is the model's: the states that speak, and how they become logits. Each number
        is a weighted sum, which microbatches, devices and batches of an evaluation add up, and
        is divided once by its own weight.
        """
        targets, weights = example.targets, example.weights
        return {"loss": cross_entropy(output, targets, weights, einsum=einsum, mesh=mesh)}

    @property
    def taught_by(self) -> str | None:
        """The companion whose answer to each example the loss is given too; None: none."""
        return None

    def loss_taught(
        self,
        output: Output,
        example: Example,
        taught: Taught,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """What `loss` is where there is a teacher, of whom nothing is differentiated."""
        raise NotImplementedError

    def target_count(self, length: int) -> int:
        """Target positions P of a row of `length` tokens: a capacity, used or not."""
        raise NotImplementedError

    def compared(self, rows: int, length: int) -> int:
        """Pairs of pooled states of a batch whose product the loss takes."""
        return 0

    def positions(self, length: int) -> int:
        """Positions that the module computes for a row of `length` tokens."""
        return length

    def source_positions(self, length: int) -> int:
        """Positions of the source that an encoder reads of a row of `length` tokens."""
        return 0

    def check(self, *, length: int, sentinels: int) -> str | None:
        """What is wrong with the fields, in one line that begins with one; None if nothing."""
        return None

    def refuse_training(self) -> str | None:
        """Why nothing can be trained with it, in one line; None if it can."""
        return None

    def at(self, step: int, steps: int, seed: int) -> Self:
        """The objective of a step, if steps differ in which it is; each is compiled once."""
        return self

    def parts(self, steps: int, seed: int) -> dict[Self, int]:
        """The objectives of all steps and how many steps each trains, for the ledger."""
        return {self: steps}

    @property
    def copies(self) -> int:
        """How many rows of a batch each row of the text is."""
        return 1

    @property
    def companions(self) -> Mapping[str, Named | None]:
        """The frozen models that its rollout asks, or that teach it, by name; None: what the
        run starts from.
        """
        return {}

    @property
    def derived(self) -> Mapping[str, Named | None]:
        """The models that compute derived channels which it needs, by channel; None: what the
        run starts from.
        """
        return {}

    def with_digests(self, digests: Mapping[str, str]) -> Self:
        """The objective with the digests of the models that it names by a path."""
        return self

    def sample_count(self, length: int) -> int:
        """Tokens that the model samples for a row, at most; 0: there is no rollout."""
        return 0

    def rollout(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        *,
        generate: Generate,
        companions: Mapping[str, Companion],
    ) -> Batch:
        """What the objective is called with in place of the rows: some are the model's own.

        It is called inside the jitted step, before the objective is; `generate` samples from
        the model as the step found it. All rows of a step are there, whatever microbatches and
        devices make of them later. Nothing is differentiated by it.
        """
        raise NotImplementedError

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that its examples ask, but for the vocabulary."""
        return ()

    @property
    def needs(self) -> dict[str, int | None]:
        """The channels that it reads of a batch, and how many classes each of them has; None:
        as many as the source says, or what is no class.
        """
        return {}

    @property
    def source(self) -> bool:
        """Whether its examples have a source, which only some modules read."""
        return False

    @property
    def last(self) -> Self:
        """The objective that training ends with, by which a run is validated."""
        return self
