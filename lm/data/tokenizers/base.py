"""What a tokenizer owes: text to ids and back, losing nothing."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from lm.config import Config
from lm.data.words import begins_word
from lm.example import Vocabulary

PAD, MASK, BOS, EOS, ORDINARY = range(5)


Sentinels = Annotated[
    int,
    Meta(ge=0, le=4096, description="further special tokens, each for a removed span (T5)"),
]


class Tokenizer:
    """`decode(encode(text)) == text` for every text that UTF-8 can hold.

    `tokens[id]` is the bytes that an id stands for (none, for the special tokens). A word may
    begin with any token whose first character begins one (`lm.data.words`): `▁the` does,
    `self` in `(self` does not. A byte from 128 up is a part of a character, which the bytes
    after it decide.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        digest: str,
        encode_ordinary: Callable[[Sequence[str]], list[np.ndarray]],
        sentinels: int = 0,
        model: bytes | None = None,
        added: Sequence[str] = (),
    ) -> None:
        ordinary = ORDINARY + sentinels
        self.tokens = (b"",) * ordinary + tuple(tokens) + (b"",) * len(added)
        digest = sha(f"{digest} {sentinels}".encode()) if sentinels else digest
        self.digest = sha(digest.encode() + msgspec.json.encode(added)) if added else digest
        self.model = model
        """Its own file, if it has one."""
        end = len(self.tokens) - len(added)
        self.added = {name: end + number for number, name in enumerate(added)}
        """Ids of the tokens that were added, by name: for whoever builds rows by ids. A text
        that spells a name is encoded as any other."""
        self._encode_ordinary = encode_ordinary
        self.vocabulary = Vocabulary(
            size=len(self.tokens),
            pad=PAD,
            mask=MASK,
            bos=BOS,
            eos=EOS,
            first_ordinary=ordinary,
            begins_word=tuple(map(_begins_word, self.tokens)),
            character_bytes=tuple(
                token[0] if len(token) == 1 and token[0] >= 128 else 0 for token in self.tokens
            ),
            sentinels=tuple(range(ORDINARY, ordinary)),
            special=tuple(range(end, len(self.tokens))),
        )

    def encode(self, text: str) -> np.ndarray:
        """The ids of `text`, int32[n], without special tokens.

        >>> from lm.data.tokenizers import Bytes
        >>> Bytes().open().encode("hé").tolist()
        [108, 199, 173]
        """
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, int32[n] each, on all cores."""
        first = self.vocabulary.first_ordinary
        return [ids.astype(np.int32) + first for ids in self._encode_ordinary(texts)]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; special tokens vanish, bytes that are no UTF-8 become U+FFFD.

        >>> from lm.data.tokenizers import Bytes
        >>> Bytes().open().decode([BOS, 108, 199, 173, EOS])
        'hé'
        """
        array = np.asarray(ids, np.int64)
        parts = (array[at : at + 4096].tolist() for at in range(0, len(array), 4096))
        text = b"".join(b"".join(map(self.tokens.__getitem__, part)) for part in parts)
        return text.decode(errors="replace")


class Base(Config):
    """A kind of tokenizer: a frozen value that learns one from text, or reads one from a file.

    `sentinels` is a field of every kind, and both count in its vocabulary and are given to its
    `Tokenizer`.
    """

    byte_a_token: ClassVar[bool] = False
    """Whether each byte is a token, whatever the text."""
    added: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="names of further special tokens, whose ids come after all others"),
    ] = ()

    def check(self) -> str | None:
        """What is wrong with the fields, in one line that begins with one; None if nothing.

        >>> from lm.data.tokenizers import Bytes
        >>> Bytes(added=("<user>", "<user>")).check()
        'added: <user> is there twice'
        """
        twice = [name for name, times in Counter(self.added).items() if times > 1]
        return f"added: {twice[0]} is there twice" if twice else None

    @property
    def vocabulary_size(self) -> int:
        """How many ids a tokenizer will have, known before it has learnt them."""
        raise NotImplementedError

    def kept(self, corpus_digest: str, validation: float) -> Tokenizer | None:
        """The tokenizer, if nothing is to be learnt for it; else None."""
        raise NotImplementedError

    def open(
        self,
        corpus_digest: str = "",
        validation: float = 0.0,
        train_bytes: int = 0,
        train_texts: Callable[[], Iterator[str]] = lambda: iter(()),
    ) -> Tokenizer:
        """The tokenizer; a learnt one is kept by the digest of what it learnt from.

        `train_texts` is only called when there is something to learn. Raises `UserError` if
        they cannot give as many tokens as are asked for.
        """
        raise NotImplementedError

    def read(self, model: bytes | None) -> Tokenizer:
        """The tokenizer of which `model` is the own file; None: it has none.

        Raises `UserError` where it is no such file.
        """
        raise NotImplementedError


def _begins_word(token: bytes) -> bool:
    first = token.decode(errors="ignore")[:1]
    return begins_word(first) if first else not token


def sha(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
