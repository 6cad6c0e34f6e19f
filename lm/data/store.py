"""The token store: a corpus as arrays on disk, checked whole before it is used.

Under `$LM_CACHE/tokens/KEY/`, for each split: `tokens` (all documents' tokens, each document
between a begin and an eos token, or as its chat template writes it), `channels/NAME` (what the
source says of each of them), `offsets` (where each document begins, and the end), `bytes` (its
length in UTF-8), zarr 3 arrays with checksums, and `ids.json`. `manifest.json`, written last,
holds the key and the length and SHA-256 of every file, because the arrays' own checksums do not
see a chunk that is missing (it would read as zeros) or that belongs to another store.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from lm.config import UserError
from lm.data import cache
from lm.data.conversations import render_conversation
from lm.data.corpora import is_held_out
from lm.data.sources import LOSS, SIDE, TURN, Channel, Document, Stretch
from lm.data.sources.base import TooLong
from lm.data.tokenizers import Tokenizer
from lm.example import Vocabulary

Key = Mapping[str, str | float | int]


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a token store."""

    tokens: ts.TensorStore
    offsets: np.ndarray
    """int64[documents + 1]: where each document begins in the stream, and its end."""
    bytes: np.ndarray
    """int64[documents]: length of each document in UTF-8."""
    ids: list[str]
    tokenizer: Tokenizer
    channels: Mapping[Channel, ts.TensorStore] = field(default_factory=dict)
    """What the source says of each token of the stream."""
    too_long: TooLong = "refuse"
    """What the source says of a document that is longer than a row."""
    ends: tuple[int, ...] = ()
    """Of a mixture: how many documents there are to the end of each component."""

    @cached_property
    def parts(self) -> tuple["Split", ...]:
        """The components of a mixture, in their order; () if it is none."""
        return tuple(self._part(*bounds) for bounds in pairwise((0, *self.ends)))

    def _part(self, first: int, last: int) -> "Split":
        start, stop = self.offsets[[first, last]].tolist()

        def part(array: ts.TensorStore) -> ts.TensorStore:
            return array[start:stop].translate_to[0]

        return replace(
            self,
            tokens=part(self.tokens),
            offsets=self.offsets[first : last + 1] - start,
            bytes=self.bytes[first:last],
            ids=self.ids[first:last],
            channels={channel: part(array) for channel, array in self.channels.items()},
            ends=(),
        )

    @property
    def size(self) -> int:
        """Length of the stream."""
        return int(self.offsets[-1])

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
            found = read.result()
            window[: len(found)] = found
        return windows

    def text(self, document: int) -> str:
        """A document as it was read, from its tokens."""
        start, end = self.offsets[document : document + 2].tolist()
        return self.tokenizer.decode(self.read([start], end - start)[0])


