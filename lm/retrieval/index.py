"""Making an index of files: adding, replacing, deleting, and going on after a kill."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from lm.config import UserError
from lm.numerics import Precision
from lm.retrieval.embed import Embedder, TextPooling, load_embedder
from lm.retrieval.near import made_from
from lm.retrieval.split import TextPassage, passages, token_ends, word_ends
from lm.retrieval.store import (
    LOCK,
    FilePart,
    IndexFolder,
    IndexManifest,
    IndexModel,
    IndexSettings,
    MadeOf,
    ShardEntry,
    StoredShard,
    identity,
)
from lm.retrieval.texts import FileText, is_pdf, pdf_reader, read_text
from lm.retrieval.words import Bm25, bm25_library

PASSAGE = 128
"""Tokens that a passage has with what stands around it, unless told otherwise: those that most
encoders of sentences were trained on."""
IndexNote = Callable[[int, int], None]
"""Hears how many passages of how many files were added by now."""


class Indexed(msgspec.Struct):
    """What was done to an index, and what it holds now."""

    added: int = 0
    """Files, those that go on after a kill and those that are replaced included."""
    unchanged: int = 0
    replaced: int = 0
    deleted: int = 0
    passages_added: int = 0
    passages: int = 0
    """That it holds."""
    truncated: int = 0
    """Passages of which the model sees a part alone."""
    skipped: list[str] = msgspec.field(default_factory=list)
    """Files that could not be read to their end, a line each."""
    partial: list[str] = msgspec.field(default_factory=list)
    """Files of which it holds a part alone: who was killed was at them."""
    embedding_seconds: float = 0.0
    seconds: float = 0.0


class Held(NamedTuple):
    """What an index has of a file."""

    digest: str
    passages: int
    complete: bool


class IndexBuilder:
    """An index that is written. One process at a time does; whoever reads sees all of what it
    has done, or nothing.
    """

    def __init__(
        self,
        folder: Path,
        manifest: IndexManifest,
        embedder: Callable[[], Embedder | None],
    ) -> None:
        """`embedder` is called once a passage is to be embedded; of an index of words it gives
        None.
        """
        self.store, self.manifest = IndexFolder(folder), manifest
        self.done = Indexed()
        self._load = embedder

    @cached_property
    def embedder(self) -> Embedder | None:
        """What makes its vectors; raises UserError where that is another model than before."""
        return self._load()

    def held(self) -> dict[str, Held]:
        """What it has of each file, by the file's place."""
        found: dict[str, Held] = {}
        for shard in self.store.shards(self.manifest):
            for part in shard.parts:
                passages = part.first + part.count
                found[part.path] = Held(part.digest, passages, part.complete)
        return found

    def add(self, files: Sequence[Path], note: IndexNote = lambda *_: None) -> None:
        """Adds files: those that changed take the place of what they were, those that did not
        are passed over, and one of which a part is there goes on.

        Raises UserError, before anything is changed, for a file that is no text.
        """
        held, todo, changed = self.held(), list[tuple[Path, str, int]](), set[str]()
        for file in {identity(file): file for file in files}.values():
            content = file.read_bytes()
            digest, old = _digest(content), held.get(identity(file))
            if old is not None and old.digest == digest:
                if old.complete:
                    self.done.unchanged += 1
                    continue
            elif old is not None:
                changed.add(identity(file))
                old = None
            if is_pdf(file, content):  # which takes its time, and is read once
                pdf_reader()
            else:
                read_text(file, content)
            todo.append((file, digest, old.passages if old else 0))
        if not todo:
            return
        started = self.embedder  # another model is refused before anything is deleted
        before = started.truncated if started else 0
        self._keep()
        if changed:
            self._delete(changed)
            self.done.replaced += len(changed)
        self._fill(todo, note)
        self.done.truncated += (started.truncated if started else 0) - before

    def delete(self, paths: Sequence[Path]) -> None:
        """Deletes files, and what is in folders; raises UserError for what it does not have."""
        held, gone = self.held(), set[str]()
        for path in paths:
            place = identity(path)
            found = {each for each in held if each == place or each.startswith(f"{place}/")}
            if not found:
                close = get_close_matches(place, held, 1)
                hint = f"; did you mean {os.path.relpath(close[0])}?" if close else ""
                raise UserError(f"{path}: not in the index{hint}")
            gone |= found
        self._delete(gone)
        self.done.deleted += len(gone)

    def finish(self) -> None:
        """Makes what is made of all passages: BM25, and neighbours where there are so many."""
        names, settings = self.manifest.names, self.manifest.settings
        if self.manifest.words is None or self.manifest.words.shards != names:
            name = self._name("words-")
            found = Bm25(passage.text for shard in self._shards() for passage in shard)
            found.save(self.store.folder / name)
            self._keep(words=MadeOf(name, names), next=self.manifest.next + 1)
        wanted = settings.model and self.manifest.passages >= settings.approximate
        near = self.manifest.near
        if wanted and (near is None or near.shards != names):
            self._make_near(near)
        elif near is not None and not wanted:
            self._keep(near=None)
        self.store.remove_left_over(self.manifest)
        self.done.passages = self.manifest.passages
        self.done.partial = [path for path, of in self.held().items() if not of.complete]

    def _make_near(self, old: MadeOf | None) -> None:
        settings, names = self.manifest.settings, self.manifest.names
        assert settings.model is not None
        name = self._name("near-") + ".usearch"
        before = None
        if old is not None and old.rows:
            before = self.store.folder / old.name, dict(zip(old.shards, old.rows, strict=True))
        made = made_from(
            [*zip(names, self._shards(), strict=True)],
            width=settings.model.width,
            dtype=settings.dtype,
            before=before,
        )
        made.save(self.store.folder / name)
        rows = tuple(entry.passages for entry in self.manifest.shards)
        self._keep(near=MadeOf(name, names, rows), next=self.manifest.next + 1)

    def _shards(self) -> list[StoredShard]:
        return self.store.shards(self.manifest)

    def _fill(self, todo: Sequence[tuple[Path, str, int]], note: IndexNote) -> None:
        size = self.manifest.settings.shard
        rows: list[TextPassage] = []
        parts: list[FilePart] = []
        for file, digest, done in todo:
            try:
                given = _read(file, digest)
            except UserError as error:
                self.done.skipped.append(str(error))
                continue
            part = FilePart(
                str(file), identity(file), digest, given.unit, done, 0, complete=True
            )
            for number, passage in enumerate(self._split(given)):
                if number < done:
                    continue
                # Only now is it known that the shard is not the last, nor its file complete.
                if len(rows) == size:
                    if part.count:
                        parts.append(msgspec.structs.replace(part, complete=False))
                    self._write(rows, parts)
                    note(self.done.passages_added, self.done.added)
                    rows, parts = [], []
                    part = msgspec.structs.replace(part, first=number, count=0)
                rows.append(passage)
                part = msgspec.structs.replace(part, count=part.count + 1)
            parts.append(part)
            self.done.added += 1
        if rows:
            self._write(rows, parts)
            note(self.done.passages_added, self.done.added)

    def _split(self, given: FileText) -> Iterator[TextPassage]:
        settings = self.manifest.settings
        embedder = self.embedder
        ends = word_ends if embedder is None else token_ends(embedder.model.tokenizer)
        return passages(given, ends, tokens=settings.tokens, overlap=settings.overlap)

    def _write(self, rows: Sequence[TextPassage], parts: Sequence[FilePart]) -> None:
        """Writes a shard, which counts from then on."""
        vectors_ND = None
        if self.embedder is not None:
            start = time.perf_counter()
            dtype = np.dtype(self.manifest.settings.dtype)
            vectors_ND = self.embedder([row.text for row in rows]).astype(dtype)
            self.done.embedding_seconds += time.perf_counter() - start
        name = self._name("")
        self.store.write_shard(name, rows, parts, vectors_ND)
        entries = (*self.manifest.shards, ShardEntry(name, len(rows)))
        self._keep(shards=entries, next=self.manifest.next + 1)
        self.done.passages_added += len(rows)

    def _delete(self, gone: set[str]) -> None:
        """Writes the shards that have some of these files again, without them, and all of that
        counts at once.
        """
        manifest, entries, number = self.manifest, list[ShardEntry](), self.manifest.next
        for entry, shard in zip(manifest.shards, self._shards(), strict=True):
            if not any(part.path in gone for part in shard.parts):
                entries.append(entry)
                continue
            parts = [part for part in shard.parts if part.path not in gone]
            stays = [part.path not in gone for part in shard.parts for _ in range(part.count)]
            kept = np.flatnonzero(stays).tolist()
            if not kept:
                continue
            rows = [TextPassage(p.text, p.first, p.last) for p in map(shard.passage, kept)]
            vectors_ND = None if shard.vectors is None else np.asarray(shard.vectors[kept])
            self.store.write_shard(f"{number:06d}", rows, parts, vectors_ND)
            entries.append(ShardEntry(f"{number:06d}", len(rows)))
            number += 1
        self._keep(shards=tuple(entries), next=number)

    def _name(self, kind: str) -> str:
        return f"{kind}{self.manifest.next:06d}"

    def _keep(self, **changed: object) -> None:
        self.manifest = msgspec.structs.replace(self.manifest, **changed)
        self.store.keep(self.manifest)


