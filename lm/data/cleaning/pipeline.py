"""From a recipe to cleaned files: on all cores, in bounded memory, resumed after any end."""

import contextlib
import fcntl
import hashlib
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import Any

import msgspec

from lm.config import UserError, dump, parse, read_json
from lm.data.cleaning.base import AcrossDocuments
from lm.data.cleaning.observed import Observed
from lm.data.cleaning.recipe import Cleaning
from lm.data.cleaning.stages import (
    NOTHING_LEFT,
    NOTHING_LEFT_ABOUT,
    Chunk,
    Decided,
    Stage,
    Worker,
    bytes_of,
    member_path,
    stages_of,
)
from lm.data.cleaning.tally import (
    MANIFEST,
    ChunkTally,
    Manifest,
    ShardFile,
    Shown,
    SourceTally,
    StepRecord,
    StepTally,
    first_shown,
    read_manifest,
)
from lm.data.sources import Damaged, Document
from lm.output.files import write_whole

FORMAT = 1
DOCUMENTS = 2_000
"""Of a chunk, at most."""
BYTES = 4 << 20
"""Of a chunk, beyond which it takes no further document."""

OnChunk = Callable[[str, int, int | None], None]
"""Is told of each chunk: what is done, documents so far, of how many if that is known."""


class StageTally(msgspec.Struct):
    """What one stage came to; there is none before all its chunks are done."""

    chunks: list[str]
    of: list[tuple[str, int, int]]
    """(source, documents, bytes) of each chunk, as it was left."""
    sources: dict[str, SourceTally]
    steps: dict[str, StepTally]
    kept: list[Shown]


def clean(
    cleaning: Cleaning,
    out: Path,
    *,
    workers: int = 1,
    progress: OnChunk = lambda stage, done, total: None,
) -> Manifest:
    """Cleans what a recipe names into gzip files of JSON lines in `out`, with a manifest.

    Whatever ended it, the same call goes on from the chunks that are done, and gives the same
    bytes, however many workers there are. What is done already is not done again.

    Memory is that of a few chunks a worker (a chunk is 2,000 documents or 4 MB, or one document
    that is longer), and where documents are compared what `Observed` and `Near.decide` say.

    Raises UserError where a source or a step refuses, where `out` holds something else, and
    where files change while they are read.
    """
    read = _read_digest(cleaning)
    recipe = msgspec.to_builtins(cleaning)
    if (out / MANIFEST).exists():
        done = read_manifest(out)
        if (done.recipe, done.read) != (msgspec.json.decode(msgspec.json.encode(recipe)), read):
            raise UserError(
                f"{out}: holds the text of another recipe, or of files as they were; name"
                " another folder, or delete it"
            )
        return done
    work = out / "work"
    if not work.exists() and out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: holds other files; name a new folder")
    # What is wrong with a step is said before anything is written.
    worker = Worker(cleaning, work)
    worker.open()
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        _check_begun(work, cleaning, read)
        stages = stages_of(cleaning.steps)
        with _Crew(worker, workers) as crew:
            for stage in stages:
                _run(stage, cleaning, work, crew, progress)
        if _read_digest(cleaning) != read:
            shutil.rmtree(work)
            raise UserError(f"{out}: its sources changed while they were read; run again")
        manifest = _finish(cleaning, out, read, stages)
        shutil.rmtree(work)
    return manifest


