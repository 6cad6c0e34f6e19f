"""What a run needs and how long it takes on a slice that need not be there.

Its steps are compiled, by the compiler of that slice, for all of its devices. Times are floors:
what the slowest of products, memory and networks takes at its maker's speed, the others hidden
behind it. An efficiency divides them by what a machine was seen to reach.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

import msgspec

from lm.config import UserError, override
from lm.cost import ledger
from lm.data import Data, vocabulary_size
from lm.model import Remat, Transformer
from lm.objectives import Base
from lm.plan.client import Compiler
from lm.plan.compile import CompileRequest
from lm.plan.found import HERE, Found, StepKind
from lm.plan.machine import Machine
from lm.run import Run, evaluation_steps, mesh_for, refuse_attention, steps, validate
from lm.train.companions import companion_settings

CALIBRATION = Run(
    data=Data(length=256, batch=8), model=Transformer(depth=4, width=256, heads=4)
)
"""The run on which this machine's fraction of its floors is measured."""


class Plan(NamedTuple):
    """A run on a machine."""

    run: Run
    mesh: dict[str, int]
    train: dict[Base, Found]
    """The training step of each objective of the run."""
    others: dict[StepKind, Found]
    suggestions: dict[str, Found]
    """Changes, as overrides, with which a run that does not fit does."""
    tried: dict[str, Found]
    """Those with which it does not."""
    members: int = 0
    """So many such runs are trained as one program; 0: the run is alone."""

    def found(self) -> tuple[Found, ...]:
        """All steps."""
        return *self.train.values(), *self.others.values()

    def used(self) -> Found:
        """The step that needs the most memory."""
        return max(self.found(), key=lambda found: found.used)

    def fits(self, machine: Machine) -> bool:
        """Whether all steps fit."""
        return all(map(machine.fits, self.found()))

    def train_seconds(self, machine: Machine) -> float:
        """Seconds of all training steps, NaN where one was refused or was not asked for."""
        if not self.train:
            return math.nan
        parts = self.run.objective.parts(steps(self.run), self.run.seed)
        return sum(count * machine.seconds(self.train[part]) for part, count in parts.items())

    def seconds(self, machine: Machine) -> float:
        """Seconds of training and validation; what a study asks afterwards is not in them."""
        total = self.train_seconds(machine)
        if found := self.others.get("validate"):
            batches = -(-self.run.evaluation_rows // self.run.data.batch)
            total += len(evaluation_steps(self.run)) * batches * machine.seconds(found)
        return total


def check(runs: Iterable[Run], machine: Machine) -> None:
    """Raises UserError for a run that does not divide, or is not for such devices."""
    for run in runs:
        mesh_of(run, machine)
        if why := refuse_attention(run, "gpu" if machine.estimate else machine.platform):
            raise UserError(why)


def calibrated(machine: Machine, compiled: Compiler) -> Machine:
    """This machine as it is measured: its peaks, and what a training step reaches of them."""
    speed = compiled.speed()
    machine = machine._replace(**msgspec.structs.asdict(speed))
    found = compiled.find(CompileRequest(run=CALIBRATION, slice=HERE, measure=True))
    floor = machine.seconds(found)
    return machine._replace(efficiency=floor / statistics.median(found.measured_seconds))


def plan(
    run: Run,
    machine: Machine,
    compiled: Compiler,
    *,
    wanted: Iterable[StepKind] = get_args(StepKind),
    quick: bool = False,
    measure: bool = False,
    members: int = 0,
) -> Plan:
    """Compiles a run's steps; where one does not fit, also what would.

    With `members`, it is the training step of so many such runs as one program.
    """
    if members:
        asked = same_program(run, run.objective)
        request = CompileRequest(
            asked, machine.name, machine.slices, quick=quick, members=members
        )
        found = compiled.find(request)
        return Plan(run, found.mesh, {run.objective: found}, {}, {}, {}, members)
    wanted = tuple(wanted)
    mesh = mesh_of(run, machine)

    def find(run: Run, objective: Base, step: StepKind) -> Found:
        asked = same_program(run, objective)
        timed = measure and step == "train"
        return compiled.find(
            CompileRequest(asked, machine.name, machine.slices, step, quick, measure=timed)
        )

    train: dict[Base, Found] = {}
    others: dict[StepKind, Found] = {}
    if "train" in wanted:
        for part in run.objective.parts(steps(run), run.seed):
            train[part] = find(run, part, "train")
    last = run.objective.last
    for step in wanted:
        if step != "train":
            others[step] = find(run, last, step)
    suggestions: dict[str, Found] = {}
    tried: dict[str, Found] = {}
    largest = max(train, key=lambda part: train[part].used, default=None)
    if largest is not None and not machine.fits(train[largest]):
        for changes, alone in _changes(run, mesh, machine):
            if not alone and suggestions:
                break
            for change in changes:
                found = find(override(run, change), largest, "train")
                fits = machine.fits(found)
                (suggestions if fits else tried)[" ".join(change)] = found
                if fits:
                    break
    return Plan(run, mesh, train, others, suggestions, tried)


def mesh_of(run: Run, machine: Machine) -> dict[str, int]:
    """The size of each axis of a run's mesh on a machine; UserError where there is none."""
    mesh = mesh_for(run, devices=machine.devices, slices=machine.groups)
    return msgspec.structs.asdict(mesh)


def same_program(run: Run, objective: Base) -> Run:
    """The run without what does not change its programs but for constants."""
    changed: dict[str, Any] = {"objective": objective}
    kept = ("model", "optimizer", "precision", "microbatches", "remat", "unroll", "attention")
    changed |= {name: getattr(run, name) for name in (*kept, "mesh", "trainable", "adapter")}
    changed["optimizer"] = msgspec.structs.replace(run.optimizer, learning_rate=1e-3)
    data = run.data
    changed["data"] = Data(tokenizer=data.tokenizer, length=data.length, batch=data.batch)
    return Run(**changed)


Change = list[str]


def _changes(
    run: Run, mesh: Mapping[str, int], machine: Machine
) -> Iterator[tuple[list[Change], bool]]:
    """Ways to need less memory, each from its smallest step on; then all ways together."""
    policies = get_args(Remat)
    remat = [[f"remat={p}"] for p in policies[policies.index(run.remat) + 1 :]]
    rows = run.data.batch // (mesh["replica"] * mesh["fsdp"])
    parts = [run.microbatches * 2**n for n in range(1, rows.bit_length())]
    if run.objective.couples_rows:
        parts = []
    microbatches = [[f"microbatches={n}"] for n in parts if rows % n == 0]
    fsdp = []
    for times in range(2, mesh["replica"] // machine.groups + 1):
        change = [
            f"mesh.fsdp={mesh['fsdp'] * times}",
            f"mesh.replica={mesh['replica'] // times}",
        ]
        if mesh["replica"] % (times * machine.groups) == 0 and is_legal(run, change, machine):
            fsdp.append(change)
    ways = [way for way in (fsdp, remat, microbatches) if way]
    for way in ways:
        yield way, True
    if len(ways) > 1:
        most = [change for way in (fsdp, remat) if way for change in way[-1]]
        yield [most + change for change in microbatches or [[]]], False


def is_legal(run: Run, change: Iterable[str], machine: Machine) -> bool:
    """Whether a run can be executed on a machine as overrides change it."""
    try:
        check([validate(override(run, change))], machine)
    except UserError:
        return False
    return True


def ledger_flops(run: Run, objective: Base, machine: Machine, members: int = 0) -> float:
    """FLOPs of a device's fraction of a training step by the ledger, with what is done again.

    It is of the step of all `members`, where there are some.
    """
    vocabulary, named = vocabulary_size(run.data.tokenizer), companion_settings(run)
    flops = ledger.program_flops(run, objective, vocabulary, machine.platform, named)
    return max(members, 1) * flops / machine.devices


def derived_flops(run: Run, machine: Machine) -> float:
    """FLOPs of a device's fraction of computing one batch's derived channels, by the ledger."""
    named = companion_settings(run)
    flops = ledger.derived_flops(run, vocabulary_size(run.data.tokenizer), named)
    return flops / machine.devices
