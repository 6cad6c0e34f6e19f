"""The any-order bound: an upper bound on the code length."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax
import jax.numpy as jnp

from lm.evaluate.effort import Effort
from lm.evaluate.scorers.masked import MaskedScorer
from lm.objectives.base import Base, MaskPrediction
from lm.results import Kind


@dataclass(frozen=True)
class AnyOrderBound(MaskedScorer):
    """The mean code length over uniformly random orders, estimated: an upper bound.

    It bounds -log of the mixture of all orders, not of a single one; m is uniform on 1..n (Uria
    et al. 2014, equation 7). The samples of an estimate take m from equal parts of 1..n. The
    model sees where documents begin and end in the row, which a causal one has to predict: the
    length model pays for these places (`lm.evaluate.layout`).
    """

    samples: int = 8
    prediction: MaskPrediction = "masked"
    name: ClassVar[str] = "any-order bound"
    kind: ClassVar[Kind] = "bound"

    def fitted(self, objective: Base, *, length: int, effort: Effort) -> Self:
        fitted = super().fitted(objective, length=length, effort=effort)
        return replace(fitted, samples=effort.samples)

    def mask_counts(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        """In sample k of K, m = ceil(n (k + u) / K).

        >>> content, uniform = jnp.array([4, 0]), jnp.array([0.3, 0.3])
        >>> AnyOrderBound(samples=2).mask_counts(content, uniform, 5).tolist()
        [[1, 1], [3, 1]]
        """
        part_KB = (jnp.arange(self.samples)[:, None] + uniform_B[None, :]) / self.samples
        masked_KB = jnp.ceil(content_B[None, :] * part_KB).astype(jnp.int32)
        return jnp.maximum(masked_KB, 1)  # u may be 0

    def target_count(self, length: int) -> int:
        return length - 1
