"""The error of a masked model by the fraction that is masked."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lm.evaluate.scorers.base import mask_count
from lm.evaluate.scorers.masked import MaskedScorer
from lm.objectives.base import MaskPrediction
from lm.results import Kind


@dataclass(frozen=True, init=False)
class MaskFractions(MaskedScorer):
    """-log p of masked tokens when a given fraction of the row is masked: no likelihood.

    Each fraction is one sample, so that one compiled function draws the whole curve.
    """

    fractions: tuple[float, ...]
    name: ClassVar[str] = "fractions masked"
    kind: ClassVar[Kind] = "no likelihood"

    def __init__(self, fractions: tuple[float, ...], prediction: MaskPrediction = "masked"):
        object.__setattr__(self, "fractions", fractions)
        object.__setattr__(self, "samples", len(fractions))
        object.__setattr__(self, "prediction", prediction)

    def mask_counts(self, content_B: jax.Array, uniform_B: jax.Array, length: int) -> jax.Array:
        """M = round(fraction x n), at least one; half goes up, as in `lm.objectives`.

        >>> MaskFractions((0.5,)).mask_counts(jnp.array([1, 2, 3, 4]), jnp.zeros(4), 5).tolist()
        [[1, 1, 2, 2]]
        """
        # Tabulated in Python: in float32, fraction x n may fall on the other side of a half.
        table = [
            [mask_count(fraction, n) for n in range(length)] for fraction in self.fractions
        ]
        return jnp.array(table)[:, content_B]

    def target_count(self, length: int) -> int:
        return mask_count(max(self.fractions), length - 1)
