"""The words whose vectors are nearest to that of one."""

import difflib
from collections.abc import Sequence

import numpy as np

from lm.config import UserError
from lm.evaluate.vectors.table import WordTable
from lm.results.record import Record


class Neighbour(Record):
    """A word, and the cosine between its vector and that of the word it is near to."""

    word: str
    cosine: float


def nearest(
    table: WordTable, words: Sequence[str], *, count: int = 10, among: int
) -> dict[str, list[Neighbour]]:
    """The words of a table nearest to each word by cosine, itself left out.

    The first `among` words of the table are candidates. Raises UserError for a word that is not
    known, with those that are spelled most like it.

    >>> table = WordTable("t", ("a", "b", "c"), np.array([[1, 0], [1, 1], [0, 1.0]]), "")
    >>> [found.word for found in nearest(table, ["a"], among=3)["a"]]
    ['b', 'c']
    """
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"--near {word!a}: not UTF-8, and so no word") from None
    found = table.find(words)
    for word, tokens in zip(words, found.tokens_N, strict=True):
        if not tokens:
            close = difflib.get_close_matches(word.lower(), table.words, 3, 0.6)
            hint = f"; it knows {', '.join(close)}" if close else ""
            raise UserError(f"--near {word}: no word of {table.name}{hint}")
    names, vectors_CD = table.candidates(among)
    cosine_NC = found.vectors_ND @ vectors_CD.T
    result = {}
    for word, cosine_C in zip(words, cosine_NC, strict=True):
        own = table.row.get(word, table.row.get(word.lower()))
        itself = None if own is None else table.words[own]
        order = np.argsort(-cosine_C, kind="stable")[: count + 1]
        near = [Neighbour(word=names[at], cosine=float(cosine_C[at])) for at in order]
        result[word] = [each for each in near if each.word != itself][:count]
    return result
