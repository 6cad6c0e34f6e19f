"""The token store: a corpus as arrays on disk, checked before it is used.

Under `$LM_CACHE/tokens/KEY/`, for each split: `tokens` (all documents' tokens, each document
between a begin and an eos token, or as its chat template writes it), `channels/NAME` (what the
source says of each of them), `offsets` (where each document begins, and the end), `blocks`
(which document holds the first token of each block), `bytes` (each document's length in UTF-8),
`ids` and `id_ends` (their names, and where each ends), zarr 3 arrays with checksums, and
`size.json`. `files.json` holds the length and SHA-256 of every file, because the arrays' own
checksums do not see a chunk that is missing or that belongs to another store; `manifest.json`,
written last, the version, the key and the digest of that.

With `LM_TOKENS=gs://BUCKET/FOLDER` stores are there instead: the first that needs one makes it
on its disk and copies it, and all read from there what they need.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from lm.config import UserError
from lm.data import cache
from lm.data.crew import Crew
from lm.data.encoding import encode
from lm.data.remote import is_remote
from lm.data.sources import Channel, Document
from lm.data.sources.base import TooLong
from lm.data.split import BLOCK, Names, OnDisk, Split, result
from lm.data.tokenizers import Tokenizer, TokenizerConfig

Key = Mapping[str, str | float | int]


def open_store(
    key: Key,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    validation: float,
    channels: Sequence[Channel] = (),
    too_long: TooLong = "refuse",
    config: TokenizerConfig | None = None,
) -> dict[str, Split]:
    """The store of `key`, built from `documents` if it is not there or not whole.

    `documents` is iterated over only to build. Checking reads every file once (about a second),
    but of a store beyond a gigabyte, whose chunks are checked as they are read. Two processes
    that build at once both end with the same, whole store. With the tokenizer's `config` other
    processes take part, which changes nothing in it. Raises UserError where there is one
    of another version, and where a bucket does not let us.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    root = os.environ.get("LM_TOKENS") or str(cache.folder() / "tokens")
    place = f"{root.rstrip('/')}/{name}" if is_remote(root) else Path(root).expanduser() / name
    if why := damage(place, key):
        if isinstance(place, Path) and place.exists():
            cache.log.warning("token store %s: %s; building it again", place, why)
        _build(place, key, documents, tokenizer, validation, channels, config)
    return {
        name: _open_split(_under(place, name), tokenizer, channels, too_long, in_memory=whole)
        # what scores held-out documents asks for all of them
        for name, whole in (("train", False), ("validation", True))
    }


def in_memory(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    channels: Sequence[Channel] = (),
    too_long: TooLong = "refuse",
) -> Split:
    """Documents as a split that is on no disk."""
    encoded = encode(documents, tokenizer, channels, 0.0)
    streams = [each.stream for each in encoded]
    tokens, *said = (np.concatenate(arrays) for arrays in zip(*streams, strict=True))
    return Split(
        ts.array(tokens.astype(np.int32)),
        np.cumsum([0, *(len(stream[0]) for stream in streams)]),
        np.array([each.bytes for each in encoded]),
        [document.id for document in documents],
        tokenizer,
        {channel: ts.array(each) for channel, each in zip(channels, said, strict=True)},
        too_long,
    )


VERSION = 2
"""Of the layout of a store: which arrays there are, and what is in them."""

Address = Path | str
"""A folder, or the URL of one in a bucket."""

_CHECKED = 1 << 30
"""Bytes of a store that are read to check it; a larger one is checked as it is read."""


def damage(place: Address, key: Key) -> str | None:
    """What is wrong with the store in a few words, None if it is whole and the one of `key`.

    Raises UserError where it is of another version: it may be somebody's work of days.
    """
    try:
        manifest = json.loads(_read(place, "manifest.json"))
        if (version := manifest.get("version", 1)) != VERSION:
            raise UserError(
                f"token store {place}: version {version}; must be {VERSION}: another release"
                " made it; use that, or delete the store, and it is made again"
            )
        if manifest["key"] != key:
            return "it is another corpus's or tokenizer's"
        if isinstance(place, str) or manifest["bytes"] > _CHECKED:
            return None
        listed = _read(place, "files.json")
        if hashlib.sha256(listed).hexdigest() != manifest["files"]:
            return "files.json is damaged"
        for name, (length, sha) in json.loads(listed).items():
            path = place / name
            if path.stat().st_size != length or _sha_file(path) != sha:
                return f"{name} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it is not whole ({type(error).__name__}: {error})"
    return None


