"""Products of rows with the matrix of their group, of which each has any number of rows."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lm.numerics import Einsum

MOST = 256
"""Rows of a block, at most: of so many a matrix unit is as fast as it gets."""


def block_size(rows: int, groups: int, platform: str | None) -> int | None:
    """How many rows of a group are multiplied at once on a platform; None: any number.

    A TPU's compiler knows products of ragged groups. For others XLA (jax 0.10.1) puts every row
    through the matrices of all groups, and so whole blocks of a group's rows are taken one
    after the other; filling them up adds an eighth of the rows at most.

    >>> block_size(4096, 8, "cpu"), block_size(48, 4, "cpu"), block_size(4096, 8, "tpu")
    (64, 1, None)
    """
    if platform == "tpu":
        return None
    return 1 << max(0, min(MOST, rows // (8 * groups)).bit_length() - 1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def ragged_product(
    einsum: Einsum, block: int | None, x_RI: jax.Array, weight_EIO: jax.Array, rows_E: jax.Array
) -> jax.Array:
    """Each row times the matrix of its group, float32[R, O]; groups stand one after the other.

    Operands are rounded, and products accumulated, as `einsum` does it. Groups have whole
    blocks of rows; `block` is None where the compiler's own ragged product is taken. What comes
    out for rows behind the last group is nobody's.
    """
    return _product(einsum, block, einsum.rounded(x_RI), einsum.rounded(weight_EIO), rows_E)


def _forward(
    einsum: Einsum, block: int | None, x_RI: jax.Array, weight_EIO: jax.Array, rows_E: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    given = einsum.rounded(x_RI), einsum.rounded(weight_EIO), rows_E
    return _product(einsum, block, *given), given


def _backward(
    einsum: Einsum,
    block: int | None,
    given: tuple[jax.Array, jax.Array, jax.Array],
    cotangent_RO: jax.Array,
) -> tuple[jax.Array, jax.Array, None]:
    x_RI, weight_EIO, rows_E = given
    rounded_RO = einsum.rounded(cotangent_RO)
    d_x_RI = _product(einsum, block, rounded_RO, jnp.swapaxes(weight_EIO, 1, 2), rows_E)
    return d_x_RI, _outer(einsum, block, x_RI, rounded_RO, rows_E), None


ragged_product.defvjp(_forward, _backward)


def _product(
    einsum: Einsum, block: int | None, x_RI: jax.Array, weight_EIO: jax.Array, rows_E: jax.Array
) -> jax.Array:
    if block is None:
        return jax.lax.ragged_dot(x_RI, weight_EIO, rows_E, **_how(x_RI))

    def one(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_SI, group = part
        return einsum("SI,IO->SO", x_SI, weight_EIO[group])

    parts = x_RI.reshape(-1, block, x_RI.shape[1]), _groups(rows_E, len(x_RI), block)
    found_bSO: jax.Array = jax.lax.map(one, parts)
    return found_bSO.reshape(len(x_RI), -1)


def _outer(
    einsum: Einsum, block: int | None, x_RI: jax.Array, y_RO: jax.Array, rows_E: jax.Array
) -> jax.Array:
    """The sum over each group's rows of the products of x and y, float32[E, I, O]."""
    if block is None:
        summed = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
        return jax.lax.ragged_dot_general(x_RI, y_RO, rows_E, summed, **_how(x_RI))

    def one(
        sums_EIO: jax.Array, part: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        x_SI, y_SO, group = part
        return sums_EIO.at[group].add(einsum("SI,SO->IO", x_SI, y_SO)), None

    parts = (
        x_RI.reshape(-1, block, x_RI.shape[1]),
        y_RO.reshape(-1, block, y_RO.shape[1]),
        _groups(rows_E, len(x_RI), block),
    )
    zeros_EIO = jnp.zeros((len(rows_E), x_RI.shape[1], y_RO.shape[1]))
    return jax.lax.scan(one, zeros_EIO, parts)[0]


def _groups(rows_E: jax.Array, rows: int, block: int) -> jax.Array:
    """The group of each block; blocks behind the last group are said to be of that one."""
    starts_b = jnp.arange(0, rows, block)
    groups_b = jnp.searchsorted(jnp.cumsum(rows_E), starts_b, side="right")
    return jnp.minimum(groups_b, len(rows_E) - 1)


def _how(x_RI: jax.Array) -> dict[str, Any]:
    precision = "highest" if x_RI.dtype == jnp.float32 else None
    return {"precision": precision, "preferred_element_type": jnp.float32}
