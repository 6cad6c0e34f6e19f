"""When a step goes wrong: a loss or an update that is not finite, or a loss that jumps."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.run import Faults
from lm.train.progress import Progress

WINDOW = 32
"""Losses that a jump is measured from."""


class RollBack(Exception):
    """The run is to go on from its newest checkpoint, without the batches since then."""

    def __init__(self, step: int, why: str, progress: Progress) -> None:
        super().__init__(why)
        self.step, self.why, self.progress = step, why, progress


class Losses:
    """The last losses before each step, of which a jump is seen; `kept` is in a checkpoint.

    A step is compared with losses up to two steps before it: later ones are not known yet when
    it is sent to the devices. So it is the same step that is wrong however a run was restarted.
    """

    def __init__(self, faults: Faults, kept: list[list[float]]) -> None:
        self._faults = faults
        self.kept = [list(pair) for pair in kept]

    def limit(self, step: int) -> float:
        """The loss above which a step is wrong.

        >>> losses = Losses(Faults(spike=1.0), [[1, 5.0], [2, 3.0], [3, 9.0]])
        >>> losses.limit(4), losses.limit(2)
        (5.0, inf)
        """
        before = [loss for at, loss in self.kept if at <= step - 2][-WINDOW:]
        if self._faults.spike is None or not before:
            return math.inf
        # As the device sees it: both must find the same.
        return float(np.float32(sum(before) / len(before) + self._faults.spike))

    def add(self, step: int, loss: float) -> None:
        """Remembers the loss of a step that was sound."""
        if self._faults.spike is not None:
            self.kept = [*self.kept[-WINDOW - 1 :], [step, loss]]


def wrong(values: Mapping[str, float], limit: float) -> str:
    """What is wrong with a step's metrics in a few words; empty if nothing is.

    >>> wrong({"loss": 2.0, "update_norm": math.inf}, 3.0), wrong({"loss": 4.0}, 3.0)
    ('update_norm inf', 'loss 4 above 3')
    """
    odd = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
    if limit < values["loss"] < math.inf:
        odd.append(f"loss {values['loss']:.4g} above {limit:.4g}")
    return ", ".join(odd)


@jax.jit
def all_finite(params: Any) -> jax.Array:
    """Whether every parameter is a number, bool[]."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
