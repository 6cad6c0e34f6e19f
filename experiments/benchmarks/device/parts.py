"""What is measured of a device, each in a process of its own, and how large."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import numpy as np
from msgspec.structs import replace

from experiments.benchmarks.device import checks
from experiments.benchmarks.speed import device as speed
from experiments.benchmarks.speed import peers
from experiments.benchmarks.speed.machine import Failed, describe, device_memory
from experiments.benchmarks.speed.plan import (
    OBJECTIVES,
    Plan,
    Result,
    Shape,
    settings,
    vocabulary_of,
    work_of,
)
from experiments.benchmarks.speed.timing import interleave, spread
from lm.cost import peak
from lm.distributed import mesh
from lm.example import Batch
from lm.model.attention import KERNELS, refusal
from lm.train.step import prepare

ATTENTION, CELL, CPU_CELL = "attention, ", "a run", "a run on the CPU"
"""How the parts that check are called; the first goes on with a kernel."""


class Part(NamedTuple):
    """A measurement: its name, what finds it in a process of its own, and for how long."""

    name: str
    seconds: float
    """After which it is given up."""
    find: Callable[[], Any]
    on_cpu: bool = False
    """Whether its process is to see no accelerator."""


class Sizes(NamedTuple):
    """How large the models are that are measured."""

    small: Shape
    large: Shape
    plan: Plan
    """How often, and how long a burst is."""
    scale: str
    """The scale of `known_truth` that is trained last."""

    def longer(self) -> Shape:
        """The small model with rows twice as long."""
        small = self.small
        return small._replace(length=2 * small.length, batch=max(1, small.batch // 2))


def sizes_of(platform: str, *, tiny: bool = False) -> Sizes:
    """124M parameters in rows of 1,024 and 0.9B in rows of 2,048; toys on a CPU."""
    if tiny or platform == "cpu":
        toy = Shape(depth=1, width=32, heads=2, batch=2, vocabulary=64, length=32)
        plan = Plan(
            platform, {}, "toy", rounds=2, burst=0.02, product=128, stream=1 << 20,
            generated=(8,), at_once=(1, 2),
        )  # fmt: skip
        return Sizes(toy, toy._replace(width=64), plan._replace(shapes={"toy": toy}), "smoke")
    small = Shape(12, 768, 12, batch=32, vocabulary=50_304, length=1024)
    large = Shape(16, 2048, 16, batch=8, vocabulary=50_304, length=2048)
    plan = Plan(
        platform, {"12 x 768": small}, "12 x 768", rounds=4, burst=1.0, product=8192,
        stream=1 << 32, generated=(256,), at_once=(1, 16),
    )  # fmt: skip
    return Sizes(small, large, plan, "gpu")


def attentions(platform: str) -> list[str]:
    """What can compute attention on a platform, its own kernels first."""
    return [name for name, kernel in KERNELS.items() if kernel.home == platform] + ["xla"]


def parts(platform: str, sizes: Sizes) -> list[Part]:
    """All that is measured but for the study, what matters most first."""
    kinds, small, large = attentions(platform), sizes.small, sizes.large
    checked = kinds[:-1] or list(KERNELS)
    found = [
        Part(f"{ATTENTION}{name}", 150, partial(checks.attention_rows, name))
        for name in checked
    ]
    found += [
        Part(CPU_CELL, 150, checks.trained_cell, on_cpu=True),
        Part(CELL, 150, checks.trained_cell),
        Part("floors", 90, partial(speed.floors, sizes.plan)),
    ]

    def trained(shape: Shape, objective: str) -> list[Part]:
        title = f"{shape.depth} x {shape.width}, {objective}, {shape.length}"
        return [
            Part(f"{title}, {kind}", 150, partial(train, shape, objective, kind, sizes.plan))
            for kind in kinds
        ]

    found += trained(small, "causal") + trained(large, "causal")
    found += [
        Part(f"{of.depth} x {of.width}, PyTorch", 200, partial(pytorch, of, sizes.plan))
        for of in (small, large)
    ]
    found += trained(small, "masked") + trained(large, "masked")
    found.append(Part("generation", 120, partial(speed.generate, sizes.plan)))
    found += trained(sizes.longer(), "causal") + trained(sizes.longer(), "masked")
    # Toys are for machines that are busy with other things.
    slack = 4 if sizes.scale == "smoke" else 1
    return [part._replace(seconds=slack * part.seconds) for part in found]


def machine() -> Result:
    """The device, what its maker says that it does, and what it has of memory."""
    first = jax.devices()[0]
    stats = first.memory_stats() or {}
    return {
        **describe(),
        "peak_flops": peak.peak_of(first.device_kind),
        "device_bytes": stats.get("bytes_limit"),
        "jax": jax.__version__,
    }


def packed_rows(shape: Shape) -> Batch:
    """Rows of random tokens, in documents of 40 to 600 positions that rows cut."""
    random = np.random.default_rng(1)
    size = shape.batch * shape.length
    begins = np.zeros(size, bool)
    at = 0
    while at < size:
        begins[at] = True
        at += int(random.integers(40, 601))
    begins_BL = begins.reshape(shape.batch, shape.length)
    begins_BL[:, 0] = True
    tokens_BL = random.integers(4, shape.vocabulary, begins_BL.shape, dtype=np.int32)
    tokens_BL[begins_BL] = vocabulary_of(shape).bos
    return Batch(tokens_BL, begins_BL.cumsum(1, dtype=np.int32))


def train(shape: Shape, objective: str, attention: Any, plan: Plan) -> Result:
    """Training steps on packed rows: tokens/s, the fraction of the peak, and memory.

    The fraction is of the ledger's FLOPs, which are those of XLA's form whatever computes
    attention, and without what is computed again.
    """
    asked = OBJECTIVES[objective]
    run = replace(settings(shape, asked), attention=attention)
    why = refusal(attention, precision=run.precision, head_size=shape.width // shape.heads)
    if why is not None:
        raise Failed(why)
    program = prepare(run, vocabulary_of(shape), mesh.make(run.mesh, jax.devices()[:1]))
    rows, state = program.place(packed_rows(shape)), program.init()

    def update() -> Any:
        nonlocal state
        state, metrics = program.step(state, rows)
        return metrics

    steps = peers.a_step_late(update)
    first = steps.run(1)
    seconds = interleave({"": steps.run}, plan)[""]
    work = work_of(shape, asked)
    most = peak.device_peak()
    return {
        **work,
        "shape": f"{shape.depth} x {shape.width}",
        "length": shape.length,
        "batch": shape.batch,
        "objective": objective,
        "attention": attention,
        "seconds": spread(seconds),
        "compile_seconds": first - min(seconds),
        "peak_fraction": spread([work["flops"] / each / most for each in seconds]),
        "peak_bytes": device_memory(),
    }


def pytorch(shape: Shape, plan: Plan) -> Result:
    """The same transformer in compiled PyTorch: causal, whole rows, its own fused attention."""
    if find_spec("torch") is None:
        raise Failed(f"PyTorch is not installed: {peers.TORCH}")
    program = peers.pytorch(shape)
    program.run(3)
    seconds = interleave({"": program.run}, plan)[""]
    work, most = work_of(shape, OBJECTIVES["causal"]), peak.device_peak()
    return {
        **work,
        "shape": f"{shape.depth} x {shape.width}",
        "length": shape.length,
        "batch": shape.batch,
        "objective": "causal",
        "attention": "PyTorch",
        "seconds": spread(seconds),
        "peak_fraction": spread([work["flops"] / each / most for each in seconds]),
        "peak_bytes": program.memory(),
    }
