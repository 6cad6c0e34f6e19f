"""Batches: every step's rows as a pure function of the seed and the step.

A row of length L is a window of L pieces of the stream, and the next begins on its last one.
Position 0, overwritten by the begin piece, is no target, so each piece of the stream is a
target candidate once in an epoch. Segments come from the document offsets.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import grain
import numpy as np

from lm.config import UserError
from lm.data.store import Split
from lm.example import Vocabulary


class Rows(NamedTuple):
    """What an objective is given."""

    tokens_BL: np.ndarray
    """int32[B, L]."""
    segments_BL: np.ndarray
    """int32[B, L]: which document of the row, from 1; 0 is padding."""


@dataclass(frozen=True, eq=False)
class Batches:
    """`batches(step)`: the same rows for every mesh, host count and restart."""

    split: Split
    vocabulary: Vocabulary
    length: int
    batch: int
    seed: int
    unique: int | None = None
    """Tokens that are read, and then read again; None: all of the split's."""

    def __call__(self, step: int, part: slice | np.ndarray = slice(None)) -> Rows:
        """The rows of global batch `step`, or the `part` of them that this host reads.

        The split's n rows are shuffled anew in each epoch, and the stream of rows does not stop
        at an epoch's end: batch row b of `step` is row g = step x batch + b of it. With
        `unique`, an epoch is the first so many rows of that order, so that runs of one seed
        differ in nothing until the one with less has to repeat.
        """
        n = n_rows(self.split, self.length)
        few = unique_rows(self.split, self.length, self.unique)
        indices = []
        for g in (step * self.batch + np.arange(self.batch)[part]).tolist():
            epoch, index = divmod(g, few)
            if few < n:
                if epoch:
                    index = shuffled(index, few, seed=self.seed, epoch=epoch)
                epoch = 0
            indices.append(shuffled(index, n, seed=self.seed, epoch=epoch))
        return rows(self.split, indices, self.length, self.vocabulary)

    def iterate(
        self, start: int, stop: int, part: slice | np.ndarray = slice(None)
    ) -> Iterator[Rows]:
        """The same for steps `start .. stop - 1`, read ahead in background threads."""
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
        steps = grain.MapDataset.range(start, stop).map(lambda step: self(int(step), part))
        return iter(steps.to_iter_dataset(options))


def n_rows(split: Split, length: int) -> int:
    """How many rows the stream gives: every piece but the first is a target once."""
    return -(-(split.size - 1) // (length - 1))


def most_content(split: Split, length: int) -> int:
    """Content pieces of a row: the most of up to 1024 rows, evenly spaced.

    All but a row's first piece, and the begin pieces of documents, are content.
    """
    rows = n_rows(split, length)
    starts_R = np.linspace(0, rows - 1, min(rows, 1024)).astype(np.int64) * (length - 1)
    lasts_R = np.minimum(starts_R + length, split.size) - 1
    begun_R = documents_at(split.offsets, lasts_R) - documents_at(split.offsets, starts_R)
    return int((lasts_R - starts_R - begun_R).max())


def unique_rows(split: Split, length: int, unique: int | None) -> int:
    """How many rows hold that many tokens, the last one whole; all rows, where it is None.

    Raises UserError where the split has fewer.
    """
    n = n_rows(split, length)
    if unique is None:
        return n
    if unique > n * length:
        raise UserError(
            f"data.unique={unique}: the training text has {n * length:,} tokens in"
            f" {n:,} rows; at most that, or none for all"
        )
    return -(-unique // length)


def rows(
    split: Split, indices: list[int] | np.ndarray, length: int, vocabulary: Vocabulary
) -> Rows:
    """Rows by their index in the unshuffled stream; the last one ends in padding."""
    starts_B = np.asarray(indices, np.int64) * (length - 1)
    tokens_BL = split.read(starts_B, length)
    segments_BL = segments_of(split.offsets, starts_B, length)
    tokens_BL[:, 0] = vocabulary.begin
    return Rows(tokens_BL, segments_BL)


def segments_of(offsets: np.ndarray, starts_B: np.ndarray, length: int) -> np.ndarray:
    """Segments of the windows that begin at `starts_B`, int32[B, length].

    Two documents of 3 and 2 pieces, and a window over both and past their end:

    >>> segments_of(np.array([0, 3, 5]), np.array([1]), 6).tolist()
    [[1, 1, 2, 2, 0, 0]]
    """
    stream_BL = starts_B[:, None] + np.arange(length)[None, :]
    document_BL = documents_at(offsets, stream_BL)
    segments_BL = document_BL - document_BL[:, :1] + 1
    return np.where(stream_BL < offsets[-1], segments_BL, 0).astype(np.int32)


def documents_at(offsets: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Which document holds each index of the stream.

    >>> documents_at(np.array([0, 3, 5]), np.array([0, 2, 3, 4])).tolist()
    [0, 0, 1, 1]
    """
    return np.searchsorted(offsets, stream, side="right") - 1


def shuffled(index: int, n: int, *, seed: int, epoch: int) -> int:
    """Where a permutation of 0 .. n - 1 that (seed, epoch) chooses sends `index`.

    It takes no memory: grain's Feistel network, 3 us. That walks over 2^16 / n indices, so a
    small n is permuted by NumPy instead. The 32-bit seed of either is the head of the SHA-256
    of "seed/epoch": neighbours of either are unrelated.

    >>> sorted(shuffled(index, 5, seed=0, epoch=0) for index in range(5))
    [0, 1, 2, 3, 4]
    """
    head = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:4]
    seed32 = int.from_bytes(head, "little")
    if n <= _SMALL:
        return int(_small_permutation(n, seed32)[index])
    return int(grain.experimental.index_shuffle(index, max_index=n - 1, seed=seed32, rounds=4))


_SMALL = 2048


@functools.lru_cache(16)
def _small_permutation(n: int, seed: int) -> np.ndarray:
    # of NumPy's generators, this one's streams never change between releases
    return np.random.RandomState(seed).permutation(n)
