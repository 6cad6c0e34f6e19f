"""Learning rates over a run: the schedules."""

from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from msgspec import Meta

from lm.config import Config, UserError
from lm.optimizer.base import Base

Final = Annotated[float, Meta(ge=0, le=1, description="fraction of the peak at the end")]


class WarmupStableDecay(Config, tag="warmup_stable_decay"):
    """Up in a line, flat, down at the end (Hägele et al. 2024, arXiv:2405.18392)."""

    warmup: Annotated[float, Meta(ge=0, le=1, description="fraction of the steps going up")] = (
        0.02
    )
    decay: Annotated[
        float, Meta(ge=0, le=1, description="fraction of the steps going down")
    ] = 0.2
    final: Final = 0.0
    shape: Annotated[
        Literal["linear", "sqrt"], Meta(description="of the way down; sqrt: 1 - sqrt(progress)")
    ] = "sqrt"


class Cosine(Config, tag="cosine"):
    """Up in a line, down along half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    warmup: Annotated[float, Meta(ge=0, le=1, description="fraction of the steps going up")] = (
        0.02
    )
    final: Final = 0.1


Schedule = WarmupStableDecay | Cosine


def check(schedule: Schedule) -> None:
    """Raise `UserError` if the parts of the schedule do not fit into one run."""
    if isinstance(schedule, WarmupStableDecay) and schedule.warmup + schedule.decay > 1:
        raise UserError(
            f"schedule.decay: {schedule.decay:g} does not fit beside schedule.warmup "
            f"{schedule.warmup:g}; at most {1 - schedule.warmup:g}"
        )


def warmup_steps(schedule: Schedule, steps: int) -> int:
    """How many of the first steps go up; the last of them is at the peak.

    >>> warmup_steps(Cosine(warmup=0.1), 30), warmup_steps(Cosine(warmup=0.1), 1)
    (3, 0)
    """
    return round(schedule.warmup * steps)


def decay_steps(schedule: Schedule, steps: int) -> int:
    """How many of the last steps go down; never more than warm-up leaves.

    >>> decay_steps(WarmupStableDecay(warmup=0.5, decay=0.5), 3), decay_steps(Cosine(), 100)
    (1, 98)
    """
    rest = steps - warmup_steps(schedule, steps)
    if isinstance(schedule, Cosine):
        return rest
    return min(round(schedule.decay * steps), rest)


class Slopes(NamedTuple):
    """What a schedule makes of a run's number of steps; the numbers may be those of a trace."""

    up: Any
    """Of the first steps: the part of the peak that each adds, float32."""
    turn: Any
    """The step from which on the rate goes down."""
    down: Any
    """The part of the way down that each step is."""

    @classmethod
    def of(cls, schedule: Schedule, steps: int) -> "Slopes":
        """Those of a run of so many steps.

        >>> [float(each) for each in Slopes.of(Cosine(warmup=0.5), 16)]
        [0.125, 8.0, 0.125]
        """
        warmup, decay = warmup_steps(schedule, steps), decay_steps(schedule, steps)
        one = np.float32(1)
        up, down = (one / np.float32(max(number, 1)) for number in (warmup, decay))
        return cls(up, np.float32(steps - decay), down)


def learning_rate(optimizer: Base, schedule: Schedule, slopes: Slopes) -> optax.Schedule:
    """The rate at step 0, 1, ..., the number of steps less one, as a function that jit can
    trace.

    No update is wasted: step 0 is at peak / warm-up steps, and the final value is what the step
    after the last would have.
    """

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        now = jnp.asarray(step, jnp.float32)
        up = jnp.minimum((now + 1) * slopes.up, 1.0)
        progress = jnp.clip((now - slopes.turn) * slopes.down, 0.0, 1.0)
        if isinstance(schedule, Cosine):
            left = (1 + jnp.cos(jnp.pi * progress)) / 2
        elif schedule.shape == "sqrt":
            left = 1 - jnp.sqrt(progress)
        else:
            left = 1 - progress
        return optimizer.learning_rate * up * (schedule.final + (1 - schedule.final) * left)

    return rate
