"""Matrix products in all forms that the code takes, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.numerics import Einsum

SIZES = {"B": 3, "L": 9, "M": 11, "G": 2, "R": 2, "A": 8, "D": 16, "F": 24, "V": 40, "P": 5}
FORMS = (
    "BLD,DF->BLF",
    "BLD,DGA->BLGA",
    "BLGA,GAD->BLD",
    "BLGRA,BMGA->BGRLM",  # both operands laid out otherwise than a batch of products needs
    "BGRLM,BMGA->BLGRA",
    "BGRLM,BLGRA->BMGA",  # the left one is columns by rows
    "BPD,VD->BPV",
    "BPV,BPD->VD",
)


def operands(equation, sizes):
    random = np.random.default_rng(0)
    terms = equation.split("->")[0].split(",")
    return [random.normal(size=[sizes[i] for i in term]).astype(np.float32) for term in terms]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("bfloat16", 8e-3)])
@pytest.mark.parametrize("equation", FORMS)
@pytest.mark.parametrize("one", ["", "L", "M", "LM", "BLMGRADFVP"], ids=lambda one: one or "-")
def test_products_and_their_gradients_are_exact_to_the_operands_rounding(
    equation, precision, tolerance, one
):
    """Fails if letters are summed or ordered otherwise, or the machine has no such product.

    XLA's CPU kernels refuse some products of bfloat16 at run time: vectors in a batch, tiny
    ones, and left operands that are laid out as columns by rows.
    """
    left, right = operands(equation, SIZES | dict.fromkeys(one, 1))
    expected = np.einsum(equation, left.astype(np.float64), right)
    einsum = Einsum(precision)

    @jax.jit
    def all_of(left, right, cotangent):
        value, pull = jax.vjp(lambda a, b: einsum(equation, a, b), left, right)
        return value, *pull(cotangent)

    both, out = equation.split("->")
    a, b = both.split(",")
    cotangent = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32)
    value, d_left, d_right = all_of(left, right, cotangent)
    for found, should in (
        (value, expected),
        (d_left, np.einsum(f"{out},{b}->{a}", cotangent.astype(np.float64), right)),
        (d_right, np.einsum(f"{out},{a}->{b}", cotangent.astype(np.float64), left)),
    ):
        scale = np.abs(should).max()
        np.testing.assert_allclose(found, should, atol=tolerance * scale, rtol=0)
    assert value.dtype == jnp.float32


def test_what_is_kept_for_a_backward_pass_is_rounded_once():
    """Fails if an operand is kept in float32 for bfloat16, or rounded for the reference."""
    x = jnp.float32(1 + 2**-12)
    assert Einsum("bfloat16").rounded(x) == 1
    assert Einsum("float32").rounded(x) == x
