"""Named arrays in a folder (safetensors, one file or shards), read a part at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lm.config import UserError, read_json
from lm.output.files import write_whole

SHARD = 5 * 10**9
"""Bytes of a file, at most."""
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

FLOATS = {np.dtype(t) for t in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)}
"""Types of numbers that are no quantization."""

Index = tuple[slice, ...]


@dataclass(frozen=True)
class LazyArray:
    """An array that is read, or made, when it is asked for, whole or a part of it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]
    """The part at a slice for each axis."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def whole(self) -> np.ndarray:
        """All of it.

        >>> LazyArray.of(np.arange(3)).whole().tolist()
        [0, 1, 2]
        """
        return self.read((slice(None),) * len(self.shape))

    def astype(self, dtype: Any) -> "LazyArray":
        """The same numbers in another type, converted as they are read."""
        to = np.dtype(dtype)
        return LazyArray(to, self.shape, lambda part: self.read(part).astype(to, copy=False))

    @staticmethod
    def of(array: np.ndarray) -> "LazyArray":
        """One that is in memory already."""
        return LazyArray(array.dtype, array.shape, lambda part: array[part])


def holds_arrays(folder: Path) -> bool:
    """Whether a folder has files of arrays."""
    return any((folder / name).exists() for name in (WEIGHTS, INDEX))


def read_arrays(folder: Path) -> dict[str, LazyArray]:
    """The arrays of a folder by name; none is read yet.

    Raises UserError in one line where a file is missing or damaged.
    """
    files = [WEIGHTS]
    if (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{folder / INDEX}: damaged: it has no weight_map")
        files = sorted(set(map(str, weight_map.values())))
    found: dict[str, LazyArray] = {}
    for name in files:
        found |= read_file(folder / name)
    return found


def read_file(file: Path) -> dict[str, LazyArray]:
    """The same of one file."""
    found: dict[str, LazyArray] = {}
    try:
        with safe_open(file, "np") as arrays:
            for name in sorted(arrays.keys()):
                part = arrays.get_slice(name)
                shape = tuple(part.get_shape())
                found[name] = _stored(file, name, _dtype(part.get_dtype(), name), shape)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: damaged: {error}") from None
    return found


def write_arrays(folder: Path, arrays: Mapping[str, LazyArray], *, shard: int = SHARD) -> None:
    """Writes arrays to a folder, in files of at most so many bytes, one in memory at a time."""
    shards = list(_shards(arrays, shard))
    names = [WEIGHTS]
    if len(shards) > 1:
        total = len(shards)
        names = [f"model-{n:05}-of-{total:05}.safetensors" for n in range(1, total + 1)]
    for file, part in zip(names, shards, strict=True):
        write_file(folder / file, part)
    if len(shards) > 1:
        where = {key: name for name, part in zip(names, shards, strict=True) for key in part}
        size = sum(array.nbytes for array in arrays.values())
        index = {"metadata": {"total_size": size}, "weight_map": where}
        write_whole(folder / INDEX, json.dumps(index, indent=2) + "\n")


def write_file(file: Path, arrays: Mapping[str, LazyArray]) -> None:
    """Writes arrays to one file, all of them in memory."""
    whole = {name: np.ascontiguousarray(array.whole()) for name, array in arrays.items()}
    save_file(whole, file, metadata={"format": "pt"})  # transformers asks for it


def _shards(arrays: Mapping[str, LazyArray], most: int) -> Iterator[dict[str, LazyArray]]:
    """The arrays by name, in files of at most so many bytes, or of one array."""
    part: dict[str, LazyArray] = {}
    size = 0
    for name, array in sorted(arrays.items()):
        if part and size + array.nbytes > most:
            yield part
            part, size = {}, 0
        part[name] = array
        size += array.nbytes
    yield part


def _stored(file: Path, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> LazyArray:
    def read(part: Index) -> np.ndarray:
        # Opened anew each time: what was read of an open file counts as memory in use.
        with safe_open(file, "np") as arrays:
            if not shape:
                return np.asarray(arrays.get_tensor(name))
            return np.asarray(arrays.get_slice(name)[part])

    return LazyArray(dtype, shape, read)


def _dtype(of: str, name: str) -> np.dtype:
    """NumPy's type of safetensors' word for it, in an array of a name."""
    if of in _TYPES:
        return np.dtype(_TYPES[of])
    raise UserError(f"tensor {name} is of {of}, which is not read; {', '.join(_TYPES)} are")


_TYPES: dict[str, Any] = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
}
