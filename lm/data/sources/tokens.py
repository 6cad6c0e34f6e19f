"""Files of tokens, as those who tokenized a text share them: nothing is tokenized again.

Three layouts, told apart by what is there; all numbers are little-endian:

- llm.c's and modded-nanogpt's (`dev/data/data_common.py` of karpathy/llm.c): 256 int32, the
  first of them 20240520 and version 1 for uint16 tokens, or 20240801 and version 7 for uint32,
  and the third the number of tokens, which follow. Documents go on from file to file, and an
  end-of-text token stands before each.
- Megatron's (`indexed_dataset.py` of NVIDIA/Megatron-LM): tokens in NAME.bin; NAME.idx has
  `MMIDIDX\\0\\0`, a version (uint64, 1), a code of the tokens' type (uint8), the number of
  sequences and of document ends (uint64 each), then for each sequence its length (int32) and
  its first byte (int64), and the first sequence of each document, and the end (int64).
- nanoGPT's (`data/*/prepare.py` of karpathy/nanoGPT): uint16 tokens alone, with an end-of-text
  token behind each document.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from lm.config import UserError
from lm.data.sources.base import Base, Document
from lm.data.sources.text import find_files


class TokenFiles(Base, frozen=True, tag="tokens"):
    """Tokens in .bin files of llm.c, modded-nanogpt, nanoGPT, or Megatron with its .idx.

    Only the tokenizer that made them reads them: `start.path` or `data.tokenizer` names it. The
    token that stands between documents is left out, as rows have bos and eos tokens of theirs.
    """

    paths: Annotated[tuple[str, ...], Meta(min_length=1, description=".bin files or globs")]
    end: (
        Annotated[
            int,
            Meta(
                ge=0,
                description="the token between documents: 50256 of GPT-2; null: a file is one"
                " document, but for Megatron's",
            ),
        ]
        | None
    ) = 50256
    dtype: Annotated[
        Literal["uint16", "uint32"], Meta(description="of the tokens of files that do not say")
    ] = "uint16"

    @property
    def tokenized(self) -> bool:
        return True

    def files(self) -> list[tuple[str, Path]]:
        found = self._bins()
        indices = [(f"{name}.idx", path.with_suffix(".idx")) for name, path in found]
        return [*found, *(each for each in indices if each[1].is_file())]

    def _bins(self) -> list[tuple[str, Path]]:
        found = find_files(self.paths)
        for _, path in found:
            if path.suffix not in (".bin", ".idx"):
                raise UserError(f"data.corpus.paths: {path}: files of tokens are called .bin")
        return [(name, path) for name, path in found if path.suffix == ".bin"]

    def read(self) -> Iterator[Document]:
        """Documents in order; their names are file and first token.

        Raises UserError where a file is not as its layout says.
        """
        open_: list[tuple[str, np.ndarray]] = []
        for name, path in self._bins():
            if (index := path.with_suffix(".idx")).is_file():
                yield from self._joined(open_)
                open_ = []
                yield from self._indexed(name, path, index)
                continue
            tokens, continued = _tokens(name, path, self.dtype)
            if not continued or self.end is None:
                yield from self._joined(open_)
                open_ = []
            for first, part, ended in _documents(tokens, self.end):
                if ended:
                    yield from self._joined(open_)
                    open_ = []
                open_.append((f"{name}:{first}", part))
        yield from self._joined(open_)

    def _joined(self, parts: list[tuple[str, np.ndarray]]) -> Iterator[Document]:
        """The document that these are parts of, in files that follow each other."""
        tokens = [part for _, part in parts if len(part)]
        if tokens:
            name = next(name for name, part in parts if len(part))
            yield Document(name, "", tokens=np.concatenate(tokens).astype("<u4").tobytes())

    def _indexed(self, name: str, path: Path, index: Path) -> Iterator[Document]:
        tokens, starts, lengths, documents = _read_index(name, path, index)
        for first, last in zip(documents[:-1].tolist(), documents[1:].tolist(), strict=True):
            parts = [
                tokens[start : start + length]
                for start, length in zip(starts[first:last], lengths[first:last], strict=True)
            ]
            whole = np.concatenate([np.zeros(0, "<u4"), *parts])
            if len(whole) and whole[-1] == self.end:
                whole = whole[:-1]
            yield from self._joined([(f"{name}:{starts[first]}", whole)])


_HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_HEADER_BYTES = 256 * 4
_EVALUATION = 20240522
_MEGATRON = b"MMIDIDX\x00\x00"
_TYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_AT_ONCE = 1 << 24


def _tokens(name: str, path: Path, dtype: str) -> tuple[np.ndarray, bool]:
    """The tokens of a file, and whether documents may go on from the file before it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        magic, version, count = struct.unpack("<3i", file.read(12).ljust(12, b"\0"))
    if magic == _EVALUATION:
        raise UserError(f"data.corpus: {name}: llm.c's items of a task, which are no text")
    known = _HEADERS.get((magic, version))
    if known is None and magic in {magic for magic, _ in _HEADERS}:
        raise UserError(f"data.corpus: {name}: llm.c's layout in version {version}; must be 1")
    start, layout = (
        (_HEADER_BYTES, np.dtype(known))
        if known
        else (0, np.dtype(f"<{dtype[0]}{int(dtype[4:]) // 8}"))
    )
    there, left = divmod(size - start, layout.itemsize)
    if left or (known and there != count):
        said = (
            f"{count:,} tokens by its header" if known else f"tokens of {layout.itemsize} bytes"
        )
        raise UserError(f"data.corpus: {name}: {size:,} bytes, which are not {said}")
    if not there:
        return np.zeros(0, layout), bool(known)
    return np.memmap(path, layout, "r", start, (there,)), bool(known)


