"""The pseudo-log-likelihood, which is no likelihood."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.evaluate.effort import Effort
from lm.evaluate.scorers.masked import MaskedScorer
from lm.objectives.base import MaskPrediction
from lm.results import Kind


@dataclass(frozen=True)
class Pseudo(MaskedScorer):
    """-log p(token | all others), summed over tokens: no likelihood, as its terms do not chain.

    Each sample hides another token of the row, so with n samples nothing is left to chance.
    """

    samples: int = 16
    prediction: MaskPrediction = "masked"
    name: ClassVar[str] = "pseudo-likelihood"
    kind: ClassVar[Kind] = "no likelihood"

    def rows(self, effort: Effort) -> int | None:
        return effort.curve_rows

    def mask_counts(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        return jnp.ones((self.samples, len(content_B)), jnp.int32)

    def target_count(self, length: int) -> int:
        return 1
