"""Documents to tokens, and what channels say of each: what a token store is made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm.config import UserError
from lm.data.conversations import render_conversation
from lm.data.corpora import is_held_out
from lm.data.sources import LOSS, SIDE, TURN, Channel, Document, Stretch
from lm.data.tokenizers import Tokenizer
from lm.example import Vocabulary


class Encoded(NamedTuple):
    """A document as a store holds it."""

    held_out: bool
    bytes: int
    """Its length in UTF-8: of conversations and tokens, that of what they are read as."""
    stream: list[np.ndarray]
    """Its tokens, begin and ends among them, and what each channel says of them."""


def encode(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    channels: Sequence[Channel],
    validation: float,
) -> list[Encoded]:
    """What becomes of documents, of which this fraction is held out.

    Raises UserError where one's tokens, or its conversations, are not this tokenizer's.
    """
    streams = _streams(documents, tokenizer, channels)
    return [
        Encoded(
            is_held_out(document, validation), _size(document, stream[0], tokenizer), stream
        )
        for document, stream in zip(documents, streams, strict=True)
    ]


def _streams(
    documents: Sequence[Document], tokenizer: Tokenizer, channels: Sequence[Channel]
) -> Iterator[list[np.ndarray]]:
    """The tokens of each document, begin and ends among them, and its channels."""
    parts = [
        ()
        if document.conversations or document.tokens
        else document.words or document.parts or (Stretch(document.text),)
        for document in documents
    ]
    encoded = iter(tokenizer.encode_all([part.text for each in parts for part in each]))
    special = tokenizer.vocabulary
    for document, each in zip(documents, parts, strict=True):
        if document.conversations:
            yield _conversations(document, tokenizer, channels)
            continue
        if document.tokens:
            yield _of_tokens(document, tokenizer, channels)
            continue
        if document.words:
            yield _of_words(each, [next(encoded) for _ in each], special, channels)
            continue
        tokens = [np.append(next(encoded), special.eos) for _ in each]
        for number, part in enumerate(each):
            if not number or SIDE.name in part.values:
                tokens[number] = np.insert(tokens[number], 0, special.bos)
        said = [
            [
                _constant(channel, part.values, len(ids))
                for part, ids in zip(each, tokens, strict=True)
            ]
            for channel in channels
        ]
        yield [np.concatenate(stream) for stream in (tokens, *said)]


def _size(document: Document, tokens: np.ndarray, tokenizer: Tokenizer) -> int:
    given = document.conversations or document.tokens
    text = tokenizer.decode(tokens) if given else document.text
    return len(text.encode())


def _of_tokens(
    document: Document, tokenizer: Tokenizer, channels: Sequence[Channel]
) -> list[np.ndarray]:
    """The tokens of a document that is tokens, and channels that say nothing of them."""
    special, given = tokenizer.vocabulary, np.frombuffer(document.tokens, "<u4")
    if len(wrong := np.flatnonzero(given >= special.size)):
        raise UserError(
            f"data.corpus: {document.id}: its token {wrong[0]:,} is {given[wrong[0]]}, and the"
            f" tokenizer has {special.size}: another one made them; name that by start.path or"
            " data.tokenizer"
        )
    tokens = np.concatenate([[special.bos], given, [special.eos]]).astype(np.int32)
    return [tokens, *(_constant(channel, {}, len(tokens)) for channel in channels)]


def _conversations(
    document: Document, tokenizer: Tokenizer, channels: Sequence[Channel]
) -> list[np.ndarray]:
    """The tokens of a document's conversations, and its channels."""
    found = []
    for conversation in document.conversations:
        try:
            ids, loss, turn = render_conversation(tokenizer, conversation)
        except UserError as error:
            raise UserError(f"data.corpus: {document.id}: {error}") from None
        rendered = {LOSS.name: loss, TURN.name: turn}
        said = [
            rendered[channel.name]
            if channel.name in rendered
            else _constant(channel, conversation.values, len(ids))
            for channel in channels
        ]
        found.append((ids, *said))
    return [np.concatenate(stream) for stream in zip(*found, strict=True)]


def _constant(channel: Channel, values: Mapping[str, float], count: int) -> np.ndarray:
    """What a channel says of so many tokens, of which these are the values."""
    value = values.get(channel.name, channel.fill)
    return np.full((count, *channel.shape), value, channel.dtype)


def _of_words(
    words: Sequence[Stretch],
    encoded: Sequence[np.ndarray],
    special: Vocabulary,
    channels: Sequence[Channel],
) -> list[np.ndarray]:
    """The tokens of a document of words, and channels that speak of the first one of each."""
    tokens = np.concatenate([[special.bos], *encoded, [special.eos]])
    sizes = np.array([len(ids) for ids in encoded])
    first = (1 + np.cumsum(sizes) - sizes)[sizes > 0]  # a word may have no token
    found = [tokens]
    for channel in channels:
        values = np.full((len(tokens), *channel.shape), channel.fill, channel.dtype)
        said = [word.values.get(channel.name, channel.fill) for word in words]
        values[first] = np.array(said, channel.dtype)[sizes > 0]
        found.append(values)
    return found
