"""A report as one HTML page that stands alone: inline SVG and CSS, nothing from elsewhere."""

import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from lm.output.numbers import with_error
from lm.study.report.figures import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RULE,
    SKY,
    VERMILLION,
)
from lm.study.report.values import Column, Plot, Report, Row, Table

FOLDER = Path(__file__).parent
"""Where the page's template and style sheet are."""
LONG_TABLE = 20
"""Rows beyond which a main table stands at the end of the page, as figures answer sooner."""


def page_of(report: Report, drawings: Mapping[str, str]) -> str:
    """The report as one HTML page; `drawings` are the figures as SVG files.

    The template escapes text wherever it comes from; only `Markup` is taken as such.
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "prose": _prose,
        "token": _piece,
        "cell": cell_text,
        "numeric": lambda column, table: is_numeric(table, column),
        "first": lambda row, table: cell_text(row, table.columns[0]),
        "drawing": lambda plot: _inline(drawings[plot.name], plot),
    }
    template = environment.get_template("page.html")
    style = Markup((FOLDER / "page.css").read_text())
    long = len(report.table.rows) > LONG_TABLE
    return template.render(report=report, style=style, long=long)


def _prose(text: str) -> Markup:
    """A paragraph; a value and its error stay on one line."""
    return escape(text).replace(" ± ", "\u00a0±\u00a0")


def cell_text(row: Row, column: Column) -> str:
    """What a table shows of a row in a column."""
    value = row.get(column.key)
    if value is None:
        return "–"
    if column.error is not None:
        return with_error(value, row.get(column.error), column.show)
    return column.show(value)


def is_numeric(table: Table, column: Column) -> bool:
    """Whether a column has numbers, which stand at its right."""
    values = [row.get(column.key) for row in table.rows]
    return any(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _piece(token: str) -> Markup:
    """A token with its white space made visible.

    >>> _piece(" <a>\\n")
    Markup('<s>␣</s>&lt;a&gt;<s>↵</s>')
    """
    signs = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    parts = re.split(r"([ \n\t\r]+)", token)
    return Markup().join(
        Markup("<s>{}</s>").format("".join(signs[c] for c in part)) if at % 2 else escape(part)
        for at, part in enumerate(parts)
    )


def _inline(svg: str, plot: Plot) -> Markup:
    """An SVG file as a part of a page: its own ids, the page's colours, its column's width."""
    name = plot.name
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', svg).replace(
        "url(#", f"url(#{name}-"
    )
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    opening = f'<svg {box[0]} role="img" aria-label="{escape(plot.caption)}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return Markup(svg)


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
