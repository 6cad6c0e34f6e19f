"""Reports: what a study found, as a page that stands alone, figures and a table of all numbers.

A `Report` is plain values. `write` turns it into report.html (inline SVG and CSS, nothing
from elsewhere), figures/NAME.svg and .png, and results.csv; each file is written whole or not
at all. Text is escaped wherever it comes from; only `Html` is taken as markup.
"""

import csv
import html
import io
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.rcsetup import cycler
from rich.table import Table as RichTable

Row = Mapping[str, Any]

LEADING = (
    "cell",
    "objective",
    "params_total",
    "params_non_embedding",
    "tokens",
    "predicted_targets",
    "flops",
    "device_seconds",
    "bits_per_byte",
    "layout_bits",
    "mc_se",
    "text_se",
    "scorer",
    "probe_accuracy",
    "validation_loss",
    "seed",
    "corpus_digest",
    "batches_digest",
)
"""The first columns of results.csv, in every study; what else a cell has follows by name."""


class Html(str):
    """Markup that is already escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Column:
    """A column of a table: which value of a row it shows, how, and its standard error's key."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    error: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows under columns; a value that is missing or None is shown as a dash."""

    columns: tuple[Column, ...]
    rows: Sequence[Row]
    caption: str = ""


@dataclass(frozen=True)
class Plot:
    """A figure; `name` is its file's."""

    name: str
    figure: Figure
    caption: str


class Place(NamedTuple):
    """A piece of a passage that models were asked for, and the text since the place before."""

    before: str
    truth: str


@dataclass(frozen=True)
class Guesses:
    """A passage, and for each model the likeliest pieces (with probabilities) at each place."""

    places: tuple[Place, ...]
    after: str
    likeliest: Mapping[str, Sequence[Sequence[tuple[str, float]]]]
    """By model, by place."""
    caption: str = ""


Block = str | Table | Plot | Guesses


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a plain string is a paragraph."""

    heading: str
    blocks: tuple[Block, ...]


LONG = 20
"""Rows beyond which a main table stands at the end of the page, as figures answer sooner."""


@dataclass(frozen=True)
class Report:
    """What a study found."""

    title: str
    question: str
    answer: str
    table: Table
    rows: Sequence[Row]
    """Everything scalar that is known of each cell, for results.csv."""
    details: tuple[str, ...] = ()
    """Paragraphs under the answer."""
    sections: tuple[Section, ...] = ()
    warnings: tuple[str, ...] = ()
    """What to know before the numbers: cells missing, equalities that do not hold."""
    made: Mapping[str, str] = field(default_factory=dict)
    """How it was made: command, versions, devices."""

    @property
    def plots(self) -> tuple[Plot, ...]:
        """The figures, in order."""
        blocks = (block for section in self.sections for block in section.blocks)
        return tuple(block for block in blocks if isinstance(block, Plot))


def write(report: Report, directory: Path) -> Path:
    """Writes results.csv, figures/ and report.html to a directory; returns the page's path.

    The same report gives the same bytes.
    """
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    _write(directory / "results.csv", csv_of(report.rows).encode())
    drawings = {}
    for plot in report.plots:
        drawings[plot.name] = _svg(plot.figure)
        _write(directory / "figures" / f"{plot.name}.svg", drawings[plot.name].encode())
        _write(directory / "figures" / f"{plot.name}.png", _png(plot.figure))
    page = directory / "report.html"
    _write(page, page_of(report, drawings).encode())
    return page


def csv_of(rows: Sequence[Row]) -> str:
    """One line a row; `LEADING` columns first, then the other scalar ones by name.

    >>> print(csv_of([{"cell": "a", "seed": 0, "b": 0.5, "nested": {}}]).replace("\\r", ""))
    ... # doctest: +ELLIPSIS
    cell,objective,...,batches_digest,b
    a,,...,0,,,0.5
    <BLANKLINE>
    """
    scalar = {
        key
        for row in rows
        for key, value in row.items()
        if isinstance(value, str | int | float) and key not in LEADING
    }
    file = io.StringIO()
    names = [*LEADING, *sorted(scalar)]
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def table(report: Report) -> RichTable:
    """The report's main table, for the terminal."""
    content = report.table
    shown = RichTable(header_style="bold", box=None, pad_edge=False)
    for column in content.columns:
        shown.add_column(
            column.title,
            justify="right" if _is_numeric(content, column) else "left",
            # Titles may be broken into lines, numbers may not.
            min_width=max((len(_cell(row, column)) for row in content.rows), default=0),
        )
    for row in content.rows:
        shown.add_row(*(_cell(row, column) for column in content.columns))
    return shown


