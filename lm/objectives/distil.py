"""Learn from a teacher's probabilities, and from the text (distillation).

Hinton et al. 2015, "Distilling the knowledge in a neural network" (arXiv:1503.02531). With the
logits z of the student and t of the teacher, the loss of a target is

    (1 - hard) T^2 KL(softmax(t / T) || softmax(z / T)) - hard log softmax(z)[target]

The gradient of the first part by z is (1 - hard) T (softmax(z / T) - softmax(t / T)): without
T^2 it would shrink as 1 / T^2 where T grows, and the weight of the text with it grow (section
2.1). Up to the teacher's entropy the first part is the cross-entropy of its probabilities.
"""

from collections.abc import Mapping
from typing import Annotated

import jax
from msgspec import Meta
from msgspec.structs import replace

from lm.example import AttentionMask, Batch, Example, Output, Vocabulary
from lm.loss import Sum, taught_loss
from lm.numerics import Einsum
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal
from lm.objectives.plain import Plain
from lm.objectives.rollout import START, Named, Taught


class Distil(Base, tag="distil"):
    """Say what a teacher says where an objective asks, and what the text says (Hinton et al.).

    The teacher is a frozen model that is asked in each step, of the very example that the
    student has: the same tokens are masked for both.
    """

    of: Annotated[Plain, Meta(description="the objective that both answer")] = Causal()
    teacher: Annotated[
        Named | None,
        Meta(description="who is learnt from; null: what the run starts from"),
    ] = None
    temperature: Annotated[
        float, Meta(gt=0, description="T: what logits of both are divided by")
    ] = 1.0
    hard: Annotated[
        float, Meta(ge=0, lt=1, description="weight of the text's own tokens, of 1")
    ] = 0.5

    @property
    def attention_mask(self) -> AttentionMask:  # type: ignore[override]
        """That of the objective that both answer, as all that follows."""
        return self.of.attention_mask

    @property
    def predictions(self) -> frozenset[Prediction]:  # type: ignore[override]
        return self.of.predictions

    @property
    def masks(self) -> frozenset[type[AttentionMask]]:
        return self.of.masks

    @property
    def source(self) -> bool:
        return self.of.source

    @property
    def last(self) -> Base:  # type: ignore[override]
        """What the student is validated by and used as: it needs no teacher any more."""
        return self.of.last

    @property
    def companions(self) -> Mapping[str, Named | None]:
        return {START if self.teacher is None else "teacher": self.teacher}

    @property
    def taught_by(self) -> str:
        return next(iter(self.companions))

    def with_digests(self, digests: Mapping[str, str]) -> "Distil":
        if self.teacher is None:
            return self
        return replace(self, teacher=replace(self.teacher, digest=digests["teacher"]))

    def target_count(self, length: int) -> int:
        return self.of.target_count(length)

    def positions(self, length: int) -> int:
        return self.of.positions(length)

    def source_positions(self, length: int) -> int:
        return self.of.source_positions(length)

    def check(self, *, length: int, sentinels: int) -> str | None:
        why = self.of.check(length=length, sentinels=sentinels)
        return why and f"of.{why}"

    def __call__(
        self,
        batch: Batch,
        vocabulary: Vocabulary,
        key: jax.Array,
        progress: jax.Array | float = 1.0,
    ) -> Example:
        """The example of the objective that both answer.

        >>> import jax.numpy as jnp
        >>> vocabulary = Vocabulary(
        ...     size=9, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 9
        ... )
        >>> batch = Batch(jnp.array([[2, 5, 6, 3]]), jnp.ones((1, 4), int))
        >>> Distil()(batch, vocabulary, jax.random.key(0)).targets.tolist()
        [[5, 6, 3, 0]]
        """
        return self.of(batch, vocabulary, key, progress)

    def loss_taught(
        self,
        output: Output,
        example: Example,
        taught: Taught,
        *,
        einsum: Einsum,
        mesh: jax.sharding.Mesh | None = None,
    ) -> dict[str, Sum]:
        """The mean over targets of both parts; `kl` and `cross_entropy` are each by itself.

        `kl` is at the temperature, in nats, without T^2. Both are recorded alone.
        """
        weights_BP = example.weights
        loss, kl, nats = taught_loss(
            *(output, taught.output, example.targets, weights_BP),
            temperature=self.temperature,
            hard=self.hard,
            einsum=einsum,
            teacher=taught.einsum,
            mesh=mesh,
        )
        count = weights_BP.sum()
        return {
            "loss": Sum(loss, count),
            "kl": Sum(kl, count),
            "cross_entropy": Sum(nats, count),
        }
