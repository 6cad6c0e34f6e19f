"""JSON lines: a document a line, with a label or without."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from lm.config import UserError
from lm.config.types import nearest_of
from lm.data.sources.base import SIDE, Base, Channel, Document, Stretch, TooLong
from lm.data.sources.text import find_files

LABEL, PART = "label", "part"
NO_LABEL = -1


class Jsonl(Base, frozen=True, tag="jsonl"):
    """Lines of JSON objects, of which some fields are the text and one may be the label.

    Two fields of text are a pair: the tokens of each end with an eos token, and the channel
    `part` says which of them a token belongs to; of two texts that stand apart, it is the
    channel `side`, and each begins with a bos token. The channel `label` says of each token
    which of the `classes` its document is of; a null is a document without a label.
    """

    paths: Annotated[tuple[str, ...], Meta(min_length=1, description="files or globs (** too)")]
    text: Annotated[
        tuple[str, ...],
        Meta(min_length=1, max_length=2, description="the field of the text, or two of a pair"),
    ] = ("text",)
    pair: Annotated[
        Literal["joined", "apart"],
        Meta(description="two texts are read as one, or each by itself (contrastive)"),
    ] = "joined"
    label: Annotated[str | None, Meta(description="the field of the label; null: none")] = None
    classes: Annotated[
        tuple[str, ...], Meta(description="the labels in order, as text: true, 1, neutral")
    ] = ()
    too_long: Annotated[
        TooLong,
        Meta(description="a document longer than a row: an error, or its last tokens left out"),
    ] = "refuse"

    def __post_init__(self) -> None:
        self._check_pair()
        if self.label is not None and len(self.classes) < 2:
            raise UserError(f"classes: name those of {self.label} in order, two or more")

    def _check_pair(self) -> None:
        if self.pair == "apart" and len(self.text) < 2:
            raise UserError("pair=apart: name two fields of text")

    @property
    def channels(self) -> tuple[Channel, ...]:
        found = []
        if self.label is not None:
            found.append(Channel(LABEL, "int32", fill=NO_LABEL, classes=len(self.classes)))
        if len(self.text) > 1:
            part = Channel(PART, "int32", classes=len(self.text))
            found.append(SIDE if self.pair == "apart" else part)
        return tuple(found)

    def files(self) -> list[tuple[str, Path]]:
        return find_files(self.paths)

    def read(self) -> Iterator[Document]:
        """A document a line; raises UserError for a line that is no such object."""
        for name, path in self.files():
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip() and (found := self._of_line(f"{name}:{number}", line)):
                        yield found

    def _of_line(self, id: str, line: bytes) -> Document | None:
        try:
            fields = json.loads(line.decode())
        except ValueError as error:  # UnicodeDecodeError, too
            raise UserError(f"data.corpus: {id}: not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise UserError(f"data.corpus: {id}: expected an object of fields")
        return self.document(id, fields)

    def document(self, id: str, fields: dict[str, Any]) -> Document | None:
        """The document of a line's fields; None: it is empty."""
        texts = [self.field(id, fields, name) for name in self.text]
        for name, text in zip(self.text, texts, strict=True):
            if not isinstance(text, str):
                raise UserError(f"data.corpus.text: {id}: {name} is no text: {text!r}")
            if len(texts) > 1 and not text:
                raise UserError(f"data.corpus.text: {id}: {name} is empty")
        values = {} if self.label is None else {LABEL: self.label_of(id, fields)}
        which = SIDE.name if self.pair == "apart" else PART
        parts = tuple(
            Stretch(text, values | ({which: part} if len(texts) > 1 else {}))
            for part, text in enumerate(texts)
        )
        text = "".join(texts)
        return Document(id, text, parts if self.channels else ()) if text else None

    def field(self, id: str, fields: dict[str, Any], name: str) -> Any:
        if name not in fields:
            raise UserError(f"data.corpus: {id}: no field {name}; {nearest_of(name, fields)}")
        return fields[name]

    def label_of(self, id: str, fields: dict[str, Any]) -> float:
        """The number of a document's label."""
        assert self.label is not None
        label = self.field(id, fields, self.label)
        return NO_LABEL if label is None else self.class_of(id, label)

    def class_of(self, id: str, label: Any) -> int:
        """Which of the classes a label names; raises UserError where it is none."""
        text = label if isinstance(label, str) else json.dumps(label)
        if text not in self.classes:
            raise UserError(
                f"data.corpus.classes: {id}: {self.label}={text}, which is not"
                f" {nearest_of(text, self.classes)}"
            )
        return self.classes.index(text)
