"""Matrix products: the one place that decides in which numbers they are taken."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

Precision = Literal["bfloat16", "float32"]
Einsum = Callable[[str, jax.Array, jax.Array], jax.Array]
"""`einsum("BLD,DF->BLF", x, w)`: two float32 arrays in, one out, however it is computed."""


def einsum_of(precision: Precision) -> Einsum:
    """The matrix product of a precision mode."""
    return bfloat16_einsum if precision == "bfloat16" else float32_einsum


def float32_einsum(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """Float32 throughout: the reference that exact tests compare against."""
    return jnp.einsum(
        equation, left, right, precision="highest", preferred_element_type=jnp.float32
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def bfloat16_einsum(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """Bfloat16 operands accumulated in float32, in the backward products too.

    Left to itself, JAX would multiply a float32 cotangent with a bfloat16 operand there, which
    no matrix unit takes. Every letter must stand in two of the three terms.

    >>> bfloat16_einsum("BD,DF->BF", jnp.ones((2, 3)), jnp.ones((3, 4))).dtype
    dtype('float32')
    """
    return _product(equation, left.astype(jnp.bfloat16), right.astype(jnp.bfloat16))


def _forward(
    equation: str, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    operands = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return _product(equation, *operands), operands


def _backward(
    equation: str, operands: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = operands
    terms, out = equation.split("->")
    a, b = terms.split(",")
    given = cotangent.astype(jnp.bfloat16)
    return _product(f"{out},{b}->{a}", given, right), _product(f"{a},{out}->{b}", left, given)


bfloat16_einsum.defvjp(_forward, _backward)


def _product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)
