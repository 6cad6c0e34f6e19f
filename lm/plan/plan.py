"""`lm plan`: what a run needs and how long it takes on a slice that you do not have.

Its steps are compiled, by the compiler of that slice, for all of its devices. Times are floors:
what the slowest of products, memory and networks takes at its maker's speed, the others hidden
behind it. `--efficiency` divides them by what a machine was seen to reach.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, get_args

import msgspec
from rich.console import Console
from rich.table import Table

from lm.config import UserError, override
from lm.cost import ledger
from lm.cost.chips import CHIPS, Slice, parse_slice
from lm.cost.memory import machine_memory
from lm.data import Data, vocabulary_size
from lm.model import Remat, Transformer
from lm.objectives import Base
from lm.output.files import check_outputs, write_whole
from lm.plan.compile import HERE, Found, Request, Speed, Step
from lm.run import Run, evaluation_steps, mesh_for, refuse_attention, steps, validate

CALIBRATION = Run(
    data=Data(length=256, batch=8), model=Transformer(depth=4, width=256, heads=4)
)
"""The run on which this machine's share of its floors is measured."""


class Machine(NamedTuple):
    """The devices that are planned for, and what one of them does."""

    name: str
    slices: int
    devices: int
    chips: int
    flops: float
    memory: float
    bandwidth: float
    groups: int = 1
    """Parts that are wired together within: the slices, and of GPUs the eights."""
    platform: str = "cpu"
    """For which its programs are compiled."""
    flops_float32: float | None = None
    """Of products of float32 operands, where they are known to be slower."""
    efficiency: float = 1.0
    """Share of the floors' speed that is reached."""
    told: bool = False
    """Whether that share is what the user says, and was not measured."""
    decides: bool = False
    """Whether the compiler refuses what does not fit."""
    estimate: str = ""
    """Why it is no more than an estimate, if it is not."""

    def floors(self, found: Found) -> dict[str, float]:
        """Seconds that a step takes at least, by what takes them."""
        slow = found.flops_float32 if self.flops_float32 else 0.0
        fast = found.flops + found.kernel_flops - slow
        return {
            "compute": fast / self.flops + slow / (self.flops_float32 or 1.0),
            "memory": found.bytes / self.bandwidth,
            "ici": sum(moved.ici_seconds for moved in found.collectives),
            "dcn": sum(moved.dcn_seconds for moved in found.collectives),
        }

    def seconds(self, found: Found) -> float:
        """Seconds of a step, NaN of one that was refused.

        A CPU's products wait for its memory; elsewhere they overlap.
        """
        if found.refused:
            return math.nan
        floors = self.floors(found)
        least = sum(floors.values()) if self.name == HERE else max(floors.values())
        return least / self.efficiency

    def fits(self, found: Found) -> bool:
        """Whether the memory is enough; of a TPU its compiler knows that better."""
        return not found.refused and (self.decides or found.used <= self.memory)


class Plan(NamedTuple):
    """A run on a machine."""

    run: Run
    mesh: dict[str, int]
    train: dict[Base, Found]
    """The training step of each objective of the run."""
    others: dict[Step, Found]
    suggestions: dict[str, Found]
    """Changes, as overrides, with which a run that does not fit does."""
    tried: dict[str, Found]
    """Those with which it does not."""

    def used(self) -> Found:
        """The step that needs the most memory."""
        return max((*self.train.values(), *self.others.values()), key=lambda f: f.used)

    def fits(self, machine: Machine) -> bool:
        """Whether all steps fit."""
        return all(map(machine.fits, (*self.train.values(), *self.others.values())))

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


# The compiler, in a process of its own


PROGRAM = ("-m", "lm.plan.compile")


