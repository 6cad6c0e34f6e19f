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

import msgspec

from lm.config import UserError, parse
from lm.data import cache
from lm.data.cleaning.base import AcrossDocuments
from lm.data.cleaning.chunks import Chunk
from lm.data.cleaning.cleaner import Stage, stages_of
from lm.data.cleaning.observed import Observed
from lm.data.cleaning.reading import chunks_of, digest_of_files
from lm.data.cleaning.recipe import Cleaning
from lm.data.cleaning.shards import (
    check_begun,
    check_done,
    manifest_of,
    shard_name,
    shards_of,
)
from lm.data.cleaning.stages import Decided, Worker, member_path
from lm.data.cleaning.tally import (
    MANIFEST,
    ChunkTally,
    Manifest,
    ShardFile,
    SourceTally,
    StageTally,
    manifest_in,
    read_manifest,
)
from lm.data.remote import Folder
from lm.output.files import write_whole

WORK = "stages 2"
"""How what stands in a folder before it is done is written."""
OnChunk = Callable[[str, int, int | None], None]
"""Is told of each chunk: what is done, documents so far, of how many if that is known."""


def clean(
    cleaning: Cleaning,
    out: Path | str,
    *,
    workers: int = 1,
    progress: OnChunk = lambda stage, done, total: None,
) -> Manifest:
    """Cleans what a recipe names into compressed files of JSON lines in `out`, with a manifest.

    Whatever ended it, the same call goes on from the chunks that are done, and gives the same
    bytes, however many workers there are. What is done already is not done again.

    Memory is that of a few chunks a worker (a chunk is 2,000 documents or 4 MB, or one document
    that is longer), and where documents are compared what `Observed` and `Near.decide` say.

    Raises UserError where a source or a step refuses, where `out` holds something else, and
    where files change while they are read.
    """
    out, read = Path(out), digest_of_files(cleaning)
    if (out / MANIFEST).exists():
        done = read_manifest(out)
        check_done(done, cleaning, read, str(out))
        return done
    work = out / "work"
    if not work.exists() and out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: holds other files; name a new folder")
    # What is wrong with a step is said before anything is written.
    worker = Worker(cleaning, work)
    worker.cleaner.open()
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        check_begun(Folder(str(out)), WORK, cleaning, read)
        stages = stages_of(cleaning.steps)
        with _Crew(worker, workers) as crew:
            for stage in stages:
                _run(stage, cleaning, work, crew, progress)
        if digest_of_files(cleaning) != read:
            shutil.rmtree(work)
            raise UserError(f"{out}: its sources changed while they were read; run again")
        manifest = _finish(cleaning, out, read, stages)
        shutil.rmtree(work)
    return manifest


def clean_to_bucket(
    cleaning: Cleaning,
    out: str,
    *,
    workers: int = 1,
    progress: OnChunk = lambda stage, done, total: None,
) -> Manifest:
    """Cleans in `$LM_CACHE/cleaned`, then copies the files into a bucket, the manifest last.

    As `clean`, it goes on after any end; of files that were copied some are copied again.
    """
    bucket = Folder(out)
    if (content := bucket.read(MANIFEST)) is not None:
        done = manifest_in(content, out)
        check_done(done, cleaning, digest_of_files(cleaning), out)
        return done
    name = hashlib.sha256(bucket.place.encode()).hexdigest()[:16]
    here = cache.folder() / "cleaned" / name
    if not here.exists() and bucket.names():
        raise UserError(f"{out}: holds other files; name a new folder")
    manifest = clean(cleaning, here, workers=workers, progress=progress)
    for number, shard in enumerate(manifest.shards):
        bucket.upload(here / shard.name, shard.name)
        progress("copying files", sum(s.documents for s in manifest.shards[: number + 1]), None)
    bucket.write(MANIFEST, (here / MANIFEST).read_bytes())
    shutil.rmtree(here)
    return manifest


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Refuses a second process in the same folder; the kernel ends the lock with its owner."""
    with open(work / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{work.parent}: another process prepares it now") from None
        yield


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
            decisions=[*observed.decisions],
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
    total = StageTally(chunks, sources=sources)
    for name in chunks:
        total.count(_chunk_tally(folder, name))
    return total


def _read(
    cleaning: Cleaning, sources: dict[str, SourceTally]
) -> Iterator[tuple[str, Chunk | None]]:
    """Chunks with their names, in the order of their documents; damage is counted."""
    number = 0
    for each in cleaning.sources:
        tally = sources[each.name] = SourceTally()
        for chunk in chunks_of(each, tally):
            yield f"{number:08}", chunk
            number += 1


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
    notes = {
        number: msgspec.json.decode(path.read_bytes(), type=list[str])
        for number in range(len(cleaning.steps))
        if (path := work / f"notes-{number}.json").exists()
    }
    files = _join(cleaning, out, work / f"stage-{stages[-1].number}", tallies[-1])
    manifest = manifest_of(cleaning, read, tallies, notes, files)
    write_whole(out / MANIFEST, manifest.to_json())
    return manifest


def _join(cleaning: Cleaning, out: Path, folder: Path, last: StageTally) -> list[ShardFile]:
    """Writes the files: chunks in their order, so that each file has about as many bytes."""
    found = []
    parts = shards_of([size for _, _, size in last.of], cleaning.shards)
    for number, chunks in enumerate(parts):
        name = shard_name(number, len(parts), cleaning.compression)
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
