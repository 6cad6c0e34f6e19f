"""Lines of JSON in files that may be compressed, as `lm data prepare` writes them."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple

from msgspec import Meta

from lm.config import UserError
from lm.config.types import nearest_of
from lm.data.sources.base import Base, Document
from lm.data.sources.text import find_files


class Damaged(NamedTuple):
    """A place that holds no document."""

    place: str
    why: str


class Shards(Base, frozen=True, tag="shards"):
    """Lines of JSON objects with a text, in plain or gzip files (.gz).

    What is no document - a line that is no object, a text that is missing or no text, a file
    that ends too early - is refused, or skipped and counted.
    """

    paths: Annotated[tuple[str, ...], Meta(min_length=1, description="files or globs (** too)")]
    text: Annotated[str, Meta(min_length=1, description="the field of the text")] = "text"
    id: Annotated[
        str | None, Meta(description="the field of a document's name; null: its file and line")
    ] = None
    damaged: Annotated[
        Literal["refuse", "skip"], Meta(description="what is done about what is no document")
    ] = "refuse"

    def files(self) -> list[tuple[str, Path]]:
        return find_files(self.paths)

    def read(self) -> Iterator[Document]:
        """A document a line; raises UserError for what is none, unless it is to be skipped."""
        for found in self.read_all():
            if isinstance(found, Document):
                yield found

    def read_all(self) -> Iterator[Document | Damaged]:
        """The same, and what is skipped."""
        for name, path in self.files():
            for found in self._lines(name, path):
                if isinstance(found, Damaged) and self.damaged == "refuse":
                    raise UserError(
                        f"data.corpus: {found.place}: {found.why}; damaged=skip leaves it out"
                    )
                if isinstance(found, Damaged) or found.text:
                    yield found

    def _lines(self, name: str, path: Path) -> Iterator[Document | Damaged]:
        number = 0
        try:
            with _opened(path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield self._document(f"{name}:{number}", line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield Damaged(f"{name}:{number + 1}", f"the rest of the file is damaged: {error}")

    def _document(self, place: str, line: bytes) -> Document | Damaged:
        try:
            fields = json.loads(line.decode())
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError, too
            return Damaged(place, f"not JSON: {error}")
        if not isinstance(fields, dict):
            return Damaged(place, "expected an object of fields")
        found: list[str] = []
        for field in (self.text, self.id):
            value: Any = place if field is None else fields.get(field)
            if not isinstance(value, str):
                missing = field is not None and field not in fields
                return Damaged(
                    place,
                    f"no field {field}; {nearest_of(str(field), fields)}"
                    if missing
                    else f"{field} is no text: {str(value)[:40]}",
                )
            try:
                value.encode()
            except UnicodeEncodeError:
                return Damaged(place, f"{field} holds half a character (a lone surrogate)")
            found.append(value)
        return Document(found[1], found[0])


def _opened(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