@contextmanager
def compiler(machine: Machine) -> Iterator["Compiler"]:
    """Starts `lm.plan.compile`, in a process that lasts as long as the plan of a machine."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # libtpu else asks for a machine that is not there, and refuses a second process.
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        # It says on stderr where it copies whole arrays: XLA from this level on, libtpu, which
        # else writes it to a file, from this; neither about a program that was kept.
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "TPU_STDERR_LOG_LEVEL": "1",
        "TPU_MIN_LOG_LEVEL": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    if machine.name == HERE:
        environment.pop("JAX_NUM_CPU_DEVICES", None)
    else:
        environment["JAX_NUM_CPU_DEVICES"] = str(machine.devices)
        environment.pop("XLA_FLAGS", None)
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            yield Compiler(process, said)
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # what a dead process was still to be told
                process.stdin.close()  # type: ignore[union-attr] # a pipe, as asked for


class Compiler:
    """Asks a process for what it makes of programs; the same one is compiled once."""

    def __init__(self, process: "subprocess.Popen[str]", said: IO[str]) -> None:
        self._process = process
        self._said = said
        self._kept: dict[bytes, Found] = {}

    def find(self, request: Request) -> Found:
        """What the compiler makes of a request; UserError where it ends without an answer."""
        key = msgspec.json.encode(request)
        if key not in self._kept:
            start = self._said.seek(0, os.SEEK_END)
            found: Found | str = msgspec.json.decode(self._ask(key.decode()), type=Found | str)
            if isinstance(found, str):
                raise UserError(found)
            self._said.seek(start)
            found.rematerialized = "nvoluntary full rematerialization" in self._said.read()
            self._kept[key] = found
        return self._kept[key]

    def speed(self) -> Speed:
        """How fast this machine is."""
        return msgspec.json.decode(self._ask("null"), type=Speed)

    def _ask(self, line: str) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._said.seek(0)
            last = [text for text in self._said.read().splitlines() if text.strip()][-1:]
            raise UserError(f"the compiler ended without an answer: {' '.join(last)[:300]}")
        return answer


def find_machine(name: str, slices: int) -> Machine:
    """The machine of a name; raises UserError where there is none, or no compiler for it."""
    if name == HERE:
        if slices > 1:
            raise UserError(f"--slices {slices}: {HERE} is one machine")
        return Machine(HERE, 1, 1, 1, math.nan, machine_memory(), math.nan)
    try:
        slice_: Slice = parse_slice(name)
    except UserError as error:
        raise UserError(f"--slice {error}, or {HERE}") from None
    chip, estimate = slice_.chip, ""
    if chip.platform == "gpu":
        estimate = "compiled for CPUs in place of the GPUs, whose compiler fuses more"
    elif importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--slice {name}: the TPU's compiler is not installed:"
            " pip install 'yardstick-lm[plan]'"
        )
    if slices > 1 and chip.dcn is None:
        kind = name.partition("-")[0]
        raise UserError(f"--slices {slices}: the network between {kind} slices is not known")
    share = chip.devices
    devices = slices * slice_.chips * share
    return Machine(
        name=name.lower(),
        slices=slices,
        devices=devices,
        chips=slices * slice_.chips,
        groups=-(-slices * slice_.chips // slice_.together),
        flops=chip.flops / share,
        memory=chip.memory / share,
        bandwidth=chip.bandwidth / share,
        platform="cpu" if estimate else "tpu",
        decides=not estimate,
        estimate=estimate,
    )


def calibrated(machine: Machine, compiled: Compiler) -> Machine:
    """This machine as it is measured: its peaks, and what a training step reaches of them."""
    speed = compiled.speed()
    machine = machine._replace(**msgspec.structs.asdict(speed))
    found = compiled.find(Request(run=CALIBRATION, slice=HERE, measure=True))
    floor = machine.seconds(found)
    return machine._replace(efficiency=floor / statistics.median(found.measured_seconds))


# Plans


def plan(
    run: Run,
    machine: Machine,
    compiled: Compiler,
    *,
    wanted: Iterable[Step] = get_args(Step),
    quick: bool = False,
    measure: bool = False,
) -> Plan:
    """Compiles a run's steps; where one does not fit, also what would."""
    wanted = tuple(wanted)
    mesh = _mesh(run, machine)

    def find(run: Run, objective: Base, step: Step) -> Found:
        asked = _program(run, objective)
        timed = measure and step == "train"
        return compiled.find(
            Request(asked, machine.name, machine.slices, step, quick, measure=timed)
        )

    train: dict[Base, Found] = {}
    others: dict[Step, Found] = {}
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


def _mesh(run: Run, machine: Machine) -> dict[str, int]:
    mesh = mesh_for(run, devices=machine.devices, slices=machine.groups)
    return msgspec.structs.asdict(mesh)