def open_store(
    key: Key,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    validation: float,
    channels: Sequence[Channel] = (),
    too_long: TooLong = "refuse",
) -> dict[str, Split]:
    """The store of `key`, built from `documents` if it is not there or not whole.

    `documents` is iterated over only to build. Checking reads every file once (about a second a
    gigabyte). Two processes that build at once both end with the same, whole store.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache.folder() / "tokens" / name
    if why := damage(folder, key):
        if folder.exists():
            cache.log.warning("token store %s: %s; building it again", folder, why)
        _build(folder, key, documents, tokenizer, validation, channels)
    return {
        name: _open_split(folder / name, tokenizer, channels, too_long)
        for name in ("train", "validation")
    }


def in_memory(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    channels: Sequence[Channel] = (),
    too_long: TooLong = "refuse",
) -> Split:
    """Documents as a split that is on no disk."""
    streams = list(_streams(documents, tokenizer, channels))
    tokens, *said = (np.concatenate(arrays) for arrays in zip(*streams, strict=True))
    return Split(
        ts.array(tokens.astype(np.int32)),
        np.cumsum([0, *(len(stream[0]) for stream in streams)]),
        np.array(
            [
                _size(document, each[0], tokenizer)
                for document, each in zip(documents, streams, strict=True)
            ]
        ),
        [document.id for document in documents],
        tokenizer,
        {channel: ts.array(each) for channel, each in zip(channels, said, strict=True)},
        too_long,
    )


def join(parts: Mapping[str, Split], channels: Sequence[Channel], too_long: TooLong) -> Split:
    """The splits of a mixture's components, by name, as one; nothing is copied.

    Where a component's documents say nothing in a channel its fill stands; but as to whether a
    token counts as a target: where nothing is said, all of them do.
    """
    splits = list(parts.values())
    starts = np.cumsum([0, *(split.size for split in splits)])
    begins = [split.offsets[:-1] + start for split, start in zip(splits, starts, strict=False)]
    return Split(
        ts.concat([split.tokens for split in splits], axis=0),
        np.concatenate([*begins, starts[-1:]]),
        np.concatenate([split.bytes for split in splits]),
        [f"{name}/{id}" for name, split in parts.items() for id in split.ids],
        splits[0].tokenizer,
        {
            channel: ts.concat([_channel_of(split, channel) for split in splits], axis=0)
            for channel in channels
        },
        too_long,
        tuple(np.cumsum([len(split.ids) for split in splits]).tolist()),
    )


def _channel_of(split: Split, channel: Channel) -> ts.TensorStore:
    if channel in split.channels:
        return split.channels[channel]
    value = 1 if channel == LOSS else channel.fill

    def fill(_: ts.IndexDomain, array: np.ndarray, __: Any) -> None:
        array[...] = value

    shape = [split.size, *channel.shape]
    return ts.virtual_chunked(fill, dtype=channel.dtype, shape=shape)


def damage(folder: Path, key: Key) -> str | None:
    """What is wrong with the store in a few words, None if it is whole and the one of `key`."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["key"] != key:
            return "it is another corpus's or tokenizer's"
        for name, (length, sha) in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != length or _sha_file(path) != sha:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is not whole ({type(error).__name__}: {error})"
    return None


def _build(
    folder: Path,
    key: Key,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    validation: float,
    channels: Sequence[Channel],
) -> None:
    def write(store: Path) -> None:
        dtype = "uint16" if tokenizer.vocabulary.size <= 2**16 else "uint32"
        train = _Writer(store / "train", dtype, channels)
        held_out = _Writer(store / "validation", dtype, channels)
        for batch in _batches(documents):
            streams = _streams(batch, tokenizer, channels)
            for document, stream in zip(batch, streams, strict=True):
                writer = held_out if is_held_out(document, validation) else train
                writer.add(document.id, _size(document, stream[0], tokenizer), stream)
        train.close()
        held_out.close()

    write_store(folder, key, write)


def write_store(folder: Path, key: Key, write: Callable[[Path], None]) -> None:
    """Makes a folder of what `write` puts into it, with a manifest: readers see all or none.

    Two processes that write at once both end with the same, whole folder.
    """
    with cache.unfinished(folder.parent) as temporary:
        store = temporary / "store"
        write(store)
        files = {
            name: [(store / name).stat().st_size, _sha_file(store / name)]
            for name in _files(store)
        }
        manifest = json.dumps({"key": key, "files": files}, indent=1)
        (store / "manifest.json").write_text(manifest)
        _move_in(store, folder, key)


def _move_in(built: Path, folder: Path, key: Key) -> None:
    """Rename the built store into place, unless another process has put a whole one there."""
    while True:
        try:
            os.rename(built, folder)
            return
        except OSError:
            if not folder.exists():
                raise
        if damage(folder, key) is None:
            return
        with contextlib.suppress(FileNotFoundError):  # another process was first
            os.rename(folder, built.parent / "damaged")
        shutil.rmtree(built.parent / "damaged", ignore_errors=True)


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
    """The length of a document in UTF-8: of conversations and tokens, what they are read as."""
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


