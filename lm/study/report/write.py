"""Reports: what a study found, as a page that stands alone, figures and a table of all numbers.

A `Report` is plain values. `write` turns it into report.html (inline SVG and CSS, nothing
from elsewhere), figures/NAME.svg and .png, and results.csv; each file is written whole or not
at all. Text is escaped wherever it comes from.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as RichTable

from lm.output.files import write_whole
from lm.study.report.figures import png_of, svg_of
from lm.study.report.page import cell_text, is_numeric, page_of
from lm.study.report.values import LEADING, Report, Row


def write(report: Report, directory: Path) -> Path:
    """Writes results.csv, figures/ and report.html to a directory; returns the page's path.

    The same report gives the same bytes.
    """
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    write_whole(directory / "results.csv", csv_of(report.rows).encode())
    drawings = {}
    for plot in report.plots:
        drawings[plot.name] = svg_of(plot.figure)
        write_whole(directory / "figures" / f"{plot.name}.svg", drawings[plot.name].encode())
        write_whole(directory / "figures" / f"{plot.name}.png", png_of(plot.figure))
    page = directory / "report.html"
    write_whole(page, page_of(report, drawings).encode())
    return page


def csv_of(rows: Sequence[Row]) -> str:
    """One line a row; `LEADING` columns first, then the other scalar ones by name.

    >>> print(csv_of([{"run": "a", "seed": 0, "b": 0.5, "nested": {}}]).replace("\\r", ""))
    ... # doctest: +ELLIPSIS
    run,objective,...,batches_digest,b
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
            justify="right" if is_numeric(content, column) else "left",
            # Titles may be broken into lines, numbers may not.
            min_width=max((len(cell_text(row, column)) for row in content.rows), default=0),
        )
    for row in content.rows:
        shown.add_row(*(cell_text(row, column) for column in content.columns))
    return shown