def _read_digest(cleaning: Cleaning) -> str:
    files = [
        *((each.name, file) for each in cleaning.sources for file in each.corpus.files()),
        *((step.__class__.__name__, file) for step in cleaning.steps for file in step.files()),
    ]
    states = []
    for owner, (name, path) in files:
        with contextlib.suppress(FileNotFoundError):  # whoever opens it says so better
            state = path.stat()
            states.append((owner, name, state.st_size, state.st_mtime_ns))
    return hashlib.sha256(msgspec.json.encode(states)).hexdigest()


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Refuses a second process in the same folder; the kernel ends the lock with its owner."""
    with open(work / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{work.parent}: another process prepares it now") from None
        yield


def _check_begun(work: Path, cleaning: Cleaning, read: str) -> None:
    """Refuses to go on from what another recipe, or other files, left."""
    path = work / "begun.json"
    if path.exists():
        begun = read_json(path)
        before = parse(Cleaning, msgspec.json.encode(begun["recipe"]), str(path))
        if (begun["format"], begun["read"], before) != (FORMAT, read, cleaning):
            raise UserError(
                f"{work.parent}: was begun with another recipe, or with files as they were;"
                " name another folder, or delete it"
            )
        return
    content = {"format": FORMAT, "read": read, "recipe": msgspec.json.decode(dump(cleaning))}
    write_whole(path, msgspec.json.encode(content))


# Stages


def _run(
    stage: Stage, cleaning: Cleaning, work: Path, crew: "_Crew", progress: OnChunk
) -> None:
    """Runs a stage to its end, or goes on with it; what the one before left is then deleted."""
    if _tally_path(work, stage.number + 1).exists():
        return  # and what this one left may be deleted already
    folder, before = work / f"stage-{stage.number}", work / f"stage-{stage.number - 1}"
    folder.mkdir(exist_ok=True)
    names = [_name_of(cleaning, number) for number in (stage.decided, *stage.steps)]
    label = ", ".join(filter(None, names)) or "reading"
    if not _tally_path(work, stage.number).exists():
        sources: dict[str, SourceTally] = {}
        total = None
        if stage.number:
            earlier = _read_tally(work, stage.number - 1)
            tasks: Iterable[tuple[str, Chunk | None]] = [
                (name, None) for name in earlier.chunks
            ]
            total = sum(documents for _, documents, _ in earlier.of)
        else:
            tasks = _read(cleaning, sources)
        chunks, done = list[str](), 0
        for name in crew.run(stage, _noting(tasks, chunks), folder):
            done += _chunk_tally(folder, name).read_documents
            progress(label, done, total)
        chunks.sort()
        tally = _sum(folder, chunks, sources)
        write_whole(_tally_path(work, stage.number), msgspec.json.encode(tally))
    if stage.observed is not None and not (folder / "decided.json").exists():
        step = cleaning.steps[stage.observed]
        assert isinstance(step, AcrossDocuments)
        progress(f"comparing: {_name_of(cleaning, stage.observed)}", 0, None)
        tally = _read_tally(work, stage.number)
        observed = Observed(folder, tally.chunks)
        if tally.chunks:
            step.decide(observed)
        rows = observed.starts(step.row).tolist()
        decided = Decided(
            chunks=tally.chunks,
            sources=[source for source, _, _ in tally.of],
            documents=observed.documents.tolist(),
            rows=rows,
            observed=observed.names,
            decisions=observed.decisions,
        )
        write_whole(folder / "decided.json", msgspec.json.encode(decided))
        write_whole(work / f"notes-{stage.observed}.json", msgspec.json.encode(observed.notes))
    if before.exists():
        shutil.rmtree(before)


def _name_of(cleaning: Cleaning, number: int | None) -> str:
    return "" if number is None else str(cleaning.steps[number].__struct_config__.tag)


def _noting(
    tasks: Iterable[tuple[str, Chunk | None]], chunks: list[str]
) -> Iterator[tuple[str, Chunk | None]]:
    for name, chunk in tasks:
        chunks.append(name)
        yield name, chunk


def _tally_path(work: Path, number: int) -> Path:
    return work / f"stage-{number}.json"


def _read_tally(work: Path, number: int) -> StageTally:
    return msgspec.json.decode(_tally_path(work, number).read_bytes(), type=StageTally)


def _chunk_tally(folder: Path, name: str) -> ChunkTally:
    return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=ChunkTally)


def _sum(folder: Path, chunks: list[str], sources: dict[str, SourceTally]) -> StageTally:
    """What all chunks of a stage came to."""
    total = StageTally(chunks, [], sources, {}, [])
    for name in chunks:
        tally = _chunk_tally(folder, name)
        total.of.append((tally.source, tally.documents, tally.bytes))
        source = sources.setdefault(tally.source, SourceTally())
        source.documents += tally.read_documents
        source.bytes += tally.read_bytes
        source.kept_documents += tally.documents
        source.kept_bytes += tally.bytes
        source.held_documents += tally.held_documents
        source.held_bytes += tally.held_bytes
        for number, step in tally.steps.items():
            total.steps.setdefault(number, StepTally()).add(step)
        total.kept = first_shown([*total.kept, *tally.kept])
    return total


def _read(
    cleaning: Cleaning, sources: dict[str, SourceTally]
) -> Iterator[tuple[str, Chunk | None]]:
    """Chunks with their names, in the order of their documents; damage is counted."""
    number = 0
    for each in cleaning.sources:
        tally = sources[each.name] = SourceTally()
        chunk, size = Chunk(each.name, [], []), 0
        try:
            if each.corpus.tokenized:
                raise UserError("it is tokens; clean the text that they were made of")
            for found in each.corpus.read_all():
                if isinstance(found, Damaged):
                    tally.damaged += 1
                    tally.first_damaged = tally.first_damaged or f"{found.place}: {found.why}"
                if not isinstance(found, Document):
                    continue
                chunk.ids.append(found.id)
                chunk.texts.append(found.text)
                size += _size_of(found)
                if len(chunk.ids) >= DOCUMENTS or size >= BYTES:
                    yield f"{number:08}", chunk
                    number += 1
                    chunk, size = Chunk(each.name, [], []), 0
        except UserError as error:
            raise UserError(f"sources: {each.name}: {error}") from None
        if chunk.ids:
            yield f"{number:08}", chunk
            number += 1


def _size_of(document: Document) -> int:
    try:
        return bytes_of(document.text)
    except UnicodeEncodeError:
        raise UserError(
            f"{document.id}: holds half a character (a lone surrogate); mend it or leave it out"
        ) from None


# Workers


class _Crew:
    """Processes that each do chunks, or this one where one is enough."""

    def __init__(self, worker: Worker, workers: int) -> None:
        self._worker, self._workers = worker, workers
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def __enter__(self) -> "_Crew":
        return self

    def __exit__(self, *ending: object) -> None:
        """Whatever is under way is dropped: no chunk counts before its tally is written."""
        if self._pool is None:
            return
        for child in set(multiprocessing.active_children()) - self._others:
            child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self, stage: Stage, tasks: Iterable[tuple[str, Chunk | None]], folder: Path
    ) -> Iterator[str]:
        """The names of chunks as they are done; those that were done before come with them."""
        waiting: deque[tuple[str, Future[None] | None]] = deque()
        for name, chunk in tasks:
            future = None
            if not (folder / f"{name}.json").exists():
                if self._workers == 1:
                    self._worker.run(stage, name, chunk)
                else:
                    future = self._submit(stage, name, chunk)
            waiting.append((name, future))
            while len(waiting) > (2 * self._workers if self._workers > 1 else 0):
                yield self._finished(*waiting.popleft())
        while waiting:
            yield self._finished(*waiting.popleft())

    def _submit(self, stage: Stage, name: str, chunk: Chunk | None) -> "Future[None]":
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__])
            recipe = msgspec.json.encode(self._worker.cleaning)
            self._pool = ProcessPoolExecutor(
                self._workers, context, _begin, (recipe, self._worker.work)
            )
        return self._pool.submit(_work, stage, name, chunk)

    def _finished(self, name: str, future: "Future[None] | None") -> str:
        try:
            if future is not None:
                future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was ended from outside, perhaps for want of memory; the same"
                " command goes on, with --workers fewer at a time"
            ) from None
        return name


_mine: Worker | None = None


def _begin(recipe: bytes, work: Path) -> None:
    """Makes a new process a worker, which ends with the one that it works for."""
    global _mine
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.SIG_IGN)  # it is asked instead, and ends this
    _mine = Worker(parse(Cleaning, recipe, "recipe"), work)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(stage: Stage, name: str, chunk: Chunk | None) -> None:
    assert _mine is not None
    _mine.run(stage, name, chunk)


# The end


def _finish(cleaning: Cleaning, out: Path, read: str, stages: list[Stage]) -> Manifest:
    """Joins what the last stage left into files, and writes what was counted beside them."""
    work = out / "work"
    tallies = [_read_tally(work, stage.number) for stage in stages]
    sources, last = tallies[0].sources, tallies[-1]
    for each in cleaning.sources:
        source = sources.setdefault(each.name, SourceTally())
        left = last.sources.get(each.name, SourceTally())
        for name in ("kept_documents", "kept_bytes", "held_documents", "held_bytes"):
            setattr(source, name, getattr(left, name))
    steps = []
    for number, step in enumerate(cleaning.steps):
        tally = StepTally()
        for stage in tallies:
            tally.add(stage.steps.get(str(number), StepTally()))
        about = dict(step.applied())
        if NOTHING_LEFT in tally.rules:
            about[NOTHING_LEFT] = NOTHING_LEFT_ABOUT
        notes = work / f"notes-{number}.json"
        found: list[str] = msgspec.json.decode(notes.read_bytes()) if notes.exists() else []
        steps.append(StepRecord(_name_of(cleaning, number), about, tally, found))
    manifest = Manifest(
        format=FORMAT,
        recipe=msgspec.json.decode(msgspec.json.encode(cleaning)),
        read=read,
        sources={each.name: sources[each.name] for each in cleaning.sources},
        steps=steps,
        kept=last.kept,
        shards=_join(cleaning, out, work / f"stage-{stages[-1].number}", last),
    )
    content: Any = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    write_whole(out / MANIFEST, content)
    return manifest


def _join(cleaning: Cleaning, out: Path, folder: Path, last: StageTally) -> list[ShardFile]:
    """Writes the files: chunks in their order, so that each file has about as many bytes."""
    total = max(sum(size for _, _, size in last.of), 1)
    by_file: dict[int, list[int]] = {}
    before = 0
    for number, (_, documents, size) in enumerate(last.of):
        if documents:
            by_file.setdefault(before * cleaning.shards // total, []).append(number)
        before += size
    found = []
    parts = [*by_file.values()] or [[]]
    for number, chunks in enumerate(parts):
        name = f"part-{number:05}-of-{len(parts):05}.jsonl.gz"
        digest, temporary = hashlib.sha256(), out / "work" / name
        with temporary.open("wb") as file:
            for chunk in chunks:
                content = member_path(folder, last.chunks[chunk]).read_bytes()
                digest.update(content)
                file.write(content)
        os.replace(temporary, out / name)
        found.append(
            ShardFile(
                name,
                sum(last.of[chunk][1] for chunk in chunks),
                sum(last.of[chunk][2] for chunk in chunks),
                digest.hexdigest(),
            )
        )
    return found
