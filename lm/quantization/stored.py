"""Quantized parameters as files hold them: whole numbers, int4 two a byte, and scales."""

from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from lm.config import UserError
from lm.model import Model
from lm.numerics import Quantized
from lm.output.tensors import LazyArray
from lm.quantization.scheme import Quantization

CODES, SCALE = ".codes", ".scale"
"""What stands behind a parameter's path in the names of its arrays."""


def to_arrays(params: Mapping[str, Any]) -> dict[str, LazyArray]:
    """Parameters of the host by path as named arrays, two for what is quantized."""
    found = {}
    for name, value in params.items():
        if not isinstance(value, Quantized):
            found[name] = LazyArray.of(value)
            continue
        codes = value.codes
        found[f"{name}{CODES}"] = LazyArray.of(packed(codes) if _is_small(codes) else codes)
        found[f"{name}{SCALE}"] = LazyArray.of(value.scale)
    return found


def stored_shapes(
    shapes: Mapping[str, tuple[int, ...]], quantization: Quantization | None, model: Model
) -> dict[str, tuple[int, ...]]:
    """The shape of each named array of a model with parameters of these shapes."""
    if quantization is None:
        return dict(shapes)
    axes, chosen = model.axes(), quantization.chosen(model)
    found = {name: shape for name, shape in shapes.items() if name not in chosen}
    for name in chosen:
        layers, *rest = shapes[name]
        packs = quantization.bits <= 4
        found[f"{name}{CODES}"] = (
            (layers, -(-int(np.prod(rest)) // 2)) if packs else shapes[name]
        )
        found[f"{name}{SCALE}"] = quantization.blocks(axes[name], shapes[name])
    return found


def quantized_at(
    name: str, arrays: Mapping[str, LazyArray], shape: tuple[int, ...], bits: int
) -> Quantized:
    """A parameter of a shape from its two arrays; raises UserError where they are none."""
    codes, scale = arrays[f"{name}{CODES}"], arrays[f"{name}{SCALE}"]
    kept = np.dtype(np.uint8 if bits <= 4 else np.int8)
    for array, dtype, end in ((codes, kept, CODES), (scale, _SCALE_TYPE, SCALE)):
        if array.dtype != dtype:
            raise UserError(f"damaged: {name}{end} is of {array.dtype}, and must be of {dtype}")
    whole = codes.whole()
    return Quantized(unpacked(whole, shape) if bits <= 4 else whole, scale.whole())


def from_arrays(
    arrays: Mapping[str, LazyArray], quantization: Quantization | None, model: Model
) -> dict[str, Any]:
    """Parameters of the host by path from named arrays, two of what is quantized."""
    chosen = () if quantization is None else quantization.chosen(model)
    ends = {f"{name}{end}" for name in chosen for end in (CODES, SCALE)}
    found: dict[str, Any] = {n: array.whole() for n, array in arrays.items() if n not in ends}
    shapes = model.shapes(1)
    for name in chosen:
        assert quantization is not None
        found[name] = quantized_at(name, arrays, shapes[name], quantization.bits)
    return found


def packed(codes: np.ndarray) -> np.ndarray:
    """Numbers of four bits, two a byte, [N, bytes]: the first of two in the lower half.

    >>> packed(np.array([[1, -8, 7]], ml_dtypes.int4)).tolist()
    [[129, 7]]
    """
    flat = codes.astype(np.int8).reshape(len(codes), -1)
    flat = np.pad(flat, ((0, 0), (0, flat.shape[1] % 2))).view(np.uint8) & 15
    found: np.ndarray = flat[:, ::2] | (flat[:, 1::2] << 4)
    return found


def unpacked(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of a shape, int4.

    >>> unpacked(np.array([[129, 7]], np.uint8), (1, 3)).astype(int).tolist()
    [[1, -8, 7]]
    """
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)
    size = int(np.prod(shape[1:]))
    # The upper bit of four is the sign.
    signed = (halves[:, :size].astype(np.int8) ^ 8) - np.int8(8)
    return signed.astype(ml_dtypes.int4).reshape(shape)


_SCALE_TYPE = np.dtype(ml_dtypes.bfloat16)


def _is_small(codes: np.ndarray) -> bool:
    return bool(codes.dtype == ml_dtypes.int4)


def dequantized(params: Any) -> Any:
    """A tree of parameters with the matrices that its quantized ones stand for."""
    return jax.tree.map(
        lambda x: x.dequantized() if isinstance(x, Quantized) else x,
        params,
        is_leaf=lambda x: isinstance(x, Quantized),
    )
