"""How gradients become updates, and the numbers of it that a step is given."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from msgspec.structs import replace as changed

from lm.optimizer import Slopes, learning_rate, only_trained
from lm.optimizer import build as build_optimizer
from lm.run import Run, steps


class Hyperparameters(NamedTuple):
    """What a step is given of its run's update, so that runs which differ in it share one
    program; each may be that of a trace.
    """

    learning_rate: Any
    weight_decay: Any
    step: Any
    """The fraction of training that a step is."""
    up: Any
    turn: Any
    down: Any
    """These three as `Slopes` has them."""

    @classmethod
    def of(cls, run: Run) -> "Hyperparameters":
        """A run's own."""
        slopes, step = Slopes.of(run.schedule, steps(run)), np.float32(1) / steps(run)
        return cls(run.optimizer.learning_rate, run.optimizer.weight_decay, step, *slopes)

    @property
    def slopes(self) -> Slopes:
        """What the schedule makes of the number of steps."""
        return Slopes(self.up, self.turn, self.down)


class Optimization(NamedTuple):
    """How gradients become updates."""

    run: Run
    axes: Any
    trains: Any
    """Whether each parameter changes, as a tree; None: all do."""
    mesh: jax.sharding.Mesh

    def with_numbers(
        self, numbers: Hyperparameters
    ) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """The update and the learning rate, with these numbers for the run's own."""
        rate, decay, slopes = numbers.learning_rate, numbers.weight_decay, numbers.slopes
        optimizer = changed(self.run.optimizer, learning_rate=rate, weight_decay=decay)
        given, width = (optimizer, self.run.schedule, slopes), self.run.model.width
        how: Any = {"trains": self.trains, "mesh": self.mesh}
        update = build_optimizer(*given, self.axes, width=width, **how)
        return update, learning_rate(*given)

    def kept(self, grads: Any) -> Any:
        """The gradients of what changes."""
        return grads if self.trains is None else only_trained(self.trains, grads)
