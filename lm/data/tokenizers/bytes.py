"""A token a byte."""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from lm.data.tokenizers.base import ORDINARY, Base, Sentinels, Tokenizer, sha


class Bytes(Base, frozen=True, tag="bytes"):
    """A token a byte: 256 of them after the special ones."""

    byte_a_token: ClassVar[bool] = True
    sentinels: Sentinels = 0

    @property
    def vocabulary_size(self) -> int:
        return ORDINARY + 256 + self.sentinels + len(self.added)

    def kept(self, corpus_digest: str, validation: float) -> Tokenizer:
        return self.read(None)

    def open(
        self,
        corpus_digest: str = "",
        validation: float = 0.0,
        train_bytes: int = 0,
        train_texts: Callable[[], Iterator[str]] = lambda: iter(()),
    ) -> Tokenizer:
        return self.read(None)

    def read(self, model: bytes | None) -> Tokenizer:
        tokens = [bytes([byte]) for byte in range(256)]
        return Tokenizer(
            tokens,
            sha(b"bytes 1"),
            _encode,
            self.sentinels,
            added=self.added,
            chat_template=self.template_text,
        )


def _encode(texts: Sequence[str]) -> list[np.ndarray]:
    return [np.frombuffer(text.encode(), np.uint8) for text in texts]