def _build(
    place: Address,
    key: Key,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    validation: float,
    channels: Sequence[Channel],
    config: TokenizerConfig | None,
) -> None:
    def write(store: Path) -> None:
        dtype = "uint16" if tokenizer.vocabulary.size <= 2**16 else "uint32"
        train = _Writer(store / "train", dtype, channels)
        held_out = _Writer(store / "validation", dtype, channels)
        with Crew(tokenizer, channels, validation, config) as crew:
            for batch, encoded in crew.encode(_batches(documents)):
                for document, each in zip(batch, encoded, strict=True):
                    writer = held_out if each.held_out else train
                    writer.add(document.id, each.bytes, each.stream)
        train.close()
        held_out.close()

    if isinstance(place, Path):
        write_store(place, key, write)
        return
    with cache.unfinished(cache.folder() / "tokens") as temporary:
        store = temporary / "store"
        write(store)
        _seal(store, key)
        _upload(store, place)


def write_store(folder: Path, key: Key, write: Callable[[Path], None]) -> None:
    """Makes a folder of what `write` puts into it, with a manifest: readers see all or none.

    Two processes that write at once both end with the same, whole folder.
    """
    with cache.unfinished(folder.parent) as temporary:
        store = temporary / "store"
        write(store)
        _seal(store, key)
        _move_in(store, folder, key)


