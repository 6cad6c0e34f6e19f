"""What one process does with one chunk of documents in one stage.

A stage is what can be done to each document without knowing the others: what a compared step
decided of it, then steps by document, then what the next compared step observes. A chunk that
is done has a tally, written last, so that whatever was cut short is done again.
"""

import gzip
import io
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from lm.data.cleaning.base import AcrossDocuments, Base, TextJudge, Verdict
from lm.data.cleaning.observed import array_path, decision_path
from lm.data.cleaning.pii import Pii
from lm.data.cleaning.recipe import Cleaning, CleaningStep
from lm.data.cleaning.tally import EXAMPLES, EXCERPT, ChunkTally, Shown, StepTally
from lm.data.cleaning.words import hash_of, plain_words
from lm.data.corpora import fraction_of
from lm.output.files import write_whole

NOTHING_LEFT = "nothing left"
NOTHING_LEFT_ABOUT = "documents of which only white space is left"
LEVEL = 3
"""Of gzip: beyond it, half the time of all cleaning would be compression."""


class Stage(NamedTuple):
    """What is done to chunks in one go; steps by their numbers in the recipe."""

    number: int
    decided: int | None
    steps: tuple[int, ...]
    observed: int | None


def stages_of(steps: Sequence[CleaningStep]) -> list[Stage]:
    """Cuts steps into stages at those that compare all documents.

    >>> from lm.data.cleaning.c4 import C4
    >>> from lm.data.cleaning.exact import ExactCopies
    >>> for stage in stages_of((C4(), ExactCopies(), C4())):
    ...     print(*stage)
    0 None (0,) 1
    1 1 (2,) None
    """
    found: list[Stage] = []
    decided, inside = None, list[int]()
    for number, step in enumerate(steps):
        if isinstance(step, AcrossDocuments):
            found.append(Stage(len(found), decided, tuple(inside), number))
            decided, inside = number, []
        else:
            inside.append(number)
    return [*found, Stage(len(found), decided, tuple(inside), None)]


class Chunk(msgspec.Struct):
    """Documents of one source, in their order."""

    source: str
    ids: list[str]
    texts: list[str]


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


def bytes_of(text: str) -> int:
    """Bytes of a text in UTF-8.

    >>> bytes_of("abc"), bytes_of("é")
    (3, 2)
    """
    return len(text) if text.isascii() else len(text.encode())


