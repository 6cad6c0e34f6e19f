"""How fast is this codebase on the machine at hand, and how close to what the machine can do?

Measures training (causal and masked, at three sizes), evaluation, scoring, generation, the
host's side and how all that grows, against floors of the same run: products in each precision,
and the memory. With `--peers`, the programs of other people that are installed train the same
shape in turns with ours. What is found is kept, section by section, in one file a machine, its
figure beside it.

    python -m experiments.benchmarks.speed --peers

    smoke    a few minutes        toys, to see that everything works
    default  20 minutes, 2 cores  models of 1M to 30M parameters on a CPU, of 0.1B to 1B on an
                                  accelerator; one device is measured

Times are medians of repeats, with the lowest and the highest; only what is compiled, opened or
started for the first time is timed once. What is compared takes turns, and a ratio is the
median of the turns' ratios. Run nothing beside it.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from scipy.stats import linregress

from experiments import bert_vs_gpt
from experiments.benchmarks.speed_peers import (
    PEERS,
    Child,
    Failed,
    Peer,
    Shape,
    alone,
    compiled,
    environment,
    installed,
    ours,
    random_rows,
    resident,
    seconds_each,
    settings,
    vocabulary_of,
)
from experiments.benchmarks.speed_report import PEAK, show
from lm.config import UserError
from lm.cost import ledger
from lm.data import Batches, Bytes, Data, Stdlib, Text, open_tokens
from lm.distributed import mesh
from lm.distributed.process import Parser, one_line_errors
from lm.evaluate.scorers.any_order import AnyOrderBound
from lm.evaluate.scorers.base import score
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scoring import Effort
from lm.example import Batch
from lm.generate import sampling
from lm.model import Transformer
from lm.numerics import Einsum
from lm.objectives import AnyOrder, Causal, Masked, Objective
from lm.run import CheckpointSettings, Run
from lm.train.checkpoint import Checkpoints as Saved
from lm.train.directory import commit
from lm.train.step import Program, prepare
from lm.train.trackers import Trackers
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run

Result = dict[str, Any]

RESULTS = Path(__file__).parents[1] / "results" / "speed"
OBJECTIVES: dict[str, Objective] = {"causal": Causal(), "masked": Masked(rate=0.15)}


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


def main(arguments: list[str] | None = None) -> None:
    """The benchmark: measures what is asked for and shows all that is known."""
    parser = Parser(
        prog="python -m experiments.benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", action="store_true", help="also run installed peers")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument("--scale", choices=("default", "smoke"), default="default")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    given = parser.parse_args(arguments)
    with one_line_errors():
        if given.report:
            files = sorted(given.results.glob("*.json"))
            if not files:
                raise UserError(f"{given.results}: no results there; run without --report")
            for file in files:
                show(file)
            return
        names = given.only or [name for name in SECTIONS if name != "peers"]
        if given.peers and "peers" not in names:
            names = [*names, "peers"]
        machine = alone(describe)
        toy = "-smoke" if given.scale == "smoke" else ""
        file = given.results / f"{slug(machine)}{toy}.json"
        failed = measure(names, plan_of(given.scale, machine["platform"]), machine, file)
        if file.exists():
            show(file)
        if failed:
            raise UserError(f"{', '.join(failed)}: not measured")


def measure(names: Sequence[str], plan: Plan, machine: Result, file: Path) -> list[str]:
    """Measures sections one after the other, each written when it is done.

    Returns the names of those that failed, which keeps nobody from measuring the others.
    """
    failed = []
    for name in names:
        print(f"lm: measuring {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            found = SECTIONS[name](plan)
        except Failed as error:
            complain(f"{name}: {error}")
            failed.append(name)
            continue
        found["made"] = made() | {"seconds": round(time.monotonic() - start)}
        merge(file, machine, name, found)
    return failed


def merge(file: Path, machine: Result, name: str, found: Result) -> None:
    """Puts a section into a machine's file, where the others stay as they are."""
    content = {"machine": machine, "sections": {}}
    if file.exists():
        try:
            content["sections"] = json.loads(file.read_bytes())["sections"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file}: not results of this program; move it away") from None
    content["sections"][name] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(file)


