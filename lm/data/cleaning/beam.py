"""The same cleaning as an Apache Beam pipeline, for what is more than one machine cleans.

What flows are chunks, by names that sort in the order in which one machine reads. A stage is
one map over them, by the same `Cleaner`; where documents are compared, chunks wait for what is
decided (`CoGroupByKey`):

- Hashes are cut by their first bits into `1 << BITS` groups, in which equal ones meet.
- Where they are decided upon `apart` (`exact`), each group decides about its own.
- Else (`near`) a group only says which documents meet another at all. These, with their sets of
  runs, go to one worker, which decides as one machine does (`AcrossDocuments.decide`): on its
  disk are 4 bytes for each of their words, in its memory their ids and about a kilobyte each.

Each file is written by one worker, which holds it compressed; the manifest is written last.
"""

import hashlib
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from lm.config import UserError, parse
from lm.data.cleaning.base import AcrossDocuments
from lm.data.cleaning.chunks import Chunk, member_of, pack, unpack
from lm.data.cleaning.cleaner import Cleaner, Decisions, Stage, stages_of
from lm.data.cleaning.observed import Gathered, Observed, array_path
from lm.data.cleaning.reading import SourcePart, chunks_of_part, digest_of_files, parts_of
from lm.data.cleaning.recipe import Cleaning
from lm.data.cleaning.shards import (
    check_begun,
    check_done,
    manifest_of,
    shard_name,
    shards_of,
)
from lm.data.cleaning.tally import (
    MANIFEST,
    Manifest,
    ShardFile,
    SourceTally,
    StageTally,
    manifest_in,
)
from lm.data.remote import Folder

BITS = 10
"""Of a hash, that say in which group it meets others."""
RUNNER = "FnApiRunner"
"""Beam's own in Python; DirectRunner may ask for Prism, a program that it downloads."""
_UNFINISHED = f"work/{MANIFEST}"


def clean_by_beam(cleaning: Cleaning, out: str, options: Sequence[str] = ()) -> Manifest:
    """Cleans as `clean` does, by a pipeline with these options, as `runner=FlinkRunner`.

    The text, its ids, the counts and the examples are those of `clean`; files begin and end
    elsewhere where a source has several. Killed, it begins again. Sources, the files that steps
    read, and `out` are to be where every worker reaches them: in a bucket, or on a disk that
    all share.

    Raises UserError as `clean` does, and where Beam is not installed.
    """
    beam = _library()
    read = digest_of_files(cleaning)
    folder = Folder(out)
    if (content := folder.read(MANIFEST)) is not None:
        done = manifest_in(content, out)
        check_done(done, cleaning, read, out)
        return done
    Cleaner(cleaning).open()
    parts = [
        (number, part)
        for number, each in enumerate(cleaning.sources)
        for part in parts_of(each)
    ]
    check_begun(folder, "beam", cleaning, read)
    # It would show the traceback of what is told in one line, and raises it too.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
    try:
        with beam.Pipeline(options=_options(options)) as pipeline:
            _build(pipeline, cleaning, parts, out, read)
    except Exception as error:
        raise _in_one_line(error) from error
    if (content := folder.read(_UNFINISHED)) is None:
        raise UserError(f"{out}: workers wrote nothing there; name what they reach, too")
    if digest_of_files(cleaning) != read:
        raise UserError(f"{out}: its sources changed while they were read; name another folder")
    folder.write(MANIFEST, content)
    folder.remove("work")
    return manifest_in(content, out)


def _library() -> Any:
    try:
        import apache_beam
    except ImportError:
        raise UserError("--beam needs apache-beam: pip install 'yardstick-lm[beam]'") from None
    return apache_beam


def _options(given: Sequence[str]) -> Any:
    """Beam's own options, of which it knows what they mean."""
    from apache_beam.options.pipeline_options import PipelineOptions

    if not any(each.partition("=")[0] == "runner" for each in given):
        given = [f"runner={RUNNER}", *given]
    return PipelineOptions([f"--{each}" for each in given])


def _in_one_line(error: Exception) -> Exception:
    """What a worker refused, of whose error a runner makes text with a traceback."""
    found = re.search(r"\bUserError: ([^\n]*?)(?: \[while running|\\n|\n|$)", str(error))
    if isinstance(error, UserError):
        return UserError(str(error).partition(" [while running")[0])
    return error if found is None else UserError(found[1])


