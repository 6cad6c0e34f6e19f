"""What `experiments.benchmarks.speed` found on a machine, as tables and a figure."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter
from rich.console import Console
from rich.table import Table

from lm.config import UserError
from lm.output.numbers import count, percent
from lm.study.report.figures import BLUE, GREEN, INK, MUTED, PURPLE, RULE, VERMILLION, styled

Result = dict[str, Any]
Rows = Sequence[Sequence[str]]

PEAK = "bfloat16 to float32"
"""The product whose rate is the peak."""
COLOURS = {"causal": BLUE, "masked": VERMILLION}


def show(file: Path) -> None:
    """Prints the tables of a machine's results, and draws their figure beside them."""
    try:
        content = json.loads(file.read_bytes())
        machine, sections = content["machine"], content["sections"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}: not results of this benchmark; move it away") from None
    console = Console(highlight=False)
    console.width = max(120, console.width)
    console.print(f"\n[bold]{name_of(machine)}[/bold]")
    for name, table in TABLES.items():
        if name in sections:
            console.print()
            for shown in table(sections):
                console.print(shown)
    draw(machine, sections).savefig(
        file.with_suffix(".png"), dpi=160, metadata={"Software": None}
    )
    console.print(f"\n{file}\n{file.with_suffix('.png')}", soft_wrap=True)


def name_of(machine: Result) -> str:
    """A machine in words."""
    if machine["platform"] == "cpu":
        return f"{machine['cpu']}, {machine['cores']} cores"
    more = f", one of {machine['devices']}" if machine["devices"] > 1 else ""
    return f"{machine['device']}{more}"


# Numbers


def rate(found: Result, what: str = "tokens") -> float:
    """So many a second, by the median."""
    return float(found[what] / found["seconds"]["median"])


def per_second(found: Result, what: str = "tokens") -> str:
    """So many a second, and between what the repeats lie.

    >>> per_second({"tokens": 3000, "seconds": {"median": 2.0, "low": 1.5, "high": 3.0}})
    '1,500 (1,000..2,000)'
    """
    median, low, high = (
        found[what] / found["seconds"][end] for end in ("median", "high", "low")
    )
    return f"{_number(median)} ({_number(low)}..{_number(high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else count(value, digits=3)


def between(found: Result, unit: float = 1.0, digits: int = 2) -> str:
    """A median, and between what the repeats lie.

    >>> between({"median": 0.1034, "low": 0.1, "high": 0.2}, 1e3, 0)
    '103 (100..200)'
    """
    median, low, high = (f"{found[end] * unit:.{digits}f}" for end in ("median", "low", "high"))
    return f"{median} ({low}..{high})"


def times(found: Result) -> str:
    """A ratio, and between what the rounds lie."""
    return f"{found['median']:.2f} ({found['low']:.2f}..{found['high']:.2f})"


def _size(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


# Tables


def _table(title: str, columns: Sequence[str], rows: Rows) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False
    )
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _floors(sections: Result) -> list[Table]:
    found = sections["floors"]
    rows = [
        [f"product, {name}", f"{rate(product, 'flops') / 1e9:,.0f} GFLOP/s", _ms(product)]
        for name, product in found["matmuls"].items()
    ]
    memory = found["memory"]
    rows.append(
        ["memory, read and write", f"{rate(memory, 'bytes') / 1e9:,.1f} GB/s", _ms(memory)]
    )
    return [_table("Floors", ("what", "rate", "ms"), rows)]


def _ms(found: Result) -> str:
    return between(found["seconds"], 1e3, 1)


def _train(sections: Result) -> list[Table]:
    found = sections["train"]
    rows = [
        [
            f"{row['shape']}, {row['objective']}",
            count(row["parameters"]),
            per_second(row),
            _ms(row),
            between(row["peak_fraction"], 100, 0),
            f"{row['compile_seconds']:.1f}",
            f"{row['warm_compile_seconds']:.1f}",
            _size(row["peak_bytes"]),
        ]
        for row in found["rows"]
    ]
    titles = ("step", "params", "tokens/s", "ms", "% of peak", "compile s", "cached", "memory")
    ratios = [
        [shape, times(ratio["measured"]), f"{ratio['ledger']:.2f}"]
        for shape, ratio in found["masked_to_causal"].items()
    ]
    return [
        _table("Training", titles, rows),
        _table("Masked to causal", ("shape", "step time", "FLOPs of the ledger"), ratios),
    ]


def _evaluate(sections: Result) -> list[Table]:
    found = sections["evaluate"]
    rows = [
        [
            row["what"],
            per_second(row),
            str(row["passes"]),
            _ms(row),
            between(row["peak_fraction"], 100, 0),
        ]
        for row in found["rows"]
    ]
    titles = ("what", "tokens/s", "passes", "ms", "% of peak")
    return [_table(f"Evaluation and scoring, {found['shape']}", titles, rows)]