# Figures

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
        share = (value - low) / (high - low)
        lowest = max(share, lowest + 0.055)
        axes.annotate(
            name,
            xy=(1, share),
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
    return _png(figure) if suffix == ".png" else _svg(figure).encode()


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled():
        figure.savefig(file, format="svg", metadata=nothing)
    return file.getvalue()


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with styled():
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


# Numbers as people read them


def count(number: float, digits: int = 2) -> str:
    """A number as people say it, in few digits.

    >>> [count(n) for n in (950, 24_576, 151_142, 3_145_728, 302e6, 6.5e9)]
    ['950', '25k', '0.15M', '3.1M', '302M', '6.5B']
    >>> count(786_432, digits=1)
    '0.8M'
    """
    scale, unit = next(
        (scale, unit)
        for scale, unit, least in (
            (1e9, "B", 1e9),
            (1e6, "M", 1e5),
            (1e3, "k", 1e3),
            (1, "", 0),
        )
        if number >= least
    )
    value = number / scale
    return (f"{value:.{digits}g}" if value < 10 else f"{value:.0f}") + unit


def power(number: float) -> str:
    """A number in powers of ten.

    >>> power(1.62e14), power(0)
    ('1.6×10¹⁴', '0')
    """
    if not number:
        return "0"
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits}×10" + str(int(exponent)).translate(_SUPERSCRIPTS)


