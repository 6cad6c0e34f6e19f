"""How alike two words are: the cosine of their vectors, against what people said."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm.config import UserError
from lm.evaluate.tasks.metrics import Estimate, estimate, spearman
from lm.evaluate.vectors.table import WordTable
from lm.results.record import Record


class WordPair(NamedTuple):
    """Two words, and how alike people find them."""

    first: str
    second: str
    score: float


class PairsResult(Record):
    """How a table orders pairs of words, as people do."""

    task: str
    table: str
    about: str
    """How the table has vectors, in words."""
    asked: int
    """How many pairs there are."""
    known: int
    """Of how many both words are known; the others are left out."""
    several: int
    """How many of these have a word whose vector is a mean of several tokens' rows."""
    spearman: Estimate | None
    """Spearman's correlation of cosines and scores over known pairs, with a bootstrap interval
    over pairs; None: fewer than three are known."""


def as_pairs(lines: Sequence[tuple[str, Sequence[str]]]) -> tuple[WordPair, ...]:
    """The pairs of lines, given by their places and words; raises UserError for others.

    >>> as_pairs([("f:1", ["gem", "jewel", "3.94"])])
    (WordPair(first='gem', second='jewel', score=3.94),)
    """
    found = []
    for place, words in lines:
        try:
            first, second, text = words
            score = float(text)
        except ValueError:
            score = float("nan")
        if not np.isfinite(score):
            raise UserError(
                f"{place}: {' '.join(words)[:40]!r}; must be two words and a number"
            )
        found.append(WordPair(first, second, score))
    return tuple(found)


def ask_pairs(table: WordTable, pairs: Sequence[WordPair], *, name: str = "") -> PairsResult:
    """How a table orders pairs.

    >>> table = WordTable("t", ("a", "b", "c"), np.array([[1, 0], [1, 1], [0, 1.0]]), "")
    >>> said = ("a", "b", 3), ("a", "c", 1), ("A", "a", 9), ("a", "d", 2)
    >>> found = ask_pairs(table, [WordPair(*each) for each in said])
    >>> round(found.spearman.value, 6), found.asked, found.known
    (1.0, 4, 3)
    """
    one = table.find([pair.first for pair in pairs])
    other = table.find([pair.second for pair in pairs])
    known_N = (one.tokens_N > 0) & (other.tokens_N > 0)
    cosine_N = (one.vectors_ND * other.vectors_ND).sum(axis=1, dtype=np.float64)
    said_N = np.array([pair.score for pair in pairs])
    columns_NK = np.stack([said_N, cosine_N], axis=1)[known_N]
    several_N = known_N & ((one.tokens_N > 1) | (other.tokens_N > 1))
    return PairsResult(
        task=name,
        table=table.name,
        about=table.about,
        asked=len(pairs),
        known=int(known_N.sum()),
        several=int(several_N.sum()),
        spearman=estimate(spearman(0, 1), columns_NK[None]) if len(columns_NK) > 2 else None,
    )