def _program(run: Run, objective: Base) -> Run:
    """The run without what does not change its programs but for constants."""
    changed: dict[str, Any] = {"objective": objective}
    kept = ("model", "optimizer", "precision", "microbatches", "remat", "unroll", "attention")
    changed |= {name: getattr(run, name) for name in (*kept, "mesh")}
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
    microbatches = [[f"microbatches={n}"] for n in parts if rows % n == 0]
    fsdp = []
    for times in range(2, mesh["replica"] // machine.groups + 1):
        change = [
            f"mesh.fsdp={mesh['fsdp'] * times}",
            f"mesh.replica={mesh['replica'] // times}",
        ]
        if mesh["replica"] % (times * machine.groups) == 0 and _legal(run, change, machine):
            fsdp.append(change)
    ways = [way for way in (fsdp, remat, microbatches) if way]
    for way in ways:
        yield way, True
    if len(ways) > 1:
        most = [change for way in (fsdp, remat) if way for change in way[-1]]
        yield [most + change for change in microbatches or [[]]], False


def _legal(run: Run, change: Change, machine: Machine) -> bool:
    try:
        _mesh(validate(override(run, change)), machine)
    except UserError:
        return False
    return True


# The command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `lm plan`."""
    parser.add_argument("run", help="STUDY, STUDY:CELL, RUN.json, or - for defaults")
    parser.add_argument("--scale", metavar="S", help="of the study (its last)")
    parser.add_argument(
        "--slice",
        metavar="NAME",
        help="v5e-256, h100-8, cpu for this one (what the scale names)",
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="so many of it (1)")
    parser.add_argument(
        "--step",
        action="append",
        choices=get_args(Step),
        help="only this one; may be given again",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile with few optimizations, sooner; memory is near what a run"
        " needs, traffic and times are too high",
    )
    parser.add_argument(
        "--efficiency", type=float, metavar="E", help="share of the floors' speed reached (1)"
    )
    parser.add_argument(
        "--measure", action="store_true", help="also run the training step (--slice cpu)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers there")
    parser.add_argument("overrides", nargs="*", metavar="field.path=value")


def slice_of_scale(scale: str | None) -> str | None:
    """The slice that a scale names, if it names one.

    >>> slice_of_scale("v5e-8"), slice_of_scale("laptop")
    ('v5e-8', None)
    """
    return scale if scale and scale.partition("-")[0] in CHIPS else None


def main(given: argparse.Namespace, runs: Mapping[str, Run], scale: str | None) -> None:
    """Plans runs by their names and prints, or writes, what was found."""
    name = slice_of_scale(scale) if given.slice is None else given.slice
    if name is None:
        raise UserError("--slice: for which slice? as v5e-256, h100-8, or cpu for this machine")
    if given.slices < 1:
        raise UserError(f"--slices {given.slices}: must be >= 1")
    if given.efficiency is not None and not 0 < given.efficiency <= 1:
        raise UserError(f"--efficiency {given.efficiency:g}: must be above 0 and at most 1")
    if given.measure and name != HERE:
        raise UserError(f"--measure: --slice {name} is not here; --slice {HERE} is")
    check_outputs({"--json": given.json}, [Path(given.run)])
    machine = find_machine(name, given.slices)
    for run in runs.values():
        # What does not divide, or is not for such devices, is said before anything is compiled.
        _mesh(run, machine)
        if why := refuse_attention(run, "gpu" if machine.estimate else machine.platform):
            raise UserError(why)
    wanted = tuple(given.step or get_args(Step))
    plans: dict[str, Plan] = {}
    with compiler(machine) as compiled:
        if name == HERE:
            machine = calibrated(machine, compiled)
        if given.efficiency is not None:
            machine = machine._replace(efficiency=given.efficiency, told=True)
        for number, (cell, run) in enumerate(runs.items(), 1):
            if sys.stderr.isatty():
                print(f"lm: compiling {cell} ({number}/{len(runs)})", file=sys.stderr)
            plans[cell] = plan(
                run, machine, compiled, wanted=wanted, quick=given.quick, measure=given.measure
            )
    if given.json:
        text = json.dumps(report(plans, machine), indent=2) + "\n"
        write_whole(given.json, text.encode())
    show(plans, machine, quick=given.quick)


def report(plans: Mapping[str, Plan], machine: Machine) -> dict[str, Any]:
    """All numbers, as `--json` writes them: bytes, FLOPs and seconds, of one device."""
    return {
        "machine": machine._asdict(),
        "compiler": _compiler_version(machine),
        "cells": {name: _plain(found, machine) for name, found in plans.items()},
        "seconds": _known(sum(found.seconds(machine) for found in plans.values())),
    }


def _plain(of: Plan, machine: Machine) -> dict[str, Any]:
    parts: Mapping[Base, int] = of.run.objective.parts(steps(of.run), of.run.seed)  # type: ignore[assignment]
    return {
        "mesh": of.mesh,
        "fits": of.fits(machine),
        "steps": steps(of.run),
        "tokens": ledger.cost(of.run, vocabulary_size(of.run.data.tokenizer)).tokens,
        "train": [
            {
                "objective": msgspec.to_builtins(part),
                "count": parts[part],
                "flops_ledger": ledger_flops(of.run, part, machine),
                **_step_of(found, machine),
            }
            for part, found in of.train.items()
        ],
        **{step: _step_of(found, machine) for step, found in of.others.items()},
        "seconds": _known(of.seconds(machine)),
        "suggestions": {c: _step_of(f, machine) for c, f in of.suggestions.items()},
        "tried": {change: _step_of(found, machine) for change, found in of.tried.items()},
    }


def _step_of(found: Found, machine: Machine) -> dict[str, Any]:
    return msgspec.to_builtins(found) | {
        "used_bytes": found.used,
        "floors": machine.floors(found),
        "seconds": _known(machine.seconds(found)),
    }


def _known(seconds: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(seconds) else seconds


def ledger_flops(run: Run, objective: Base, machine: Machine) -> float:
    """FLOPs of a device's share of a training step by the ledger, with what is done again."""
    vocabulary = vocabulary_size(run.data.tokenizer)
    return ledger.program_flops(run, objective, vocabulary, machine.platform) / machine.devices


def _compiler_version(machine: Machine) -> str:
    package = "jaxlib" if machine.name == HERE or machine.estimate else "libtpu"
    return f"{package} {importlib.metadata.version(package)}"


# What is printed


def show(plans: Mapping[str, Plan], machine: Machine, *, quick: bool) -> None:
    """A table of all runs, and the largest one in detail."""
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    many = f"{machine.slices} x " if machine.slices > 1 else ""
    chips = f"{machine.chips} chips" + (
        f", {machine.devices} devices" if machine.devices != machine.chips else ""
    )
    console.print(
        f"{many}{machine.name}: {chips}; a device does {machine.flops / 1e12:.4g} TFLOP/s and"
        f" has {machine.memory / 1e9:.4g} GB at {machine.bandwidth / 1e9:.4g} GB/s",
        soft_wrap=True,
    )
    if len(plans) > 1:
        console.print(_table(plans, machine))
    name, largest = max(plans.items(), key=lambda item: item[1].used().used)
    for line in _details(name, largest, machine):
        console.print(line, soft_wrap=True, markup=False)
    for note in _notes(plans, machine, quick=quick):
        console.print(f"note: {note}", soft_wrap=True, markup=False)


def _table(plans: Mapping[str, Plan], machine: Machine) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)
    for title in ("GB", "fits", "ms a step", "bound by", "tokens/s", "hours", "chip-hours"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, of in plans.items():
        table.add_row(
            name, _gb(of.used().used), "yes" if of.fits(machine) else "no", *_pace(of, machine)
        )
    known = [
        hours for of in plans.values() if not math.isnan(hours := of.seconds(machine) / 3600)
    ]
    if known:
        name = "all" if len(known) == len(plans) else "all that fit"
        table.add_row(name, *[""] * 5, f"{sum(known):.3g}", f"{sum(known) * machine.chips:.3g}")
    return table


def _pace(of: Plan, machine: Machine) -> Sequence[str]:
    seconds = of.train_seconds(machine)
    if math.isnan(of.seconds(machine)):
        return [""] * 5
    found = max(of.train.values(), key=machine.seconds)
    hours = of.seconds(machine) / 3600
    return (
        f"{1e3 * seconds / steps(of.run):.3g}",
        _bound(found, machine),
        f"{_rate(of, machine):.3g}",
        f"{hours:.3g}",
        f"{hours * machine.chips:.3g}",
    )


def _rate(of: Plan, machine: Machine) -> float:
    positions = of.run.data.batch * of.run.data.length
    return positions * steps(of.run) / of.train_seconds(machine)


def _bound(found: Found, machine: Machine) -> str:
    floors = machine.floors(found)
    return _SAID[max(floors, key=lambda name: floors[name])]


_SAID = {"compute": "compute", "memory": "memory", "ici": "interconnect", "dcn": "network"}


def _details(name: str, of: Plan, machine: Machine) -> Iterator[str]:
    mesh = " x ".join(f"{axis} {size}" for axis, size in of.mesh.items() if size > 1)
    yield f"{name}, on mesh {mesh or 'of one'}"
    for part, found in of.train.items():
        yield from _step_lines("train", found, machine, ledger_flops(of.run, part, machine))
    for step, found in of.others.items():
        yield from _step_lines(step, found, machine, None)
    if of.train and of.fits(machine):
        hours = of.seconds(machine) / 3600
        yield (
            f"  whole run  {steps(of.run):,} steps, {_rate(of, machine):.3g} tokens/s,"
            f" {hours:.3g} hours, {hours * machine.chips:.3g} chip-hours"
        )
    for change, found in of.suggestions.items():
        yield (
            f"  fits with  {change}: {_gb(found.used)} GB,"
            f" {1e3 * machine.seconds(found):.3g} ms a step"
        )
    for change, found in of.tried.items():
        yield f"  not with   {change}: {_gb(found.used)} GB"
    if of.train and not of.fits(machine) and not of.suggestions:
        yield "  nothing that was tried makes it fit: take a larger slice, or a smaller batch"


def _step_lines(
    step: str, found: Found, machine: Machine, counted: float | None
) -> Iterator[str]:
    if found.refused:
        needs = (
            f"needs {_gb(found.used)} of {_gb(machine.memory)} GB"
            if found.refused_bytes
            else ""
        )
        yield f"  {step:<10} does not fit: {needs or found.refused}"
        return
    parts = [*found.arguments.items(), ("temporaries", found.temporary_bytes)]
    parts += [("results", found.output_bytes), ("program", found.code_bytes)]
    said = " + ".join(f"{name} {_gb(size)}" for name, size in parts)
    verdict = "" if machine.fits(found) else ": does not fit"
    yield f"  {step:<10} {said} = {_gb(found.used)} of {_gb(machine.memory)} GB{verdict}"
    floors = {_SAID[n]: seconds for n, seconds in machine.floors(found).items() if seconds}
    took = ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in floors.items())
    products = f"{(found.flops + found.kernel_flops) / 1e12:.4g} TFLOP"
    if counted:
        products += f" (ledger {counted / 1e12:.4g})"
    if found.kernel_flops:
        products += f", {found.kernel_flops / 1e12:.4g} in kernels"
    yield (
        f"             {products}, {found.bytes / 1e9:.3g} GB moved;"
        f" ms: {took}; {1e3 * machine.seconds(found):.3g} a step, bound by"
        f" {_bound(found, machine)}"
    )
    if found.measured_seconds:
        median = statistics.median(found.measured_seconds)
        ratio = machine.seconds(found) / median
        yield f"             measured {1e3 * median:.3g} ms; planned is {ratio:.2f} of that"
    for moved in found.collectives:
        if moved.dcn_seconds or moved.bytes >= 0.01 * sum(m.bytes for m in found.collectives):
            yield (
                f"             {moved.kind} along {moved.axes}: {moved.times:,} times,"
                f" {moved.bytes / 1e9:.3g} GB"
            )
    if found.rematerialized:
        yield "             the partitioner copies an array whole (involuntary full remat)"


def _notes(plans: Mapping[str, Plan], machine: Machine, *, quick: bool) -> Iterator[str]:
    yield f"compiled by {_compiler_version(machine)}" + (
        ", with few optimizations: traffic and times are too high (--quick)" if quick else ""
    )
    if machine.estimate:
        yield f"an estimate: {machine.estimate}"
    if any(of.train and "validate" not in of.others for of in plans.values()):
        yield "hours are of training alone: validation was not asked for (--step)"
    if machine.name == HERE:
        yield f"speeds are measured; a step reaches {machine.efficiency:.0%} of them, " + (
            "as --efficiency says"
            if machine.told
            else f"as one of {CALIBRATION.model.depth} layers of width"
            f" {CALIBRATION.model.width} does"
        )
    else:
        yield (
            f"times are floors divided by an efficiency of {machine.efficiency:g}: a real step"
            " takes longer than its slowest part"
        )
    if all("validate" in of.others for of in plans.values()):
        yield "hours are of training and validation"


def _gb(size: float) -> str:
    """Bytes in units of 1e9.

    >>> _gb(3.35e9), _gb(2_162_688)
    ('3.35', '0.002')
    """
    return f"{size / 1e9:.3g}" if size >= 5e7 else f"{size / 1e9:.3f}"
