"""Rows in the lengths that kernels take."""

import jax
import jax.numpy as jnp


def fill_up(x_BL: jax.Array, multiple: int) -> jax.Array:
    """Rows [B, L, ...] filled up with zeros to a multiple of this many positions.

    >>> fill_up(jnp.ones((1, 3)), 4).tolist()
    [[1.0, 1.0, 1.0, 0.0]]
    """
    more = -x_BL.shape[1] % multiple
    return jnp.pad(x_BL, [(0, 0), (0, more), *[(0, 0)] * (x_BL.ndim - 2)])
