"""From the tokens of one row to its text, and to what OpenAI says of its tokens."""

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm.data import Tokenizer
from lm.generate.engine import Emitted, Scored
from lm.generate.text import Written

Alternatives = Sequence[tuple[int, float]]


class PlacedToken(NamedTuple):
    """A token of a text, and how likely it was."""

    id: int
    start: int
    """Where its first letter stands in the row's text."""
    log_p: float | None
    """None: nothing stands before it."""
    alternatives: Alternatives


class Added(NamedTuple):
    """What a token has settled: text that is sure by now, and its tokens."""

    text: str
    tokens: list[PlacedToken]
    reason: str | None
    """Why there is no more: stop or length; None: there is."""


class RowWriter:
    """The text of one row, as its tokens come.

    Text that may still become a stop string, or is a part of a character, is held back, and
    with it the tokens that stand in it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._written = Written(tokenizer, stop=tuple(stop))
        self._places = LetterPlaces(tokenizer)
        self._held: list[PlacedToken] = []
        self._letters = 0
        self.count = 0
        """How many tokens its text has."""

    def take(self, emitted: Emitted) -> Added:
        """What another token adds. Where a stop string is complete the reason is stop, though
        the row itself goes on.
        """
        text, reason = "", emitted.reason
        # What ends a text is no part of it; and there is none where none was asked for.
        if reason != "stop" and emitted.token is not None:
            start = self._places.take(emitted.token)
            self._held.append(
                PlacedToken(emitted.token, start, emitted.log_p, emitted.alternatives)
            )
            text = self._written.take(emitted.token)
            if self._written.ended:
                reason = "stop"
        if reason is not None and not self._written.ended:
            text += self._written.flush()
        self._letters += len(text)
        # A token without letters of its own, as one that completes none, goes with the next.
        settled = [each for each in self._held if each.start < self._letters]
        if reason is None or self._written.ended:
            self._held = self._held[len(settled) :]
        else:
            settled, self._held = self._held, []
        self.count += len(settled)
        return Added(text, settled, reason)


class LetterPlaces:
    """Where tokens stand in the text that they make up, in letters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens = tokenizer.tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._letters = 0

    def take(self, id: int) -> int:
        """Where the first letter of another token is."""
        start = self._letters
        self._letters += len(self.letters(id))
        return start

    def letters(self, id: int) -> str:
        """The letters that another token completes."""
        return self._decoder.decode(self._tokens[id])


def letters_of(tokenizer: Tokenizer, text: str, mark: str | None = None) -> list[str]:
    """The letters of a text that each of its tokens completes, which together are the text.

    What a tokenizer spells another way stands as it was given. Where `mark` stands for a mask
    token, it is what that token has.

    >>> from lm.data.tokenizers import Bytes
    >>> letters_of(Bytes().open(), "hé_", "_")
    ['h', '', 'é', '_']
    """
    found: list[str] = []
    for number, part in enumerate([text] if mark is None else text.split(mark)):
        if mark is not None and number:
            found.append(mark)
        raw, decoder = part.encode(), codecs.getincrementaldecoder("utf-8")()
        start = 0
        for size in tokenizer.encode_with_bytes(part)[1].tolist():
            found.append(decoder.decode(raw[start : start + size]))
            start += size
    return found


def prompt_tokens(tokenizer: Tokenizer, scored: Sequence[Scored]) -> list[PlacedToken]:
    """A prompt's own tokens, each with its log-probability and alternatives."""
    places = LetterPlaces(tokenizer)
    return [
        PlacedToken(token, places.take(token), log_p, alternatives)
        for token, log_p, alternatives in scored
    ]


def token_text(tokenizer: Tokenizer, id: int) -> str:
    r"""What a token is called: its text, or its bytes where these are a part of a character.

    >>> from lm.data.tokenizers import Bytes
    >>> tokenizer = Bytes().open()
    >>> [token_text(tokenizer, id) for id in (2, 108, 199)]
    ['<bos>', 'h', 'bytes:\\xc3']
    """
    raw = tokenizer.tokens[id]
    if not raw:
        return tokenizer.id_to_token(id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[PlacedToken], *, top: int, offset: int = 0
) -> dict[str, Any]:
    """What a completion says of its tokens; `offset`: where in its text they begin."""
    return {
        "tokens": [token_text(tokenizer, each.id) for each in tokens],
        "token_logprobs": [each.log_p for each in tokens],
        "top_logprobs": [_by_text(tokenizer, each, top) for each in tokens],
        "text_offset": [offset + each.start for each in tokens],
    }


def chat_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[PlacedToken], *, top: int
) -> dict[str, Any]:
    """What an answer says of its tokens."""

    def entry(id: int, log_p: float | None) -> dict[str, Any]:
        text = token_text(tokenizer, id)
        return {"token": text, "logprob": log_p, "bytes": list(tokenizer.tokens[id])}

    content = [
        entry(each.id, each.log_p)
        | {"top_logprobs": [entry(id, log_p) for id, log_p in each.alternatives[:top]]}
        for each in tokens
    ]
    return {"content": content, "refusal": None}


def _by_text(tokenizer: Tokenizer, token: PlacedToken, top: int) -> dict[str, float] | None:
    """Log-probabilities of the likeliest tokens by their text, and of this one."""
    if token.log_p is None:
        return None
    found: dict[str, float] = {}
    for id, log_p in (*token.alternatives[:top], (token.id, token.log_p)):
        text = token_text(tokenizer, id)
        # Two tokens may have one text.
        found[text] = max(log_p, found.get(text, log_p))
    return found
