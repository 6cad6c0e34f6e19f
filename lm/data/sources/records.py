"""Records with a text in one field: what is no document is refused or left out, and counted."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from lm.config import UserError
from lm.config.types import nearest_of
from lm.data.sources.base import Base, Damaged, Document, Empty


class Fielded(Base, kw_only=True):
    """A source of fields by name, which owes `records`.

    What is no document - what cannot be read, a text that is missing, no text or too long - is
    refused, or left out and counted with the first place; what is empty is counted, too.
    """

    text: Annotated[
        str, Meta(min_length=1, description="the field of the text, also as meta.texts.0")
    ] = "text"
    id: Annotated[
        str | None, Meta(description="the field of a document's name; null: file and place")
    ] = None
    damaged: Annotated[
        Literal["refuse", "skip"], Meta(description="what is done about what is no document")
    ] = "refuse"
    longest: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="bytes of a text, at most; a longer one counts as damaged; null: any"),
    ] = None

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]] | Damaged]:
        """Where each record is, and its fields."""
        raise NotImplementedError

    def read(self) -> Iterator[Document]:
        """The documents in order; raises UserError for what is none, unless it is left out."""
        for found in self.read_all():
            if isinstance(found, Document):
                yield found

    def read_all(self) -> Iterator[Document | Damaged | Empty]:
        """The same, and what is left out."""
        for record in self.records():
            found = record if isinstance(record, Damaged) else self._document(*record)
            if isinstance(found, Damaged) and self.damaged == "refuse":
                raise UserError(
                    f"data.corpus: {found.place}: {found.why}; damaged=skip leaves it out"
                )
            yield found

    @property
    def columns(self) -> list[str]:
        """The fields that are read."""
        return [self.text, *([] if self.id is None else [self.id])]

    def _document(self, place: str, fields: Mapping[str, Any]) -> Document | Damaged | Empty:
        found: list[str] = []
        for path in self.columns:
            try:
                value = field_at(fields, path)
            except LookupError as error:
                return Damaged(place, str(error.args[0]))
            if not isinstance(value, str):
                return Damaged(place, f"{path} is no text: {str(value)[:40]}")
            try:
                size = len(value.encode())
            except UnicodeEncodeError:
                return Damaged(place, f"{path} holds half a character (a lone surrogate)")
            if self.longest is not None and size > self.longest:
                return Damaged(
                    place, f"{path} has {size:,} bytes, and longest={self.longest:,}"
                )
            found.append(value)
        text, id = found[0], found[1] if self.id is not None else place
        return Document(id, text) if text else Empty(place)


def field_at(fields: Mapping[str, Any], path: str) -> Any:
    """What a record holds at a field, or at a path of fields and places in lists.

    Raises LookupError that says what is there instead.

    >>> field_at({"meta": {"texts": ["a", "b"]}}, "meta.texts.1"), field_at({"a.b": 1}, "a.b")
    ('b', 1)
    """
    if path in fields:
        return fields[path]
    value: Any = fields
    for name in path.split("."):
        if isinstance(value, list | tuple) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, Mapping) and name in value:
            value = value[name]
        else:
            names = value if isinstance(value, Mapping) else fields
            raise LookupError(f"no field {path}; {nearest_of(name, names)}")
    return value


def parsed(place: str, line: bytes) -> tuple[str, Mapping[str, Any]] | Damaged:
    """The record of a line of JSON."""
    try:
        fields = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError, too
        return Damaged(place, f"not JSON: {error}")
    if not isinstance(fields, dict):
        return Damaged(place, "expected an object of fields")
    return place, fields