@contextmanager
def building(
    folder: Path,
    *,
    model: Path | None = None,
    words_only: bool = False,
    pooling: TextPooling | None = None,
    length: int | None = None,
    precision: Precision | None = None,
    tokens: int | None = None,
    overlap: int | None = None,
    dtype: Literal["float32", "float16"] | None = None,
    approximate: int | None = None,
    shard: int | None = None,
) -> Iterator[IndexBuilder]:
    """An index that is written: the one in the folder, or a new one with these settings.

    A new one is of a model's vectors and of words, or of words alone. Of one that is there the
    settings stand, and others are refused. Raises UserError in one line.
    """
    bm25_library()  # or hours later it would be missed
    store = IndexFolder(folder)
    given = {
        "pooling": pooling,
        "length": length,
        "precision": precision,
        "tokens": tokens,
        "overlap": overlap,
        "dtype": dtype,
        "approximate": approximate,
        "shard": shard,
    }
    if store.is_there:
        with store.locked():
            manifest = store.manifest()
            _refuse_others(folder, manifest.settings, given, model, words_only=words_only)
            of = manifest.settings.model
            store.remove_left_over(manifest)
            yield IndexBuilder(
                folder, manifest, lambda: None if of is None else embedder_of(folder, of, model)
            )
        return
    if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - {LOCK}):
        raise UserError(f"{folder}: it is there, and no index")
    if not folder.parent.is_dir():
        raise UserError(f"{folder}: there is no directory {folder.parent}")
    if (model is None) != words_only:
        said = "not of both" if words_only else "and none is there"
        raise UserError(f"{folder}: an index is of --model MODEL or --bm25, {said}")
    embedder = None
    if model is not None:
        embedder = load_embedder(model, pooling=pooling, length=length, precision=precision)
    elif useless := [name for name in _OF_MODEL if given[name] is not None]:
        raise UserError(f"--{useless[0]} {given[useless[0]]}: an index of words has no vectors")
    settings = _settings(
        embedder, {name: given[name] for name in given if name not in _OF_MODEL}
    )
    settings = settings if dtype is None else msgspec.structs.replace(settings, dtype=dtype)
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        with store.locked():
            yield IndexBuilder(folder, IndexManifest(settings), lambda: embedder)
    finally:
        if not store.is_there:  # nothing was added
            (folder / LOCK).unlink(missing_ok=True)
            if made:
                folder.rmdir()


