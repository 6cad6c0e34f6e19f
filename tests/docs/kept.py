"""What a folder of kept results says: numbers of report.html, results.csv and JSON files."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
"""A number as pages and reports write it."""
MEASURED = (
    rf"(?P<value>{DIGITS})%?(?: ± (?P<error>{DIGITS})%?)?"
    rf"(?: ?\((?:95%: )?(?P<low>{DIGITS})%?(?: to |–)(?P<high>{DIGITS})%?\))?"
)
"""A number with its error or interval, if it has one."""


class ClaimError(Exception):
    """What is asked of kept results is not there, or is there twice."""


class Number(float):
    """A number with the digits that it was printed with."""

    def __new__(cls, text: str) -> "Number":
        made = super().__new__(cls, text.replace(",", "").replace("−", "-"))
        made.text = text.lstrip("+−-")
        return made

    text: str

    def __neg__(self) -> "Number":
        return Number(self.text if self < 0 else f"-{self.text}")

    def __format__(self, spec: str) -> str:
        if spec not in ("", "+"):
            return float(self).__format__(spec)
        return ("-" if self < 0 else spec) + self.text


@dataclass(frozen=True)
class Measured:
    """A number with its error or its interval, or without."""

    value: Number
    error: Number | None = None
    low: Number | None = None
    high: Number | None = None

    def __neg__(self) -> "Measured":
        low, high = (None if each is None else -each for each in (self.high, self.low))
        return replace(self, value=-self.value, low=low, high=high)

    def __format__(self, spec: str) -> str:
        text = format(self.value, spec)
        if self.error is not None:
            text += f" ± {format(self.error, spec.removeprefix('+'))}"
        if self.low is not None:
            text += f" ({format(self.low, spec)} to {format(self.high, spec)})"
        return text


def measured(found: re.Match[str]) -> Measured:
    parts = {name: text for name, text in found.groupdict().items() if text}
    return Measured(**{name: Number(text) for name, text in parts.items()})


class Page(HTMLParser):
    """A report's paragraphs, and its tables as rows of cells by column."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self.tables: list[tuple[str, list[dict[str, str]]]] = []
        """What stands above each, and its rows."""
        self._titles: list[str] = []
        self._cells: list[str] = []
        self._text = ""
        self.feed(re.sub(r"<(style|svg).*?</\1>", "", text, flags=re.DOTALL))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "table":
            self._titles = []
            self.tables.append((self.paragraphs[-1] if self.paragraphs else "", []))
        if tag in ("p", "td", "th", "tr", "figcaption"):
            self._text = ""

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        text = " ".join(self._text.split())
        if tag in ("p", "figcaption"):
            self.paragraphs.append(text)
        elif tag == "th":  # of two columns of one title the first one has it
            self._titles.append(text if text not in self._titles else f"{text} (2)")
        elif tag == "td":
            self._cells.append(text)
        elif tag == "tr" and self._cells:
            self.tables[-1][1].append(dict(zip(self._titles, self._cells, strict=False)))
            self._cells = []


class Results:
    """What is kept in a folder: what expressions of numbers may ask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def report(self) -> Page:
        return Page((self.folder / "report.html").read_text())

    def quote(self, text: str) -> Measured:
        """The one number that stands for # where the report has this text."""
        if text.count("#") != 1:
            raise ClaimError(f"quote({text!r}): one # is wanted")
        found = {measured(match) for match in self._matches(text)}
        return _only(found, f"quote({text!r})")

    def says(self, text: str) -> bool:
        """Whether the report has this text."""
        return any(self._matches(text))

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        pattern = re.escape(text).replace(r"\.\.\.", ".*?").replace(r"\#", MEASURED)
        for paragraph in self.report.paragraphs:
            yield from re.finditer(pattern, paragraph)

    def cell(self, *names: str, table: str = "") -> Measured:
        """The number in the column that is named last, of the row that has the other names.

        `table` is a part of what stands above the table, where several have such a row.
        """
        *row, column = names
        cells = {
            each[column]
            for above, rows in self.report.tables
            if table in above
            for each in rows
            if column in each and set(row) <= set(each.values())
        }
        cell = _only(cells, f"cell{names}")
        match = re.match(MEASURED, cell)
        if match is None:
            raise ClaimError(f"cell{names}: {cell!r} is no number")
        return measured(match)

    def column(self, name: str, **where: str) -> np.ndarray:
        """The values of the rows of results.csv that match, as shells match names."""
        with (self.folder / "results.csv").open(newline="") as file:
            found = [
                float(row[name])
                for row in csv.DictReader(file)
                if row[name] and all(fnmatch(row[key], value) for key, value in where.items())
            ]
        if not found:
            raise ClaimError(f"column({name!r}, {where}): no row of results.csv matches")
        return np.array(found)

    def data(self, name: str) -> Any:
        """What a JSON file holds."""
        return json.loads((self.folder / name).read_text())


def _only(found: set[Any], what: str) -> Any:
    if not found:
        raise ClaimError(f"{what}: is not there")
    if len(found) > 1:
        raise ClaimError(f"{what}: is there more than once: {', '.join(map(str, found))}")
    return found.pop()
