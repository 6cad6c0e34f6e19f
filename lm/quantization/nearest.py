"""Each weight by itself, to the nearest number that its group has."""

import ml_dtypes
import numpy as np

from lm.numerics import Quantized
from lm.optimizer.axes import sides_of
from lm.quantization.scheme import Quantization


def round_to_nearest(
    weight: np.ndarray, axes: tuple[str, ...], quantization: Quantization
) -> Quantized:
    """A stack of matrices with these axes, float32[N, inputs, outputs], rounded."""
    blocks = quantization.blocks(axes, weight.shape)
    found = [
        rounded(matrix_of(each, axes), groups_of(blocks, axes), quantization.bits)
        for each in weight
    ]
    return stacked(found, weight.shape, blocks, quantization.bits)


def rounded(weight_IO: np.ndarray, groups: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers of a matrix and the scales, [G, O], of as many groups of its inputs.

    >>> codes, scale = rounded(np.array([[0.5], [-1.0], [0.26], [0.0]]), 1, 4)
    >>> codes[:, 0].tolist(), scale.tolist()
    ([4, -8, 2, 0], [[0.125]])
    """
    scale_GO = scales(weight_IO, groups, bits)
    each = len(weight_IO) // groups
    return codes_of(weight_IO, np.repeat(scale_GO, each, axis=0), bits), scale_GO


def scales(weight_IO: np.ndarray, groups: int, bits: int) -> np.ndarray:
    """The scale of each group of inputs and output, bfloat16[G, O].

    The weight that is furthest from 0 becomes -2^(bits-1): so that no number is left unused, a
    scale has the other sign than it.
    """
    weight_GgO = weight_IO.reshape(groups, -1, weight_IO.shape[-1])
    at_G1O = np.abs(weight_GgO).argmax(axis=1, keepdims=True)
    furthest_GO = np.take_along_axis(weight_GgO, at_G1O, axis=1)[:, 0]
    return (furthest_GO / -(2.0 ** (bits - 1))).astype(ml_dtypes.bfloat16)


def codes_of(weight: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """The nearest whole number to each weight in units of its scale; 0 where that is 0."""
    unit = scale.astype(np.float32)
    code = np.rint(weight / np.where(unit == 0, 1, unit))
    most = 2 ** (bits - 1)
    return np.clip(np.where(unit == 0, 0, code), -most, most - 1).astype(np.int8)


def matrix_of(weight: np.ndarray, axes: tuple[str, ...]) -> np.ndarray:
    """A layer's part of a parameter with these axes as inputs and outputs, float32[I, O]."""
    inputs, _ = sides_of(axes)
    size = int(np.prod(weight.shape[: len(inputs)]))
    return np.asarray(weight, np.float32).reshape(size, -1)


def groups_of(blocks: tuple[int, ...], axes: tuple[str, ...]) -> int:
    """How many groups the inputs of a matrix are in, of its numbers of blocks."""
    inputs, _ = sides_of(axes)
    return int(np.prod([blocks[axis] for axis in inputs]))


def stacked(
    layers: list[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, ...],
    blocks: tuple[int, ...],
    bits: int,
) -> Quantized:
    """The whole numbers and scales of all layers as one, in the shape of the parameter."""
    codes = np.stack([codes_IO for codes_IO, _ in layers]).reshape(shape)
    codes = codes if bits > 4 else codes.astype(ml_dtypes.int4)
    scale = np.stack([scale_GO for _, scale_GO in layers]).reshape(blocks)
    return Quantized(codes, scale)
