"""What was counted: of a chunk, of all, and as the manifest that stands beside the text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lm.config import UserError
from lm.data.remote import Folder

MANIFEST = "manifest.json"
EXAMPLES = 3
"""Kept of each rule, and of what stays."""
EXCERPT = 400
"""Characters of a document that an example shows."""


class Removal(msgspec.Struct):
    """What a rule did to the documents of a source."""

    documents: int = 0
    """Removed whole."""
    bytes: int = 0
    """Of these."""
    changed: int = 0
    """Documents that stay, and from which it took something."""
    changes: int = 0
    """How often: lines, paragraphs, addresses."""
    across: int = 0
    """Documents, of both, whose twin falls on the other side of the split."""
    twins: dict[str, int] = {}
    """Documents, of both, by the source of the one that stays in their place."""

    def add(self, other: "Removal") -> None:
        """Adds what was counted elsewhere."""
        for name in ("documents", "bytes", "changed", "changes", "across"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for source, count in other.twins.items():
            self.twins[source] = self.twins.get(source, 0) + count


class Shown(msgspec.Struct):
    """A document as an example of what a rule removes."""

    order: int
    """A hash: the lowest are shown, whatever order documents come in."""
    source: str
    id: str
    why: str
    text: str
    twin: str = ""
    """The source and id of the one that stays."""


class StepTally(msgspec.Struct):
    """What a step did, by rule."""

    cut: int = 0
    """Bytes taken from documents that it left in; below 0 where masks are longer."""
    rules: dict[str, dict[str, Removal]] = {}
    """By rule, by source."""
    examples: dict[str, list[Shown]] = {}
    """By rule."""

    def of(self, rule: str, source: str) -> Removal:
        """What is counted of a rule and a source."""
        return self.rules.setdefault(rule, {}).setdefault(source, Removal())

    def show(self, rule: str, shown: Shown) -> None:
        """Keeps it if it is among the first."""
        self.examples[rule] = first_shown([*self.examples.get(rule, []), shown])

    def add(self, other: "StepTally") -> None:
        """Adds what was counted elsewhere."""
        self.cut += other.cut
        for rule, by_source in other.rules.items():
            for source, removal in by_source.items():
                self.of(rule, source).add(removal)
        for rule, shown in other.examples.items():
            self.examples[rule] = first_shown([*self.examples.get(rule, []), *shown])


def first_shown(shown: Sequence[Shown]) -> list[Shown]:
    """The first few by their order; ids may repeat."""
    return sorted(
        shown, key=lambda each: (each.order, each.source, each.id, each.text, each.why)
    )[:EXAMPLES]


class ChunkTally(msgspec.Struct):
    """What became of a chunk in one stage."""

    source: str
    documents: int
    """Left."""
    bytes: int
    """Of these, in UTF-8."""
    held_documents: int
    """Of these, held out by their hash."""
    held_bytes: int
    steps: dict[str, StepTally]
    """By the step's number in the recipe."""
    kept: list[Shown]
    read_documents: int
    """That came in."""
    read_bytes: int


class SourceTally(msgspec.Struct):
    """What was read of a source, and what is left of it."""

    documents: int = 0
    bytes: int = 0
    damaged: int = 0
    """Places that held no document, and were skipped."""
    first_damaged: str = ""
    """The first of them, and why."""
    kept_documents: int = 0
    kept_bytes: int = 0
    held_documents: int = 0
    """Of what is kept, held out by its hash."""
    held_bytes: int = 0

    def add(self, other: "SourceTally") -> None:
        """Adds what was counted elsewhere, further behind in the source."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.damaged += other.damaged
        self.first_damaged = self.first_damaged or other.first_damaged
        self.kept_documents += other.kept_documents
        self.kept_bytes += other.kept_bytes
        self.held_documents += other.held_documents
        self.held_bytes += other.held_bytes


class StageTally(msgspec.Struct):
    """What a stage came to."""

    chunks: list[str] = []
    """Names, in order."""
    of: list[tuple[str, int, int]] = []
    """(source, documents, bytes) of each chunk, as it was left."""
    sources: dict[str, SourceTally] = {}
    steps: dict[str, StepTally] = {}
    kept: list[Shown] = []

    def count(self, tally: ChunkTally) -> None:
        """Adds what became of a chunk."""
        self.of.append((tally.source, tally.documents, tally.bytes))
        source = SourceTally(
            documents=tally.read_documents,
            bytes=tally.read_bytes,
            kept_documents=tally.documents,
            kept_bytes=tally.bytes,
            held_documents=tally.held_documents,
            held_bytes=tally.held_bytes,
        )
        self._add({tally.source: source}, tally.steps, tally.kept)

    def add(self, other: "StageTally") -> None:
        """Adds what was counted elsewhere, but for the lists of chunks."""
        self._add(other.sources, other.steps, other.kept)

    def _add(
        self,
        sources: Mapping[str, SourceTally],
        steps: Mapping[str, StepTally],
        kept: Sequence[Shown],
    ) -> None:
        for name, source in sources.items():
            self.sources.setdefault(name, SourceTally()).add(source)
        for number, step in steps.items():
            self.steps.setdefault(number, StepTally()).add(step)
        self.kept = first_shown([*self.kept, *kept])


class ShardFile(msgspec.Struct):
    """A file of the cleaned text."""

    name: str
    documents: int
    bytes: int
    """Of text."""
    sha256: str
    """Of the file."""


class StepRecord(msgspec.Struct):
    """What a step did, with what it is."""

    type: str
    about: dict[str, str]
    """What each rule does, with its source."""
    tally: StepTally
    notes: list[str]


class Manifest(msgspec.Struct):
    """All that is known of a cleaned text."""

    format: int
    recipe: dict[str, Any]
    """With every setting written out."""
    read: str
    """A digest of the names, sizes and times of the files that were read."""
    sources: dict[str, SourceTally]
    steps: list[StepRecord]
    kept: list[Shown]
    shards: list[ShardFile]

    def to_json(self) -> bytes:
        """As it stands beside the text."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    def unaccounted(self) -> int:
        """Bytes that were read, and neither are left nor counted as removed: 0."""
        read = sum(each.bytes for each in self.sources.values())
        left = sum(each.kept_bytes for each in self.sources.values())
        return read - left - sum(cut_and_removed(step.tally) for step in self.steps)


def cut_and_removed(tally: StepTally) -> int:
    """Bytes that a step took, from documents that stay and with those that do not."""
    removed = sum(total_of(by_source).bytes for by_source in tally.rules.values())
    return tally.cut + removed


def total_of(by_source: Mapping[str, Removal]) -> Removal:
    """What a rule did to all sources.

    >>> total_of({"a": Removal(documents=1), "b": Removal(documents=2, bytes=9)}).documents
    3
    """
    total = Removal(twins={})
    for each in by_source.values():
        total.add(each)
    return total


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a cleaned text; raises UserError where there is none, or half of one."""
    content = Folder(str(folder)).read(MANIFEST)
    if content is None:
        raise UserError(
            f"{folder}/{MANIFEST}: no such file or directory; lm data prepare writes it when it"
            " is done"
        )
    return manifest_in(content, str(folder))


def manifest_in(content: bytes, folder: str) -> Manifest:
    """The manifest that a file in a folder holds."""
    try:
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder}/{MANIFEST}: damaged: {error}") from None
