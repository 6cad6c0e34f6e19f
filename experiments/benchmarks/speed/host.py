"""What the host costs the device, and how time and memory grow with what is done."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import msgspec

from experiments import bert_vs_gpt
from experiments.benchmarks.speed.machine import Failed, alone, environment, resident
from experiments.benchmarks.speed.peers import ours
from experiments.benchmarks.speed.plan import CAUSAL, Plan, Result, Shape, compiled, work_of
from experiments.benchmarks.speed.timing import (
    interleave,
    ratio,
    repeat,
    seconds_each,
    slope,
    spread,
)
from lm.data import Batches, Bytes, Data, Stdlib, Text, open_tokens
from lm.distributed import mesh
from lm.example import Batch
from lm.model import Transformer
from lm.run import CheckpointSettings, Run
from lm.train.checkpoint import Checkpoints as Saved
from lm.train.step import Program, prepare
from lm.train.trackers import Trackers
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run


def host(plan: Plan) -> Result:
    """What the host costs the device: starting, waiting for batches, records, checkpoints."""
    cell, run = next(iter(bert_vs_gpt.runs(plan.study).items()))
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name, "cache")
        full = f"bert_vs_gpt/{plan.study}:{cell}"
        starts = [
            _start(full, folder / f"start-{turn}", cache)
            for turn in range(1 + plan.rounds // 2)
        ]
        return {
            "run": full,
            "first_start_seconds": starts[0],
            "start_seconds": spread(starts[1:]),
            "fit": alone(_fit, run, plan, folder, cache=cache),
            "checkpoint": alone(_save, plan, folder / "saved"),
        }


def _start(cell: str, directory: Path, cache: Path) -> float:
    """Seconds from the start of `lm train` to the first record of a step."""
    command = [sys.executable, "-c", "from lm.cli import main; main()", "train", cell]
    metrics = directory / "metrics.jsonl"
    begin = time.perf_counter()
    with environment(cache), open(os.devnull, "w") as nowhere:
        child = subprocess.Popen(
            [*command, "--dir", str(directory)],
            cwd=Path(__file__).parents[3],
            stdout=nowhere,
            stderr=nowhere,
        )
    try:
        while not (metrics.exists() and metrics.stat().st_size):
            if child.poll() is not None:
                raise Failed(f"lm train {cell} ended with code {child.returncode}")
            time.sleep(0.005)
        return time.perf_counter() - begin
    finally:
        child.kill()
        child.wait()


def _fit(run: Run, plan: Plan, folder: Path) -> Result:
    """Real training beside the same steps without a host: batches, records and bar."""
    data = run.data
    positions = data.batch * data.length
    run = msgspec.structs.replace(run, tokens=plan.fit_steps * positions, evaluations=1)
    tokens = open_tokens(data)
    vocabulary = tokens.tokenizer.vocabulary
    batches = Batches(tokens.train, vocabulary, data.length, data.batch, run.seed)
    program = prepare(run, vocabulary, mesh.make(run.mesh))
    rows = program.place(batches(0))
    clock = defaultdict[str, float](float)
    whole, bare, reading = [], [], []
    fractions: dict[str, list[float]] = {"wait": [], "records": []}
    for turn in range(1 + plan.rounds // 2):
        directory = folder / f"fit-{turn}"
        clock.clear()
        with _watched(clock):
            train_run(run, directory)
        steps = [
            positions / record["tokens_per_second"]
            for record in read_metrics(directory)
            if "tokens_per_second" in record
        ]
        without = _bare(program, rows, len(steps))
        start = time.perf_counter()
        for _ in batches.iterate(0, plan.fit_steps):
            pass
        if turn:  # the first one warms up
            whole.append(statistics.mean(steps))
            bare.append(without)
            reading.append((time.perf_counter() - start) / plan.fit_steps)
            for what, values in fractions.items():
                values.append(clock[what] / sum(steps))
    return {
        "tokens": positions,
        "seconds": spread(whole),
        "bare_seconds": spread(bare),
        "fit_to_bare": ratio(bare, whole),
        "batch_seconds": spread(reading),
        **{f"{what}_fraction": spread(values) for what, values in fractions.items()},
    }


def _bare(program: Program, rows: Batch, steps: int) -> float:
    """Seconds a step where a batch is there already and nothing is recorded.

    The loop reads what a step found while the next one runs, as `fit` does.
    """
    state, found = program.step(program.init(), rows)
    jax.block_until_ready(found)
    start = time.perf_counter()
    for _ in range(steps):
        before = found
        state, found = program.step(state, rows)
        jax.device_get(before)
    jax.device_get(found)
    return (time.perf_counter() - start) / steps


@contextmanager
def _watched(clock: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds for which the training loop waits, and those in which it records."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                clock[name] += time.perf_counter() - start

        return call

    iterate = Batches.iterate

    def batches(*arguments: Any) -> Iterator[Any]:
        found = iterate(*arguments)
        yield next(found)  # before the first one nothing is read ahead
        following = timed("wait", partial(next, found, None))
        yield from iter(following, None)

    with ExitStack() as stack:
        for owner, name, function in (
            (Batches, "iterate", batches),
            (Trackers, "write", timed("records", Trackers.write)),
            (Trackers, "update", timed("records", Trackers.update)),
        ):
            stack.enter_context(patch.object(owner, name, function))
        yield


def _save(plan: Plan, folder: Path) -> Result:
    """A checkpoint: for how long it stops training, and when it is on disk."""
    shape = plan.shapes[plan.main]
    state = compiled(shape).init()
    stopped, whole = [], []
    with Saved(str(folder), keep=1) as saved:
        for step in range(1 + plan.rounds // 2):
            start = time.perf_counter()
            saved.save(step, state, {})
            stopped.append(time.perf_counter() - start)
            saved.wait()
            whole.append(time.perf_counter() - start)
    return {
        "shape": plan.main,
        "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "seconds": spread(stopped[1:]),  # the first one compiles the digests
        "disk_seconds": spread(whole[1:]),
        "every_seconds": CheckpointSettings().seconds,
    }


def growth(plan: Plan) -> Result:
    """How time and memory grow with tokens, parameters, steps and text."""
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        _write_library(small, large, plan.fraction)
        batches = [plan.grown._replace(batch=batch) for batch in plan.batches]
        widths = [plan.grown._replace(width=width, heads=width // 64) for width in plan.widths]
        return {
            "tokens": _grown("tokens", alone(_times, batches, plan)),
            "parameters": _grown("parameters", alone(_times, widths, plan)),
            "memory": alone(_memory, small, plan, cache=Path(name, "cache")),
            "text": [
                alone(_open, corpus, plan, cache=Path(name, "cache"))
                for corpus in (small, large)
            ],
        }


def _times(shapes: list[Shape], plan: Plan) -> list[Result]:
    """Seconds a training step of each shape."""
    runs = {str(number): ours(shape).run for number, shape in enumerate(shapes)}
    seconds = interleave(runs, plan._replace(burst=plan.burst / 5))
    return [
        work_of(shape, CAUSAL) | {"seconds": spread(seconds[name])}
        for name, shape in zip(runs, shapes, strict=True)
    ]


def _grown(against: str, points: list[Result]) -> Result:
    x = [point[against] for point in points]
    return {"points": points} | slope(x, [point["seconds"]["median"] for point in points])


def _memory(corpus: Path, plan: Plan) -> dict[str, int]:
    """Resident bytes after so many steps of training."""
    run = Run(
        data=_data(corpus, length=32, batch=4, tokenizer=Bytes()),
        model=Transformer(depth=1, width=32, heads=1),
        tokens=max(plan.steps) * 4 * 32,
        evaluations=1,
        evaluation_rows=8,
    )
    found = {}
    write = Trackers.write

    def watched(metrics: Trackers, step: int, values: dict[str, float]) -> None:
        write(metrics, step, values)
        if step in plan.steps and str(step) not in found:
            found[str(step)] = resident("VmRSS")

    with tempfile.TemporaryDirectory() as directory, patch.object(Trackers, "write", watched):
        train_run(run, Path(directory, "run"))
    return found


def _open(corpus: Path, plan: Plan) -> Result:
    """Opening a corpus for the first time and again, and tokenizing it on all cores."""
    data = _data(corpus)
    start = time.perf_counter()
    tokens = open_tokens(data)
    first = time.perf_counter() - start
    texts = [document.text for document in data.corpus.read()]
    before, start = sum(os.times()[:4]), time.perf_counter()
    count = sum(map(len, tokens.tokenizer.encode_all(texts)))
    wall = time.perf_counter() - start
    return {
        "bytes": sum(len(text.encode()) for text in texts),
        "tokens": tokens.train.size + tokens.validation.size,
        "first_seconds": first,
        "again_seconds": repeat(
            partial(seconds_each, partial(open_tokens, data)), plan._replace(burst=0)
        ),
        "tokenized_per_second": count / wall,
        "cores_busy": (sum(os.times()[:4]) - before) / wall,
    }


def _data(corpus: Path, **settings: Any) -> Data:
    return Data(corpus=Text(paths=(str(corpus / "*"),)), validation=0.3, **settings)


def _write_library(small: Path, large: Path, fraction: int) -> None:
    """The standard library's sources as two corpora, of one document in `share` and of all."""
    for folder in (small, large):
        folder.mkdir()
    for number, document in enumerate(Stdlib().read()):
        (large / f"{number:05}").write_text(document.text, newline="")
        if number % fraction == 0:
            (small / f"{number:05}").write_text(document.text, newline="")
