"""One split of a token store, of which no more is read than is asked for.

What there is of each document - where it begins, its length, its name - is in memory where
documents are few. Beyond that it is read by range, as tokens are, and an index by blocks of
the stream says which documents lie in a window: opening and reading cost the same whatever the
size.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, overload

import numpy as np
import tensorstore as ts

from lm.config import UserError
from lm.data.sources import LOSS, Channel
from lm.data.sources.base import TooLong
from lm.data.tokenizers import Tokenizer

Numbers = np.ndarray | Any
"""Numbers in memory, or `OnDisk`, which is read like them."""

BLOCK = 1 << 12
"""Tokens of a block, of which a store says which document holds the first."""


class OnDisk:
    """Numbers on disk that are indexed like an array; what is asked for is read.

    >>> numbers = OnDisk(ts.array(np.arange(9)))
    >>> numbers[2:4].tolist(), numbers[[5, -1]].tolist(), int(numbers[7])
    ([2, 3], [5, 8], 7)
    """

    def __init__(self, stored: ts.TensorStore) -> None:
        self._stored = stored

    def __len__(self) -> int:
        return int(self._stored.shape[0])

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._range(start, max(start, stop))[::step]
        places = np.asarray(index)
        return self._at(np.where(places < 0, places + len(self), places))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def _range(self, start: int, stop: int) -> np.ndarray:
        return result(self._stored[start:stop].read())

    def _at(self, places: np.ndarray) -> np.ndarray:
        return result(self._stored[places].read())


_Part = tuple[Numbers, int, int]
"""Numbers, how many of them, and what is added to each."""


class _Chain(OnDisk):
    """The first numbers of several, one behind the other, with something added to each.

    >>> chain = _Chain([(np.arange(7), 3, 0), (OnDisk(ts.array(np.arange(9))), 9, 10)])
    >>> chain[2:5].tolist(), chain[[0, -1]].tolist(), int(chain[3])
    ([2, 10, 11], [0, 18], 10)
    """

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._ends = list(accumulate(count for _, count, _ in parts))
        self._parts = [
            (numbers, end - count, end, by)
            for (numbers, count, by), end in zip(parts, self._ends, strict=True)
        ]

    def __len__(self) -> int:
        return self._ends[-1]

    def _range(self, start: int, stop: int) -> np.ndarray:
        found = [
            numbers[max(start, first) - first : min(stop, end) - first] + by
            for numbers, first, end, by in self._parts
            if start < end and stop > first
        ]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def _at(self, places: np.ndarray) -> np.ndarray:
        found = np.zeros(places.shape, np.int64)
        for numbers, first, end, by in self._parts:
            here = (places >= first) & (places < end)
            if here.any():
                found[here] = numbers[places[here] - first] + by
        return found


class Names(Sequence[str]):
    """Names on disk, one behind the other in UTF-8; what is asked for is read."""

    def __init__(self, stored: Numbers, ends: Numbers) -> None:
        """`ends` are where each begins, and the end of the last."""
        self._stored, self._ends = stored, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _RUN):
            yield from self[start : start + _RUN]

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return self[numbers : numbers + 1][0]
        if not numbers:
            return []
        if numbers.step != 1:
            return [self[number] for number in numbers]
        ends = self._ends[numbers.start : numbers.stop + 1]
        text = self._stored[ends[0] : ends[-1]].tobytes()
        places = (ends - ends[0]).tolist()
        return [text[start:end].decode() for start, end in pairwise(places)]


class _Prefixed(Sequence[str]):
    """The names of components, each behind the component's own."""

    def __init__(self, of: Mapping[str, Sequence[str]]) -> None:
        self._of = list(of.items())
        self._ends = list(accumulate(len(names) for _, names in self._of))

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[str]:
        return (f"{name}/{id}" for name, ids in self._of for id in ids)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(len(self))[index]
        if not isinstance(numbers, int):
            return [self[number] for number in numbers]
        which = bisect_right(self._ends, numbers)
        name, ids = self._of[which]
        return f"{name}/{ids[numbers - self._ends[which] + len(ids)]}"


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a token store."""

    tokens: ts.TensorStore
    offsets: Numbers
    """int64[documents + 1]: where each document begins in the stream, and its end."""
    bytes: Numbers
    """int64[documents]: length of each document in UTF-8."""
    ids: Sequence[str]
    tokenizer: Tokenizer
    channels: Mapping[Channel, ts.TensorStore] = field(default_factory=dict)
    """What the source says of each token of the stream."""
    too_long: TooLong = "refuse"
    """What the source says of a document that is longer than a row."""
    components: Mapping[str, "Split"] = field(default_factory=dict)
    """Of a mixture: what it is made of, in order."""
    blocks: Numbers | None = None
    """int64[blocks + 1]: the document that holds the first token of each block of the stream,
    and the last document; None: offsets are in memory."""
    known_bytes: int | None = None
    """Length of all documents in UTF-8; None: it is summed."""

    @cached_property
    def parts(self) -> tuple["Split", ...]:
        """The components of a mixture, in their order; () if it is none."""
        found, start = list[Split](), 0
        for name, split in self.components.items():
            stop = start + split.size
            channels = {
                channel: stored[start:stop].translate_to[0]
                for channel, stored in self.channels.items()
            }
            ids = _Prefixed({name: split.ids})
            found.append(replace(split, ids=ids, channels=channels, too_long=self.too_long))
            start = stop
        return tuple(found)

    @property
    def ends(self) -> tuple[int, ...]:
        """Of a mixture: how many documents there are to the end of each component."""
        return tuple(accumulate(len(split.ids) for split in self.components.values()))

    @property
    def size(self) -> int:
        """Length of the stream."""
        return int(self.tokens.shape[0])

    @property
    def text_bytes(self) -> int:
        """Length of all documents in UTF-8."""
        return int(np.sum(self.bytes)) if self.known_bytes is None else self.known_bytes

    def sizes(self, most: int = 1 << 22) -> np.ndarray:
        """Tokens of each document; of more than `most`, of runs that are evenly spaced."""
        if len(self.ids) <= most:
            return np.diff(self.offsets)
        firsts = np.linspace(0, len(self.ids) - _RUN, most // _RUN).astype(np.int64)
        runs = [self.offsets[first : first + _RUN + 1] for first in firsts.tolist()]
        return np.concatenate([np.diff(run) for run in runs])

    def offsets_near(self, starts_B: np.ndarray, length: int) -> np.ndarray:
        """The offsets that lie in these windows of the stream, in order, and the last of all.

        There may be others among them. What is read depends on the windows alone: of each the
        entries of two blocks, then the offsets between them.
        """
        if isinstance(self.offsets, np.ndarray):
            return self.offsets
        starts_B = np.asarray(starts_B, np.int64)
        if self.components:
            found, begin = list[np.ndarray](), 0
            for split in self.components.values():
                end = begin + split.size
                inside = starts_B[(starts_B < end) & (starts_B + length > begin)]
                if len(inside):
                    near = split.offsets_near(np.maximum(inside - begin, 0), length)
                    found.append(begin + near[:-1])
                begin = end
            return np.concatenate([*found, [begin]])
        stops_B = np.minimum(starts_B + length, self.size)
        ends = np.stack([starts_B // BLOCK, -(-stops_B // BLOCK)])
        assert self.blocks is not None  # nor are offsets on disk
        blocks, places = np.unique(ends, return_inverse=True)
        firsts, lasts = self.blocks[blocks][places.reshape(ends.shape)].tolist()
        numbers = [
            np.arange(first, last + 1) for first, last in zip(firsts, lasts, strict=True)
        ]
        return np.append(self.offsets[np.unique(np.concatenate(numbers))], self.size)

    def read(self, starts: Iterable[int], length: int) -> np.ndarray:
        """Windows of the stream, int32[len(starts), length]; past its end is padding."""
        return self._windows(self.tokens, starts, length, self.tokenizer.vocabulary.pad)

    def read_channels(self, starts: Iterable[int], length: int) -> dict[str, np.ndarray]:
        """The same windows of each channel, [len(starts), length, ...], by its name."""
        return {
            channel.name: self._windows(stored, starts, length, channel.fill, channel)
            for channel, stored in self.channels.items()
        }

    def _windows(
        self,
        stored: ts.TensorStore,
        starts: Iterable[int],
        length: int,
        fill: float,
        channel: Channel | None = None,
    ) -> np.ndarray:
        with ts.Batch() as batch:
            reads = [
                stored[start : min(start + length, self.size)].read(batch=batch)
                for start in map(int, starts)
            ]
        shape, dtype = (channel.shape, channel.dtype) if channel else ((), "int32")
        windows = np.full((len(reads), length, *shape), fill, dtype)
        for window, read in zip(windows, reads, strict=True):
            found = result(read)
            window[: len(found)] = found
        return windows

    def text(self, document: int) -> str:
        """A document as it was read, from its tokens."""
        start, end = self.offsets[document : document + 2].tolist()
        return self.tokenizer.decode(self.read([start], end - start)[0])


_RUN = 1 << 14
"""Documents of which the numbers are read at once."""


def result(read: Any) -> Any:
    """What is read, or opened; a chunk that is missing or damaged is a UserError."""
    try:
        return read.result()
    except ValueError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"token store: {why}; delete it, and it is made again") from None


def join(parts: Mapping[str, Split], channels: Sequence[Channel], too_long: TooLong) -> Split:
    """The splits of a mixture's components, by name, as one; nothing is copied.

    Where a component's documents say nothing in a channel its fill stands; but as to whether a
    token counts as a target: where nothing is said, all of them do.
    """
    splits = list(parts.values())
    starts = list(accumulate((split.size for split in splits), initial=0))
    counts = [len(split.ids) for split in splits]
    begins = [
        (split.offsets, count, start)
        for split, count, start in zip(splits, counts, starts, strict=False)
    ]
    return Split(
        ts.concat([split.tokens for split in splits], axis=0),
        _joined([*begins, (np.array(starts[-1:]), 1, 0)]),
        _joined([(split.bytes, n, 0) for split, n in zip(splits, counts, strict=True)]),
        _Prefixed({name: split.ids for name, split in parts.items()}),
        splits[0].tokenizer,
        {
            channel: ts.concat([_channel_of(split, channel) for split in splits], axis=0)
            for channel in channels
        },
        too_long,
        parts,
        known_bytes=sum(split.text_bytes for split in splits),
    )


def _joined(parts: Sequence[_Part]) -> Numbers:
    if all(isinstance(numbers, np.ndarray) for numbers, *_ in parts):
        return np.concatenate([numbers[:count] + by for numbers, count, by in parts])
    return _Chain(parts)


def _channel_of(split: Split, channel: Channel) -> ts.TensorStore:
    if channel in split.channels:
        return split.channels[channel]
    value = 1 if channel == LOSS else channel.fill

    def fill(_: ts.IndexDomain, array: np.ndarray, __: Any) -> None:
        array[...] = value

    shape = [split.size, *channel.shape]
    layout = ts.ChunkLayout(chunk_shape=[_RUN, *channel.shape])
    return ts.virtual_chunked(fill, dtype=channel.dtype, shape=shape, chunk_layout=layout)
