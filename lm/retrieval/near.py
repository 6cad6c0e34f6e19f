"""Approximate neighbours among very many vectors, through usearch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import UserError
from lm.retrieval.store import StoredShard

EXPANSION = 128
"""Neighbours that are looked at where one is added, and where one is sought."""


class NearVectors:
    """A graph of vectors (HNSW; Malkov and Yashunin 2018), each by its shard and its row."""

    def __init__(self, width: int, dtype: str) -> None:
        kind = {"float32": "f32", "float16": "f16"}[dtype]
        self._index = _usearch().Index(
            ndim=width,
            metric="ip",
            dtype=kind,
            expansion_add=EXPANSION,
            expansion_search=EXPANSION,
        )

    def __len__(self) -> int:
        return len(self._index)

    def load(self, path: Path) -> "NearVectors":
        """What was saved, to be changed."""
        self._index.load(str(path))
        return self

    def view(self, path: Path) -> "NearVectors":
        """What was saved, mapped into memory, to be searched alone."""
        self._index.view(str(path))
        return self

    def save(self, path: Path) -> None:
        """Writes it whole."""
        self._index.save(str(path))

    def add(self, name: str, shard: StoredShard) -> None:
        """The vectors of another shard."""
        assert shard.vectors is not None
        self._index.add(_keys(name, len(shard)), np.asarray(shard.vectors))

    def remove(self, name: str, rows: int) -> None:
        """Takes those of a shard out."""
        self._index.remove(_keys(name, rows))

    def search(self, vector_D: np.ndarray, k: int) -> list[tuple[str, int]]:
        """The likeliest k neighbours of a vector: shard and row of each."""
        found = self._index.search(vector_D, min(k, len(self)))
        return [(f"{int(key) >> 32:06d}", int(key) & 0xFFFFFFFF) for key in found.keys]


def _keys(name: str, rows: int) -> np.ndarray:
    return (np.uint64(int(name)) << np.uint64(32)) + np.arange(rows, dtype=np.uint64)


def made_from(
    shards: Sequence[tuple[str, StoredShard]],
    *,
    width: int,
    dtype: str,
    before: tuple[Path, dict[str, int]] | None,
) -> NearVectors:
    """The neighbours of all vectors of shards, by name.

    `before` is a file of those of other shards, with the rows of each: what both have is not
    added again, unless most of it is gone.
    """
    names = dict(shards)
    found = NearVectors(width, dtype)
    there: dict[str, int] = {}
    if before is not None:
        path, rows = before
        gone = {name: count for name, count in rows.items() if name not in names}
        if 2 * sum(gone.values()) < sum(rows.values()):
            found.load(path)
            there = rows
            for name, count in gone.items():
                found.remove(name, count)
    for name, shard in shards:
        if name not in there:
            found.add(name, shard)
    return found


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError as error:
        if error.name != "usearch":
            raise
        raise UserError(
            "usearch is not installed, which finds neighbours among so many passages:"
            " pip install yardstick-lm[retrieval]"
        ) from None
    return usearch.index
