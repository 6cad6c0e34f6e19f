"""Whole numbers for weights: the nearest, and GPTQ's."""

import ml_dtypes
import numpy as np
import pytest

from lm.numerics import Quantized
from lm.quantization import Quantization, round_to_nearest
from lm.quantization.gptq import gptq
from lm.quantization.nearest import codes_of, rounded
from lm.quantization.stored import packed, unpacked


def correlated(inputs: int, rows: int = 200) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(rows, inputs)) @ random.normal(size=(inputs, inputs))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_nearest_is_within_half_a_step(bits):
    """Fails if a scale is of another group or output, or a number is not the nearest."""
    weight_IO = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    codes_IO, scale_GO = rounded(weight_IO, 3, bits)
    most = 2 ** (bits - 1)
    assert scale_GO.dtype == ml_dtypes.bfloat16 and scale_GO.shape == (3, 5)
    assert codes_IO.min() >= -most and codes_IO.max() <= most - 1
    step_IO = np.repeat(scale_GO.astype(np.float32), 4, axis=0)
    off_IO = np.abs(codes_IO * step_IO - weight_IO)
    # On the side where the numbers end first, what is beyond them is cut.
    inside_IO = weight_IO / step_IO <= most - 0.5
    assert inside_IO.mean() > 0.5
    assert (off_IO[inside_IO] <= 0.5001 * np.abs(step_IO)[inside_IO]).all()
    assert (codes_IO == -most).sum() >= 15  # the furthest of each group and output


def test_a_group_of_zeros_is_zeros():
    """Fails if a scale of 0 is divided by."""
    weight_IO = np.zeros((4, 2), np.float32)
    codes_IO, scale_GO = rounded(weight_IO, 2, 4)
    assert not codes_IO.any() and not scale_GO.any()


@pytest.mark.parametrize(
    ("axes", "shape", "group", "blocks"),
    [
        (("layers", "embed", "heads", "head"), (2, 8, 2, 3), 4, (2, 2, 2, 3)),
        (("layers", "heads", "head", "embed"), (2, 4, 6, 5), 12, (2, 2, 1, 5)),
        (("layers", "heads", "head", "embed"), (2, 4, 6, 5), 4, (2, 4, 2, 5)),
        (("layers", "heads", "head", "embed"), (2, 4, 6, 5), None, (2, 1, 1, 5)),
    ],
)
def test_groups_are_of_inputs_in_their_order(axes, shape, group, blocks):
    """Fails if groups run over outputs, or a stack shares scales."""
    quantization = Quantization(bits=8, group=group)
    assert quantization.blocks(axes, shape) == blocks
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    weight *= np.arange(1, shape[-1] + 1)  # outputs of different size
    found = round_to_nearest(weight, axes, quantization)
    assert found.scale.shape == blocks and found.shape == shape
    off = np.abs(found.dequantized() - weight) / np.abs(weight).max(axis=(0, 1, 2))
    assert off.max() < 1 / 128


@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 4), (1, 1, 7)])
def test_two_numbers_a_byte(shape):
    """Fails if halves change places, signs are lost, or an odd number leaves one out."""
    codes = np.random.default_rng(0).integers(-8, 8, shape).astype(ml_dtypes.int4)
    bytes_ = packed(codes)
    assert bytes_.dtype == np.uint8 and bytes_.size == -(-codes[0].size // 2) * len(codes)
    assert np.array_equal(unpacked(bytes_, shape).astype(int), codes.astype(int))


def plain_gptq(weight_IO, moments_II, groups, bits, damping=0.01):
    """The same input by input, with the inverse of what is left at each."""
    weight_IO, each = weight_IO.astype(np.float64), len(weight_IO) // groups
    inverse_II = np.linalg.inv(
        moments_II + damping * np.diagonal(moments_II).mean() * np.eye(len(moments_II))
    )
    codes_IO = np.zeros(weight_IO.shape, np.int8)
    scale_GO = rounded(weight_IO, groups, bits)[1]
    for i in range(len(weight_IO)):
        if groups > 1 and i % each == 0:
            scale_GO[i // each] = rounded(weight_IO[i : i + each], 1, bits)[1][0]
        scale_O = scale_GO[i // each].astype(np.float64)
        codes_IO[i] = codes_of(weight_IO[i], scale_GO[i // each], bits)
        off_O = (weight_IO[i] - codes_IO[i] * scale_O) / inverse_II[i, i]
        weight_IO -= np.outer(inverse_II[i], off_O)
        inverse_II -= np.outer(inverse_II[:, i], inverse_II[i]) / inverse_II[i, i]
        inverse_II[i, i] = 1  # done with: it is 0 but for rounding
    return codes_IO, scale_GO


@pytest.mark.parametrize("groups", [1, 3, 24])
def test_gptq_is_that_of_the_paper(groups):
    """Fails if an error goes to another weight, or a block's to none after it."""
    inputs = 192  # more than a block
    weight_IO = np.random.default_rng(1).normal(size=(inputs, 6))
    x_SI = correlated(inputs)
    mine, theirs = gptq(weight_IO, x_SI.T @ x_SI, groups, 4), plain_gptq(
        weight_IO, x_SI.T @ x_SI, groups, 4
    )  # fmt: skip
    assert np.array_equal(mine[0], theirs[0]) and np.array_equal(mine[1], theirs[1])


@pytest.mark.parametrize("groups", [1, 4])
def test_gptq_of_inputs_without_correlation_is_nearest(groups):
    """Fails if errors are handed on that no later input can make up for."""
    weight_IO = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    found = gptq(weight_IO, np.diag(np.arange(1.0, 17)), groups, 4)
    wanted = rounded(weight_IO, groups, 4)
    assert np.array_equal(found[0], wanted[0]) and np.array_equal(found[1], wanted[1])


def test_gptq_makes_products_better_and_weights_worse():
    """Fails if it does no more than round."""
    weight_IO, x_SI = np.random.default_rng(0).normal(size=(32, 8)), correlated(32)
    x_SI[:, 5] = 0  # an input that is never there
    errors = {}
    for name, (codes, scale) in (
        ("gptq", gptq(weight_IO, x_SI.T @ x_SI, 2, 4)),
        ("nearest", rounded(weight_IO, 2, 4)),
    ):
        off_IO = Quantized(codes, scale).dequantized() - weight_IO
        errors[name] = np.square(x_SI @ off_IO).mean(), np.square(off_IO).mean()
    assert np.isfinite(errors["gptq"]).all()
    assert errors["gptq"][0] < 0.6 * errors["nearest"][0]
    assert errors["gptq"][1] > errors["nearest"][1]
