"""Runs that differ in numbers alone, as one program: its arrays have an axis of members.

Small models leave devices idle: a step is many short kernels, and its rows do not divide among
many devices. Members are trained in lockstep, one beside the other. Each is exactly its own
run, with its own rows, masks and numbers; a device has whole members, so that devices tell each
other nothing.

Dimension letter, before those of everywhere: G members of a group.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from msgspec.structs import replace

from lm.config import dump
from lm.distributed.mesh import AXES, MEMBERS, Mesh
from lm.example import Batch, Vocabulary
from lm.loss import Sum
from lm.run import Run, compiled_settings, steps
from lm.train.faults import all_finite
from lm.train.step import Program, State, prepare
from lm.train.update import Hyperparameters

SHARED = ("data", "tokens", "evaluations", "evaluation_rows", "trackers")
"""What members have in common though no program depends on it: they read one store, are
validated on the same rows at the same steps, and end together."""


def program_key(run: Run) -> str | None:
    """What runs have in common that may be members of one group; None: it is trained alone.

    It is `compiled_settings`, and `SHARED`. So members differ in the seed, and with it in rows
    and masks, in learning rate, its warm-up and decay, in weight decay, and in checkpoints, of
    which the first one says when. Alone is what needs other models or arrays beside its state,
    goes back by itself, changes its objective with the steps, is asked more than its loss while
    it trains, or says how devices share it.

    >>> program_key(Run(seed=1)) == program_key(Run(seed=2))
    True
    >>> program_key(Run(tokens=10**6)) == program_key(Run(tokens=10**7))
    False
    >>> program_key(Run(mesh=Mesh(tensor=2))) is None
    True
    """
    objective = run.objective
    alone = (
        run.start is not None
        or run.adapter is not None
        or bool(objective.companions or objective.derived)
        or objective.parts(steps(run), run.seed) != {objective: steps(run)}
        or run.faults.policy == "roll_back"
        or bool(run.evaluation_windows or run.evaluation_tasks)
        or "wandb" in run.trackers
        or run.checkpoints.directory is not None
        or run.mesh != Mesh()
    )
    if alone:
        return None
    shared = {name: getattr(run, name) for name in SHARED}
    return dump(replace(compiled_settings(run), **shared))


@dataclass(frozen=True)
class MembersProgram:
    """The compiled parts of a group; arrays have an axis of G members before all others."""

    runs: tuple[Run, ...]
    one: Program
    """That of a member, on a mesh where it has a device."""
    abstract: State
    """Shapes and shardings of the state, without the arrays."""
    initial: Callable[[Any], State]
    """Seeds to the state before training."""
    update: Any
    """`(state, batch, seed, beside)`, jitted."""
    check: Any
    """`(params, batch, key)`, jitted; batch and key are those of all."""
    finite: Callable[[Any], jax.Array]
    """Parameters to bool[G]: whether each of a member's is a number."""

    def init(self) -> State:
        """The state before training."""
        return self.initial(self._seeds)

    def step(
        self, state: State, batch: Batch, limits: Sequence[float]
    ) -> tuple[State, dict[str, jax.Array]]:
        """The next state, and metrics of each; donates the old one. See `Program.step`."""
        found: tuple[State, dict[str, jax.Array]] = self.update(
            state, batch, self._seeds, self._beside(limits)
        )
        return found

    def shapes(self) -> list[Any]:
        """Shapes and shardings of what a step is given beside its state and batch."""
        given = [self._seeds, self._beside([math.inf] * len(self.runs))]
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.where), given
        )

    def validate(self, params: Any, batch: Batch, key: jax.Array) -> dict[str, Sum]:
        """What each member's loss is on the same rows, by name, float32[G]."""
        found: dict[str, Sum] = self.check(params, batch, key)
        return found

    def place(self, parts: Sequence[Batch]) -> Batch:
        """The batches of all members, on their devices."""
        stacked = jax.tree.map(lambda *each: np.stack(each), *parts)
        placed: Batch = jax.device_put(stacked, self.where)
        return placed

    @property
    def where(self) -> NamedSharding:
        """Where all arrays of members are."""
        return NamedSharding(self.one.mesh, PartitionSpec(MEMBERS))

    @property
    def _seeds(self) -> np.ndarray:
        return np.array([run.seed for run in self.runs], np.uint32)

    def _beside(self, limits: Sequence[float]) -> dict[str, Any]:
        numbers = np.array([Hyperparameters.of(run) for run in self.runs], np.float32)
        skips = self.one.run.faults.policy == "skip"
        return {"numbers": numbers} | ({"limit": np.array(limits, np.float32)} if skips else {})


def prepare_members(
    runs: Sequence[Run], vocabulary: Vocabulary, devices: Sequence[jax.Device]
) -> MembersProgram:
    """Builds the program of runs with one `program_key`; nothing is allocated or compiled yet.

    The devices, so many of the first ones as divide the members, have equally many of them.
    """
    number = max(n for n in range(1, len(devices) + 1) if len(runs) % n == 0)
    grid = np.array(devices[:number]).reshape(number, *(1 for _ in AXES))
    axes = MEMBERS, *AXES
    mesh = jax.sharding.Mesh(grid, axes, axis_types=(AxisType.Auto,) * len(axes))
    one = prepare(runs[0], vocabulary, mesh)
    where = NamedSharding(mesh, PartitionSpec(MEMBERS))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def over(function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        return jax.vmap(function, in_axes, spmd_axis_name=MEMBERS)

    def update(state: State, batch: Batch, seed: jax.Array, beside: Any) -> Any:
        return one.update(state, batch, seed, one.run.objective, beside)

    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((len(runs), *x.shape), x.dtype, sharding=where),
        one.abstract,
    )
    return MembersProgram(
        runs=tuple(runs),
        one=one,
        abstract=abstract,
        initial=jax.jit(over(one.initial), in_shardings=where, out_shardings=where),
        update=jax.jit(over(update), in_shardings=where, out_shardings=where, donate_argnums=0),
        check=jax.jit(
            over(one.check, (0, None, None)),
            in_shardings=(where, everywhere, everywhere),
            out_shardings=where,
        ),
        finite=jax.jit(over(all_finite), in_shardings=where, out_shardings=where),
    )
