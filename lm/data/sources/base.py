"""What a source owes: documents in an order and under names that never change."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from lm.config import Config, UserError

if TYPE_CHECKING:
    from lm.data.sources.hmm import Hmm


class Channel(NamedTuple):
    """What a source says of each token, beside which token it is."""

    name: str
    dtype: str
    """NumPy's name of its type."""
    shape: tuple[int, ...] = ()
    """Of what it says of one token."""
    fill: float = 0
    """What stands where nothing is said: in padding, and in documents without it."""
    classes: int | None = None
    """How many classes there are, from 0 on, where it is one of them."""


LOSS = Channel("loss", "int32")
"""1 at each token that counts as a target, 0 elsewhere."""
TURN = Channel("turn", "int32", fill=-1)
"""Of a conversation's tokens the number of their message, from 0 on."""


SIDE = Channel("side", "int32", classes=2)
"""0 at the tokens of the first of two texts that belong together, 1 at those of the second;
each stands by itself, and neither sees the other."""
DOCUMENT = Channel("document", "int32", fill=-1)
"""A number of the document that a text is of: other texts of it may be as right an answer as
its own. Below 0, nobody knows."""


class Stretch(NamedTuple):
    """A stretch of a document, and what the channels say of its tokens."""

    text: str
    values: Mapping[str, float] = MappingProxyType({})


class Conversation(NamedTuple):
    """Messages that the tokenizer's chat template makes tokens of, and what channels say.

    What becomes of it says `lm.data.conversations`.
    """

    messages: tuple[Mapping[str, str], ...]
    """Each has a role and a content."""
    answers: Literal["all", "last", "none"] = "all"
    """Which of the assistant's messages count; of `none` the beginning of an answer follows the
    last message."""
    values: Mapping[str, float] = MappingProxyType({})


class Document(NamedTuple):
    """A text and the name that it keeps from run to run."""

    id: str
    text: str
    parts: tuple[Stretch, ...] = ()
    """The same text in stretches, each followed by an eos token, and, if they are of sides,
    each behind a bos token; none: it is one stretch, of which no channel says anything."""
    conversations: tuple[Conversation, ...] = ()
    """The same text as conversations, one behind the other: its tokens are the template's, and
    no bos and eos token is added."""
    words: tuple[Stretch, ...] = ()
    """The same text in words, which are encoded one by one: what channels say of a word is said
    of its first token alone, and of the others nothing."""

    group: str = ""
    """Documents of one group are all trained on or all held out, such as the answers to one
    question; empty: its own text decides."""
    tokens: bytes = b""
    """The document as tokens that somebody made of it, uint32 in little-endian order; its text
    is then what the tokenizer that made them gives back, and is left empty here."""
    held_out: bool | None = None
    """Whether it is held out, where that is known; None: a hash decides."""

    @property
    def split_by(self) -> bytes:
        """What decides whether it is held out."""
        return (self.group or self.text).encode() or self.tokens

    @property
    def content(self) -> bytes:
        r"""What the digest of a corpus is made of, beside the id.

        That it is known whether a document is held out, or that it is tokens, shows in a byte
        that begins no UTF-8.

        >>> Document("a", "text").content
        b'text'
        >>> Document("a", "text", (Stretch("text", {"label": 1}),)).content
        b'[["text",{"label":1}]]'
        >>> Document("a", "text", held_out=True).content
        b'\xff1text'
        """
        if self.held_out is not None:
            return b"\xff%d" % self.held_out + self._replace(held_out=None).content
        if self.tokens:
            return b"\xfe" + self.tokens
        if self.conversations:
            return msgspec.json.encode(
                [
                    (each.messages, each.answers, dict(each.values))
                    for each in self.conversations
                ]
            )
        stretches = self.words or self.parts
        if not stretches:
            return self.text.encode()
        return msgspec.json.encode([(text, dict(values)) for text, values in stretches])


class Damaged(NamedTuple):
    """A place that holds no document."""

    place: str
    why: str


class Empty(NamedTuple):
    """A place that holds an empty one."""

    place: str


TooLong = Literal["refuse", "cut"]
"""What is done with a document that is longer than a row, where none may be cut in two: it is
an error, or the tokens that find no room are left out."""


class Base(Config):
    """A source: a frozen value that reads documents, one in memory at a time.

    It owes `contents`, or `read` where documents are more than texts, and `files` if it reads
    any. What else is not overridden holds for a
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

    def read_all(self) -> Iterator[Document | Damaged | Empty]:
        """The documents, and the places that are left out, where the source tells of them."""
        yield from self.read()

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What its documents say of their tokens."""
        return ()

    @property
    def too_long(self) -> TooLong:
        return "refuse"

    @property
    def tokenized(self) -> bool:
        """Whether its documents are tokens of some tokenizer, and no text."""
        return False

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