class Worker:
    """What a process needs for every chunk: the recipe, its steps opened, the folder."""

    def __init__(self, cleaning: Cleaning, work: Path) -> None:
        self.cleaning = cleaning
        self.work = work
        self._judges: dict[int, TextJudge] = {}
        self._mask = Pii().open()
        self._sources = [each.name for each in cleaning.sources]
        self._decided = lru_cache(maxsize=1)(self._read_decided)
        self._ids = lru_cache(maxsize=8)(self._read_ids)

    def open(self) -> None:
        """Opens all steps, so that what is wrong with one is found before any work."""
        for number, step in enumerate(self.cleaning.steps):
            if isinstance(step, Base):
                self._judges[number] = step.open()

    def run(self, stage: Stage, name: str, chunk: Chunk | None = None) -> None:
        """Does a stage's work on a chunk, which is given or what the stage before left."""
        if chunk is None:
            chunk = read_chunk(self.folder(stage.number - 1), name)
        steps: dict[str, StepTally] = {}
        came = len(chunk.texts), sum(map(bytes_of, chunk.texts))
        if stage.decided is not None:
            steps[str(stage.decided)] = tally = StepTally()
            verdicts = self._of_decisions(stage, name, chunk)
            chunk = self._apply(stage.decided, tally, chunk, verdicts, stage)
        for number in stage.steps:
            steps[str(number)] = tally = StepTally()
            if number not in self._judges:
                step = self.cleaning.steps[number]
                assert isinstance(step, Base)
                self._judges[number] = step.open()
            verdicts = self._judges[number](chunk.texts)
            chunk = self._apply(number, tally, chunk, verdicts, stage)
        held = np.array([self._held_out(text) for text in chunk.texts], bool)
        sizes = np.array([*map(bytes_of, chunk.texts)], np.int64)
        done = ChunkTally(
            source=chunk.source,
            documents=len(sizes),
            bytes=int(sizes.sum()),
            held_documents=int(held.sum()),
            held_bytes=int(sizes[held].sum()),
            steps=steps,
            kept=[],
            read_documents=came[0],
            read_bytes=came[1],
        )
        folder = self.folder(stage.number)
        if stage.observed is not None:
            self._observe(stage.observed, folder, name, chunk, held)
            write_chunk(folder, name, chunk)
        else:
            done.kept = self._shown_of_kept(chunk)
            write_whole(member_path(folder, name), member_of(chunk))
        plain_words.cache_clear()
        write_whole(folder / f"{name}.json", msgspec.json.encode(done))

    def folder(self, number: int) -> Path:
        """Where a stage's chunks are."""
        return self.work / f"stage-{number}"

    def _held_out(self, text: str) -> bool:
        return fraction_of(text.encode()) < self.cleaning.validation

    def _of_decisions(self, stage: Stage, name: str, chunk: Chunk) -> list[Verdict]:
        assert stage.decided is not None
        step = self.cleaning.steps[stage.decided]
        assert isinstance(step, AcrossDocuments)
        before = self.folder(stage.number - 1)
        decided = self._decided(before)
        number = decided.chunks.index(name)
        rows = slice(decided.rows[number], decided.rows[number + 1])
        arrays = {
            key: np.load(array_path(before, name, key), mmap_mode="r")
            for key in decided.observed
        }
        for key in decided.decisions:
            whole = np.load(decision_path(before, key), mmap_mode="r")
            arrays[key] = np.array(whole[rows])
        return step.judge(chunk.texts, arrays)

    def _observe(
        self, number: int, folder: Path, name: str, chunk: Chunk, held: np.ndarray
    ) -> None:
        step = self.cleaning.steps[number]
        assert isinstance(step, AcrossDocuments)
        source = self._sources.index(chunk.source)
        arrays = {
            **step.observe(chunk.texts, self.cleaning.seed),
            "ranks": np.array(
                [rank_of(source, chunk.source, id) for id in chunk.ids], np.uint64
            ),
            "held": held,
        }
        for key, array in arrays.items():
            file = io.BytesIO()
            np.save(file, array)
            write_whole(array_path(folder, name, key), file.getvalue())

    def _apply(
        self,
        number: int,
        tally: StepTally,
        chunk: Chunk,
        verdicts: list[Verdict],
        stage: Stage,
    ) -> Chunk:
        """What is left of a chunk, and counts what is not."""
        ids, texts = [], []
        secret = isinstance(self.cleaning.steps[number], Pii)
        for id, text, verdict in zip(chunk.ids, chunk.texts, verdicts, strict=True):
            rule = verdict.rule
            if not rule and (verdict.text is not text and not verdict.text.strip()):
                rule = NOTHING_LEFT
            changes = [rule] if rule else [*verdict.changes]
            for each in changes:
                removal = tally.of(each, chunk.source)
                if rule:
                    removal.documents += 1
                    removal.bytes += bytes_of(text)
                else:
                    removal.changed += 1
                    removal.changes += verdict.changes[each]
                if verdict.twin >= 0:
                    removal.across += verdict.across
                    source = self._twin_source(stage, verdict.twin)
                    removal.twins[source] = removal.twins.get(source, 0) + 1
            if not rule:
                ids.append(id)
                texts.append(verdict.text)
                if changes:
                    tally.cut += bytes_of(text) - bytes_of(verdict.text)
            if changes and not secret and (rule or len(changes) == 1):
                self._show(tally, changes[0], chunk.source, id, text, verdict, stage)
        return Chunk(chunk.source, ids, texts)

    def _show(
        self,
        tally: StepTally,
        rule: str,
        source: str,
        id: str,
        text: str,
        verdict: Verdict,
        stage: Stage,
    ) -> None:
        """Keeps an example: what is removed, or the lines that are cut."""
        order = hash_of(f"{self.cleaning.seed}\0{rule}\0{source}\0{id}".encode())
        order >>= 1  # JSON's readers know no larger integers
        shown = tally.examples.get(rule, [])
        if len(shown) == EXAMPLES and shown[-1].order < order:
            return  # most are not shown, and need no excerpt
        if rule in verdict.changes:
            left = set(verdict.text.split("\n"))
            text = "\n".join(line for line in text.split("\n") if line.strip() not in left)
        twin = self._twin_name(stage, verdict.twin) if verdict.twin >= 0 else ""
        masked = self._masked(text)
        why = self._masked(verdict.why)
        tally.show(rule, Shown(order, source, id, why, masked, twin))

    def _masked(self, text: str) -> str:
        """The beginning of a text as it may be shown to anybody.

        What is masked is a little more than what is shown, so that no address is cut in two.
        """
        return self._mask([text[: 2 * EXCERPT]])[0].text[:EXCERPT]

    def _shown_of_kept(self, chunk: Chunk) -> list[Shown]:
        orders = [
            hash_of(f"{self.cleaning.seed}\0kept\0{chunk.source}\0{id}".encode()) >> 1
            for id in chunk.ids
        ]
        least = sorted(range(len(orders)), key=orders.__getitem__)[:EXAMPLES]
        return [
            Shown(orders[n], chunk.source, chunk.ids[n], "", self._masked(chunk.texts[n]))
            for n in least
        ]

    def _read_decided(self, folder: Path) -> Decided:
        return msgspec.json.decode((folder / "decided.json").read_bytes(), type=Decided)

    def _read_ids(self, folder: Path, name: str) -> list[str]:
        return read_chunk(folder, name).ids

    def _place(self, stage: Stage, twin: int) -> tuple[Decided, int]:
        decided = self._decided(self.folder(stage.number - 1))
        return decided, int(np.searchsorted(decided.documents, twin, side="right")) - 1

    def _twin_source(self, stage: Stage, twin: int) -> str:
        decided, chunk = self._place(stage, twin)
        return decided.sources[chunk]

    def _twin_name(self, stage: Stage, twin: int) -> str:
        decided, chunk = self._place(stage, twin)
        ids = self._ids(self.folder(stage.number - 1), decided.chunks[chunk])
        return f"{decided.sources[chunk]}: {ids[twin - decided.documents[chunk]]}"


