"""What a report says, as plain values: sections of text, tables, figures and guesses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lm.results import columns, leading

Row = Mapping[str, Any]
LEADING = ("run", "objective", *leading())
"""The first columns of results.csv, in every study; what else a cell has follows by name."""


@dataclass(frozen=True)
class Column:
    """A column of a table: which value of a row it shows, how, and its standard error's key."""

    key: str
    title: str
    show: Callable[[Any], str] = str
    error: str | None = None


def column_of(name: str) -> Column:
    """A column of results, called and shown as the field of the result says.

    >>> column_of("bits_per_byte").title, column_of("bits_per_byte").error
    ('bits per byte', 'text_se')
    """
    about = columns()[name]
    return Column(name, about.title, about.show, about.error)


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
    """A token of a passage that models were asked for, and the text since the place before."""

    before: str
    truth: str


@dataclass(frozen=True)
class Guesses:
    """A passage, and for each model the likeliest tokens (with probabilities) at each place."""

    places: tuple[Place, ...]
    after: str
    likeliest: Mapping[str, Sequence[Sequence[tuple[str, float]]]]
    """By model, by place."""
    caption: str = ""


class Quote(NamedTuple):
    """A part of a document: which one, what is to be said of it, and its text."""

    name: str
    note: str
    text: str


@dataclass(frozen=True)
class Excerpts:
    """Parts of documents, under a caption."""

    caption: str
    excerpts: tuple[Quote, ...]


Content = str | Table | Plot | Guesses | Excerpts


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a plain string is a paragraph."""

    heading: str
    blocks: tuple[Content, ...]


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
    """What to know before the numbers: runs missing, equalities that do not hold."""
    made: Mapping[str, str] = field(default_factory=dict)
    """How it was made: command, versions, devices."""

    @property
    def plots(self) -> tuple[Plot, ...]:
        """The figures, in order."""
        blocks = (block for section in self.sections for block in section.blocks)
        return tuple(block for block in blocks if isinstance(block, Plot))