def describe() -> Result:
    """The machine, as far as it decides speed."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def slug(machine: Result) -> str:
    """A machine as the name of its file.

    >>> slug({"platform": "cpu", "cpu": "AMD EPYC", "cores": 2})
    'cpu-amd-epyc-2-cores'
    """
    text = machine["device"] if machine["platform"] != "cpu" else ""
    text = text or f"cpu {machine['cpu']} {machine['cores']} cores"
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def made() -> dict[str, Any]:
    """What a section was measured with."""
    packages = ("jax", "jaxlib", "flax", "optax")
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def complain(line: str) -> None:
    """Says what is missing from the results, and why."""
    print(f"lm: {line}", file=sys.stderr, flush=True)


# Numbers


def spread(values: Sequence[float]) -> Result:
    """The median of repeats, and between what they lie.

    >>> spread([2.0, 1.0, 4.0])
    {'median': 2.0, 'low': 1.0, 'high': 4.0, 'repeats': 3}
    """
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "repeats": len(values),
    }


def interleave(
    runs: Mapping[str, Callable[[int], float]], plan: Plan
) -> dict[str, list[float]]:
    """Seconds a step of each program, in rounds A B C A B C: a slow spell hits all alike.

    A run takes a number of steps and returns the seconds of one. One that fails is left out.
    """
    counts, seconds = dict[str, int](), dict[str, list[float]]()
    for turn in range(plan.rounds + 1):
        for name, run in runs.items():
            if turn and name not in seconds:
                continue
            try:
                if turn == 0:  # two steps to warm up, the second shows how many fill a burst
                    run(1)
                    counts[name] = max(1, round(plan.burst / run(1)))
                    seconds[name] = []
                else:
                    seconds[name].append(run(counts[name]))
            except Failed as error:
                complain(f"{name}: {error}")
                seconds.pop(name, None)
    return seconds


def repeat(run: Callable[[int], float], plan: Plan) -> Result:
    """Seconds a step of one program."""
    return spread(interleave({"": run}, plan)[""])


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Result:
    """How many times as fast ours is: the median of the rounds' ratios of seconds.

    >>> ratio([1.0, 2.0, 1.0], [2.0, 4.0, 3.0])["median"]
    2.0
    """
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def slope(x: Sequence[float], y: Sequence[float]) -> Result:
    """The exponent of a power law through the points, and its standard error.

    >>> round(slope([1, 10, 100], [3, 30, 300])["slope"], 6)
    1.0
    """
    found = linregress(np.log(x), np.log(y))
    return {"slope": float(found.slope), "se": float(found.stderr)}


# Sections


def floors(plan: Plan) -> Result:
    """What the machine can do: products in each precision, and reading and writing memory."""
    plan = plan._replace(burst=plan.burst / 3)
    products = {
        "float32": product(plan, partial(Einsum("float32"), "MK,KN->MN"), jnp.float32),
        PEAK: peak_product(plan),
        "bfloat16": product(plan, jnp.matmul, jnp.bfloat16),
    }
    seconds = interleave(products, plan)
    found: Result = {
        name: {"seconds": spread(seconds[name]), "flops": _product_flops(plan)}
        for name in products
    }
    array = jnp.zeros(plan.stream // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def stream() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    memory = {"seconds": repeat(partial(seconds_each, stream), plan), "bytes": 2 * array.nbytes}
    return {"matmuls": found, "memory": memory}


def product(plan: Plan, einsum: Callable[..., Any], dtype: Any) -> Callable[[int], float]:
    """Seconds of a large product of matrices."""
    matrices = jax.random.normal(jax.random.key(0), (2, plan.product, plan.product))
    return partial(seconds_each, partial(jax.jit(einsum), *matrices.astype(dtype)))


def peak_product(plan: Plan) -> Callable[[int], float]:
    """The product whose rate is the peak: what our models take, as large as suits it."""
    return product(plan, partial(Einsum("bfloat16"), "MK,KN->MN"), jnp.bfloat16)


def _product_flops(plan: Plan) -> int:
    return 2 * plan.product**3


def peak_fraction(
    flops: int, seconds: Sequence[float], peak_seconds: Sequence[float], plan: Plan
) -> Result:
    """Of the rate that the peak's product had in the same rounds, when it took `peak_seconds`.

    A machine that others use too has another peak from minute to minute.
    """
    most = _product_flops(plan)
    pairs = zip(seconds, peak_seconds, strict=True)
    return spread([flops / mine * peak / most for mine, peak in pairs])


def train(plan: Plan) -> Result:
    """The training step: its time beside its FLOPs, the time to compile it, its memory."""
    rows, ratios = [], {}
    for name, shape in plan.shapes.items():
        with tempfile.TemporaryDirectory() as cache:
            try:
                cold = {
                    variant: alone(_cold, shape, variant, cache=Path(cache))
                    for variant in OBJECTIVES
                }
                warm = alone(_warm, shape, plan, cache=Path(cache))
            except Failed as error:
                complain(f"train {name}: {error}")
                continue
        peak = warm["seconds"][PEAK]
        for variant, objective in OBJECTIVES.items():
            size, seconds = _size(shape, objective), warm["seconds"][variant]
            rows.append(
                {
                    "shape": name,
                    "objective": variant,
                    **size,
                    "seconds": spread(seconds),
                    "peak_fraction": peak_fraction(size["flops"], seconds, peak, plan),
                    "warm_compile_seconds": warm["first"][variant] - min(seconds),
                    **cold[variant],
                }
            )
        causal, masked = (row["flops"] for row in rows[-2:])
        measured = ratio(*(warm["seconds"][variant] for variant in OBJECTIVES))
        ratios[name] = {"measured": measured, "ledger": masked / causal}
    if not rows:
        raise Failed("no shape could be trained")
    return {"rows": rows, "masked_to_causal": ratios}


def _cold(shape: Shape, variant: str) -> Result:
    """Compiles a step that nobody has compiled before."""
    program = ours(shape, OBJECTIVES[variant])
    first, usual = program.run(1), program.run(2)
    return {"compile_seconds": first - usual, "peak_bytes": program.memory()}


def _warm(shape: Shape, plan: Plan) -> Result:
    """Steps of all objectives in turns, compiled from the cache of the processes before."""
    programs = {variant: ours(shape, objective) for variant, objective in OBJECTIVES.items()}
    first = {variant: program.run(1) for variant, program in programs.items()}
    runs = {variant: program.run for variant, program in programs.items()}
    return {"first": first, "seconds": interleave({**runs, PEAK: peak_product(plan)}, plan)}


def _size(shape: Shape, objective: Objective, *, products: int = 3) -> Result:
    """What a step processes; a forward pass has one product where a training step has three."""
    run = settings(shape, objective)
    return {
        "tokens": shape.tokens,
        "parameters": ledger.parameters(run, shape.vocabulary).total,
        "flops": products * sum(ledger.step_flops(run, shape.vocabulary).values()),
    }


def evaluate(plan: Plan) -> Result:
    """Validation steps, and scoring as `lm score` does it, from the host and back."""
    shape, effort = plan.shapes[plan.main], Effort()
    vocabulary, host_rows = vocabulary_of(shape), random_rows(shape)
    runs = {PEAK: peak_product(plan)}
    rows = {}
    for variant, scorer, asks, replicates in (
        ("causal", ChainRule(), Causal(), 1),
        ("masked", AnyOrderBound(samples=effort.samples), AnyOrder(), effort.replicates),
    ):
        program = compiled(shape, OBJECTIVES[variant])
        params = program.init().params
        step = partial(program.validate, params, program.place(host_rows), jax.random.key(0))
        scoring: Callable[[], Any] = partial(
            score,
            scorer,
            program.module,
            params,
            [(host_rows.tokens_BL, host_rows.segments_BL)],
            vocabulary=vocabulary,
            replicates=replicates,
        )
        for what, function, objective, passes in (
            (f"validation, {variant}", step, OBJECTIVES[variant], 1),
            (f"{scorer.name}, {variant}", scoring, asks, scorer.samples * replicates),
        ):
            runs[what] = partial(seconds_each, function)
            size = _size(shape, objective, products=passes)
            rows[what] = {"what": what, "objective": variant, "passes": passes, **size}
    seconds = interleave(runs, plan)
    for what, row in rows.items():
        row["seconds"] = spread(seconds[what])
        row["peak_fraction"] = peak_fraction(row["flops"], seconds[what], seconds[PEAK], plan)
    return {"shape": plan.main, "rows": list(rows.values())}


def generate(plan: Plan) -> Result:
    """The time of one more token, by how many are there already."""
    shape = plan.shapes[plan.main]
    program = compiled(shape)
    params = program.init().params
    few, many = 1, 33  # their difference leaves out what is done once for a prompt
    rows = []
    for batch in plan.at_once:
        for there in plan.generated:
            prompts = [[5] * max(1, there - (few + many) // 2)] * batch

            def speak(count: int, seed: int, prompts: list[list[int]] = prompts) -> Any:
                return sampling.generate(
                    program.module,
                    params,
                    prompts,
                    vocabulary=vocabulary_of(shape),
                    length=max(plan.generated) + many,
                    count=count,
                    seed=seed,
                )

            # No text may end before its time.
            seed = next(s for s in range(1000) if max(map(len, speak(many, s))) == many)
            turns = [
                [seconds_each(partial(speak, count, seed), 1) for count in (few, many)]
                for _ in range(1 + plan.rounds // 2)
            ]
            seconds = spread([(long - short) / (many - few) for short, long in turns[1:]])
            rows.append({"batch": batch, "there": there, "seconds": seconds})
    return {"shape": plan.main, "rows": rows}


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
            cwd=Path(__file__).parents[2],
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
        _size(shape, Causal()) | {"seconds": spread(seconds[name])}
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


def peers(plan: Plan) -> Result:
    """Other people's programs on the main shape, in turns with ours.

    Theirs clip no gradients and tell nothing but the loss.
    """
    shape = plan.shapes[plan.main]
    wanted = {n: p for n, p in PEERS.items() if p.keep_memory or plan.platform == "cpu"}
    there = {name: peer for name, peer in wanted.items() if installed(peer)}
    missing = {peer.package: peer.install for peer in PEERS.values() if not installed(peer)}
    for package, install in missing.items():
        complain(f"peers: {package} is not installed: {install}")
    # All that take turns are in memory together, for which an accelerator's may be too small.
    groups = [there] if plan.platform == "cpu" else [{n: p} for n, p in there.items()]
    programs: Result = {}
    mine: list[float] = []
    for group in groups:
        try:
            rounds, memory = _in_turns(group, shape, plan)
        except Failed as error:
            complain(f"peers: ours: {error}")
            continue
        mine += rounds["ours"]
        for name, seconds in rounds.items():
            programs[name] = {
                "seconds": spread(mine if name == "ours" else seconds),
                "ratio": ratio(rounds["ours"], seconds),
                "peak_bytes": memory[name],
            }
    if not programs:
        raise Failed("none could be run in turns with ours")
    versions = {peer.package: _version(peer.package) for peer in there.values()}
    return {
        "shape": plan.main,
        **_size(shape, Causal()),
        "programs": programs,
        "missing": missing,
        "versions": versions,
    }


def _in_turns(
    group: dict[str, Peer], shape: Shape, plan: Plan
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds a step of ours and of each peer that runs, and the memory that each took."""
    with ExitStack() as stack:
        children = {"ours": stack.enter_context(_warmed_up(ours, shape))}
        for name, peer in group.items():
            try:
                children[name] = stack.enter_context(_child(peer, shape))
            except Failed as error:
                complain(f"peers: {name}: {error}")
        runs = {name: partial(child.ask, "run") for name, child in children.items()}
        rounds = interleave(runs, plan._replace(burst=2 * plan.burst))
        if "ours" not in rounds:
            raise Failed("it was not measured to the end")
        return rounds, {name: children[name].ask("memory") for name in rounds}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path
        return ""


def _child(peer: Peer, shape: Shape) -> Child:
    """The peer, warmed up; or, where that fails, what is to run in its place."""
    *others, last = (peer.make, *peer.otherwise)
    for make in others:
        with suppress(Failed):
            return _warmed_up(make, shape, keep_memory=peer.keep_memory)
    return _warmed_up(last, shape, keep_memory=peer.keep_memory)


def _warmed_up(
    make: Callable[[Shape], Any], shape: Shape, *, keep_memory: bool = True
) -> Child:
    """A program whose memory has settled: the first steps still ask the system for more."""
    child = Child(make, shape, keep_memory=keep_memory, limit=300)
    try:
        child.ask("run", 8)
    except Failed:
        child.close()
        raise
    return child


SECTIONS: dict[str, Callable[[Plan], Result]] = {
    "floors": partial(alone, floors),
    "train": train,
    "evaluate": partial(alone, evaluate),
    "generate": partial(alone, generate),
    "host": host,
    "growth": growth,
    "peers": peers,
}

if __name__ == "__main__":
    main()
