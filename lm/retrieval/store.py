"""An index's folder: shards of passages with their vectors, and which of them count.

A shard is a folder of its own, which is never changed. `manifest.json` names those that count,
in their order, and is written whole: whatever is added or deleted is so once it is. What it
does not name, a process that was killed has left behind, and the next one that writes removes.

    manifest.json             IndexManifest
    shards/000000/passages.jsonl   a passage a line: [text, first, last]
                  starts.npy       int64[n + 1]: where each line begins, in bytes
                  vectors.npy      float32[n, D] or float16[n, D]; none of an index of words
                  files.json       what file each stretch of passages is of
    words-000004/             BM25 of all passages
    near-000004.usearch       neighbours of all vectors, of an index that is large enough
"""

import fcntl
import json
import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from lm.config import UserError
from lm.numerics import Precision
from lm.output.files import write_whole
from lm.retrieval.embed import TextPooling
from lm.retrieval.split import TextPassage
from lm.retrieval.texts import TextUnit

MANIFEST = "manifest.json"
LOCK = ".lock"
VERSION = 1


class IndexModel(msgspec.Struct, frozen=True):
    """What made the vectors of an index."""

    path: str
    """Where it was; what it is, its digest says."""
    digest: str
    pooling: TextPooling
    length: int
    """Tokens that it sees of a text, with what stands around it."""
    precision: Precision
    """Of its matrix products."""
    width: int


class IndexSettings(msgspec.Struct, frozen=True):
    """What an index was begun with, and is the same for all its passages."""

    model: IndexModel | None
    """None: an index of words alone."""
    tokens: int
    """Of a passage, at most: of the model's tokenizer, or words where there is no model."""
    overlap: int
    dtype: Literal["float32", "float16"] = "float32"
    """Of the vectors that are kept."""
    approximate: int = 1_000_000
    """From how many passages on neighbours are approximate (usearch)."""
    shard: int = 1024
    """Passages of a shard."""


class ShardEntry(msgspec.Struct, frozen=True):
    """A shard that counts."""

    name: str
    passages: int


class MadeOf(msgspec.Struct, frozen=True):
    """What was made of shards, as BM25 is: it holds for these alone."""

    name: str
    shards: tuple[str, ...]
    rows: tuple[int, ...] = ()
    """Passages of each of them, where it was told."""


class SupportRule(msgspec.Struct, frozen=True):
    """When something that was found supports an answer: see `lm.retrieval.answer`."""

    by: Literal["similarity", "overlap", "both"]
    least: float


class IndexManifest(msgspec.Struct, frozen=True):
    """What an index is."""

    settings: IndexSettings
    version: int = VERSION
    shards: tuple[ShardEntry, ...] = ()
    next: int = 0
    """The number of the next thing that is written; no name is used twice."""
    words: MadeOf | None = None
    near: MadeOf | None = None
    support: SupportRule | None = None
    """None: it was not measured."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(shard.name for shard in self.shards)

    @property
    def passages(self) -> int:
        return sum(shard.passages for shard in self.shards)


class FilePart(msgspec.Struct, frozen=True):
    """A stretch of a shard's passages, which are those of one file in their order."""

    file: str
    """As it was named."""
    path: str
    """Where it was: the same file by any name."""
    digest: str
    """Of its bytes."""
    unit: TextUnit
    first: int
    """Number of the first passage, in the file."""
    count: int
    complete: bool
    """Whether the file ends here."""


class StoredPassage(NamedTuple):
    """A passage, and where it comes from."""

    file: str
    unit: TextUnit
    first: int
    last: int
    text: str

    @property
    def place(self) -> str:
        """Where it stands, as editors and people write it.

        >>> StoredPassage("a.md", "line", 3, 9, "").place
        'a.md:3-9'
        >>> StoredPassage("b.pdf", "page", 2, 2, "").place
        'b.pdf:page 2'
        """
        several = self.first != self.last
        numbers = f"{self.first}-{self.last}" if several else f"{self.first}"
        if self.unit == "page":
            return f"{self.file}:page{'s' if several else ''} {numbers}"
        return f"{self.file}:{numbers}"


