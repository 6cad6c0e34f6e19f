"""From sources to chunks: in one go, or a few files at a time by different workers."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from lm.config import UserError
from lm.data.cleaning.chunks import Chunk, bytes_of
from lm.data.cleaning.named import NamedCorpus
from lm.data.cleaning.recipe import Cleaning
from lm.data.cleaning.tally import SourceTally
from lm.data.sources import Corpus, Damaged, Document, Empty, Parquet, Shards, Text
from lm.data.sources.text import find_places

DOCUMENTS = 2_000
"""Of a chunk, at most."""
BYTES = 4 << 20
"""Of a chunk, beyond which it takes no further document."""
PART = 64 << 20
"""Bytes of files, beyond which a part takes no further file."""

_FILES = (Text, Shards, Parquet)
"""Sources whose files can be read apart."""


class SourcePart(msgspec.Struct):
    """Files of a source that one worker reads, one behind the other."""

    source: str
    number: int
    """Of all parts of the source, in their order."""
    files: list[tuple[str, Corpus]]
    """(the file's name in the source, a source of it alone); no name: the source as a whole."""


def parts_of(each: NamedCorpus) -> list[SourcePart]:
    """A source in parts of some files each; of other kinds than files it is one part.

    No file of a bucket is copied.
    """
    corpus = each.corpus
    if not isinstance(corpus, _FILES):
        return [SourcePart(each.name, 0, [("", corpus)])]
    parts, size = list[SourcePart](), PART
    for place in find_places(corpus.paths):
        if size >= PART:
            parts.append(SourcePart(each.name, len(parts), []))
            size = 0
        alone: Corpus = msgspec.structs.replace(corpus, paths=(place.pattern,))
        parts[-1].files.append((place.name, alone))
        size += place.size
    return parts


def chunks_of(each: NamedCorpus, tally: SourceTally) -> Iterator[Chunk]:
    """The chunks of a source in the order of their documents; damage is counted.

    Raises UserError that names the source.
    """
    yield from chunks_of_part(SourcePart(each.name, 0, [("", each.corpus)]), tally)


def chunks_of_part(part: SourcePart, tally: SourceTally) -> Iterator[Chunk]:
    """The same of a part of one; ids are those that documents have in the whole."""
    chunk, size = Chunk(part.source, [], []), 0
    try:
        for found in _read(part):
            if isinstance(found, Damaged):
                tally.damaged += 1
                tally.first_damaged = tally.first_damaged or f"{found.place}: {found.why}"
            if not isinstance(found, Document):
                continue
            chunk.ids.append(found.id)
            chunk.texts.append(found.text)
            size += _size_of(found)
            if len(chunk.ids) >= DOCUMENTS or size >= BYTES:
                yield chunk
                chunk, size = Chunk(part.source, [], []), 0
    except UserError as error:
        raise UserError(f"sources: {part.source}: {error}") from None
    if chunk.ids:
        yield chunk


def _read(part: SourcePart) -> Iterator[Document | Damaged | Empty]:
    for name, corpus in part.files:
        if corpus.tokenized:
            raise UserError("it is tokens; clean the text that they were made of")
        # A file that is read alone is called by the last part of its name.
        short = len(name.rpartition("/")[2])
        by_field = isinstance(corpus, Shards | Parquet) and corpus.id is not None
        for found in corpus.read_all():
            if isinstance(found, Damaged):
                found = found._replace(place=name + found.place[short:])
            elif isinstance(found, Document) and not by_field:
                found = found._replace(id=name + found.id[short:])
            yield found


def _size_of(document: Document) -> int:
    try:
        return bytes_of(document.text)
    except UnicodeEncodeError:
        raise UserError(
            f"{document.id}: holds half a character (a lone surrogate); mend it or leave it out"
        ) from None


def digest_of_files(cleaning: Cleaning) -> str:
    """A digest of the names, sizes and times of all files that a recipe reads."""
    states: list[tuple[object, ...]] = []
    for each in cleaning.sources:
        states += [(each.name, *state) for state in _states(each.corpus)]
    for step in cleaning.steps:
        owner = step.__class__.__name__
        states += [(owner, *state) for state in _states_of(step.files())]
    return hashlib.sha256(msgspec.json.encode(states)).hexdigest()


def _states(corpus: Corpus) -> Iterable[tuple[object, ...]]:
    if isinstance(corpus, _FILES):
        return ((place.name, *place.state) for place in find_places(corpus.paths))
    return _states_of(corpus.files())


def _states_of(files: Iterable[tuple[str, Path]]) -> Iterator[tuple[object, ...]]:
    for name, path in files:
        with contextlib.suppress(FileNotFoundError):  # whoever opens it says so better
            state = path.stat()
            yield name, state.st_size, state.st_mtime_ns
