"""A run's steps as a compiler makes them for devices that need not be there.

`python -m lm.plan.compile` reads a `Request` a line and answers each with a `Found` in a line.
It is a process of its own, as a TPU compiler prints as it likes, and may end the process.
"""

import math
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax.experimental import topologies
from jax.experimental.layout import Format

from lm.config import UserError
from lm.cost import ledger
from lm.cost.chips import Chip, parse_slice
from lm.data import vocabulary_size
from lm.distributed import mesh as _mesh
from lm.distributed.mesh import AXES
from lm.distributed.process import keep_memory
from lm.evaluate.scorers.base import nats_of
from lm.evaluate.scoring import valid
from lm.example import Batch, Vocabulary
from lm.plan.hlo import Collective, work
from lm.run import Run, mesh_for
from lm.train.progress import matmul_peak
from lm.train.step import Program, prepare

Step = Literal["train", "validate", "score"]
HERE = "cpu"
"""The slice that is this machine's own processor."""


class Request(msgspec.Struct, frozen=True):
    """What to compile."""

    run: Run
    """Its objective is that of the step."""
    slice: str
    """A name of lm.chips, or `HERE`."""
    slices: int = 1
    step: Step = "train"
    quick: bool = False
    """Whether the compiler is to spare itself most optimizations."""
    measure: bool = False
    """Whether the step is also run and timed (`HERE` alone)."""


class Moved(msgspec.Struct):
    """The collectives of one kind along the same mesh axes, in one step of one device."""

    kind: str
    axes: str
    """Joined by `+`."""
    times: int
    bytes: float
    """That a device receives."""
    ici_seconds: float
    dcn_seconds: float


class Found(msgspec.Struct):
    """What one device needs and does in a step; bytes and FLOPs."""

    mesh: dict[str, int]
    arguments: dict[str, int] = {}
    """parameters, optimizer, rows: as they lie in memory, by shardings and layouts."""
    argument_bytes: int = 0
    """All of them, as the compiler says."""
    output_bytes: int = 0
    """What is returned, but for what takes an argument's place."""
    temporary_bytes: int = 0
    code_bytes: int = 0
    flops: float = 0.0
    """Of matrix products in the program's text."""
    flops_float32: float = 0.0
    """Of those, products of float32 operands."""
    kernel_flops: float = 0.0
    """Of attention's kernels, by the ledger: no compiler counts them."""
    bytes: float = 0.0
    """Read from and written to main memory."""
    collectives: list[Moved] = []
    compile_seconds: float = 0.0
    rematerialized: bool = False
    """Whether the partitioner said that it copies an array whole, as no other way fits."""
    refused: str = ""
    """What the compiler says where the program does not fit."""
    refused_bytes: float | None = None
    """What it would have needed, at least."""
    measured_seconds: list[float] = []

    @property
    def used(self) -> float:
        """Bytes of main memory that are needed at once."""
        if self.refused_bytes is not None:
            return self.refused_bytes
        return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


class Speed(msgspec.Struct):
    """What this machine's processor does, as measured."""

    flops: float
    flops_float32: float
    bandwidth: float


def find(request: Request) -> Found:
    """Compiles a step and reads what came of it."""
    devices, slice_of = _devices(request)
    run = request.run
    mesh_config = mesh_for(run, devices=len(devices), slices=len(set(slice_of.values())))
    run = msgspec.structs.replace(run, mesh=mesh_config)
    if request.slice != HERE and run.unroll is None:
        run = msgspec.structs.replace(run, unroll=1)  # also where a CPU stands for a GPU
    mesh = _mesh.make(mesh_config, devices)
    program = prepare(run, _vocabulary(run), mesh)
    found = Found(mesh=dict(mesh.shape))
    start = time.monotonic()
    options = {"exec_time_optimization_effort": -1.0} if request.quick else None
    try:
        step, given = _step(request.step, program)
        compiled = step.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found.refused, found.refused_bytes = _refusal(str(error))
        return found
    found.compile_seconds = time.monotonic() - start
    _read(found, given, compiled, program, request, slice_of)
    if request.measure:
        found.measured_seconds = _measured(program)
    return found


