"""A text in passages: so many tokens, a few of them shared with the passage before."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from lm.data import Tokenizer
from lm.retrieval.texts import FileText

TokenEnds = Callable[[str], np.ndarray]
"""Where each token of a text ends, in its letters, int64[n]."""
AT_ONCE = 1 << 16
"""Letters whose tokens are found at once."""
_MARGIN = 16
"""Tokens at the end of such letters that may be others once it is known how they go on."""
_ENDS = (r"\n[ \t]*\n", r"[.!?][\"')\]]*\s", r"\n", r"\s")
"""What a passage ends behind, from best to worst: a paragraph, a sentence, a line, a word."""


class TextPassage(NamedTuple):
    """A part of a file's text."""

    text: str
    first: int
    """The line of the file, or its page, that it begins on."""
    last: int


def passages(
    given: FileText, ends_of: TokenEnds, *, tokens: int, overlap: int
) -> Iterator[TextPassage]:
    """Passages of at most `tokens` tokens, which share about `overlap` with the one before.

    One ends behind a paragraph, if one ends in its last quarter, else a sentence, a line, a
    word; it begins with a word. `overlap` is at most half of `tokens`.

    >>> text = FileText("one two three\\nfour five six seven", range(1, 3))
    >>> [each.text for each in passages(text, word_ends, tokens=4, overlap=1)]
    ['one two three', 'three\\nfour five six', 'six seven']
    """
    assert 0 <= 2 * overlap <= tokens and tokens > 0
    starts, text = given.starts, given.text
    begin, size = 0, AT_ONCE
    while begin < len(text):
        chunk = text[begin : begin + size]
        whole = begin + size >= len(text)
        ends = ends_of(chunk)
        at = 0
        while True:
            # The first token that ends behind the place.
            first = int(np.searchsorted(ends, at, side="right"))
            if len(ends) - first <= tokens + _MARGIN * (not whole):
                break
            stop = _end(chunk, at, int(ends[first + tokens - 1]))
            yield from _passage(given, starts, begin + at, begin + stop)
            if whole and not chunk[stop:].strip():
                return
            last = int(np.searchsorted(ends, stop, side="right"))
            back = int(ends[max(last - overlap, 1) - 1])
            at = max(at + 1, _begin(chunk, back, stop) if overlap else stop)
        if whole:
            if len(ends):
                yield from _passage(given, starts, begin + at, len(text))
            return
        # Nothing of it was a passage: there are fewer tokens in it than a passage has.
        size = AT_ONCE if at else 2 * size
        begin += at


def token_ends(tokenizer: Tokenizer) -> TokenEnds:
    """The tokens of a tokenizer."""

    def ends_of(text: str) -> np.ndarray:
        _, bytes_n = tokenizer.encode_with_bytes(text)
        if not len(bytes_n):
            return np.zeros(0, np.int64)
        content = np.frombuffer(text.encode(), np.uint8)
        # Letters that are complete after each byte.
        letters = np.cumsum((content & 0xC0) != 0x80)
        return letters[np.cumsum(bytes_n) - 1].astype(np.int64)

    return ends_of


def word_ends(text: str) -> np.ndarray:
    """Words as tokens, where there is no model that says what tokens are."""
    return np.array([found.end() for found in re.finditer(r"\s*\S+", text)], np.int64)


def _end(text: str, start: int, most: int) -> int:
    """Where a passage ends that may go as far as `most`."""
    from_ = start + 3 * (most - start) // 4
    # The blank behind the last word is not in it.
    tail = text[from_ : most + 1]
    for pattern in _ENDS:
        if found := list(re.finditer(pattern, tail)):
            return from_ + found[-1].end()
    return most


def _begin(text: str, back: int, stop: int) -> int:
    """The first word that begins from `back` on, up to `stop`."""
    found = re.compile(r"(?<=\s)\S").search(text, back, stop)
    return found.start() if found else back


def _passage(
    given: FileText, starts: list[int], start: int, stop: int
) -> Iterator[TextPassage]:
    part = given.text[start:stop]
    if text := part.strip():
        start += len(part) - len(part.lstrip())
        last = start + len(text) - 1
        yield TextPassage(text, given.number_at(start, starts), given.number_at(last, starts))
