"""The figure of what was found on a machine, a panel a kind of result."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from experiments.benchmarks.speed.plan import PEAK, Result
from lm.study.report.figures import BLUE, GREEN, INK, MUTED, PURPLE, RULE, VERMILLION, styled

COLOURS = {"causal": BLUE, "masked": VERMILLION}
ENDS = ("median", "low", "high")


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
        value, low, high = (row["peak_fraction"][end] for end in ENDS)
        bars.append((name, value, (low, high), COLOURS[row["objective"]], f"{value:.0%}"))
    _bars(axes, bars)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_title("Fraction of the peak in the same rounds")


def _draw_peers(axes: Axes, sections: Result) -> None:
    found, bars = sections["peers"], []
    for name, program in by_speed(found):
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
            np.array([point["seconds"][end] / first for point in points]) for end in ENDS
        )
        axes.errorbar(x, y, [y - low, high - y], color=colour, marker=marker, label=label)
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
        y, low, high = ([1e3 * row["seconds"][end] for row in rows] for end in ENDS)
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


def name_of(machine: Result) -> str:
    """A machine in words."""
    if machine["platform"] == "cpu":
        return f"{machine['cpu']}, {machine['cores']} cores"
    more = f", one of {machine['devices']}" if machine["devices"] > 1 else ""
    return f"{machine['device']}{more}"


def rate(found: Result, what: str = "tokens") -> float:
    """So many a second, by the median."""
    return float(found[what] / found["seconds"]["median"])


def by_speed(found: Result) -> list[tuple[str, Result]]:
    """The fastest first."""
    programs: dict[str, Result] = found["programs"]
    return sorted(programs.items(), key=lambda program: program[1]["seconds"]["median"])
