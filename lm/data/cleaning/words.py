"""Words of many texts at once, as arrays: what works word by word in Python is what costs.

A text is cut by `str.split`, which is C; a word becomes a number by a dictionary that remembers
what it has hashed; from there on everything is numpy over the words of many documents.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

_PUNCTUATION = str.maketrans(dict.fromkeys("!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~…–—“”„«»‘’'", " "))
BLOCK = 256
"""Documents whose words are in memory at once, so that they stay in the processor's cache."""


@lru_cache(maxsize=4096)
def plain_words(text: str) -> list[str]:
    """The words in lower case without punctuation, by which texts are compared.

    Steps that follow each other ask for the same texts, so that these are remembered until
    `plain_words.cache_clear()`; nobody may change the list.

    >>> plain_words("It's  GPT-3, he said.")
    ['it', 's', 'gpt', '3', 'he', 'said']
    """
    return split_words(text)


def split_words(text: str) -> list[str]:
    """The same, of what is looked at once."""
    return text.lower().translate(_PUNCTUATION).split()


def hash_of(content: bytes) -> int:
    """64 bits of a content, the same in every process and on every machine.

    Among a billion different contents the chance that any two agree is 1 in 37.

    >>> hash_of(b"a") == hash_of(b"a") < 2**64
    True
    """
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


class _Hashes(dict[str, int]):
    """Word to hash, of the words seen lately."""

    def __missing__(self, word: str) -> int:
        if len(self) > 1_000_000:
            self.clear()
        self[word] = found = hash_of(word.encode("utf-8", "surrogatepass"))
        return found


_hashes = _Hashes()


@dataclass(frozen=True, eq=False)
class WordArrays:
    """The words of D documents in a row: W words."""

    hashes: np.ndarray
    """Of each word: uint64 [W]."""
    sizes: np.ndarray
    """Characters of each word: int64 [W]."""
    starts: np.ndarray
    """Where each document begins, and the end: int64 [D + 1]."""

    @classmethod
    def of(cls, texts: Sequence[list[str]]) -> "WordArrays":
        """From the words of each document.

        >>> found = WordArrays.of([["to", "be"], [], ["to"]])
        >>> found.sizes.tolist(), found.starts.tolist(), found.documents.tolist()
        ([2, 2, 2], [0, 2, 2, 3], [0, 0, 2])
        """
        words = [word for text in texts for word in text]
        starts = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(text) for text in texts], out=starts[1:])
        return cls(
            np.fromiter(map(_hashes.__getitem__, words), np.uint64, len(words)),
            np.fromiter(map(len, words), np.int64, len(words)),
            starts,
        )

    @cached_property
    def documents(self) -> np.ndarray:
        """Which document each word is of: int64 [W]."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def ends(self) -> np.ndarray:
        """Characters before each word, and of all: int64 [W + 1]."""
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def ngrams(self, n: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(hashes, uint64; places of their first words, int64) of all runs of n words.

        None reaches from one document into the next. With `among`, only those that begin at
        one of these places.

        >>> words = WordArrays.of(["a b a b".split(), ["b"]])
        >>> hashes, places = words.ngrams(2)
        >>> places.tolist(), bool(hashes[0] == hashes[2]), bool(hashes[0] == hashes[1])
        ([0, 1, 2], True, False)
        """
        count = max(len(self.hashes) - n + 1, 0)
        places = np.arange(count) if among is None else among[among < count]
        places = places[self.documents[places] == self.documents[places + n - 1]]
        mixed = self.hashes[places]
        for offset in range(1, n):
            mixed *= _MULTIPLIER
            mixed += self.hashes[places + offset]
        return mix(mixed), places


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """Spreads the bits of uint64s over each other, one to one (the end of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts, `BLOCK` at a time."""
    for first in range(0, len(texts), BLOCK):
        yield texts[first : first + BLOCK]