def rank_of(number: int, source: str, id: str) -> int:
    """Which of two documents stays: the one with the lower rank.

    Sources come in their order; within one, ids in the order of a hash.

    >>> rank_of(0, "a", "z") < rank_of(1, "b", "a")
    True
    """
    return number << 56 | hash_of(f"{source}\0{id}".encode()) >> 8


def write_chunk(folder: Path, name: str, chunk: Chunk) -> None:
    """Keeps documents between two stages."""
    write_whole(folder / f"{name}.chunk", zlib.compress(msgspec.msgpack.encode(chunk), 1))


def read_chunk(folder: Path, name: str) -> Chunk:
    """What `write_chunk` kept."""
    content = zlib.decompress((folder / f"{name}.chunk").read_bytes())
    return msgspec.msgpack.decode(content, type=Chunk)


def member_path(folder: Path, name: str) -> Path:
    """Where the lines of a chunk are, once nothing more is done to it."""
    return folder / f"{name}.gz"


def member_of(chunk: Chunk) -> bytes:
    """The lines of a chunk, compressed: files are such members one behind the other."""
    lines: list[dict[str, Any]] = [
        {"id": id, "source": chunk.source, "text": text}
        for id, text in zip(chunk.ids, chunk.texts, strict=True)
    ]
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    return gzip.compress(content, LEVEL, mtime=0) if content else b""
