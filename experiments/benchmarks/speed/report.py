"""What `experiments.benchmarks.speed` found on a machine, as tables."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.benchmarks.speed.figure import by_speed, draw, name_of, rate
from experiments.benchmarks.speed.plan import Result
from lm.config import UserError
from lm.output.console import print_table, table
from lm.output.numbers import count, percent

Tables = dict[str, tuple[str, Sequence[Sequence[str]]]]
"""By title: what stands over the columns, parted by bars, and the rows."""


def show(file: Path) -> None:
    """Prints the tables of a machine's results, and draws their figure beside them."""
    try:
        content = json.loads(file.read_bytes())
        machine, sections = content["machine"], content["sections"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not results of this benchmark; move it away") from None
    print(f"\n{name_of(machine)}")
    for name in [name for name in TABLES if name in sections]:
        for title, (titles, rows) in TABLES[name](sections[name]).items():
            columns = titles.split(" | ")
            made = table(*columns, right=columns[1:])
            for row in rows:
                made.add_row(*row)
            print(f"\n{title}")
            print_table(made)
    draw(machine, sections).savefig(
        file.with_suffix(".png"), dpi=160, metadata={"Software": None}
    )
    print(f"\n{file}\n{file.with_suffix('.png')}")


def per_second(found: Result) -> str:
    """Tokens a second, and between what the repeats lie.

    >>> per_second({"tokens": 3000, "seconds": {"median": 2.0, "low": 1.5, "high": 3.0}})
    '1,500 (1,000..2,000)'
    """
    values = [found["tokens"] / found["seconds"][end] for end in ("median", "high", "low")]
    median, low, high = (f"{v:,.0f}" if v < 1e6 else count(v, digits=3) for v in values)
    return f"{median} ({low}..{high})"


def between(found: Result, unit: float = 1.0, digits: int = 2) -> str:
    """A median, and between what the repeats lie.

    >>> between({"median": 0.1034, "low": 0.1, "high": 0.2}, 1e3, 0)
    '103 (100..200)'
    """
    median, low, high = (f"{found[end] * unit:.{digits}f}" for end in ("median", "low", "high"))
    return f"{median} ({low}..{high})"


def _ms(found: Result) -> str:
    return between(found["seconds"], 1e3, 1)


def _size(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _floors(found: Result) -> Tables:
    memory = found["memory"]
    rows = [
        (f"product, {name}", f"{rate(product, 'flops') / 1e9:,.0f} GFLOP/s", _ms(product))
        for name, product in found["matmuls"].items()
    ]
    speed = f"{rate(memory, 'bytes') / 1e9:,.1f} GB/s"
    return {
        "Floors": ("what | rate | ms", [*rows, ("memory, read and write", speed, _ms(memory))])
    }


def _train(found: Result) -> Tables:
    rows = [
        (
            f"{row['shape']}, {row['objective']}",
            count(row["parameters"]),
            per_second(row),
            _ms(row),
            between(row["peak_fraction"], 100, 0),
            f"{row['compile_seconds']:.1f}",
            f"{row['warm_compile_seconds']:.1f}",
            _size(row["peak_bytes"]),
        )
        for row in found["rows"]
    ]
    ratios = [
        (shape, between(ratio["measured"]), f"{ratio['ledger']:.2f}")
        for shape, ratio in found["masked_to_causal"].items()
    ]
    columns = "step | params | tokens/s | ms | % of peak | compile s | cached | memory"
    return {
        "Training": (columns, rows),
        "Masked to causal": ("shape | step time | FLOPs of the ledger", ratios),
    }


def _evaluate(found: Result) -> Tables:
    rows = [
        (
            row["what"],
            per_second(row),
            str(row["passes"]),
            _ms(row),
            between(row["peak_fraction"], 100, 0),
        )
        for row in found["rows"]
    ]
    title = f"Evaluation and scoring, {found['shape']}"
    return {title: ("what | tokens/s | passes | ms | % of peak", rows)}


def _generate(found: Result) -> Tables:
    rows = [
        (str(row["there"]), str(row["batch"]), between(row["seconds"], 1e3))
        for row in found["rows"]
    ]
    title = f"Generation, {found['shape']}"
    return {title: ("tokens there | texts | ms for one more each", rows)}


def _host(found: Result) -> Tables:
    fit, saved = found["fit"], found["checkpoint"]
    reading = fit["seconds"]["median"] / fit["batch_seconds"]["median"]
    every, size = saved["every_seconds"], _size(saved["bytes"])
    rows = {
        "start to first step, nothing cached, s": f"{found['first_start_seconds']:.1f}",
        "start to first step, again, s": between(found["start_seconds"], digits=1),
        "step of real training, ms": between(fit["seconds"], 1e3, 1),
        "the same step without a host, ms": between(fit["bare_seconds"], 1e3, 1),
        "real training to that": between(fit["fit_to_bare"]),
        "fraction waiting for batches": between(fit["wait_fraction"], 100) + " %",
        "fraction in records and progress": between(fit["records_fraction"], 100) + " %",
        "batches read to batches trained on": f"{reading:,.0f} times as fast",
        f"checkpoint of {size} ({saved['shape']}), stops training, ms": between(
            saved["seconds"], 1e3, 0
        ),
        "the same until it is on disk, ms": between(saved["disk_seconds"], 1e3, 0),
        f"that as a fraction of {every:.0f} s between saves, at most": percent(
            saved["disk_seconds"]["median"] / every
        ),
    }
    return {f"Host, {found['run']}": ("what | measured", list(rows.items()))}


def _growth(found: Result) -> Tables:
    rows = []
    for what in ("tokens", "parameters"):
        low, *_, high = (count(point[what]) for point in found[what]["points"])
        exponent = f"exponent {found[what]['slope']:.2f} ± {found[what]['se']:.2f}"
        rows.append((f"step time against {what}, {low} to {high}", exponent))
    for steps, size in found["memory"].items():
        rows.append((f"memory after {steps} steps", _size(size)))
    for text in found["text"]:
        corpus = f"{text['bytes'] / 1e6:.1f} MB of text, {count(text['tokens'])} tokens"
        speed = f"{text['tokenized_per_second']:,.0f} on {text['cores_busy']:.1f} cores"
        rows += [
            (f"opening {corpus}, s", f"{text['first_seconds']:.1f}"),
            ("the same again, ms", between(text["again_seconds"], 1e3, 1)),
            ("tokenizing it, tokens/s", speed),
        ]
    return {"Growth": ("what | measured", rows)}


def _peers(found: Result) -> Tables:
    rows = [
        (
            name,
            per_second(program | {"tokens": found["tokens"]}),
            "" if name == "ours" else between(program["ratio"]),
            _size(program["peak_bytes"]),
        )
        for name, program in by_speed(found)
    ]
    missing = [(package, f"not installed: {how}") for package, how in found["missing"].items()]
    versions = ", ".join(f"{name} {v}".strip() for name, v in found["versions"].items())
    title = f"Peers, {found['shape']}, {versions}"
    return {title: ("program | tokens/s | ours to it | memory", [*rows, *missing])}


TABLES: dict[str, Callable[[Result], Tables]] = {
    "floors": _floors,
    "train": _train,
    "evaluate": _evaluate,
    "generate": _generate,
    "host": _host,
    "growth": _growth,
    "peers": _peers,
}
