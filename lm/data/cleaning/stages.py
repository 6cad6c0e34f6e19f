"""Stages of one machine: chunks in files, each of which one process cleans at a time.

A chunk that is done has a tally, written last, so that whatever was cut short is done again.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from lm.data.cleaning.chunks import Chunk, member_of, pack, unpack
from lm.data.cleaning.cleaner import Cleaner, Decisions, Stage
from lm.data.cleaning.observed import array_path, decision_path
from lm.data.cleaning.recipe import Cleaning
from lm.output.files import write_whole


class Decided(msgspec.Struct):
    """Which rows of a step's decisions belong to which chunk, and who the documents are."""

    chunks: list[str]
    sources: list[str]
    """Of each chunk."""
    documents: list[int]
    """The number of each chunk's first document, and of all."""
    rows: list[int]
    """The same of what was decided upon."""
    observed: list[str]
    """The arrays that each chunk has."""
    decisions: list[str]
    """And those of all rows."""


class Worker:
    """What a process needs for every chunk: the recipe with its steps opened, the folder."""

    def __init__(self, cleaning: Cleaning, work: Path) -> None:
        self.cleaner = Cleaner(cleaning)
        self.cleaning = cleaning
        self.work = work
        self._decided = lru_cache(maxsize=1)(_read_decided)
        self._ids = lru_cache(maxsize=8)(_read_ids)

    def run(self, stage: Stage, name: str, chunk: Chunk | None = None) -> None:
        """Does a stage's work on a chunk, which is given or what the stage before left."""
        before, folder = self.folder(stage.number - 1), self.folder(stage.number)
        if chunk is None:
            chunk = unpack(chunk_path(before, name).read_bytes())
        decisions = None
        if stage.decided is not None:
            decided = self._decided(before)
            twins = _Twins(decided, lambda name: self._ids(before, name))
            decisions = Decisions(_arrays_of(decided, before, name), twins)
        done = self.cleaner.work(stage, chunk, decisions)
        for key, array in done.observed.items():
            file = io.BytesIO()
            np.save(file, array)
            write_whole(array_path(folder, name, key), file.getvalue())
        if stage.observed is not None:
            write_whole(chunk_path(folder, name), pack(done.chunk))
        else:
            member = member_of(done.chunk, self.cleaning.compression)
            write_whole(member_path(folder, name), member)
        write_whole(folder / f"{name}.json", msgspec.json.encode(done.tally))

    def folder(self, number: int) -> Path:
        """Where a stage's chunks are."""
        return self.work / f"stage-{number}"


class _Twins:
    """Documents by their numbers in all chunks; ids are read where one is shown."""

    def __init__(self, decided: Decided, ids: Callable[[str], list[str]]) -> None:
        self._decided, self._ids = decided, ids

    def source(self, twin: int) -> str:
        return self._decided.sources[self._chunk(twin)]

    def name(self, twin: int) -> str:
        chunk = self._chunk(twin)
        ids = self._ids(self._decided.chunks[chunk])
        return f"{self._decided.sources[chunk]}: {ids[twin - self._decided.documents[chunk]]}"

    def _chunk(self, twin: int) -> int:
        return int(np.searchsorted(self._decided.documents, twin, side="right")) - 1


def _arrays_of(decided: Decided, before: Path, name: str) -> dict[str, np.ndarray]:
    number = decided.chunks.index(name)
    rows = slice(decided.rows[number], decided.rows[number + 1])
    arrays = {
        key: np.load(array_path(before, name, key), mmap_mode="r") for key in decided.observed
    }
    for key in decided.decisions:
        whole = np.load(decision_path(before, key), mmap_mode="r")
        arrays[key] = np.array(whole[rows])
    return arrays


def _read_decided(folder: Path) -> Decided:
    return msgspec.json.decode((folder / "decided.json").read_bytes(), type=Decided)


def _read_ids(folder: Path, name: str) -> list[str]:
    return unpack(chunk_path(folder, name).read_bytes()).ids


def chunk_path(folder: Path, name: str) -> Path:
    """Where a chunk is kept between two stages."""
    return folder / f"{name}.chunk"


def member_path(folder: Path, name: str) -> Path:
    """Where the lines of a chunk are, once nothing more is done to it."""
    return folder / f"{name}.member"
