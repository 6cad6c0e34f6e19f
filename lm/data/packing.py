"""Which documents make up a row, where none is cut in two: a table, the same every time."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lm.config import UserError
from lm.data import cache
from lm.data.store import Split


class RowTable(NamedTuple):
    """The rows of a split: row r holds the documents `documents[rows[r]:rows[r + 1]]`."""

    rows: np.ndarray
    """int64[R + 1]."""
    documents: np.ndarray
    """int64[documents]."""


@lru_cache(8)
def table_of(split: Split, length: int) -> RowTable:
    """The rows of `length` that hold each document of a split once and whole, kept on disk.

    Raises UserError where one is longer than a row, unless its source says that it is cut.
    """
    sizes = np.diff(split.offsets)
    longest = int(sizes.max(initial=0))
    if longest > length and split.too_long == "refuse":
        id = split.ids[int(sizes.argmax())]
        raise UserError(
            f"data.length={length}: {id} has {longest:,} tokens, the most of"
            f" {int((sizes > length).sum()):,} documents that are longer than a row and would"
            f" not be whole; raise it to {longest}, or have them cut, where data.corpus has"
            " too_long=cut"
        )
    key = json.dumps([_VERSION, length, hashlib.sha256(split.offsets.tobytes()).hexdigest()])
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path: Path = cache.folder() / "rows" / f"{name}.int64"
    kept = cache.read(path)
    if kept is None:
        table = pack(np.minimum(sizes, length), length)
        both = np.concatenate([[len(table.rows)], *table]).astype("<i8")
        cache.write(path, both.tobytes())
        return table
    numbers = np.frombuffer(kept, "<i8")
    return RowTable(*np.split(numbers[1:], numbers[:1]))


_VERSION = 1


def pack(sizes: np.ndarray, length: int) -> RowTable:
    """Rows of documents of these sizes: the longest first, each in the row that it fits best.

    Johnson et al. (1974): at most 11/9 of the fewest rows that there can be, and 1.

    >>> table = pack(np.array([2, 5, 3, 4]), 7)
    >>> table.rows.tolist(), table.documents.tolist()
    ([0, 2, 4], [0, 1, 2, 3])
    """
    rows: list[list[int]] = []
    # Of the rows with so much room left, the numbers; and a bit for each room that there is.
    by_room: list[list[int]] = [[] for _ in range(length + 1)]
    rooms = 0
    for document in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[document])
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(document)
        by_room[room - size].append(row)
        rooms |= 1 << (room - size)
    ends = np.cumsum([0, *map(len, rows)])
    documents = np.array([document for row in rows for document in sorted(row)], np.int64)
    return RowTable(ends.astype(np.int64), documents)
