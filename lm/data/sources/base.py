"""What a source owes: documents in an order and under names that never change."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lm.config import Config, UserError

if TYPE_CHECKING:
    from lm.data.sources.hmm import Hmm


class Document(NamedTuple):
    """A text and the name that it keeps from run to run."""

    id: str
    text: str


class Base(Config):
    """A source: a frozen value that reads documents, one in memory at a time.

    It owes `contents`, and `files` if it reads any. What else is not overridden holds for a
    source of which nothing more is known than its texts.
    """

    def contents(self) -> Iterator[tuple[str, int, bytes]]:
        """(id, offset in its file, content) of each document, in order."""
        raise NotImplementedError

    def files(self) -> list[tuple[str, Path]]:
        """(name, path) of all that it reads: a survey is believed until one of them changes."""
        return []

    def read(self) -> Iterator[Document]:
        """The documents in order; empty ones are skipped.

        Raises UserError for a path that is not there and for invalid UTF-8 (file and byte).
        """
        for id, start, content in self.contents():
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"data.corpus: {id}: byte {start + error.start} is not valid UTF-8; "
                    "convert the file or leave it out"
                ) from None
            if text:
                yield Document(id, text)

    @property
    def title(self) -> str:
        """What a report calls the text."""
        return "the given text"

    @property
    def expected_documents(self) -> int | None:
        """How many documents there are, where the settings alone say so."""
        return None

    def truth(self) -> "Hmm | None":
        """The process that the text is drawn from, where every probability of it is known."""
        return None
