"""Two texts that belong together: neighbouring paragraphs, or a title and its text."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from lm.config import UserError
from lm.data.smart import is_smart, read_smart
from lm.data.sources.base import DOCUMENT, SIDE, Base, Channel, Document, Stretch, TooLong
from lm.data.sources.text import find_files
from lm.data.tables import archive_of, packed, read_table


class _Pair(NamedTuple):
    place: str
    first: str
    second: str
    document: str
    """What the two are of; empty: nobody knows."""


class NeighbourPairs(Base, frozen=True, tag="neighbours"):
    """Pairs of texts that stand beside each other in UTF-8 files; none is in two pairs.

    The channel `side` says which of the two a token is of, and `document` which pairs are of
    one file, where there are several files: nothing says where documents end in a single one.
    """

    paths: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="files or globs (** too), also of files in archives"),
    ]
    of: Annotated[
        Literal["paragraphs", "title"],
        Meta(
            description="the first two paragraphs of a file, the next two, and so on; or its"
            " first line and what follows, and of a collection of records as Cranfield each"
            " title and abstract"
        ),
    ] = "paragraphs"
    characters: Annotated[
        int, Meta(ge=1, description="of each text at most; a longer one ends at a space")
    ] = 1000
    shortest: Annotated[
        int, Meta(ge=1, description="characters of each text at least, else it is left out")
    ] = 16
    too_long: Annotated[
        TooLong,
        Meta(description="a pair longer than a row: an error, or its last tokens left out"),
    ] = "refuse"

    @property
    def channels(self) -> tuple[Channel, ...]:
        return (SIDE, DOCUMENT)

    def files(self) -> list[tuple[str, Path]]:
        return [
            (name, path if path.is_file() else archive_of(path) or path)
            for name, path in find_files(self.paths, packed)
        ]

    def read(self) -> Iterator[Document]:
        """A document a pair; raises UserError for what is no text, and says which."""
        files = find_files(self.paths, packed)
        for name, path in files:
            try:
                text = read_table(path).decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise UserError(f"data.corpus: {name}: not UTF-8: {error}") from None
            for pair in self._pairs(name, text, one=len(files) == 1):
                said = {DOCUMENT.name: _number(pair.document)} if pair.document else {}
                parts = tuple(
                    Stretch(text, {SIDE.name: side, **said})
                    for side, text in enumerate((pair.first, pair.second))
                )
                whole = pair.first + pair.second
                yield Document(pair.place, whole, parts, group=pair.document)

    def _pairs(self, name: str, text: str, *, one: bool) -> Iterator[_Pair]:
        """The pairs of a file, which is the `one` that there is or one of several."""
        smart = is_smart(text)
        if smart and self.of == "paragraphs":
            raise UserError(
                f"data.corpus.of=paragraphs: {name} is a collection of records; title"
            )
        document = "" if one else name
        found: Iterator[_Pair]
        if smart:
            found = (
                _Pair(place, fields["title"], fields["abstract"], "")
                for place, fields in read_smart(name, text)
            )
        elif self.of == "title":
            first, _, rest = text.strip().partition("\n")
            found = iter([_Pair(name, first.strip("# "), rest.strip(), document)])
        else:
            found = (
                _Pair(f"{name}:{line}", first, second, document)
                for line, first, second in self._paragraphs(text)
            )
        for pair in found:
            first, second = (self._cut(each) for each in (pair.first, pair.second))
            if min(len(first), len(second)) >= self.shortest:
                yield pair._replace(first=first, second=second)

    def _paragraphs(self, text: str) -> Iterator[tuple[int, str, str]]:
        """Pairs of paragraphs that are long enough, and the line where the first begins."""
        lines = text.splitlines()
        starts = [
            number
            for number, line in enumerate(lines)
            if line.strip() and (not number or not lines[number - 1].strip())
        ]
        kept = []
        for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
            paragraph = "\n".join(lines[start:stop]).strip()
            if len(paragraph) >= self.shortest:
                kept.append((start + 1, paragraph))
        for (line, first), (_, second) in zip(kept[::2], kept[1::2], strict=False):
            yield line, first, second

    def _cut(self, text: str) -> str:
        if len(text) <= self.characters:
            return text
        cut = text[: self.characters + 1]
        space = max(cut.rfind(" "), cut.rfind("\n"))
        return cut[:space].rstrip() if space > 0 else text[: self.characters]


def _number(document: str) -> int:
    """A number of 31 bits, the same wherever the document is read."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:4], "big") >> 1
