"""The files that are written, and the manifest beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lm.config import UserError, dump, parse
from lm.data.cleaning.chunks import SUFFIX
from lm.data.cleaning.cleaner import NOTHING_LEFT, NOTHING_LEFT_ABOUT
from lm.data.cleaning.recipe import Cleaning, Compression
from lm.data.cleaning.tally import (
    Manifest,
    ShardFile,
    SourceTally,
    StageTally,
    StepRecord,
    StepTally,
)
from lm.data.remote import Folder

FORMAT = 1


def shards_of(sizes: Sequence[int], shards: int) -> list[list[int]]:
    """Which chunks, by their numbers, each file holds: in order, of about as many bytes each.

    >>> shards_of([5, 0, 4, 9], 2), shards_of([], 2)
    ([[0, 2], [3]], [[]])
    """
    total = max(sum(sizes), 1)
    by_file: dict[int, list[int]] = {}
    before = 0
    for number, size in enumerate(sizes):
        if size:
            by_file.setdefault(before * shards // total, []).append(number)
        before += size
    return [*by_file.values()] or [[]]


def shard_name(number: int, of: int, compression: Compression) -> str:
    """The name of a file.

    >>> shard_name(0, 16, "zstd")
    'part-00000-of-00016.jsonl.zst'
    """
    return f"part-{number:05}-of-{of:05}.jsonl{SUFFIX[compression]}"


def manifest_of(
    cleaning: Cleaning,
    read: str,
    tallies: Sequence[StageTally],
    notes: Mapping[int, list[str]],
    shards: list[ShardFile],
) -> Manifest:
    """All that is known of a cleaned text, from what its stages came to."""
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
        tag = str(step.__struct_config__.tag)
        steps.append(StepRecord(tag, about, tally, notes.get(number, [])))
    return Manifest(
        format=FORMAT,
        recipe=msgspec.json.decode(msgspec.json.encode(cleaning)),
        read=read,
        sources={each.name: sources[each.name] for each in cleaning.sources},
        steps=steps,
        kept=last.kept,
        shards=shards,
    )


def check_done(done: Manifest, cleaning: Cleaning, read: str, out: str) -> None:
    """Raises UserError where what is done is of another recipe, or of other files."""
    recipe = parse(Cleaning, msgspec.json.encode(done.recipe), out)
    if (recipe, done.read) != (cleaning, read):
        raise UserError(
            f"{out}: holds the text of another recipe, or of files as they were; name"
            " another folder, or delete it"
        )


def check_begun(folder: Folder, by: str, cleaning: Cleaning, read: str) -> None:
    """Refuses to go on from what another recipe, or other files, left; notes what is begun.

    Raises UserError there, and where somebody else's files are.
    """
    name = "work/begun.json"
    content = folder.read(name)
    if content is None:
        if set(folder.names()) - {"work"}:
            raise UserError(f"{folder.place}: holds other files; name a new folder")
        recipe = msgspec.json.decode(dump(cleaning))
        folder.write(name, msgspec.json.encode({"by": by, "read": read, "recipe": recipe}))
        return
    begun = msgspec.json.decode(content, type=dict[str, Any])
    before = parse(Cleaning, msgspec.json.encode(begun["recipe"]), folder.place)
    if (begun.get("by"), begun["read"], before) != (by, read, cleaning):
        raise UserError(
            f"{folder.place}: was begun with another recipe, or with files as they were;"
            " name another folder, or delete it"
        )
