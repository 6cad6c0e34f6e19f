"""Which documents make up a row, where none is cut in two: a table, the same every time.

Packed `whole`, a row holds as many documents as find room in it; packed `single`, it holds one.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lm.config import UserError
from lm.data import cache
from lm.data.sources import CHOICE, LOSS
from lm.data.split import Split


class RowTable(NamedTuple):
    """The rows of a split: row r holds the documents `documents[rows[r]:rows[r + 1]]`."""

    rows: np.ndarray
    """int64[R + 1]."""
    documents: np.ndarray
    """int64[documents that are in rows]."""


@lru_cache(64)
def table_of(
    split: Split, length: int, packing: Literal["whole", "single"] = "whole"
) -> RowTable:
    """The rows of `length` that hold each document of a split once and whole.

    What takes long to find is kept on disk. Raises UserError where a document is longer than a
    row, unless its source says that it is cut. What is cut to nothing is in no row.
    """
    offsets = np.asarray(split.offsets)
    sizes = np.diff(offsets)
    longest = int(sizes.max(initial=0))
    if longest > length and split.too_long == "refuse":
        id = split.ids[int(sizes.argmax())]
        raise UserError(
            f"data.length={length}: {id} has {longest:,} tokens, the most of"
            f" {int((sizes > length).sum()):,} documents that are longer than a row and would"
            f" not be whole; raise it to {longest}, or have them cut, where data.corpus has"
            " too_long=cut"
        )
    kept_sizes = sizes_in_rows(split, length)
    if not kept_sizes.any():
        raise UserError(
            f"data.length={length}: no row has room for a document; raise it, to {longest} at"
            " most"
        )
    if packing == "single":
        documents = np.flatnonzero(kept_sizes)
        return RowTable(np.arange(len(documents) + 1), documents)
    key = json.dumps([_VERSION, length, hashlib.sha256(offsets.tobytes()).hexdigest()])
    if not np.array_equal(kept_sizes, np.minimum(sizes, length)):
        key += hashlib.sha256(kept_sizes.tobytes()).hexdigest()
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path: Path = cache.folder() / "rows" / f"{name}.int64"
    kept = cache.read(path)
    if kept is None:
        table = pack(kept_sizes, length)
        both = np.concatenate([[len(table.rows)], *table]).astype("<i8")
        cache.write(path, both.tobytes())
        return table
    numbers = np.frombuffer(kept, "<i8")
    return RowTable(*np.split(numbers[1:], numbers[:1]))


_VERSION = 1


@lru_cache(64)
def sizes_in_rows(split: Split, length: int) -> np.ndarray:
    """How many tokens of each document stand in a row of `length`, int64[documents].

    Of what is longer, as many as a row holds; of a conversation, those up to the end of the
    last answer that is whole, of which there may be none; of a pair none, as half a pair is
    none.
    """
    sizes = np.minimum(np.diff(split.offsets), length)
    names = {channel.name for channel in split.channels}
    too_long = np.flatnonzero(np.diff(split.offsets) > length)
    if LOSS.name not in names or not len(too_long):
        return sizes
    counts_RL = split.read_channels(split.offsets[too_long], length + 1)[LOSS.name]
    ends_RL = (counts_RL[:, :-1] == 1) & (counts_RL[:, 1:] == 0)
    last_R = np.where(ends_RL, np.arange(1, length + 1), 0).max(axis=1)
    sizes[too_long] = 0 if CHOICE.name in names else last_R
    left_out = int((sizes == 0).sum())
    cache.log.warning(
        "of %s conversations, %s are longer than a row of %s: %s are cut after an answer, and"
        " %s are left out",
        *(f"{n:,}" for n in (len(sizes), len(too_long), length)),
        *(f"{n:,}" for n in (len(too_long) - left_out, left_out)),
    )
    return sizes


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
        if not size:
            break
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
