"""Tables of labelled text, as GLUE ships them: with classes or numbers, of texts or words."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from lm.config import UserError
from lm.data.sources.base import Channel, Document, Stretch
from lm.data.sources.jsonl import LABEL, NO_LABEL, Jsonl
from lm.data.sources.text import find_files
from lm.data.tables import archive_of, packed, read_lines, read_table


class Tabular(Jsonl, frozen=True, tag="table"):
    """A text or a pair a line of TSV, CSV, JSON or JSON lines, in folders or in archives.

    `glue/CoLA/train.tsv` may stand in `glue.tar.xz`. Without `classes`, the label is a number,
    and not a number (nan) where there is none. Of words, text and label are lists as long as
    each other, or texts with spaces between; the first token of each word has its label, and
    the others have none.
    """

    names: Annotated[
        tuple[str, ...],
        Meta(description="of the columns of tsv and csv files, if their first line is none"),
    ] = ()
    labelled: Annotated[
        Literal["text", "word"], Meta(description="what has a label: each text, or each word")
    ] = "text"

    def __post_init__(self) -> None:
        self._check_pair()
        if len(self.classes) == 1:
            raise UserError(f"classes: name those of {self.label} in order, two or more")
        if self.labelled == "word" and (self.label is None or len(self.text) > 1):
            raise UserError("labelled=word: name one field of text, and one of label")

    @property
    def channels(self) -> tuple[Channel, ...]:
        number = Channel(LABEL, "float32", fill=math.nan)
        return tuple(
            number if channel.name == LABEL and not self.classes else channel
            for channel in super().channels
        )

    def files(self) -> list[tuple[str, Path]]:
        return [(name, _on_disk(path)) for name, path in self._tables()]

    def read(self) -> Iterator[Document]:
        """A document a line; raises UserError for a line that is none, and says which."""
        for name, path in self._tables():
            for id, fields in _lines(name, path, self.names):
                found = self._words(id, fields) if self._by_word else self.document(id, fields)
                if found:
                    yield found

    @property
    def _by_word(self) -> bool:
        return self.labelled == "word"

    def _tables(self) -> list[tuple[str, Path]]:
        return find_files(self.paths, packed)

    def label_of(self, id: str, fields: dict[str, Any]) -> float:
        assert self.label is not None
        return self._value(id, self.field(id, fields, self.label))

    def _value(self, id: str, label: Any) -> float:
        """A class or a number, and what stands for none."""
        if label is None:
            return NO_LABEL if self.classes else math.nan
        if self.classes:
            return self.class_of(id, label)
        try:
            number = float(label)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"data.corpus.label: {id}: {self.label} is no number: {label!r}")
        return number

    def _words(self, id: str, fields: dict[str, Any]) -> Document | None:
        assert self.label is not None
        names = self.text[0], self.label
        found = [self.field(id, fields, name) for name in names]
        words, labels = [each.split() if isinstance(each, str) else each for each in found]
        for name, each in zip(names, (words, labels), strict=True):
            if not isinstance(each, list):
                raise UserError(f"data.corpus: {id}: {name} is no list: {each!r}")
        if wrong := [word for word in words if not isinstance(word, str) or not word.strip()]:
            raise UserError(f"data.corpus.text: {id}: {names[0]} has {wrong[0]!r}, no word")
        if len(words) != len(labels):
            raise UserError(
                f"data.corpus: {id}: {len(words)} words, and {len(labels)} labels in {names[1]}"
            )
        spoken = tuple(
            Stretch(f" {word}" if number else word, {LABEL: self._value(id, label)})
            for number, (word, label) in enumerate(zip(words, labels, strict=True))
        )
        text = "".join(word.text for word in spoken)
        return Document(id, text, words=spoken) if text else None


def _on_disk(path: Path) -> Path:
    return path if path.is_file() else archive_of(path) or path


def _lines(
    name: str, path: Path, names: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        yield from read_lines(name, read_table(path), names)
    except UserError as error:
        raise UserError(f"data.corpus: {error}") from None