def _build(
    pipeline: Any, cleaning: Cleaning, parts: list[tuple[int, SourcePart]], out: str, read: str
) -> None:
    import apache_beam as beam

    recipe = msgspec.json.encode(cleaning)
    reading = (
        pipeline
        | "Parts" >> beam.Create(parts)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.FlatMap(_read).with_outputs("damage", main="chunks")
    )
    flow, decided, tallies, notes = reading.chunks, None, [], []
    for stage in stages_of(cleaning.steps):
        if stage.decided is not None:
            both = {"chunk": flow, "decided": decided}
            flow = both | f"Join {stage.decided}" >> beam.CoGroupByKey()
        done = flow | f"Clean {stage.number}" >> beam.FlatMap(
            _clean, recipe, stage
        ).with_outputs("tally", "hashes", "observed", "size", main="chunks")
        flow = done.chunks
        tallies.append(done.tally)
        if stage.observed is None:
            continue
        number = stage.observed
        decided = done.hashes | f"Meet {number}" >> beam.GroupByKey()
        if _compared(cleaning, number).apart:
            decided |= f"Decide {number}" >> beam.FlatMap(_decide_apart, recipe, number)
            continue
        rows = decided | f"Meeting {number}" >> beam.FlatMap(_meeting)
        both = {"rows": rows, "observed": done.observed}
        decided = (
            both
            | f"Gather {number}" >> beam.CoGroupByKey()
            | f"Choose {number}" >> beam.FlatMap(_choose, recipe, number)
            | f"One place {number}" >> beam.GroupByKey()
            | f"Decide {number}"
            >> beam.FlatMap(_decide, recipe, number).with_outputs("notes", main="decided")
        )
        notes.append(decided.notes)
        decided = decided.decided
    _write(pipeline, cleaning, recipe, done, tallies, notes, reading.damage, out, read)


def _write(
    pipeline: Any,
    cleaning: Cleaning,
    recipe: bytes,
    last: Any,
    tallies: list[Any],
    notes: list[Any],
    damage: Any,
    out: str,
    read: str,
) -> None:
    import apache_beam as beam
    from apache_beam.pvalue import AsList, AsSingleton

    plan = (
        pipeline
        | "Plan" >> beam.Create([cleaning.shards])
        | "Sizes" >> beam.Map(_plan, AsList(last.size))
    )
    files = (
        last.chunks
        | "Place" >> beam.Map(_place, AsSingleton(plan))
        | "Files" >> beam.GroupByKey()
        | "Write" >> beam.Map(_write_file, recipe, out, AsSingleton(plan))
    )
    totals = tallies | "Tallies" >> beam.Flatten() | "Sum" >> beam.CombinePerKey(_sum)
    said = (
        notes | "Notes" >> beam.Flatten() if notes else pipeline | "No notes" >> beam.Create([])
    )
    (
        pipeline
        | "End" >> beam.Create([len(tallies)])
        | "Manifest"
        >> beam.Map(
            _finish,
            recipe,
            read,
            out,
            AsList(totals),
            AsList(damage),
            AsList(said),
            AsList(files),
        )
    )


# What workers do. Annotations say Any where Beam would take them for the types of a schema.


@lru_cache(maxsize=1)
def _cleaner(recipe: bytes) -> Cleaner:
    """The recipe with its steps opened, once a process."""
    cleaner = Cleaner(parse(Cleaning, recipe, "recipe"))
    cleaner.open()
    return cleaner


def _compared(cleaning: Cleaning, number: int) -> AcrossDocuments:
    step = cleaning.steps[number]
    assert isinstance(step, AcrossDocuments)
    return step


def _tagged(tag: str, value: Any) -> Any:
    from apache_beam.pvalue import TaggedOutput

    return TaggedOutput(tag, value)


def _read(element: Any) -> Iterator[Any]:
    """The chunks of a part, by their names; how much of it is damaged."""
    source, part = element
    tally = SourceTally()
    for number, chunk in enumerate(chunks_of_part(part, tally)):
        yield f"{source:03}-{part.number:07}-{number:08}", pack(chunk)
    if tally.damaged:
        found = part.source, part.number, tally.damaged, tally.first_damaged
        yield _tagged("damage", found)


class _Seen(NamedTuple):
    """What was observed of some rows of a chunk."""

    name: str
    source: str
    ids: list[str]
    """Of the documents that these rows are of."""
    rows: np.ndarray
    """Their numbers in the chunk."""
    arrays: Mapping[str, np.ndarray]


