"""A run's steps as a compiler makes them for devices that need not be there.

`python -m lm.plan.compile` reads a `CompileRequest` a line and answers each with a `Found` in a
line. It is a process of its own, as a TPU compiler prints as it likes, and may end the process.
"""

import math
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
from jax.experimental import topologies
from jax.experimental.layout import Format

from lm.config import UserError
from lm.cost import ledger
from lm.cost.chips import parse_slice
from lm.data import vocabulary_size
from lm.distributed import mesh as _mesh
from lm.distributed.process import keep_memory
from lm.evaluate.scorers.base import nats_of
from lm.evaluate.scoring import valid
from lm.example import Batch, Vocabulary
from lm.plan.found import HERE, Found, Moved, Speed, StepKind
from lm.plan.hlo import Collective, Unreadable, work
from lm.plan.measure import speed, step_seconds
from lm.plan.network import DevicePlace, axes_of, seconds_of
from lm.run import Run, channels_of, mesh_for
from lm.train.companions import companion_settings
from lm.train.members import MembersProgram, prepare_members
from lm.train.step import Program, prepare


class CompileRequest(msgspec.Struct, frozen=True):
    """What to compile."""

    run: Run
    """Its objective is that of the step."""
    slice: str
    """A name of lm.cost.chips, or `HERE`."""
    slices: int = 1
    step: StepKind = "train"
    quick: bool = False
    """Whether the compiler is to spare itself most optimizations."""
    measure: bool = False
    """Whether the step is also run and timed (`HERE` alone)."""
    members: int = 0
    """So many such runs as one program, of which only the training step is asked for; 0: the
    run alone, on all devices."""


def find(request: CompileRequest) -> Found:
    """Compiles a step and reads what came of it."""
    devices, slice_of = _devices(request)
    run, group = request.run, None
    if request.slice != HERE and run.unroll is None:
        run = msgspec.structs.replace(run, unroll=1)  # also where a CPU stands for a GPU
    if request.members:
        group = prepare_members([run] * request.members, _vocabulary(run), devices)
        program = group.one
    else:
        mesh = mesh_for(run, devices=len(devices), slices=len(set(slice_of.values())))
        run = msgspec.structs.replace(run, mesh=mesh)
        where = _mesh.make(mesh, devices)
        program = prepare(run, _vocabulary(run), where, companion_settings(run))
    found = Found(mesh=dict(program.mesh.shape))
    start = time.monotonic()
    options = {"exec_time_optimization_effort": -1.0} if request.quick else None
    try:
        step, given = _step(request.step, program) if group is None else _members_step(group)
        compiled = step.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found.refused, found.refused_bytes = _refusal(str(error))
        return found
    found.compile_seconds = time.monotonic() - start
    _read(found, given, compiled, program, request, slice_of)
    if request.measure:
        found.measured_seconds = step_seconds(program)
    return found


def _devices(request: CompileRequest) -> tuple[Sequence[jax.Device], dict[jax.Device, int]]:
    """The devices to compile for, and in which slice each is."""
    if request.slice == HERE:
        return jax.devices(), dict.fromkeys(jax.devices(), 0)
    machine = parse_slice(request.slice)
    if machine.chip.platform == "gpu":
        devices = jax.devices()[: machine.chips * request.slices]
        return devices, {device: n // machine.together for n, device in enumerate(devices)}
    shape = "x".join(map(str, machine.topology))
    described = topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{request.slice.lower().partition('-')[0]}:{shape}",
        num_slices=request.slices,
    )
    return described.devices, {device: _mesh.slice_of(device) for device in described.devices}


def _vocabulary(run: Run) -> Vocabulary:
    """One of the right size: which tokens begin a word changes no shape."""
    tokenizer = run.data.tokenizer
    size, first = vocabulary_size(tokenizer), 4
    return Vocabulary(
        size=size,
        pad=0,
        mask=1,
        bos=2,
        eos=3,
        first_ordinary=first + tokenizer.sentinels,
        begins_word=(True,) * size,
        sentinels=tuple(range(first, first + tokenizer.sentinels)),
        special=tuple(range(size - len(tokenizer.added), size)),
    )


def _batch(run: Run, where: jax.sharding.Sharding, *members: int) -> Batch:
    """The shapes of a step's rows, or of those of all members."""
    shape = *members, run.data.batch, run.data.length
    rows = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=where)
    channels = {
        channel.name: jax.ShapeDtypeStruct(
            (*shape, *channel.shape), channel.dtype, sharding=where
        )
        for channel in channels_of(run)
    }
    # A run that is planned has no text: what its objective reads there is a number a token.
    channels = dict.fromkeys(run.objective.needs, rows) | channels
    return Batch(rows, rows, channels)


def _members_step(group: MembersProgram) -> tuple[Any, Sequence[Any]]:
    """The training step of a group, lowered, and its arguments."""
    batch = _batch(group.one.run, group.where, len(group.runs))
    given = [group.abstract, batch, *group.shapes()]
    return group.update.lower(*given), given


def _step(step: StepKind, program: Program) -> tuple[Any, Sequence[Any]]:
    """A step, lowered, and its arguments."""
    run, mesh = program.run, program.mesh
    everywhere = _mesh.sharding(mesh)
    batch = _batch(run, _mesh.sharding(mesh, "batch", "length"))
    rows = batch.tokens_BL
    if step == "train":
        seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=everywhere)
        given, beside = [program.abstract, batch, seed], program.beside
        # What is static is no argument of the compiled program.
        return program.update.lower(*given, run.objective, beside), [*given, beside]
    params = program.abstract.params
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
    if step == "validate":
        given = [params, batch, key, *([program.companions] if program.companions else [])]
        return program.check.lower(*given), given
    scorer = next(iter(valid(run).values()))
    where = _mesh.sharding(mesh, "batch")
    number = jax.ShapeDtypeStruct((run.data.batch,), jnp.uint32, sharding=where)
    sample = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    given = [params, rows, rows, number, key, sample]
    vocabulary = _vocabulary(run)
    return nats_of.lower(scorer, program.module, vocabulary, *given), given


