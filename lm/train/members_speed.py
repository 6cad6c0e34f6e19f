"""Whether a group is worth it: its step, and that of a run alone, timed on these devices."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lm.config import UserError
from lm.data import open_tokens
from lm.distributed import mesh as _mesh
from lm.run import Run, in_positions, mesh_for
from lm.train.members import prepare_members
from lm.train.step import prepare


def speedup(runs: Sequence[Run], seconds: float = 0.5) -> float:
    """How many times as fast these members are together as one after the other.

    Both programs are compiled, and take steps for so many seconds. Infinite, where a run does
    not divide among the devices, and so cannot be trained by all of them.
    """
    devices, tokens = jax.devices(), open_tokens(runs[0].data)
    runs = [in_positions(run, tokens.row_tokens(run.data)) for run in runs]
    first, vocabulary = runs[0], tokens.tokenizer.vocabulary
    try:
        slices = _mesh.count_slices(devices)
        mesh = _mesh.make(mesh_for(first, devices=len(devices), slices=slices), devices)
    except UserError:
        return math.inf
    part = tokens.batches(first.data, first.seed, first.objective.copies)(0)
    alone = prepare(first, vocabulary, mesh)
    rows_B = alone.place(jax.tree.map(lambda array: array[alone.rows], part))
    one = _step_seconds(lambda state: alone.step(state, rows_B), alone.init(), seconds)
    group = prepare_members(runs, vocabulary, devices)
    rows_GB, limits = group.place([part] * len(runs)), [math.inf] * len(runs)
    all_ = _step_seconds(lambda s: group.step(s, rows_GB, limits), group.init(), seconds)
    return len(runs) * one / all_


def _step_seconds(step: Callable[[Any], Any], state: Any, seconds: float) -> float:
    """The median of steps that are taken for so long, five at least, after one of them."""
    found: list[float] = []
    while len(found) < 6 or sum(found[1:]) < seconds:
        start = time.perf_counter()
        state, metrics = step(state)
        jax.block_until_ready((state, metrics))
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])
