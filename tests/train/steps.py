"""A run's steps one by one, without a directory; and what a directory kept of them."""

from pathlib import Path

import jax

from lm.config import override
from lm.data import Batches, open_tokens
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.run import Run
from lm.train.step import Program, State, prepare
from lm.train.trackers.jsonl import read_metrics


def change(run: Run, *overrides: str) -> Run:
    return override(run, overrides)


def program(run: Run, devices: int = 1, **axes: int) -> tuple[Program, Batches]:
    """The run's on a mesh of so many devices, and what it is trained on."""
    tokens = open_tokens(run.data)
    where = mesh.make(Mesh(**axes), jax.devices()[:devices])
    made = prepare(run, tokens.tokenizer.vocabulary, where)
    return made, tokens.batches(run.data, run.seed)


def train(run: Run, steps: int, devices: int = 1, **axes: int) -> tuple[list[float], State]:
    """Losses of the first steps, and the state after them."""
    made, batches = program(run, devices, **axes)
    state, losses = made.init(), []
    for step in range(steps):
        state, metrics = made.step(state, made.place(batches(step)))
        losses.append(float(metrics["loss"]))
    return losses, state


def losses_of(directory: Path) -> list[tuple[int, float]]:
    """Each step that a run recorded, with its loss."""
    return [(r["step"], r["loss"]) for r in read_metrics(directory) if "loss" in r]
