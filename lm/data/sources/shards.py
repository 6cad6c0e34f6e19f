"""Lines of JSON in files that may be compressed, as `lm data prepare` writes them."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from lm.config import UserError
from lm.data.sources.base import Damaged
from lm.data.sources.records import Fielded, parsed
from lm.data.sources.text import find_files


class Shards(Fielded, frozen=True, tag="shards"):
    """Lines of JSON objects with a text, in plain, gzip (.gz) or Zstandard (.zst) files.

    What is no document - a line that is no object, a text that is missing, no text or too long,
    a file that ends too early - is refused, or left out and counted.
    """

    paths: Annotated[tuple[str, ...], Meta(min_length=1, description="files or globs (** too)")]

    def files(self) -> list[tuple[str, Path]]:
        return find_files(self.paths)

    def records(self) -> Iterator[tuple[str, Mapping[str, Any]] | Damaged]:
        for name, path in self.files():
            number = 0
            broken = _broken(path)
            try:
                for number, line in enumerate(_lines(path), 1):
                    if line.strip():
                        yield parsed(f"{name}:{number}", line)
            except broken as error:
                why = f"the rest of the file is damaged: {error}"
                yield Damaged(f"{name}:{number + 1}", why)


def _lines(path: Path) -> Iterator[bytes]:
    if path.suffix == ".zst":
        yield from _zst_lines(path)
        return
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        yield from file


def _zst_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file of Zstandard frames; raises EOFError where one is not whole.

    The library's own reader takes a file that was cut for one that has ended.
    """
    zstandard = _zstandard(path)
    begun: Any = None
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            while chunk:
                begun = begun or zstandard.ZstdDecompressor().decompressobj()
                *lines, rest = (rest + begun.decompress(chunk)).split(b"\n")
                yield from lines
                chunk = begun.unused_data
                begun = None if begun.eof else begun
    if begun is not None:
        raise EOFError("it ends within a frame")
    if rest:
        yield rest


def _broken(path: Path) -> tuple[type[Exception], ...]:
    """What reading a file raises where it is damaged."""
    if path.suffix == ".zst":
        return EOFError, _zstandard(path).ZstdError
    return EOFError, gzip.BadGzipFile, zlib.error


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        raise UserError(
            f"data.corpus: {path}: .zst needs zstandard: pip install 'yardstick-lm[data]'"
        ) from None
    return zstandard
