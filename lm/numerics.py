"""Matrix products: the one place that decides in which numbers they are taken."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Precision = Literal["bfloat16", "float32"]


class Factor:
    """The right operand of a product where it is no array: it knows its own product.

    It stands where a matrix stood among a module's parameters, its inputs before its outputs.
    """

    def product(self, einsum: "Einsum", equation: str, left: jax.Array) -> jax.Array:
        """The product of an equation with it on the right, float32."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank(Factor):
    """A matrix with the product of two narrow ones added to it, which is never formed.

    It is stacked as the matrix is, and its product is x W + (x A) B.
    """

    weight: jax.Array
    """W. It comes first: flax compares the shape of the first leaf with the declared one."""
    a: jax.Array
    """A: the inputs of W, and the rank."""
    b: jax.Array
    """B: the rank, and the outputs of W."""

    def product(self, einsum: "Einsum", equation: str, left: jax.Array) -> jax.Array:
        """In equations, R is the rank."""
        terms, out = equation.split("->")
        x, weight = terms.split(",")
        inputs = "".join(letter for letter in weight if letter in x)
        outputs = weight.removeprefix(inputs)
        narrow = "".join(letter for letter in x if letter not in inputs) + "R"
        low = einsum(f"{x},{inputs}R->{narrow}", left, self.a)
        added = einsum(f"{narrow},R{outputs}->{out}", low, self.b)
        return einsum(equation, left, self.weight) + added


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantized(Factor):
    """A matrix of small whole numbers, with a scale for each block of it.

    It is stacked as the matrix is. Memory holds the whole numbers; a product makes the matrix
    of them that it takes, one layer's at a time.
    """

    codes: Any
    """int8 or int4, of the matrix's shape. It comes first, as in `LowRank`."""
    scale: Any
    """bfloat16, with as many axes: how many blocks there are along each."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the matrix."""
        shape: tuple[int, ...] = self.codes.shape
        return shape

    def dequantized(self) -> Any:
        """The matrix, float32: exact, as both factors have eight bits at most.

        >>> codes, scale = np.array([[1, 2], [3, -4]], np.int8), np.array([[1.0, 0.5]])
        >>> Quantized(codes, scale).dequantized().tolist()
        [[1.0, 1.0], [3.0, -2.0]]
        """
        blocks, each = self.scale.shape, list[int]()
        for size, count in zip(self.shape, blocks, strict=True):
            each += [count, size // count]
        scale = self.scale.reshape([n for count in blocks for n in (count, 1)])
        found = self.codes.reshape(each).astype(np.float32) * scale.astype(np.float32)
        return found.reshape(self.shape)

    def product(self, einsum: "Einsum", equation: str, left: jax.Array) -> jax.Array:
        return einsum(equation, left, self.dequantized())


@dataclass(frozen=True)
class Einsum:
    """The matrix product of a precision mode: two arrays in, a float32 one out.

    Bfloat16 operands are accumulated in float32, in the backward products too: left to itself,
    JAX would multiply a float32 cotangent with a bfloat16 operand there, which no matrix unit
    takes. Float32 is float32 throughout: the reference that exact tests compare against.

    >>> Einsum("bfloat16")("BD,DF->BF", jnp.ones((2, 3)), jnp.ones((3, 4))).dtype
    dtype('float32')

    Every letter must stand in two of the three terms; one that stands in all of them counts a
    batch of products. On the right may stand a `Factor`.
    """

    precision: Precision

    def __call__(self, equation: str, left: jax.Array, right: jax.Array | Factor) -> jax.Array:
        if isinstance(right, Factor):
            return right.product(self, equation, left)
        return _einsum(self, equation, left, right)

    def rounded(self, x: jax.Array) -> jax.Array:
        """An operand as products take it, for code that keeps it for its own derivative."""
        return x.astype(self.precision)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _einsum(einsum: Einsum, equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return _product(equation, einsum.rounded(left), einsum.rounded(right))


def _forward(
    einsum: Einsum, equation: str, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    operands = einsum.rounded(left), einsum.rounded(right)
    return _product(equation, *operands), operands


def _backward(
    einsum: Einsum, equation: str, operands: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    left, right = operands
    terms, out = equation.split("->")
    a, b = terms.split(",")
    given = einsum.rounded(cotangent)
    return _product(f"{out},{b}->{a}", given, right), _product(f"{a},{out}->{b}", left, given)


_einsum.defvjp(_forward, _backward)


def _product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """The product, in a form that XLA's matrix kernels for CPUs take too.

    Theirs need rows times columns: a left operand of a batch of products that is laid out the
    other way around must come second, and so must the operand whose axes come last in the
    result. The rest (a vector in a batch of products, and what is tiny) falls to a plain loop,
    which knows no bfloat16; it gets the same values in float32.
    """
    terms, out = equation.split("->")
    a, b = terms.split(",")
    shared = [letter for letter in a if letter in b]
    batch = [letter for letter in shared if letter in out]
    summed = [letter for letter in shared if letter not in out]
    rows = [letter for letter in a if letter not in shared]
    columns = [letter for letter in b if letter not in shared]
    sideways = (
        [*a[: len(batch) + 1]] == batch + summed[:1] if batch else [*out] == columns + rows
    )
    if sideways:
        return _product(f"{b},{a}->{out}", right, left)

    size = dict(zip(a, left.shape, strict=True)) | dict(zip(b, right.shape, strict=True))
    m, k, n = (math.prod(size[i] for i in group) for group in (rows, summed, columns))
    if (batch and 1 in (m, n)) or max(m, k, n) < 8:
        left, right = left.astype(jnp.float32), right.astype(jnp.float32)

    def where(term: str, letters: list[str]) -> list[int]:
        return [term.index(letter) for letter in letters]

    product = jax.lax.dot_general(
        left,
        right,
        ((where(a, summed), where(b, summed)), (where(a, batch), where(b, batch))),
        precision="highest" if left.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
    return product.transpose(where("".join(batch + rows + columns), [*out]))
