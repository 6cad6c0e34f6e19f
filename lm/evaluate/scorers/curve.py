"""The error of a masked model by the fraction that is masked."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.evaluate.scorers.base import mask_count
from lm.evaluate.scorers.masked import Hiding
from lm.objectives.base import Blank
from lm.results import Kind


@dataclass(frozen=True, init=False)
class SharesHidden(Hiding):
    """-log p of hidden pieces when a given share of the row is hidden: no likelihood.

    Each share is one sample, so that one compiled function draws the whole curve.
    """

    shares: tuple[float, ...]
    name: ClassVar[str] = "shares hidden"
    kind: ClassVar[Kind] = "no likelihood"

    def __init__(self, shares: tuple[float, ...], answer: Blank = "hidden"):
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "samples", len(shares))
        object.__setattr__(self, "answer", answer)

    def hidden(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        """M = round(share x n), at least one; half goes up, as in `lm.objectives`.

        >>> SharesHidden((0.5,)).hidden(jnp.array([1, 2, 3, 4]), jnp.zeros(4), 5).tolist()
        [[1, 1, 2, 2]]
        """
        # Tabulated in Python: in float32, share x n may fall on the other side of a half.
        table = [[mask_count(share, n) for n in range(length)] for share in self.shares]
        return jnp.array(table)[:, content_B]

    def slots(self, length: int) -> int:
        return mask_count(max(self.shares), length - 1)
