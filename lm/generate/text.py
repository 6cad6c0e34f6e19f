"""Tokens as text while they come: what is sure by now, and where a text ends by itself."""

import codecs
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lm.data import Tokenizer
from lm.generate.engine import Emitted, Engine, Request


class Written:
    """The text of tokens that come one by one, up to the first of some stop strings.

    Held back are the bytes of a character that is not whole, and what may still become a stop
    string: it may begin in one token and end in another.

    >>> from lm.data.tokenizers import Bytes
    >>> tokenizer = Bytes().open()
    >>> written = Written(tokenizer, stop=["no!"])
    >>> [written.take(token) for token in tokenizer.encode("a nono!x").tolist()]
    ['a', ' ', '', '', 'no', '', '', '']
    >>> written.ended, written.flush()
    (True, '')
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokens, self._stop = tokenizer.tokens, [each for each in stop if each]
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._held = ""
        self.ended = False
        """Whether a stop string came: it and what follows are never given."""

    def take(self, token: int) -> str:
        """The text that is sure with this token, and was not given before."""
        return self._sure(self._decode(self._tokens[token]))

    def flush(self) -> str:
        """The text that was held back, as no more tokens come; a cut character is U+FFFD."""
        sure = self._sure(self._decode(b"", final=True))
        rest, self._held = self._held, ""
        return sure + rest

    def _sure(self, new: str) -> str:
        if self.ended:
            return ""
        text = self._held + new
        places = [at for each in self._stop if (at := text.find(each)) >= 0]
        if places:
            self.ended, self._held = True, ""
            return text[: min(places)]
        kept = max((_begun(text, each) for each in self._stop), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


class Told(NamedTuple):
    """A token that was drawn, and the text that is sure since."""

    text: str
    emitted: Emitted
    """A stop string is the reason `stop`, as an end is."""


def tell(
    engine: Engine, requests: Sequence[Request], tokenizer: Tokenizer, stop: Sequence[str] = ()
) -> Iterator[Told]:
    """What an engine draws for requests, as text, each up to its first stop string."""
    texts = {request.number: Written(tokenizer, stop) for request in requests}
    for one in engine.all(requests):
        written = texts[one.number]
        new = "" if one.token is None or one.reason == "stop" else written.take(one.token)
        if one.reason is not None:
            new += written.flush()
        if written.ended:
            engine.cancel(one.number)
            one = one._replace(reason="stop")
        yield Told(new, one)


def _begun(text: str, stop: str) -> int:
    """How many of the last letters of the text may be the first of a stop string.

    >>> _begun("abab", "abac"), _begun("ab", "b"), _begun("x", "ab")
    (2, 0, 0)
    """
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