class _Decided(NamedTuple):
    """What was decided about some rows of a chunk."""

    rows: np.ndarray
    values: Mapping[str, np.ndarray]
    twins: list[tuple[str, str]]
    """(source, id) of the documents that the value `twin` numbers."""


class _Named(NamedTuple):
    """Documents by their numbers in a list of sources and ids."""

    twins: list[tuple[str, str]]

    def source(self, twin: int) -> str:
        return self.twins[twin][0]

    def name(self, twin: int) -> str:
        return ": ".join(self.twins[twin])


def _clean(element: Any, recipe: bytes, stage: Stage) -> Iterator[Any]:
    """A stage's work on a chunk, and what is to be known of it to decide."""
    name, given = element
    cleaner = _cleaner(recipe)
    decisions = None
    if stage.decided is not None:
        step = _compared(cleaner.cleaning, stage.decided)
        ((packed, kept),) = given["chunk"]
        decisions = _decisions(step, kept, given["decided"])
    else:
        packed = given
    done = cleaner.work(stage, unpack(packed), decisions)
    tally = StageTally()
    tally.count(done.tally)
    tally.of.clear()
    yield _tagged("tally", (stage.number, tally))
    if stage.observed is not None:
        step = _compared(cleaner.cleaning, stage.observed)
        yield name, (pack(done.chunk), {key: done.observed[key] for key in step.judged_by})
        yield from _observed(step, name, done.chunk, done.observed)
    elif done.tally.bytes:
        yield _tagged("size", (name, done.tally.bytes))
        member = member_of(done.chunk, cleaner.cleaning.compression)
        yield name, (done.tally.documents, done.tally.bytes, member)


def _observed(
    step: AcrossDocuments, name: str, chunk: Chunk, observed: Mapping[str, np.ndarray]
) -> Iterator[Any]:
    """What was observed of a chunk, cut into the groups in which it meets others."""
    hashes, rows = step.hashes(observed)
    groups = (hashes >> np.uint64(64 - BITS)).astype(np.int64)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    for places in np.split(order, starts[1:]) if len(order) else ():
        group = int(groups[places[0]])
        if step.apart:
            arrays, documents = step.some(observed, rows[places])
            ids = [chunk.ids[document] for document in documents.tolist()]
            seen = _Seen(name, chunk.source, ids, rows[places], arrays)
            yield _tagged("hashes", (group, seen))
        else:
            yield _tagged("hashes", (group, (name, hashes[places], rows[places])))
    if not step.apart:
        everything = np.arange(len(observed[step.row]))
        seen = _Seen(name, chunk.source, chunk.ids, everything, observed)
        yield _tagged("observed", (name, seen))


def _decide_apart(element: Any, recipe: bytes, number: int) -> Iterator[Any]:
    """What one group decides about the rows that meet in it."""
    seen = sorted(element[1], key=lambda each: each.name)
    observed = Gathered([each.arrays for each in seen])
    step = _compared(_cleaner(recipe).cleaning, number)
    step.decide(observed)
    yield from _decided(step, observed, seen)


def _meeting(element: Any) -> Iterator[Any]:
    """The rows of each chunk that meet another in a group."""
    _, found = element
    found = [*found]
    _, which, counts = np.unique(
        np.concatenate([hashes for _, hashes, _ in found]),
        return_inverse=True,
        return_counts=True,
    )
    ends = np.cumsum([len(rows) for _, _, rows in found])
    for (name, _, rows), meets in zip(
        found, np.split(counts[which] > 1, ends[:-1]), strict=True
    ):
        if meets.any():
            yield name, rows[meets]


def _choose(element: Any, recipe: bytes, number: int) -> Iterator[Any]:
    """Of what was observed of a chunk, the rows that meet another."""
    _, found = element
    rows = [*found["rows"]]
    if rows:
        (seen,) = found["observed"]
        chosen = np.unique(np.concatenate(rows))
        step = _compared(_cleaner(recipe).cleaning, number)
        arrays, documents = step.some(seen.arrays, chosen)
        ids = [seen.ids[document] for document in documents.tolist()]
        yield 0, _Seen(seen.name, seen.source, ids, chosen, arrays)


