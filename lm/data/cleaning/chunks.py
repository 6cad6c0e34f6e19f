"""A chunk: some documents of one source, what is known of them, and how they are written."""

import gzip
import zlib
from typing import Any

import msgspec

from lm.config import UserError
from lm.data.cleaning.recipe import Compression
from lm.data.cleaning.words import hash_of

SUFFIX: dict[Compression, str] = {"gzip": ".gz", "zstd": ".zst"}
LEVEL: dict[Compression, int] = {"gzip": 3, "zstd": 3}
"""Beyond it, half the time of all cleaning would be compression."""


class Chunk(msgspec.Struct):
    """Documents of one source, in their order."""

    source: str
    ids: list[str]
    texts: list[str]


def bytes_of(text: str) -> int:
    """Bytes of a text in UTF-8.

    >>> bytes_of("abc"), bytes_of("é")
    (3, 2)
    """
    return len(text) if text.isascii() else len(text.encode())


def rank_of(number: int, source: str, id: str) -> int:
    """Which of two documents stays: the one with the lower rank.

    Sources come in their order; within one, ids in the order of a hash.

    >>> rank_of(0, "a", "z") < rank_of(1, "b", "a")
    True
    """
    return number << 56 | hash_of(f"{source}\0{id}".encode()) >> 8


def pack(chunk: Chunk) -> bytes:
    """A chunk as it is kept between two stages.

    >>> unpack(pack(Chunk("a", ["1"], ["text"]))).texts
    ['text']
    """
    return zlib.compress(msgspec.msgpack.encode(chunk), 1)


def unpack(content: bytes) -> Chunk:
    """The chunk that was packed."""
    return msgspec.msgpack.decode(zlib.decompress(content), type=Chunk)


def member_of(chunk: Chunk, compression: Compression) -> bytes:
    """The lines of a chunk, compressed: files are such members one behind the other."""
    lines: list[dict[str, Any]] = [
        {"id": id, "source": chunk.source, "text": text}
        for id, text in zip(chunk.ids, chunk.texts, strict=True)
    ]
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    if not content:
        return b""
    level = LEVEL[compression]
    if compression == "gzip":
        return gzip.compress(content, level, mtime=0)
    return bytes(zstandard().ZstdCompressor(level=level).compress(content))


def zstandard() -> Any:
    """The library of Zstandard; raises UserError where it is not installed."""
    try:
        import zstandard
    except ImportError:
        raise UserError(
            "compression=zstd needs zstandard: pip install 'yardstick-lm[data]'"
        ) from None
    return zstandard