def _devices(request: Request) -> tuple[Sequence[jax.Device], dict[jax.Device, int]]:
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
    """One of the right size: which pieces begin a word changes no shape."""
    tokenizer = run.data.tokenizer
    size, first = vocabulary_size(tokenizer), 4
    return Vocabulary(
        size=size,
        pad=0,
        mask=1,
        begin=2,
        end=3,
        ordinary=first + tokenizer.sentinels,
        begins_word=(True,) * size,
        sentinels=tuple(range(first, first + tokenizer.sentinels)),
    )


def _step(step: Step, program: Program) -> tuple[Any, Sequence[Any]]:
    """A step, lowered, and its arguments."""
    run, mesh = program.run, program.mesh
    everywhere = _mesh.sharding(mesh)
    rows = jax.ShapeDtypeStruct(
        (run.data.batch, run.data.length),
        jnp.int32,
        sharding=_mesh.sharding(mesh, "batch", "length"),
    )
    channels = {
        channel.name: jax.ShapeDtypeStruct(
            (*rows.shape, *channel.shape), channel.dtype, sharding=rows.sharding
        )
        for channel in run.data.corpus.channels
    }
    batch = Batch(rows, rows, channels)
    if step == "train":
        seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=everywhere)
        given = [program.abstract, batch, seed]
        return program.update.lower(*given, run.objective), given
    params = program.abstract.params
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=everywhere)
    if step == "validate":
        given = [params, batch, key]
        validate: Any = program.validate
        return validate.lower(*given), given
    scorer = next(iter(valid(run).values()))
    where = _mesh.sharding(mesh, "batch")
    number = jax.ShapeDtypeStruct((run.data.batch,), jnp.uint32, sharding=where)
    sample = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
    given = [params, rows, rows, number, key, sample]
    vocabulary = _vocabulary(run)
    return nats_of.lower(scorer, program.body, vocabulary, *given), given


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
    request: Request,
    slice_of: dict[jax.Device, int],
) -> None:
    """What the compiled program says; `given` are the arguments that it was compiled for."""
    formats = compiled.input_formats[0]
    memory = compiled.memory_analysis()
    state = program.abstract
    if request.step == "train":
        there = formats[0]
        other = (state.optimizer, state.step, state.batches)
        found.arguments = {
            "parameters": _laid_out(state.params, there.params),
            "optimizer": _laid_out(other, (there.optimizer, there.step, there.batches)),
        }
    else:
        found.arguments = {"parameters": _laid_out(state.params, formats[0])}
    found.arguments["rows"] = sum(map(_bytes_of, given[1:], formats[1:]))
    found.argument_bytes = memory.argument_size_in_bytes
    found.output_bytes = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found.temporary_bytes = memory.temp_size_in_bytes
    found.code_bytes = memory.generated_code_size_in_bytes
    done = work(compiled.as_text(), program.mesh.size)
    found.flops, found.flops_float32, found.bytes = done.flops, done.flops_float32, done.bytes
    platform = program.mesh.devices.flat[0].platform
    kernels = ledger.kernel_flops(
        program.run, request.run.objective, platform, train=request.step == "train"
    )
    found.kernel_flops = kernels / program.mesh.size
    sums: dict[tuple[str, str], Moved] = {}
    places = _places(program.mesh, slice_of)
    for collective in done.collectives:
        axes = _axes_of(collective, program.mesh)
        moved = sums.setdefault(
            (collective.kind, axes), Moved(collective.kind, axes, 0, 0.0, 0.0, 0.0)
        )
        ici, dcn = _seconds(collective, places, request.slice)
        moved.times += collective.times
        moved.bytes += collective.times * collective.received
        moved.ici_seconds += collective.times * ici
        moved.dcn_seconds += collective.times * dcn
    found.collectives = sorted(sums.values(), key=lambda moved: -moved.bytes)


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


