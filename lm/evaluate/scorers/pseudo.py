"""The pseudo-log-likelihood, which is no likelihood."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.evaluate.bits import Kind
from lm.evaluate.scorers.masked import Hiding
from lm.objectives.base import Blank


@dataclass(frozen=True)
class Pseudo(Hiding):
    """-log p(piece | all others), summed over pieces: no likelihood, as its terms do not chain.

    Each sample hides another piece of the row, so with n samples nothing is left to chance.
    """

    samples: int = 16
    answer: Blank = "hidden"
    name: ClassVar[str] = "pseudo-likelihood"
    kind: ClassVar[Kind] = "no likelihood"

    def hidden(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        return jnp.ones((self.samples, len(content_B)), jnp.int32)

    def slots(self, length: int) -> int:
        return 1
