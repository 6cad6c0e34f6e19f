"""GPTQ: what rounding a weight adds to a product is taken off by the weights after it.

Frantar et al. 2022, "GPTQ: accurate post-training quantization for generative pre-trained
transformers" (arXiv:2210.17323), algorithm 1: each input's weights of all outputs are rounded
in turn, and those of the inputs after it move so that the squared error of the products on a
text is least. Inputs are taken in the order in which they stand.
"""

import numpy as np

from lm.quantization.nearest import codes_of, scales

DAMPING = 0.01
"""Added to the diagonal of the moments, times its mean (section 3.3, step 3)."""
_BLOCK = 128
"""Inputs whose errors are handed on to the rest at once."""


def gptq(
    weight_IO: np.ndarray,
    moments_II: np.ndarray,
    groups: int,
    bits: int,
    *,
    damping: float = DAMPING,
) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers int8[I, O] and scales bfloat16[G, O] of a matrix.

    `moments_II` are the sums over a text of the products of its inputs, x x^T, of which half
    the Hessian of the squared error is made. A group's scales are those of its weights as they
    are when its first input's turn comes.
    """
    weight_IO = weight_IO.astype(np.float64)
    inputs, outputs = weight_IO.shape
    codes_IO = np.zeros((inputs, outputs), np.int8)
    scale_GO = scales(weight_IO, groups, bits)
    inverse_II = _inverse_factor(moments_II, damping)
    each = inputs // groups
    block = each * max(1, _BLOCK // each) if groups > 1 else _BLOCK
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        error_bO = np.zeros((stop - start, outputs))
        for i in range(start, stop):
            if groups > 1 and i % each == 0:
                scale_GO[i // each] = scales(weight_IO[i : i + each], 1, bits)[0]
            scale_O = scale_GO[i // each]
            codes_IO[i] = codes_of(weight_IO[i], scale_O, bits)
            off_O = weight_IO[i] - codes_IO[i] * scale_O.astype(np.float64)
            error_bO[i - start] = off_O / inverse_II[i, i]
            later = slice(i + 1, stop)
            weight_IO[later] -= np.outer(inverse_II[i, later], error_bO[i - start])
        weight_IO[stop:] -= inverse_II[start:stop, stop:].T @ error_bO
    return codes_IO, scale_GO


def _inverse_factor(moments_II: np.ndarray, damping: float) -> np.ndarray:
    """The upper Cholesky factor of the inverse of the moments, damped."""
    moments_II = moments_II.astype(np.float64)
    diagonal_I = np.diagonal(moments_II).copy()
    # An input that is always 0 adds nothing, whatever its weights become.
    diagonal_I[diagonal_I == 0] = 1.0
    np.fill_diagonal(moments_II, diagonal_I + damping * diagonal_I.mean())
    inverse_II = np.linalg.inv(moments_II)
    factor_II: np.ndarray = np.linalg.cholesky((inverse_II + inverse_II.T) / 2).T
    return factor_II