# Networks


class _Place(NamedTuple):
    """Where a device is."""

    slice: int
    coords: tuple[int, ...]


def _places(mesh: jax.sharding.Mesh, slice_of: Mapping[jax.Device, int]) -> list[_Place]:
    """By the partition's number, in which programs name devices."""
    return [
        _Place(slice_of[device], tuple(getattr(device, "coords", ())))
        for device in mesh.devices.flat
    ]


def _axes_of(collective: Collective, mesh: jax.sharding.Mesh) -> str:
    """The mesh axes along which a collective's devices lie."""
    at = np.array(np.unravel_index(collective.members, mesh.devices.shape))
    return "+".join(a for a, line in zip(AXES, at, strict=True) if len(set(line.tolist())) > 1)


def _seconds(
    collective: Collective, places: Sequence[_Place], slice_: str
) -> tuple[float, float]:
    """The least time of a collective on the wires within slices, and between them.

    What all devices of a slice must have from another slice comes once, a share to each.
    """
    if slice_ == HERE:
        return 0.0, 0.0
    machine = parse_slice(slice_)
    chip = machine.chip
    members = [places[number] for number in collective.members]
    inside = [place for place in members if place.slice == members[0].slice]
    slices = len({place.slice for place in members})
    outer = collective._replace(members=tuple(range(slices)))
    far = outer.received / len(inside) if slices > 1 else 0.0
    near = collective.received - far
    ici = near / (ici_bandwidth(chip, machine.topology, inside) / chip.devices)
    return ici, far / ((chip.dcn or math.inf) / chip.devices)


def ici_bandwidth(chip: Chip, topology: Sequence[int], places: Sequence[_Place]) -> float:
    """Bytes/s that a chip can receive in a collective of these devices of a slice.

    Each side of the torus along which they lie adds two wires where it is a ring, and one
    where it is a line.

    >>> chip = parse_slice("v5e-256").chip
    >>> row = [_Place(0, (x, 0, 0)) for x in range(16)]
    >>> ici_bandwidth(chip, (16, 16), row), ici_bandwidth(chip, (16, 16), row[:4])
    (100000000000.0, 50000000000.0)
    """
    if chip.sides == 1:
        return chip.ici
    wires = 0
    for side, size in enumerate(topology):
        met = len({place.coords[side] for place in places})
        if met > 1:
            wires += 2 if met == size and size % chip.wraps == 0 else 1
    # Two devices of one chip share its memory.
    return chip.ici * wires / (2 * chip.sides) if wires else chip.bandwidth


# Measuring this machine


def _measured(program: Program, least: float = 3.0) -> list[float]:
    """Seconds of training steps on random pieces, after one that warms up.

    They are five steps or more, and last `least` seconds or longer: other programs come and go.
    """
    run = program.run
    shape = run.data.batch, run.data.length
    random = np.random.default_rng(0)
    tokens_BL = random.integers(4, vocabulary_size(run.data.tokenizer), shape, dtype=np.int32)
    part = program.place(Batch(tokens_BL, np.ones(shape, np.int32)))
    state = program.init()
    seconds: list[float] = []
    while len(seconds) < 6 or sum(seconds[1:]) < least:
        start = time.perf_counter()
        state, metrics = program.step(state, part)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def speed() -> Speed:
    """This machine's products and its memory, at best."""
    x = jnp.zeros(1 << 26, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(x).block_until_ready()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        copy(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return Speed(
        flops=matmul_peak(),
        flops_float32=matmul_peak("float32"),
        bandwidth=2 * x.nbytes / min(times),
    )


def main() -> None:
    """Answers requests, a line each, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the compiler's own words
    keep_memory()
    for line in sys.stdin:
        answer: Found | Speed | str
        try:
            asked = msgspec.json.decode(line, type=Request | None)
            answer = speed() if asked is None else find(asked)
        except UserError as error:
            answer = str(error)
        answers.write(msgspec.json.encode(answer).decode() + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
