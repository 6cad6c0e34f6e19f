"""The one look of all figures."""

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.rcsetup import cycler

BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
ORANGE, SKY, PURPLE = "#e69f00", "#56b4e9", "#cc79a7"
"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008)."""
INK, MUTED, RULE, PAPER = "#1b1b1f", "#6b6b74", "#d4d4da", "#fefefe"
MARKERS = ("o", "s", "D", "^", "v", "P")
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.prop_cycle": cycler(color=[BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE]),
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "lines.solid_capstyle": "round",
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 2.2,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "savefig.facecolor": "auto",
    "svg.fonttype": "path",
    "svg.hashsalt": "yardstick",
    "path.simplify": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """The one look of all figures; `@styled()` above the functions that draw them."""
    with matplotlib.rc_context(_STYLE):
        yield


def panels(count: int = 1, *, height: float = 2.9, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page with `count` axes side by side."""
    figure = Figure(figsize=(7.4, height), layout=ConstrainedLayoutEngine(w_pad=0.09))
    axes = figure.subplots(1, count, squeeze=False, **options)[0]
    return figure, list(axes)


def reference_lines(axes: Axes, values: Mapping[str, float]) -> None:
    """Horizontal lines with their names at the right edge, moved apart where they would touch.

    Call it last, when the limits are final.
    """
    low, high = axes.get_ylim()
    lowest = -math.inf
    for name, value in sorted(values.items(), key=lambda item: item[1]):
        if not low <= value <= high:
            continue
        axes.axhline(value, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2.5)), zorder=1)
        fraction = (value - low) / (high - low)
        lowest = max(fraction, lowest + 0.055)
        axes.annotate(
            name,
            xy=(1, fraction),
            xytext=(1.02, lowest),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=MUTED,
            fontsize=7,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": RULE, "linewidth": 0.6, "shrinkB": 0},
        )


def drawing(figure: Figure, suffix: str) -> bytes:
    """The file of a figure, .svg or .png; the same figure gives the same bytes."""
    return png_of(figure) if suffix == ".png" else svg_of(figure).encode()


def svg_of(figure: Figure) -> str:
    """The figure as an SVG file."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled():
        figure.savefig(file, format="svg", metadata=nothing)
    return file.getvalue()


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    file = io.BytesIO()
    with styled():
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()