def _documents(tokens: np.ndarray, end: int | None) -> Iterator[tuple[int, np.ndarray, bool]]:
    """(first token, tokens, whether an end is before them) of each stretch between ends.

    >>> [(first, part.tolist(), ended) for first, part, ended in
    ...  _documents(np.array([5, 0, 6, 7, 0, 0, 8]), 0)]
    [(0, [5], False), (2, [6, 7], True), (5, [], True), (6, [8], True)]
    """
    first, ended = 0, False
    if end is not None:
        for at in range(0, len(tokens), _AT_ONCE):
            for place in (np.flatnonzero(tokens[at : at + _AT_ONCE] == end) + at).tolist():
                yield first, tokens[first:place], ended
                first, ended = place + 1, True
    yield first, tokens[first:], ended


def _read_index(
    name: str, path: Path, index: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A Megatron file's tokens; each sequence's first and length; documents' sequences."""
    content = index.read_bytes()
    where = f"data.corpus: {name}.idx"
    if content[:9] != _MEGATRON or len(content) < 34:
        raise UserError(f"{where}: no index of Megatron's: it begins otherwise")
    version, code, sequences, ends = struct.unpack("<QBQQ", content[9:34])
    if version != 1 or code not in _TYPES:
        raise UserError(f"{where}: version {version}, type {code}; must be 1 and an integer")
    if len(content) < 34 + 12 * sequences + 8 * ends:
        raise UserError(f"{where}: it is too short for its {sequences:,} sequences")
    layout = np.dtype(_TYPES[code])
    lengths = np.frombuffer(content, "<i4", sequences, 34)
    starts = np.frombuffer(content, "<i8", sequences, 34 + 4 * sequences) // layout.itemsize
    documents = np.frombuffer(content, "<i8", ends, 34 + 12 * sequences)
    count = path.stat().st_size // layout.itemsize
    rising = not np.any(np.diff(documents) < 0) and np.all(lengths >= 0)
    inside = not sequences or (starts.min() >= 0 and (starts + lengths).max() <= count)
    if not (rising and inside and ends and documents[0] == 0 and documents[-1] <= sequences):
        raise UserError(f"{where}: it is of another file than {name}, or damaged")
    tokens = np.memmap(path, layout, "r") if count else np.zeros(0, layout)
    return tokens, starts, lengths, documents
