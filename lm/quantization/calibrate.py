"""Matrices rounded one after the other, each by what it is given in a pass over a text."""

from typing import Any

import jax
import numpy as np

from lm.config import UserError
from lm.example import Example
from lm.model import Model, Transformer
from lm.model.apart import LAYERS, take_apart
from lm.numerics import Einsum, Factor, Quantized
from lm.quantization.gptq import gptq
from lm.quantization.nearest import groups_of, matrix_of, stacked
from lm.quantization.scheme import Quantization


def calibrated(
    model: Model,
    params: dict[str, Any],
    example: Example,
    quantization: Quantization,
    *,
    vocabulary_size: int,
) -> dict[str, Quantized]:
    """The chosen matrices of a model by path, rounded by GPTQ on the rows of an example.

    One pass over all rows, in float32: where a matrix is first asked for, it is rounded by the
    inputs that it has there, and what follows reads its rounded product. So each sees what the
    rounding of those before it left, in its own layer too. Raises UserError for a model whose
    layers do not run one by one.
    """
    check_apart(model)
    assert isinstance(model, Transformer)
    einsum = Einsum("float32")
    params = jax.tree.map(jax.numpy.asarray, params)  # what is not compiled takes no others
    apart = take_apart(model, params, einsum=einsum, rows=2)
    axes, shapes = model.axes(), model.shapes(vocabulary_size)
    names = [name.removeprefix(f"{LAYERS}/") for name in quantization.chosen(model)]
    rounding: dict[str, list[_Rounded]] = {name: [] for name in names}
    for number in range(model.depth):
        layer = dict(apart[f"{LAYERS}_{number}"])
        for name in names:
            path = f"{LAYERS}/{name}"
            blocks = quantization.blocks(axes[path], shapes[path])
            layer[name] = _Rounded(layer[name], axes[path], blocks, quantization.bits)
            rounding[name].append(layer[name])
        apart[f"{LAYERS}_{number}"] = layer
    module = model.build(vocabulary_size, mesh=None, precision="float32").clone(apart=True)
    module.apply(
        {"params": apart}, example
    )  # not compiled, so that each can look at its inputs
    return {
        f"{LAYERS}/{name}": stacked(
            [each.found for each in layers],
            shapes[f"{LAYERS}/{name}"],
            layers[0].blocks,
            quantization.bits,
        )
        for name, layers in rounding.items()
    }


def check_apart(model: Model) -> None:
    """Raises UserError for a model whose matrices cannot be rounded one after the other."""
    if type(model) is not Transformer:
        raise UserError(
            f"--method gptq: model.type={model.kind} does not run layer by layer; transformer"
            " does, and --method nearest rounds any"
        )


class _Rounded(Factor):
    """A layer's matrix that is rounded when a product first takes it."""

    found: tuple[np.ndarray, np.ndarray]
    """Its whole numbers and its scales, once it is."""

    def __init__(
        self, weight: jax.Array, axes: tuple[str, ...], blocks: tuple[int, ...], bits: int
    ) -> None:
        self.weight, self.axes, self.blocks, self.bits = weight, axes, blocks, bits

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    def product(self, einsum: Einsum, equation: str, left: jax.Array) -> jax.Array:
        weight_IO = matrix_of(np.asarray(self.weight), self.axes)
        x_SI = np.asarray(left, np.float32).reshape(-1, len(weight_IO))
        groups = groups_of(self.blocks, self.axes)
        self.found = gptq(weight_IO, x_SI.T @ x_SI, groups, self.bits)
        codes, scale = self.found
        one = Quantized(codes.reshape(self.shape), scale.reshape(self.blocks[1:]))
        return einsum(equation, left, jax.numpy.asarray(one.dequantized()))
