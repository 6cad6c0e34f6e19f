"""A report as one HTML page that stands alone: inline SVG and CSS, nothing from elsewhere."""

import html
import re
from collections.abc import Mapping
from pathlib import Path

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
from lm.study.report.values import Block, Column, Guesses, Plot, Report, Row, Section, Table


class Html(str):
    """Markup that is already escaped."""

    __slots__ = ()


LONG = 20
"""Rows beyond which a main table stands at the end of the page, as figures answer sooner."""


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
    first = [cell_text(row, table.columns[0]) for row in table.rows] if table.columns else []
    grouped = len(set(first)) < len(first)
    numeric = [is_numeric(table, column) for column in table.columns]
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f'<th scope="col"{kind}>{escape(column.title)}</th>'
        for column, kind in zip(table.columns, kinds, strict=True)
    )
    lines = []
    for number, row in enumerate(table.rows):
        apart = grouped and number and first[number] != first[number - 1]
        cells = "".join(
            f"<td{kind}>{escape(cell_text(row, column))}</td>"
            for column, kind in zip(table.columns, kinds, strict=True)
        )
        lines.append(f"<tr{' class=apart' if apart else ''}>{cells}</tr>")
    body = "\n".join(lines)
    wide = " wide" if len(table.columns) > 7 else ""
    return (
        f'<figure class="table{wide}"><figcaption>{caption}</figcaption><div class="scroll">'
        f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div></figure>"
    )


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

_CSS = "\n" + Path(__file__).with_name("page.css").read_text()