class _Writer:
    """Appends documents to a split, a shard at a time, so that no shard is written twice."""

    def __init__(self, folder: Path, dtype: str, channels: Sequence[Channel]) -> None:
        self._folder = folder
        self._arrays = [_Array(folder / "tokens", dtype)]
        self._arrays += [_Array(path, c.dtype, c.shape) for path, c in _paths(folder, channels)]
        self._offsets, self._bytes, self._ids = [0], list[int](), list[str]()

    def add(self, id: str, size: int, stream: list[np.ndarray]) -> None:
        """Adds a document of `size` bytes: its tokens, and what each channel says of them."""
        self._ids.append(id)
        self._bytes.append(size)
        self._offsets.append(self._offsets[-1] + len(stream[0]))
        for array, values in zip(self._arrays, stream, strict=True):
            array.add(values)

    def close(self) -> None:
        for array in self._arrays:
            array.close()
        for name, values in (("offsets", self._offsets), ("bytes", self._bytes)):
            numbers = np.array(values, np.int64)
            _create(self._folder / name, "int64", numbers.shape).write(numbers).result()
        (self._folder / "ids.json").write_text(json.dumps(self._ids))


class _Array:
    """An array that grows along its first axis, written a shard at a time."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...] = ()) -> None:
        self._dtype, self._shape = dtype, shape
        self._stored = _create(path, dtype, (0, *shape))
        self._pending: list[np.ndarray] = []
        self._written = self._waiting = 0

    def add(self, values: np.ndarray) -> None:
        self._pending.append(values.astype(self._dtype))
        self._waiting += len(values)
        if self._waiting >= _SHARD:
            self._flush(self._waiting // _SHARD * _SHARD)

    def close(self) -> None:
        self._flush(self._waiting)

    def _flush(self, count: int) -> None:
        empty = np.zeros((0, *self._shape), self._dtype)
        waiting = np.concatenate([empty, *self._pending])
        end = self._written + count
        self._stored = self._stored.resize(exclusive_max=[end, *self._shape]).result()
        self._stored[self._written : end].write(waiting[:count]).result()
        self._pending, self._written = [waiting[count:]], end
        self._waiting -= count


def _paths(folder: Path, channels: Sequence[Channel]) -> list[tuple[Path, Channel]]:
    return [(folder / "channels" / channel.name, channel) for channel in channels]


_SHARD, _CHUNK = 1 << 22, 1 << 14  # tokens in a file; tokens read, and checked, at once


def _create(path: Path, dtype: str, shape: tuple[int, ...]) -> ts.TensorStore:
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    chunk, shard = [_CHUNK, *shape[1:]], [_SHARD, *shape[1:]]
    sharding = {"chunk_shape": chunk, "codecs": codecs, "index_codecs": codecs}
    metadata = {
        "data_type": dtype,
        "shape": list(shape),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    return ts.open({**_spec(path), "metadata": metadata}, create=True).result()


def _open_split(
    folder: Path, tokenizer: Tokenizer, channels: Sequence[Channel], too_long: TooLong
) -> Split:
    paths = [folder / name for name in ("tokens", "offsets", "bytes")]
    tokens, offsets, sizes, *others = open_arrays(
        [*paths, *(path for path, _ in _paths(folder, channels))]
    )
    return Split(
        tokens,
        offsets.read().result(),
        sizes.read().result(),
        json.loads((folder / "ids.json").read_bytes()),
        tokenizer,
        dict(zip(channels, others, strict=True)),
        too_long,
    )


def open_arrays(paths: Sequence[Path]) -> list[ts.TensorStore]:
    """Arrays of a store, to be read."""
    # a store never changes, so what was read once need not be looked at again
    context = ts.Context({"cache_pool": {"total_bytes_limit": 1 << 28}})
    opened = [
        ts.open({**_spec(path), "recheck_cached_data": "open"}, context=context)
        for path in paths
    ]
    return [each.result() for each in opened]


def write_array(path: Path, values: np.ndarray) -> None:
    """Writes an array whose first axis is that of a stream, as `open_arrays` reads it."""
    array = _Array(path, values.dtype.name, values.shape[1:])
    array.add(values)
    array.close()


def _spec(path: Path) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents by the megabyte: enough to share out over the cores, little to hold."""
    batch, size = list[Document](), 0
    for document in documents:
        batch.append(document)
        size += len(document.text) + len(document.tokens)
        if size >= 1 << 20:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _sha_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