class StoredShard:
    """One shard, of which vectors are mapped into memory and texts read one by one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = msgspec.json.decode(
            (folder / "files.json").read_bytes(), type=list[FilePart]
        )
        self.starts = np.load(folder / "starts.npy")
        vectors = folder / "vectors.npy"
        self.vectors = np.load(vectors, mmap_mode="r") if vectors.exists() else None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def passage(self, number: int) -> StoredPassage:
        """One of its passages."""
        with (self.folder / "passages.jsonl").open("rb") as file:
            file.seek(int(self.starts[number]))
            line = file.read(int(self.starts[number + 1] - self.starts[number]))
        return self._passage(number, line)

    def __iter__(self) -> Iterator[StoredPassage]:
        with (self.folder / "passages.jsonl").open("rb") as file:
            for number, line in enumerate(file):
                yield self._passage(number, line)

    def _passage(self, number: int, line: bytes) -> StoredPassage:
        part = self._filled[bisect_right(self._firsts, number) - 1]
        text, first, last = json.loads(line)
        return StoredPassage(part.file, part.unit, first, last, text)

    @cached_property
    def _filled(self) -> list[FilePart]:
        return [part for part in self.parts if part.count]

    @cached_property
    def _firsts(self) -> list[int]:
        """The number of each one's first passage."""
        return [0, *accumulate(part.count for part in self._filled)][:-1]


class IndexFolder:
    """What stands in the folder of an index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def is_there(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    def manifest(self) -> IndexManifest:
        """What the index is; raises UserError where there is none."""
        path = self.folder / MANIFEST
        if not path.is_file():
            why = (
                "it has no manifest.json" if self.folder.exists() else "there is no such folder"
            )
            raise UserError(f"{self.folder}: no index: {why}")
        try:
            found = msgspec.json.decode(path.read_bytes(), type=IndexManifest)
        except msgspec.MsgspecError as error:
            raise UserError(f"{path}: damaged: {error}") from None
        if found.version != VERSION:
            raise UserError(
                f"{path}: version {found.version}, and this is version {VERSION}: make it again"
            )
        return found

    def keep(self, manifest: IndexManifest) -> None:
        """Makes this the index from now on."""
        written = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        write_whole(self.folder / MANIFEST, written)

    def shards(self, manifest: IndexManifest) -> list[StoredShard]:
        """The shards that count; raises UserError where one is damaged."""
        found = []
        for entry in manifest.shards:
            folder = self.folder / "shards" / entry.name
            try:
                shard = StoredShard(folder)
                counted = sum(part.count for part in shard.parts)
                of_vectors = len(shard) if shard.vectors is None else len(shard.vectors)
                sizes = {len(shard), counted, of_vectors, entry.passages}
                if len(sizes) > 1 or (shard.vectors is None) != (
                    manifest.settings.model is None
                ):
                    raise ValueError("its files are of different lengths")
            except (OSError, ValueError, msgspec.MsgspecError) as error:
                raise UserError(f"{folder}: damaged: {error}") from None
            found.append(shard)
        return found

    def write_shard(
        self,
        name: str,
        passages: Sequence[TextPassage],
        parts: Sequence[FilePart],
        vectors: np.ndarray | None,
    ) -> None:
        """Writes a shard, which does not count yet."""
        folder = self.folder / "shards" / name
        folder.mkdir(parents=True)
        lines = [json.dumps([*each], ensure_ascii=False).encode() + b"\n" for each in passages]
        (folder / "passages.jsonl").write_bytes(b"".join(lines))
        np.save(folder / "starts.npy", np.cumsum([0, *map(len, lines)], dtype=np.int64))
        (folder / "files.json").write_bytes(msgspec.json.encode(parts))
        if vectors is not None:
            np.save(folder / "vectors.npy", vectors)

    def remove_left_over(self, manifest: IndexManifest) -> None:
        """Removes what does not count."""
        made = {made.name for made in (manifest.words, manifest.near) if made is not None}
        for path in self.folder.glob("shards/*"):
            if path.name not in manifest.names:
                shutil.rmtree(path)
        for path in [*self.folder.glob("words-*"), *self.folder.glob("near-*")]:
            if path.name not in made:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Whoever writes is alone; raises UserError where another one is at it."""
        with (self.folder / LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"{self.folder}: another process is writing it") from None
            yield


def identity(path: Path) -> str:
    """A file's place, by which it is the same under another name."""
    return os.path.abspath(path)
