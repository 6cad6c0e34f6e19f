"""How commands print: one console, tables that are never cut, notes, and JSON.

One rule for `--json`, in every command that finds numbers: it is a switch, with which the
command prints them as JSON on standard output and nothing else. `lm ... --json > FILE` keeps
them. It takes no path: an option that may take one takes the run or the table that follows.
"""

import argparse
import os
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm.output.plain import to_json


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print all numbers as JSON, and nothing else (--json > FILE keeps them)",
    )


def console() -> Console:
    """Standard output, as wide as the terminal, or 120 columns; text is printed as it is."""
    return Console(width=None if os.isatty(1) else 120, highlight=False, markup=False)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; the columns of `right` are numbers, and end alike."""
    made, right = Table(header_style="bold", box=None, pad_edge=False), frozenset(right)
    for title in columns:
        made.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    return made


def print_table(made: Table) -> None:
    """Prints a table as wide as what it holds: a number is never cut."""
    shown = console()
    whole = shown.options.update(max_width=10_000)
    shown.width = max(shown.width, shown.measure(made, options=whole).maximum)
    shown.print(made)


def print_notes(notes: Iterable[str], warnings: Iterable[str] = ()) -> None:
    """Prints what to know of the numbers, a line each."""
    shown = console()
    for title, style, lines in (("note:", "", notes), ("warning:", "bold", warnings)):
        for line in lines:
            shown.print(Text.assemble((title, style), " ", line), soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints a value as JSON, a list of numbers on one line; what is no number is null."""
    lists = re.compile(r"\[[-+0-9.e,\s]+\]")
    print(lists.sub(lambda found: " ".join(found[0].split()), to_json(value)))