def _generate(sections: Result) -> list[Table]:
    found = sections["generate"]
    rows = [
        [str(row["there"]), str(row["batch"]), between(row["seconds"], 1e3)]
        for row in found["rows"]
    ]
    titles = ("tokens there", "texts", "ms for one more each")
    return [_table(f"Generation, {found['shape']}", titles, rows)]


def _host(sections: Result) -> list[Table]:
    found = sections["host"]
    fit, saved = found["fit"], found["checkpoint"]
    reading = fit["seconds"]["median"] / fit["batch_seconds"]["median"]
    rows = [
        ["start to first step, nothing cached, s", f"{found['first_start_seconds']:.1f}"],
        ["start to first step, again, s", between(found["start_seconds"], digits=1)],
        ["step of real training, ms", between(fit["seconds"], 1e3, 1)],
        ["the same step without a host, ms", between(fit["bare_seconds"], 1e3, 1)],
        ["real training to that", times(fit["fit_to_bare"])],
        ["fraction waiting for batches", between(fit["wait_fraction"], 100) + " %"],
        ["fraction in records and progress", between(fit["records_fraction"], 100) + " %"],
        ["batches read to batches trained on", f"{reading:,.0f} times as fast"],
        [
            f"checkpoint of {_size(saved['bytes'])} ({saved['shape']}), stops training, ms",
            between(saved["seconds"], 1e3, 0),
        ],
        ["the same until it is on disk, ms", between(saved["disk_seconds"], 1e3, 0)],
        [
            f"that as a fraction of {saved['every_seconds']:.0f} s between saves, at most",
            percent(saved["disk_seconds"]["median"] / saved["every_seconds"]),
        ],
    ]
    return [_table(f"Host, {found['run']}", ("what", "measured"), rows)]


def _growth(sections: Result) -> list[Table]:
    found = sections["growth"]
    rows = []
    for what in ("tokens", "parameters"):
        points, name = found[what]["points"], f"step time against {what}"
        low, high = points[0], points[-1]
        rows.append(
            [
                f"{name}, {count(low[what])} to {count(high[what])}",
                f"exponent {found[what]['slope']:.2f} ± {found[what]['se']:.2f}",
            ]
        )
    for steps, size in found["memory"].items():
        rows.append([f"memory after {steps} steps", _size(size)])
    for text in found["text"]:
        corpus = f"{text['bytes'] / 1e6:.1f} MB of text, {count(text['tokens'])} tokens"
        rows += [
            [f"opening {corpus}, s", f"{text['first_seconds']:.1f}"],
            ["the same again, ms", between(text["again_seconds"], 1e3, 1)],
            [
                "tokenizing it, tokens/s",
                f"{text['tokenized_per_second']:,.0f} on {text['cores_busy']:.1f} cores",
            ],
        ]
    return [_table("Growth", ("what", "measured"), rows)]


def _peers(sections: Result) -> list[Table]:
    found = sections["peers"]
    rows = [
        [
            name,
            per_second(program | {"tokens": found["tokens"]}),
            "" if name == "ours" else times(program["ratio"]),
            _size(program["peak_bytes"]),
        ]
        for name, program in _by_speed(found)
    ]
    rows += [[package, f"not installed: {how}"] for package, how in found["missing"].items()]
    versions = ", ".join(f"{name} {v}".strip() for name, v in found["versions"].items())
    titles = ("program", "tokens/s", "ours to it", "memory")
    return [_table(f"Peers, {found['shape']}, {versions}", titles, rows)]


def _by_speed(found: Result) -> list[tuple[str, Result]]:
    """The fastest first."""
    return sorted(
        found["programs"].items(), key=lambda program: program[1]["seconds"]["median"]
    )


TABLES: dict[str, Callable[[Result], list[Table]]] = {
    "floors": _floors,
    "train": _train,
    "evaluate": _evaluate,
    "generate": _generate,
    "host": _host,
    "growth": _growth,
    "peers": _peers,
}


# The figure