def _decide(element: Any, recipe: bytes, number: int) -> Iterator[Any]:
    """What is decided in one place: arrays are on disk, as they are on one machine."""
    step = _compared(_cleaner(recipe).cleaning, number)
    with tempfile.TemporaryDirectory() as temporary:
        folder, seen = Path(temporary), list[_Seen]()
        for each in element[1]:
            for key, array in each.arrays.items():
                np.save(array_path(folder, each.name, key), array)
            seen.append(each._replace(arrays={}))
        seen.sort(key=lambda each: each.name)
        observed = Observed(folder, [each.name for each in seen])
        step.decide(observed)
        yield from _decided(step, observed, seen)
        if observed.notes:
            yield _tagged("notes", (number, observed.notes))


def _decided(step: AcrossDocuments, observed: Observed, seen: list[_Seen]) -> Iterator[Any]:
    """Decisions by chunk: of the rows that are not to stay as they are."""
    values = {name: observed.decided(name) for name in observed.decisions}
    starts = observed.starts(step.row)
    for number, each in enumerate(seen):
        mine = {name: all[starts[number] : starts[number + 1]] for name, all in values.items()}
        chosen = np.flatnonzero(mine["twin"] >= 0)
        if not len(chosen):
            continue
        found = {name: np.array(array[chosen]) for name, array in mine.items()}
        twins, found["twin"] = np.unique(found["twin"], return_inverse=True)
        chunks = np.searchsorted(observed.documents, twins, side="right") - 1
        places = twins - observed.documents[chunks]
        who = [
            (seen[chunk].source, seen[chunk].ids[place])
            for chunk, place in zip(chunks.tolist(), places.tolist(), strict=True)
        ]
        yield each.name, _Decided(each.rows[chosen], found, who)


def _decisions(
    step: AcrossDocuments, kept: Mapping[str, np.ndarray], decided: Iterable[_Decided]
) -> Decisions:
    """Decisions about all rows of a chunk, of which most stay as they are."""
    blank = Gathered(
        [
            {
                **step.observe([], 0),
                "ranks": np.empty(0, np.uint64),
                "held": np.empty(0, np.bool_),
            }
        ]
    )
    step.decide(blank)
    arrays, twins = dict(kept), list[tuple[str, str]]()
    for name, fill in blank.decisions.items():
        arrays[name] = np.full(len(kept[step.row]), fill, blank.decided(name).dtype)
    for each in decided:
        for name, values in each.values.items():
            arrays[name][each.rows] = values + len(twins) if name == "twin" else values
        twins += each.twins
    return Decisions(arrays, _Named(twins))


class _Plan(NamedTuple):
    """Which file each chunk goes into."""

    files: int
    file: Mapping[str, int]


def _plan(shards: int, sizes: list[tuple[str, int]]) -> Any:
    sizes = sorted(sizes)
    files = shards_of([size for _, size in sizes], shards)
    places = {sizes[n][0]: number for number, chunks in enumerate(files) for n in chunks}
    return _Plan(len(files), places)


def _place(element: Any, plan: _Plan) -> Any:
    name, member = element
    return plan.file[name], (name, *member)


def _write_file(element: Any, recipe: bytes, out: str, plan: _Plan) -> Any:
    """Writes a file of the chunks that go into it, in their order."""
    number, members = element
    members = sorted(members)
    content = b"".join(member for *_, member in members)
    name = shard_name(number, plan.files, _cleaner(recipe).cleaning.compression)
    Folder(out).write(name, content)
    return ShardFile(
        name,
        sum(documents for _, documents, _, _ in members),
        sum(size for _, _, size, _ in members),
        hashlib.sha256(content).hexdigest(),
    )


def _sum(tallies: Iterable[Any]) -> Any:
    total = StageTally()
    for tally in tallies:
        total.add(tally)
    return total


def _finish(
    stages: int,
    recipe: bytes,
    read: str,
    out: str,
    totals: list[tuple[int, StageTally]],
    damage: list[tuple[str, int, int, str]],
    notes: list[tuple[int, list[str]]],
    files: list[ShardFile],
) -> None:
    """Writes the manifest, and the one file where nothing is left."""
    cleaning = _cleaner(recipe).cleaning
    tallies = [_sum(tally for n, tally in totals if n == number) for number in range(stages)]
    for source, _, damaged, first in sorted(damage):
        found = SourceTally(damaged=damaged, first_damaged=first)
        tallies[0].sources.setdefault(source, SourceTally()).add(found)
    if not files:
        files = [_write_file((0, []), recipe, out, _Plan(1, {}))]
    files = sorted(files, key=lambda each: each.name)
    manifest = manifest_of(cleaning, read, tallies, dict(notes), files)
    Folder(out).write(_UNFINISHED, manifest.to_json())