def duration(seconds: float) -> str:
    """A time span in minutes and seconds, or with hours before them.

    >>> duration(75), duration(7500), duration(200_000)
    ('1:15', '2:05:00', '55:33:20')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(share: float) -> str:
    """A share in percent.

    >>> percent(0.9123)
    '91.2%'
    """
    return f"{share:.1%}"


def decimals(number: float) -> str:
    """A number in thousandths.

    >>> decimals(2.02)
    '2.020'
    """
    return f"{number:.3f}"


def with_error(
    value: float, error: float | None, show: Callable[[float], str] = decimals
) -> str:
    """A value and its standard error, if that is known.

    >>> with_error(2.02, 0.0113), with_error(0.912, 0.003, percent), with_error(2.02, None)
    ('2.020 ± 0.011', '91.2 ± 0.3%', '2.020')
    """
    if error is None or not math.isfinite(error):
        return show(value)
    return f"{show(value).removesuffix('%')} ± {show(error)}"


_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


# The page


def escape(text: object) -> Html:
    """Text as markup; what is `Html` stays as it is.

    >>> escape("a < b"), escape(Html("<b>"))
    ('a &lt; b', '<b>')
    """
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


def page_of(report: Report, drawings: Mapping[str, str]) -> str:
    """The report as one HTML page; `drawings` are the figures as SVG files."""
    numbers = {"Table": 0, "Figure": 0}

    def caption(kind: str, text: str) -> str:
        numbers[kind] += 1
        return f"<b>{kind} {numbers[kind]}.</b> {_prose(text)}"

    def block(content: Block) -> str:
        match content:
            case Table():
                return _table(content, caption("Table", content.caption))
            case Plot():
                drawing = _inline(drawings[content.name], content.name, content.caption)
                text = caption("Figure", content.caption)
                return f"<figure>{drawing}<figcaption>{text}</figcaption></figure>"
            case Guesses():
                return _guesses(content)
            case _:
                return f"<p>{_prose(content)}</p>"

    long = len(report.table.rows) > LONG
    sections = list(report.sections)
    if long:
        sections.append(Section("All numbers", (report.table,)))
    parts = [
        f"<header><h1>{escape(report.title)}</h1>",
        f'<p class="question">{escape(report.question)}</p></header>',
        f'<section class="answer"><p>{_prose(report.answer)}</p>',
        *(f"<p>{_prose(detail)}</p>" for detail in report.details),
        "</section>",
        *(f'<p class="warning" role="note">{_prose(text)}</p>' for text in report.warnings),
        *([] if long else [block(report.table)]),
    ]
    for section in sections:
        parts.append(f"<section><h2>{escape(section.heading)}</h2>")
        parts += [block(content) for content in section.blocks]
        parts.append("</section>")
    if report.made:
        parts.append('<section class="made"><h2>How this was made</h2><dl>')
        parts += [
            f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>"
            for name, value in report.made.items()
        ]
        parts.append("</dl></section>")
    body = "\n".join(parts)
    return _PAGE.format(title=escape(report.title), style=_CSS, body=body)


def _prose(text: str) -> Html:
    """A paragraph; a value and its error stay on one line."""
    return Html(escape(text).replace(" ± ", "\u00a0±\u00a0"))


def _table(table: Table, caption: str) -> str:
    """A table; a rule parts the rows where a first column that repeats itself changes."""
    first = [_cell(row, table.columns[0]) for row in table.rows] if table.columns else []
    grouped = len(set(first)) < len(first)
    numeric = [_is_numeric(table, column) for column in table.columns]
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column.title)}</th>'
        for column, kind in zip(table.columns, kinds, strict=True)
    )
    lines = []
    for number, row in enumerate(table.rows):
        apart = grouped and number and first[number] != first[number - 1]
        cells = "".join(
            f"<td{kind}>{escape(_cell(row, column))}</td>"
            for column, kind in zip(table.columns, kinds, strict=True)
        )
        lines.append(f"<tr{' class=apart' if apart else ''}>{cells}</tr>")
    body = "\n".join(lines)
    wide = " wide" if len(table.columns) > 7 else ""
    return (
        f'<figure class="table{wide}"><figcaption>{caption}</figcaption><div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div></figure>"
    )


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    if value is None:
        return "–"
    if column.error is not None:
        return with_error(value, row.get(column.error), column.show)
    return column.show(value)


def _is_numeric(table: Table, column: Column) -> bool:
    values = [row.get(column.key) for row in table.rows]
    return any(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _guesses(guesses: Guesses) -> str:
    """The passage with numbered places, and under it a row a place, a column a model."""
    passage = "".join(
        f"{escape(place.before)}<mark>{_piece(place.truth)}<sup>{number}</sup></mark>"
        for number, place in enumerate(guesses.places, 1)
    )
    head = "".join(f'<th scope="col">{escape(model)}</th>' for model in guesses.likeliest)
    rows = []
    for number, place in enumerate(guesses.places):
        cells = []
        for by_place in guesses.likeliest.values():
            bars = "".join(
                f"<li{' class=hit' if piece == place.truth else ''}>"
                f"<code>{_piece(piece)}</code>"
                f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span>'
                f"<span>{_share(share)}</span></li>"
                for piece, share in by_place[number]
            )
            cells.append(f"<td><ol>{bars}</ol></td>")
        truth = f"<sup>{number + 1}</sup> <code>{_piece(place.truth)}</code>"
        rows.append(f"<tr><th scope=row>{truth}</th>{''.join(cells)}</tr>")
    caption = f"<figcaption>{escape(guesses.caption)}</figcaption>" if guesses.caption else ""
    return (
        f'<figure class="guesses"><pre>{passage}{escape(guesses.after)}</pre>{caption}'
        '<div class="scroll"><table><thead><tr><th scope="col">truth</th>'
        f"{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div></figure>"
    )


def _piece(piece: str) -> str:
    """A piece with its white space made visible.

    >>> _piece(" <a>\\n")
    '<s>␣</s>&lt;a&gt;<s>↵</s>'
    """
    signs = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    shown = re.sub(
        r"[ \n\t\r]+",
        lambda found: "\0" + "".join(signs[c] for c in found[0]) + "\1",
        piece.replace("\0", "␀").replace("\1", "␁"),
    )
    return html.escape(shown).replace("\0", "<s>").replace("\1", "</s>")


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "&lt;1%"


def _inline(svg: str, name: str, caption: str) -> str:
    """An SVG file as a part of a page: its own ids, the page's colours, its column's width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', svg).replace(
        "url(#", f"url(#{name}-"
    )
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    opening = f'<svg {box[0]} role="img" aria-label="{escape(caption)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, though another process, with other cells, may write it too."""
    temporary = path.with_name(f"{path.name}.{threading.get_native_id()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


_VARIABLES = {
    BLUE: "blue",
    VERMILLION: "vermillion",
    GREEN: "green",
    ORANGE: "orange",
    SKY: "sky",
    PURPLE: "purple",
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
}
"""Colours of the figures that a page replaces by its own, which follow the reader's mode."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_CSS = """
:root {
  color-scheme: light dark;
  --paper: #fefefe; --ink: #1b1b1f; --muted: #6b6b74; --rule: #d4d4da; --tint: #f4f4f1;
  --blue: #0072b2; --vermillion: #d55e00; --green: #009e73;
  --orange: #e69f00; --sky: #56b4e9; --purple: #cc79a7;
  --serif: Charter, "Bitstream Charter", "Source Serif 4", "Iowan Old Style", Georgia,
    "Liberation Serif", "Times New Roman", serif;
  --sans: system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, "Liberation Sans",
    sans-serif;
  --mono: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono",
    monospace;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #16171a; --ink: #e4e4e7; --muted: #9c9ca6; --rule: #3a3b41; --tint: #1f2024;
    --blue: #58aee6; --vermillion: #f08a4b; --green: #35c99b;
    --orange: #f0b43c; --sky: #7cc7f2; --purple: #dc97bd;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1.0625rem/1.58 var(--serif); font-kerning: normal; text-rendering: optimizeLegibility;
}
main { width: min(46rem, 100% - 2.5rem); margin: 4.5rem auto 6rem; }
h1 { font-size: 2.1rem; line-height: 1.2; font-weight: 600; margin: 0 0 .6rem;
  letter-spacing: -.012em; text-wrap: balance; }
h2 { font-size: 1.28rem; line-height: 1.3; font-weight: 600; margin: 3.2rem 0 .7rem;
  letter-spacing: -.005em; break-after: avoid; }
p { margin: 0 0 1rem; text-wrap: pretty; hanging-punctuation: first; }
.question { font-style: italic; font-size: 1.2rem; line-height: 1.45; color: var(--muted);
  margin-bottom: 2rem; }
.answer { border-top: 1.5px solid var(--ink); border-bottom: 1px solid var(--rule);
  padding: 1.1rem 0 .3rem; margin-bottom: 2rem; }
.answer p:first-child { font-size: 1.22rem; line-height: 1.5; }
.warning { border-left: 3px solid var(--vermillion); padding: .1rem 0 .1rem .9rem;
  font: .92rem/1.5 var(--sans); }
figure { margin: 2rem 0 2.2rem; break-inside: avoid; }
figure > svg { display: block; width: 100%; height: auto; }
figcaption { font: .84rem/1.5 var(--sans); color: var(--muted); margin-top: .7rem; }
figcaption b { color: var(--ink); font-weight: 600; }
.table figcaption { margin: 0 0 .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font: .84rem/1.4 var(--sans);
  font-variant-numeric: tabular-nums lining-nums;
  border-top: 1.5px solid var(--ink); border-bottom: 1.5px solid var(--ink); }
th, td { text-align: left; padding: .26rem 1rem .26rem 0; vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-weight: 600; border-bottom: .75px solid var(--ink); vertical-align: bottom;
  line-height: 1.25; }
tbody tr:first-child > * { padding-top: .5rem; }
tbody tr:last-child > * { padding-bottom: .5rem; }
.apart > *, .guesses tbody tr + tr > * { border-top: .75px solid var(--rule); }
.wide { width: min(56rem, 100vw - 2.5rem); margin-left: 50%; transform: translateX(-50%); }
.wide td { white-space: nowrap; }
.wide figcaption { max-width: 46rem; }
tr { break-inside: avoid; }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; }
code, pre { font-family: var(--mono); font-size: .86em; }
.guesses pre { font-size: .8rem; line-height: 1.6; background: var(--tint); margin: 0;
  padding: .9rem 1.1rem; border-radius: 3px; white-space: pre-wrap; overflow-wrap: anywhere;
  tab-size: 4; }