def _refusal(message: str) -> tuple[str, float | None]:
    """The compiler's reason in one line, and the bytes that it misses room for.

    >>> _refusal("RESOURCE_EXHAUSTED: the memory required (2.00G) exceeds available (1.5G)")[1]
    2147483648.0
    """
    line = " ".join(message.split())
    needed = re.search(r"\(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of", line)
    if needed is None:
        return line[:300], None
    number, unit = [group for group in needed.groups() if group]
    return line[:300], float(number) * 2 ** (10 * (1 + "KMGT".index(unit)))


def _read(
    found: Found,
    given: Sequence[Any],
    compiled: Any,
    program: Program,
    request: CompileRequest,
    slice_of: dict[jax.Device, int],
) -> None:
    """What the compiled program says; `given` are the arguments that it was compiled for."""
    formats = compiled.input_formats[0]
    memory = compiled.memory_analysis()
    times = max(request.members, 1)
    if request.step == "train":
        state, there = given[0], formats[0]
        other = (state.optimizer, state.step, state.batches)
        found.arguments = {
            "parameters": _laid_out(state.params, there.params),
            "optimizer": _laid_out(other, (there.optimizer, there.step, there.batches)),
        }
    else:
        found.arguments = {"parameters": _laid_out(given[0], formats[0])}
    found.arguments["rows"] = _laid_out(given[1:], formats[1:])
    found.argument_bytes = memory.argument_size_in_bytes
    found.output_bytes = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found.temporary_bytes = memory.temp_size_in_bytes
    found.code_bytes = memory.generated_code_size_in_bytes
    train = request.step == "train"
    platform = program.mesh.devices.flat[0].platform
    objective = request.run.objective
    kernels = times * ledger.kernel_flops(program.run, objective, platform, train=train)
    found.kernel_flops = kernels / program.mesh.size
    try:
        done = work(compiled.as_text(), program.mesh.size)
    except Unreadable as error:
        # Memory is known by the compiler's own analysis, and products by the ledger.
        found.unread = str(error)
        found.flops = times * _ledger_flops(program, platform, train=train)
        found.flops = (found.flops - kernels) / program.mesh.size
        return
    found.flops, found.flops_float32, found.bytes = done.flops, done.flops_float32, done.bytes
    found.traffic = done.traffic
    found.collectives = _moved(done.collectives, program, request.slice, slice_of)


def _ledger_flops(program: Program, platform: str, *, train: bool) -> int:
    """FLOPs of a step's products on all devices, with those of kernels."""
    run, named = program.run, program.named
    vocabulary, objective = vocabulary_size(run.data.tokenizer), run.objective
    if train:
        return ledger.program_flops(run, objective, vocabulary, platform, named)
    return sum(ledger.objective_flops(run, objective, vocabulary, named).values())


def _moved(
    collectives: Iterable[Collective],
    program: Program,
    slice_: str,
    slice_of: dict[jax.Device, int],
) -> list[Moved]:
    """The collectives of a step by kind and mesh axes, the largest first."""
    sums: dict[tuple[str, str], Moved] = {}
    # By the partition's number, in which programs name devices.
    places = [
        DevicePlace(slice_of[device], tuple(getattr(device, "coords", ())))
        for device in program.mesh.devices.flat
    ]
    for collective in collectives:
        if not collective.received:
            continue  # of a device with itself
        axes = axes_of(collective, program.mesh)
        moved = sums.setdefault(
            (collective.kind, axes), Moved(collective.kind, axes, 0, 0.0, 0.0, 0.0)
        )
        ici, dcn = seconds_of(collective, places, slice_)
        moved.times += collective.times
        moved.bytes += collective.times * collective.received
        moved.ici_seconds += collective.times * ici
        moved.dcn_seconds += collective.times * dcn
    return sorted(sums.values(), key=lambda moved: -moved.bytes)


def _laid_out(shapes: Any, formats: Any) -> int:
    """Bytes of arrays on one device."""
    leaves = jax.tree.leaves(formats, is_leaf=lambda x: isinstance(x, Format))
    return sum(map(_bytes_of, jax.tree.leaves(shapes), leaves))


def _bytes_of(array: jax.ShapeDtypeStruct, there: Any) -> int:
    """Bytes of one device's part of an array: by its sharding, and up to whole tiles.

    A TPU lays arrays out in tiles, of 8 x 128 elements for float32, and fills them up.
    """
    if there.layout is None:  # nothing in the program needs it
        return 0
    shape = there.sharding.shard_shape(array.shape)
    dtype = array.dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return 8  # two words
    sides = [shape[axis] for axis in there.layout.major_to_minor] or [1]
    for tile in (there.layout.tiling or ())[:1]:
        for back, size in enumerate(reversed(tile), 1):
            if back <= len(sides):
                sides[-back] = -(-sides[-back] // size) * size
    return math.prod(sides) * dtype.itemsize


def main() -> None:
    """Answers requests, a line each, until there are no more."""
    predictions = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the compiler's own words
    keep_memory()
    for line in sys.stdin:
        prediction: Found | Speed | str
        try:
            asked = msgspec.json.decode(line, type=CompileRequest | None)
            prediction = speed() if asked is None else find(asked)
        except UserError as error:
            prediction = str(error)
        predictions.write(msgspec.json.encode(prediction).decode() + "\n")
        predictions.flush()


if __name__ == "__main__":
    main()