def embedder_of(folder: Path, model: IndexModel, path: Path | None = None) -> Embedder:
    """The embedder that made an index's vectors, where it was, or at a path.

    Raises UserError in one line where it is not there, or another model is.
    """
    try:
        found = load_embedder(
            path or model.path,
            pooling=model.pooling,
            length=model.length,
            precision=model.precision,
        )
    except UserError as error:
        hint = "" if path else " (say where it is, by --model MODEL)"
        raise UserError(f"{folder}: its model: {error}{hint}") from None
    if found.digest != model.digest:
        raise UserError(
            f"{folder}: its vectors are of the model with the digest {model.digest}"
            f" ({model.path}), and that of {path or model.path} is {found.digest}: make"
            " another index"
        )
    return found


_OF_MODEL = ("pooling", "length", "precision", "dtype")
"""Settings that an index of words does not have."""


def _settings(embedder: Embedder | None, given: Mapping[str, Any]) -> IndexSettings:
    """The settings of a new index; raises UserError for what cannot be."""
    room = PASSAGE if embedder is None else embedder.room
    tokens = given["tokens"]
    if tokens is None:
        tokens = min(room, PASSAGE - 2)
    overlap = tokens // 4 if given["overlap"] is None else given["overlap"]
    if tokens < 1 or (embedder is not None and tokens > room) or tokens >= 2**31:
        most = "" if embedder is None else f", and the model sees {room} of a text"
        raise UserError(f"--tokens {tokens}: at least 1{most}")
    if not 0 <= 2 * overlap <= tokens:
        raise UserError(f"--overlap {overlap}: from 0 to {tokens // 2}, half of a passage")
    rest = {name: given[name] for name in ("approximate", "shard") if given[name] is not None}
    if wrong := [name for name, value in rest.items() if not 1 <= value < 2**31]:
        raise UserError(f"--{wrong[0]} {rest[wrong[0]]}: must be from 1 to {2**31 - 1}")
    model = None
    if embedder is not None:
        model = IndexModel(
            path=identity(embedder.model.path),
            digest=embedder.digest,
            pooling=embedder.pooling,
            length=embedder.length,
            precision=embedder.model.run.precision,
            width=embedder.width,
        )
    return IndexSettings(model=model, tokens=tokens, overlap=overlap, **rest)


def _refuse_others(
    folder: Path,
    settings: IndexSettings,
    given: Mapping[str, Any],
    model: Path | None,
    *,
    words_only: bool,
) -> None:
    """Raises UserError where something else is asked for than what an index was begun with."""
    known = settings.model
    if known is None and model is not None:
        raise UserError(f"{folder}: an index of words alone; --model {model} is of another")
    if known is not None and words_only:
        raise UserError(f"{folder}: an index of vectors, by {known.path}; leave out --bm25")
    for name, value in given.items():
        of = known if name in ("pooling", "length", "precision") else settings
        is_ = None if of is None else getattr(of, name)
        if value is not None and value != is_:
            raise UserError(f"{folder}: its {name} is {is_}, and --{name} {value} is another")


def _read(path: Path, digest: str) -> FileText:
    """A file's text; raises UserError where it is none, or another than a moment ago."""
    content = path.read_bytes()
    if _digest(content) != digest:
        raise UserError(f"{path}: changed while it was read")
    return read_text(path, content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