@styled()
def draw(machine: Result, sections: Result) -> Figure:
    """A panel for each kind of result that is there, two in a row."""
    panels = [panel for name, panel in PANELS.items() if name in sections]
    down = max(1, -(-len(panels) // 2))
    figure = Figure(
        figsize=(9.4, 3.5 * down + 0.4),
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, hspace=0.04, wspace=0.04),
    )
    figure.suptitle(_title(machine, sections), x=0.012, ha="left", fontsize=8.5, color=INK)
    for number, panel in enumerate(panels):
        panel(figure.add_subplot(down, min(2, len(panels)), number + 1), sections)
    return figure


def _title(machine: Result, sections: Result) -> str:
    if "floors" not in sections:
        return name_of(machine)
    floors = sections["floors"]
    return (
        f"{name_of(machine)}: {rate(floors['matmuls'][PEAK], 'flops') / 1e9:,.0f} GFLOP/s in"
        " bfloat16 products that accumulate in float32, the peak; memory"
        f" {rate(floors['memory'], 'bytes') / 1e9:,.0f} GB/s"
    )


def _bars(axes: Axes, bars: Sequence[tuple[str, float, tuple[float, float], str, str]]) -> None:
    """Horizontal bars from the top down: name, length, its ends, colour, text behind it."""
    for at, (_, value, (low, high), colour, text) in enumerate(bars):
        axes.barh(at, value, color=colour, height=0.66)
        axes.errorbar(value, at, xerr=[[value - low], [high - value]], color=INK, linewidth=0.8)
        axes.annotate(
            text, (high, at), (4, 0), textcoords="offset points", va="center", fontsize=7.5
        )
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.2 * max(bar[2][1] for bar in bars))


def _draw_fractions(axes: Axes, sections: Result) -> None:
    rows = [
        (f"train {row['shape']}, {row['objective']}", row) for row in sections["train"]["rows"]
    ]
    if "evaluate" in sections:
        rows += [(row["what"], row) for row in sections["evaluate"]["rows"]]
    bars = []
    for name, row in rows:
        value, low, high = (row["peak_fraction"][end] for end in ("median", "low", "high"))
        bars.append((name, value, (low, high), COLOURS[row["objective"]], f"{value:.0%}"))
    _bars(axes, bars)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("Fraction of the peak in the same rounds")


def _draw_peers(axes: Axes, sections: Result) -> None:
    found, bars = sections["peers"], []
    for name, program in _by_speed(found):
        seconds, ratio = program["seconds"], program["ratio"]
        value, low, high = (found["tokens"] / seconds[end] for end in ("median", "high", "low"))
        text, colour = f"{value:,.0f}", BLUE
        if name != "ours":
            low_high = f"{ratio['low']:.2f}..{ratio['high']:.2f}"
            text, colour = f"{text}   ours: {ratio['median']:.2f}× ({low_high})", MUTED
        bars.append((name.replace(", ", ",\n"), value, (low, high), colour, text))
    _bars(axes, bars)
    axes.set_xlim(0, 1.8 * axes.get_xlim()[1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_title(f"Tokens a second in training, {found['shape']}")


def _draw_growth(axes: Axes, sections: Result) -> None:
    found = sections["growth"]
    widest = 1.0
    for what, colour, marker in (("tokens", GREEN, "o"), ("parameters", PURPLE, "s")):
        points = found[what]["points"]
        x = [point[what] / points[0][what] for point in points]
        first = points[0]["seconds"]["median"]
        label = f"{what}: exponent {found[what]['slope']:.2f} ± {found[what]['se']:.2f}"
        y, low, high = (
            [point["seconds"][end] / first for point in points]
            for end in ("median", "low", "high")
        )
        errors = [
            [middle - end for middle, end in zip(y, low, strict=True)],
            [end - middle for middle, end in zip(y, high, strict=True)],
        ]
        axes.errorbar(x, y, errors, color=colour, marker=marker, label=label)
        widest = max(widest, *x)
    axes.plot([1, widest], [1, widest], color=RULE, zorder=1, label="in proportion")
    for axis, scale in ((axes.xaxis, axes.set_xscale), (axes.yaxis, axes.set_yscale)):
        scale("log", base=2)
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axis.set_minor_formatter(NullFormatter())
    axes.legend()
    axes.set_xlabel("tokens of a step, or parameters, against the smallest")
    axes.set_title("Step time as the work grows")


def _draw_generation(axes: Axes, sections: Result) -> None:
    found = sections["generate"]
    batches = sorted({row["batch"] for row in found["rows"]})
    for batch, colour, marker in zip(batches, (BLUE, VERMILLION), "os", strict=False):
        rows = [row for row in found["rows"] if row["batch"] == batch]
        x = [row["there"] for row in rows]
        y, low, high = (
            [1e3 * row["seconds"][end] for row in rows] for end in ("median", "low", "high")
        )
        label = f"{batch} text{'s together' if batch > 1 else ''}"
        axes.plot(x, y, color=colour, marker=marker, label=label)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.set_xlabel("tokens that are there already")
    axes.set_title(f"Milliseconds for one more token, {found['shape']}")


PANELS: dict[str, Callable[[Axes, Result], None]] = {
    "train": _draw_fractions,
    "peers": _draw_peers,
    "growth": _draw_growth,
    "generate": _draw_generation,
}