.guesses table { table-layout: fixed; min-width: 40rem; margin-top: 1.2rem; }
.guesses thead th:first-child { width: 16%; }
mark { background: none; color: inherit; font-weight: 700;
  box-shadow: inset 0 -.14em var(--orange); }
sup { font: 600 .68em/0 var(--sans); margin-left: .12em; }
s { text-decoration: none; color: var(--muted); font-weight: 400; }
.guesses td, .guesses tbody th { vertical-align: top; padding-top: .6rem;
  padding-bottom: .6rem; }
.guesses tbody th { font-weight: 400; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.guesses tbody sup { margin: 0 .3em 0 0; }
.guesses ol { list-style: none; margin: 0; padding: 0; }
.guesses li { display: grid; grid-template-columns: minmax(0, 1fr) 3.2rem 2.2rem;
  gap: .5rem; align-items: center; line-height: 1.5; }
.guesses li code { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.guesses li > span:last-child { text-align: right; color: var(--muted); font-size: .95em; }
.guesses li.hit code { font-weight: 700; }
.bar { height: .45rem; background: var(--tint); border-radius: 1px; }
.bar i { display: block; height: 100%; min-width: 1px; background: var(--muted);
  border-radius: 1px; }
.hit .bar i { background: var(--orange); }
.made dl { display: grid; grid-template-columns: max-content minmax(0, 1fr);
  gap: .2rem 1.2rem; margin: 0; font: .84rem/1.5 var(--sans); }
.made dt { color: var(--muted); }
.made dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body { font-size: 1rem; }
  main { margin-top: 2.5rem; }
  h1 { font-size: 1.6rem; }
}
@media print {
  @page { margin: 20mm 18mm; }
  body { font-size: 10pt; }
  main { width: auto; margin: 0; }
  .wide { width: auto; margin-left: 0; transform: none; font-size: .85em; }
  .wide td, .wide th { padding-right: .5rem; }
  .scroll { overflow: visible; }
  .bar, .guesses pre { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