def _seal(store: Path, key: Key) -> None:
    """Writes what is in a store, and then that it is whole."""
    files = {
        name: ((store / name).stat().st_size, _sha_file(store / name)) for name in _files(store)
    }
    (store / "files.json").write_text(json.dumps(files, indent=1))
    manifest = {
        "version": VERSION,
        "key": key,
        "bytes": sum(length for length, _ in files.values()),
        "files": _sha_file(store / "files.json"),
    }
    (store / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _upload(store: Path, url: str) -> None:
    """Copies a store into a bucket, what says that it is whole last."""
    names = [name for name in _files(store) if name != "manifest.json"]
    with _bucket(url) as bucket:
        for name in [*names, "manifest.json"]:
            bucket.write(name, (store / name).read_bytes()).result()


def _read(place: Address, name: str) -> bytes:
    """A small file of a store; raises FileNotFoundError where there is none."""
    if isinstance(place, Path):
        return (place / name).read_bytes()
    with _bucket(place) as bucket:
        found = bucket.read(name).result()
    if found.state == "missing":
        raise FileNotFoundError(f"no {name}")
    return bytes(found.value)


@contextlib.contextmanager
def _bucket(url: str) -> Iterator[ts.KvStore]:
    """A folder of a bucket; what it refuses is a UserError that names it."""
    try:
        yield ts.KvStore.open(f"{url}/").result()
    except ValueError as error:
        raise UserError(f"LM_TOKENS: {url}: {str(error).splitlines()[0]}") from None


def _under(place: Address, name: str) -> Address:
    return place / name if isinstance(place, Path) else f"{place}/{name}"


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


class _Writer:
    """Appends documents to a split, a shard at a time, so that no shard is written twice."""

    def __init__(self, folder: Path, dtype: str, channels: Sequence[Channel]) -> None:
        self._folder = folder
        self._arrays = [_Array(folder / "tokens", dtype)]
        self._arrays += [
            _Array(folder / _path(channel), channel.dtype, channel.shape)
            for channel in channels
        ]
        self._numbers = {name: _Array(folder / name, "int64") for name in _NUMBERS}
        self._new: dict[str, list[int]] = {name: [] for name in _NUMBERS}
        self._ids, self._new_ids = _Array(folder / "ids", "uint8"), bytearray()
        self._documents = self._size = self._bytes = self._id_bytes = 0

    def add(self, id: str, size: int, stream: list[np.ndarray]) -> None:
        """Adds a document of `size` bytes: its tokens, and what each channel says of them."""
        start, stop, name = self._size, self._size + len(stream[0]), id.encode()
        self._new["offsets"].append(start)
        self._new["bytes"].append(size)
        self._new["id_ends"].append(self._id_bytes)
        begun = -(-stop // BLOCK) - -(-start // BLOCK)
        self._new["blocks"] += [self._documents] * begun
        self._new_ids += name
        self._documents, self._size = self._documents + 1, stop
        self._bytes, self._id_bytes = self._bytes + size, self._id_bytes + len(name)
        for array, values in zip(self._arrays, stream, strict=True):
            array.add(values)
        if len(self._new["offsets"]) >= _CHUNK:
            self._flush()

    def close(self) -> None:
        self._new["offsets"].append(self._size)
        self._new["id_ends"].append(self._id_bytes)
        self._new["blocks"].append(self._documents - 1)
        self._flush()
        for array in (*self._arrays, *self._numbers.values(), self._ids):
            array.close()
        (self._folder / "size.json").write_text(json.dumps({"bytes": self._bytes}))

    def _flush(self) -> None:
        for name, array in self._numbers.items():
            array.add(np.array(self._new[name], np.int64))
            self._new[name] = []
        self._ids.add(np.frombuffer(bytes(self._new_ids), np.uint8))
        self._new_ids.clear()


_NUMBERS = ("offsets", "blocks", "bytes", "id_ends")


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


def _path(channel: Channel) -> str:
    return f"channels/{channel.name}"


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
    # so that a chunk that is missing is missing, and no chunk of zeros
    spec = {**_spec(path), "metadata": metadata, "store_data_equal_to_fill_value": True}
    return ts.open(spec, create=True, context=_context()).result()


def _open_split(
    place: Address,
    tokenizer: Tokenizer,
    channels: Sequence[Channel],
    too_long: TooLong,
    *,
    in_memory: bool,
) -> Split:
    paths = ["tokens", "ids", *_NUMBERS, *map(_path, channels)]
    tokens, ids, *arrays = open_arrays([_under(place, path) for path in paths])
    offsets, blocks, sizes, id_ends = (
        result(stored.read()) if in_memory or stored.shape[0] <= _AT_ONCE else OnDisk(stored)
        for stored in arrays[: len(_NUMBERS)]
    )
    names = Names(OnDisk(ids), id_ends)
    few = len(names) < _AT_ONCE
    return Split(
        tokens,
        offsets,
        sizes,
        list(names) if few else names,
        tokenizer,
        dict(zip(channels, arrays[len(_NUMBERS) :], strict=True)),
        too_long,
        blocks=blocks,
        known_bytes=json.loads(_read(place, "size.json"))["bytes"],
    )


_AT_ONCE = 1 << 16
"""Numbers that are kept in memory: half a megabyte of each array."""


def open_arrays(places: Sequence[Address]) -> list[ts.TensorStore]:
    """Arrays of a store, to be read."""
    # a store never changes, so what was read once need not be looked at again
    more = {"recheck_cached_data": "open", "fill_missing_data_reads": False}
    opened = [ts.open({**_spec(place), **more}, context=_context()) for place in places]
    return [result(each) for each in opened]


@functools.cache
def _context() -> ts.Context:
    """What all stores have in common: 256 MB for chunks that were read.

    No file waits for the disk, as a store is checked when it is opened, or as it is read.
    """
    return ts.Context({"cache_pool": {"total_bytes_limit": 1 << 28}, "file_io_sync": False})


def write_array(path: Path, values: np.ndarray) -> None:
    """Writes an array whose first axis is that of a stream, as `open_arrays` reads it."""
    array = _Array(path, values.dtype.name, values.shape[1:])
    array.add(values)
    array.close()


def _spec(place: Address) -> dict[str, Any]:
    kvstore = (
        {"driver": "file", "path": f"{place}/"} if isinstance(place, Path) else f"{place}/"
    )
    return {"driver": "zarr3", "kvstore": kvstore}


_BATCH = 1 << 20


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents by the megabyte: enough to share out over the cores, little to hold."""
    batch, size = list[Document](), 0
    for document in documents:
        batch.append(document)
        size += len(document.text) + len(document.tokens)
        if size >= _BATCH:
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
