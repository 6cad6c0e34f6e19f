"""What is measured, how large and how often, and the program of `lm train` at such a size."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lm.cost import ledger
from lm.data import Data
from lm.distributed import mesh
from lm.example import Batch, Vocabulary
from lm.model import Transformer
from lm.objectives import Causal, Masked, Objective
from lm.run import Run
from lm.train.step import Program, prepare

Result = dict[str, Any]
CAUSAL = Causal()
PEAK = "bfloat16 to float32"
"""The product whose rate is the peak."""
OBJECTIVES: dict[str, Objective] = {"causal": CAUSAL, "masked": Masked(rate=0.15)}


class Shape(NamedTuple):
    """A model and its batch."""

    depth: int
    width: int
    heads: int
    batch: int
    vocabulary: int
    length: int = 256

    @property
    def tokens(self) -> int:
        """Positions of a step."""
        return self.batch * self.length


class Plan(NamedTuple):
    """What is measured, how large and how often."""

    platform: str
    shapes: dict[str, Shape]
    """What is trained, by name."""
    main: str
    """The shape of evaluation, generation and peers."""
    rounds: int = 6
    """Repeats."""
    burst: float = 1.5
    """Seconds of one repeat, about; at least a step."""
    product: int = 2048
    """Sides of the matrices whose product is the peak."""
    stream: int = 1 << 29
    """Bytes of the array that is read and written."""
    generated: tuple[int, ...] = (64, 128, 256, 512, 1024)
    """Tokens that are there already."""
    at_once: tuple[int, ...] = (1, 16)
    """Texts generated together."""
    grown: Shape = Shape(depth=2, width=128, heads=2, batch=8, vocabulary=256)
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    widths: tuple[int, ...] = (64, 128, 192, 256, 384)
    """`grown` with these batches, and with these widths."""
    steps: tuple[int, ...] = (50, 500, 2000)
    """After which resident memory is read."""
    study: str = "laptop"
    """The scale of bert_vs_gpt whose first cell the host's side is measured on."""
    fit_steps: int = 100
    fraction: int = 30
    """The small corpus is every so many-th document of the large one."""


def plan_of(scale: str, platform: str) -> Plan:
    """What a scale measures on a platform."""
    if scale == "smoke":
        toy = Shape(depth=1, width=32, heads=1, batch=4, vocabulary=64, length=32)
        return Plan(
            platform,
            {"1 x 32": toy},
            "1 x 32",
            rounds=3,
            burst=0.02,
            product=128,
            stream=1 << 20,
            generated=(8, 16),
            at_once=(1, 2),
            grown=toy,
            batches=(1, 8),
            widths=(64, 128),
            steps=(5, 10, 20),
            study="smoke",
            fit_steps=10,
        )
    if platform == "cpu":
        shapes = {
            "4 x 128": Shape(depth=4, width=128, heads=2, batch=32, vocabulary=2048),
            "6 x 384": Shape(depth=6, width=384, heads=6, batch=12, vocabulary=8192),
            "8 x 512": Shape(depth=8, width=512, heads=8, batch=8, vocabulary=8192),
        }
        return Plan(platform, shapes, "6 x 384")
    long = partial(Shape, vocabulary=32_768, length=2048)
    shapes = {
        "12 x 768": long(depth=12, width=768, heads=12, batch=32),
        "24 x 1024": long(depth=24, width=1024, heads=16, batch=16),
        "16 x 2048": long(depth=16, width=2048, heads=16, batch=8),
    }
    grown = Shape(depth=4, width=1024, heads=16, batch=8, vocabulary=2048, length=2048)
    return Plan(
        platform,
        shapes,
        "16 x 2048",
        product=8192,
        stream=1 << 32,
        grown=grown,
        widths=(256, 512, 768, 1024, 1536),
    )


def settings(shape: Shape, objective: Objective = CAUSAL) -> Run:
    """A shape as the settings of a run."""
    return Run(
        data=Data(batch=shape.batch, length=shape.length),
        objective=objective,
        model=Transformer(depth=shape.depth, width=shape.width, heads=shape.heads),
        tokens=1_000_000 * shape.tokens,  # no schedule ends while it is timed
    )


def vocabulary_of(shape: Shape) -> Vocabulary:
    """A vocabulary that stands for no text."""
    size = shape.vocabulary
    return Vocabulary(
        size=size, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * size
    )


def compiled(shape: Shape, objective: Objective = CAUSAL) -> Program:
    """The program of `lm train`, on one device."""
    run = settings(shape, objective)
    return prepare(run, vocabulary_of(shape), mesh.make(run.mesh, jax.devices()[:1]))


def random_rows(shape: Shape) -> Batch:
    """Rows of random tokens, each one document."""
    size = (shape.batch, shape.length)
    tokens_BL = np.random.default_rng(1).integers(4, shape.vocabulary, size, dtype=np.int32)
    tokens_BL[:, 0] = vocabulary_of(shape).bos
    return Batch(tokens_BL, np.ones(size, np.int32))


def work_of(shape: Shape, objective: Objective, *, products: int = 3) -> Result:
    """What a step processes; a forward pass has one product where a training step has three."""
    run = settings(shape, objective)
    return {
        "tokens": shape.tokens,
        "parameters": ledger.parameters(run, shape.vocabulary).total,
        "flops": products * sum(ledger.step_flops(run, shape.vocabulary).values()),
    }
