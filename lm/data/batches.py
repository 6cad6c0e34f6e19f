"""Batches: every step's rows as a pure function of the seed and the step.

Packed as a `stream`, a row of length L is a window of L tokens of the stream, and the next
begins on its last one. Position 0, overwritten by the bos token, is no target, so each token
of the stream is a target candidate once in an epoch. Segments come from the document offsets.
Packed `whole` or `single`, a row holds documents that are not cut, or one of them
(`lm.data.packing`), then padding.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import jax
import numpy as np

from lm.config import UserError
from lm.data.packing import RowTable, sizes_in_rows, table_of
from lm.data.split import Split
from lm.data.turns import Turns
from lm.example import Batch, Vocabulary

Packing = Literal["stream", "whole", "single"]
T = TypeVar("T")


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
    packing: Packing = "stream"
    copies: int = 1
    """How often each row stands in a batch, one behind the other: it divides the batch."""
    turns: Turns | None = None
    """Of a mixture: which component each row is of."""

    def __call__(self, step: int, part: slice | np.ndarray = slice(None)) -> Batch:
        """The rows of global batch `step`, or the `part` of them that this host reads.

        The split's n rows are shuffled anew in each epoch, and the stream of rows does not stop
        at an epoch's end: batch row b of `step` is row g = step x batch + b of it. With
        `unique`, an epoch is the first so many rows of that order, so that runs of one seed
        differ in nothing until the one with less has to repeat. With `copies`, each row of
        that stream is so many rows of the batch.

        Of a mixture each component has an order and epochs of its own, and `turns` say whose
        row is the next.
        """
        order = (step * self.batch + np.arange(self.batch)[part]) // self.copies
        if self.turns is not None:
            return self._mixed(self.turns, order.tolist())
        n = n_rows(self.split, self.length, self.packing)
        few = unique_rows(self.split, self.length, self.unique, self.packing)
        indices = []
        for g in order.tolist():
            epoch, index = divmod(g, few)
            if few < n:
                if epoch:
                    index = shuffled(index, few, seed=self.seed, epoch=epoch)
                epoch = 0
            indices.append(shuffled(index, n, seed=self.seed, epoch=epoch))
        return rows(self.split, indices, self.length, self.vocabulary, self.packing)

    def _mixed(self, turns: Turns, order: list[int]) -> Batch:
        found = [turns(g) for g in order]
        of_B = np.array([component for component, _ in found])
        batches, places = [], []
        for component in np.unique(of_B).tolist():
            split = self.split.parts[component]
            n, seed = n_rows(split, self.length, self.packing), f"{self.seed}/{component}"
            numbers = [divmod(number, n) for which, number in found if which == component]
            indices = [shuffled(index, n, seed=seed, epoch=epoch) for epoch, index in numbers]
            batches.append(rows(split, indices, self.length, self.vocabulary, self.packing))
            places.append(np.flatnonzero(of_B == component))
        back_B = np.argsort(np.concatenate(places))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays)[back_B], *batches)

    def iterate(
        self, start: int, stop: int, part: slice | np.ndarray = slice(None)
    ) -> Iterator[Batch]:
        """The same for steps `start .. stop - 1`, read ahead in background threads."""
        return read_ahead(lambda step: self(step, part), start, stop)


def read_ahead(read: Callable[[int], T], start: int, stop: int) -> Iterator[T]:
    """What `read` gives for steps `start .. stop - 1`, read ahead in background threads."""
    import grain  # two seconds, for which no command that reads no batch should wait

    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)
    steps = grain.MapDataset.range(start, stop).map(lambda step: read(int(step)))
    return iter(steps.to_iter_dataset(options))


def n_rows(split: Split, length: int, packing: Packing = "stream") -> int:
    """How many rows there are: of a stream, every token but the first is a target once."""
    if packing != "stream":
        return len(table_of(split, length, packing).rows) - 1
    return -(-(split.size - 1) // (length - 1))


def row_tokens(split: Split, length: int, packing: Packing = "stream") -> float:
    """Tokens of a row that are no padding, on average over the split.

    Every row of a stream is full, but for the last one, which is not counted as less.
    """
    if packing == "stream":
        return float(length)
    tokens = int(sizes_in_rows(split, length).sum())
    return tokens / n_rows(split, length, packing)


def most_content(split: Split, length: int, packing: Packing = "stream") -> int:
    """Content tokens of a row: the most of up to 1024 rows of a stream, evenly spaced.

    All but a row's first token, and the bos token of documents, are content.
    """
    if packing != "stream":
        starts_R, documents = table_of(split, length, packing)
        content = sizes_in_rows(split, length)[documents] - 1
        return int(np.add.reduceat(content, starts_R[:-1]).max(initial=0))
    rows = n_rows(split, length)
    starts_R = np.linspace(0, rows - 1, min(rows, 1024)).astype(np.int64) * (length - 1)
    lasts_R = np.minimum(starts_R + length, split.size) - 1
    offsets = split.offsets_near(starts_R, length)
    begun_R = documents_at(offsets, lasts_R) - documents_at(offsets, starts_R)
    return int((lasts_R - starts_R - begun_R).max())


def unique_rows(
    split: Split, length: int, unique: int | None, packing: Packing = "stream"
) -> int:
    """How many rows hold that many tokens, the last one whole; all rows, where it is None.

    Rows of whole documents count as what they hold on average. Raises UserError where the split
    has fewer.
    """
    n = n_rows(split, length, packing)
    if unique is None:
        return n
    each = row_tokens(split, length, packing)
    if unique > n * each:
        raise UserError(
            f"data.unique={unique}: the training text has {round(n * each):,} tokens in"
            f" {n:,} rows; at most that, or none for all"
        )
    return min(n, math.ceil(unique / each))


def rows(
    split: Split,
    indices: list[int] | np.ndarray,
    length: int,
    vocabulary: Vocabulary,
    packing: Packing = "stream",
) -> Batch:
    """Rows by their index, before any shuffle; the last one of a stream ends in padding."""
    if packing != "stream":
        return _whole_rows(split, indices, length, table_of(split, length, packing))
    starts_B = np.asarray(indices, np.int64) * (length - 1)
    tokens_BL = split.read(starts_B, length)
    segments_BL = segments_of(split.offsets_near(starts_B, length), starts_B, length)
    tokens_BL[:, 0] = vocabulary.bos
    return Batch(tokens_BL, segments_BL, split.read_channels(starts_B, length))


def _whole_rows(
    split: Split, indices: list[int] | np.ndarray, length: int, table: RowTable
) -> Batch:
    held_B = [table.documents[slice(*table.rows[r : r + 2])] for r in np.asarray(indices)]
    documents = np.concatenate([np.zeros(0, np.int64), *held_B])
    starts = split.offsets[documents]
    sizes = sizes_in_rows(split, length)[documents]
    longest = int(sizes.max(initial=0))
    row = np.repeat(np.arange(len(held_B)), [len(held) for held in held_B])
    ends = np.cumsum(sizes)
    # Where each document begins in its row: after those before it in the same row.
    first = np.searchsorted(row, row)
    place = ends - sizes - (ends - sizes)[first]

    def lay_out(windows: np.ndarray, fill: float) -> np.ndarray:
        found = np.full((len(held_B), length, *windows.shape[2:]), fill, windows.dtype)
        for window, r, start, size in zip(windows, row, place, sizes, strict=True):
            found[r, start : start + size] = window[:size]
        return found

    segment = (np.arange(len(row)) - first + 1).astype(np.int32)
    channels = split.read_channels(starts, longest)
    return Batch(
        lay_out(split.read(starts, longest), split.tokenizer.vocabulary.pad),
        lay_out(np.broadcast_to(segment[:, None], (len(row), longest)), 0),
        {
            channel.name: lay_out(channels[channel.name], channel.fill)
            for channel in split.channels
        },
    )


def places(
    split: Split,
    indices: list[int] | np.ndarray,
    length: int,
    packing: Packing = "whole",
) -> np.ndarray:
    """Where in the stream each token of these rows of whole documents is, int64[rows, length].

    -1 is padding. Raises ValueError for rows of a stream.
    """
    if packing == "stream":
        raise ValueError("rows of a stream hold no whole documents")
    table, sizes = table_of(split, length, packing), sizes_in_rows(split, length)
    found_BL = np.full((len(indices), length), -1)
    for row, index in enumerate(indices):
        held = table.documents[slice(*table.rows[index : index + 2])]
        tokens = np.concatenate(
            [split.offsets[document] + np.arange(sizes[document]) for document in held]
        )
        found_BL[row, : len(tokens)] = tokens
    return found_BL


def segments_of(offsets: np.ndarray, starts_B: np.ndarray, length: int) -> np.ndarray:
    """Segments of the windows that begin at `starts_B`, int32[B, length].

    Of the offsets only those within the windows are needed, and the last.

    Two documents of 3 and 2 tokens, and a window over both and past their end:

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


def shuffled(index: int, n: int, *, seed: int | str, epoch: int) -> int:
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
    import grain

    return int(grain.experimental.index_shuffle(index, max_index=n - 1, seed=seed32, rounds=4))


_SMALL = 2048


@functools.lru_cache(16)
def _small_permutation(n: int, seed: int) -> np.ndarray:
    # of NumPy's generators, this one's streams never change between releases
    return np.random.RandomState(seed).permutation(n)
