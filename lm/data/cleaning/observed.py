"""What was observed of all documents, on disk; grouped in bounded memory."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROWS = 1 << 23
"""Keys that are sorted at once: a quarter of a gigabyte with what goes along."""


class EqualRuns(NamedTuple):
    """Rows in runs of equal keys, of two rows or more each."""

    keys: np.ndarray
    """Of each run: uint64 [R]."""
    rows: np.ndarray
    """By key, then rank, then row: int64."""
    starts: np.ndarray
    """Where each run begins in `rows`: int64 [R]."""
    sizes: np.ndarray
    """Rows of each run: int64 [R]."""


class Observed:
    """Arrays that processes left of their documents, chunk by chunk.

    In memory are 9 bytes a document, 12 a paragraph or line where these are compared, and what
    is being sorted.
    """

    def __init__(self, folder: Path, chunks: Sequence[str], rows: int = ROWS) -> None:
        self.folder = folder
        self.chunks = chunks
        self._rows = rows
        self.notes: list[str] = []
        """What to know of the decisions, for reports."""
        self.decisions: dict[str, Any] = {}
        """The names of those that were made, and what stands where nothing was decided."""

    @property
    def names(self) -> list[str]:
        """The arrays that each chunk has."""
        if not self.chunks:
            return []
        return [path.name.split(".")[1] for path in self.folder.glob(f"{self.chunks[0]}.*.npy")]

    def array(self, chunk: int, name: str) -> np.ndarray:
        """An array of a chunk, read where it is touched."""
        return np.load(array_path(self.folder, self.chunks[chunk], name), mmap_mode="r")

    def joined(self, name: str) -> np.ndarray:
        """An array of all chunks, in memory."""
        found = [self.array(n, name) for n in range(len(self.chunks))]
        return np.concatenate(found) if found else np.empty(0)

    def starts(self, name: str) -> np.ndarray:
        """The row at which each chunk begins in an array of all, and the end: int64."""
        sizes = [len(self.array(n, name)) for n in range(len(self.chunks))]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @cached_property
    def ranks(self) -> np.ndarray:
        """Of each document, the lowest stays: uint64 [N], see `rank_of`."""
        return self.joined("ranks")

    @cached_property
    def held(self) -> np.ndarray:
        """Whether each document's hash holds it out: bool [N]."""
        return self.joined("held")

    @cached_property
    def documents(self) -> np.ndarray:
        """The number of each chunk's first document, and of all: int64."""
        return self.starts("ranks")

    def row_documents(self, documents: np.ndarray) -> np.ndarray:
        """The number, of all, of the document of each row, from its number in its chunk."""
        sizes = np.diff(self.starts("documents"))
        return documents + np.repeat(self.documents[:-1], sizes)

    def decision(self, name: str, dtype: Any, fill: Any, rows: int) -> np.ndarray:
        """A new array of all rows, on disk, for `AcrossDocuments.judge`."""
        self.decisions[name] = fill
        path = decision_path(self.folder, name)
        if not rows:
            made = np.full(0, fill, dtype)
            np.save(path, made)
            return made
        made = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=(rows,))
        made[:] = fill
        return made

    def decided(self, name: str) -> np.ndarray:
        """What was decided about all rows."""
        return np.load(decision_path(self.folder, name), mmap_mode="r")

    def equal(
        self, name: str, ranks: np.ndarray, documents: np.ndarray, column: int | None = None
    ) -> Iterator[EqualRuns]:
        """The rows whose keys occur more than once, a part of all keys at a time.

        `ranks` are of documents, `documents` says which one each row is of. Keys are hashes, so
        that their first bits cut them into parts of about a size.
        """
        starts = self.starts(name)
        bits = max(int(starts[-1] - 1).bit_length() - self._rows.bit_length() + 1, 0)
        for part in range(1 << bits):
            found_keys, found_rows = [], []
            for chunk in range(len(self.chunks)):
                keys = self.array(chunk, name)
                keys = np.asarray(keys if column is None else keys[:, column])
                places = (
                    np.flatnonzero(keys >> np.uint64(64 - bits) == part)
                    if bits
                    else np.arange(len(keys))
                )
                found_keys.append(keys[places])
                found_rows.append(starts[chunk] + places)
            yield equal_runs(
                np.concatenate(found_keys), np.concatenate(found_rows), ranks, documents
            )


class Gathered(Observed):
    """The same in memory: what was observed of chunks in their order."""

    def __init__(self, arrays: Sequence[Mapping[str, np.ndarray]]) -> None:
        super().__init__(Path(), [str(number) for number in range(len(arrays))])
        self._arrays = arrays
        self._made: dict[str, np.ndarray] = {}

    def array(self, chunk: int, name: str) -> np.ndarray:
        return self._arrays[chunk][name]

    def decided(self, name: str) -> np.ndarray:
        return self._made[name]

    def decision(self, name: str, dtype: Any, fill: Any, rows: int) -> np.ndarray:
        self.decisions[name] = fill
        self._made[name] = made = np.full(rows, fill, dtype)
        return made


def equal_runs(
    keys: np.ndarray, rows: np.ndarray, ranks: np.ndarray, documents: np.ndarray
) -> EqualRuns:
    """The rows that share a key with others, by key, rank of their document, and number.

    >>> ranks = np.array([3, 2, 1], np.uint64)
    >>> found = equal_runs(np.array([7, 5, 7], np.uint64), np.arange(3), ranks, np.arange(3))
    >>> found.rows.tolist(), found.keys.tolist(), found.sizes.tolist()
    ([2, 0], [7], [2])
    """
    order = np.argsort(keys)
    keys, rows = keys[order], rows[order]
    same = keys[1:] == keys[:-1]
    shared = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    keys, rows = keys[shared[: len(keys)]], rows[shared[: len(rows)]]
    order = np.lexsort((rows, ranks[documents[rows]], keys))
    keys, rows = keys[order], rows[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)])
    return EqualRuns(keys[starts], rows, starts, np.diff(np.append(starts, len(keys))))


def decision_path(folder: Path, name: str) -> Path:
    """Where a decision about all rows is."""
    return folder / f"decided-{name}.npy"


def array_path(folder: Path, chunk: str, name: str) -> Path:
    """Where an array of a chunk is."""
    return folder / f"{chunk}.{name}.npy"
