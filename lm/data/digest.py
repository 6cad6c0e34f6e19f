"""Digests of arrays, and the chain of all batches that a run has seen, on device."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.data.derived import DERIVED
from lm.example import Batch


def chained(before: jax.Array, batch: Batch) -> jax.Array:
    """The digest of all batches so far, uint32[2], from the one before and a batch's arrays.

    Derived channels are left out: see `lm.data.derived`.
    """
    read = {name: each for name, each in batch.channels.items() if name not in DERIVED}
    leaves = jax.tree.leaves(replace(batch, channels=read))
    return array_digest(jnp.concatenate([before, *map(array_digest, leaves)]))


def chain_text(batches: Any) -> str:
    """The digest of all batches so far, uint32[2], in hexadecimal.

    >>> chain_text(np.array([1, 255], np.uint32))
    '00000001000000ff'
    """
    return "".join(f"{word:08x}" for word in np.asarray(batches))


def array_digest(x: jax.Array) -> jax.Array:
    """The digest of one array as two words, uint32[2]; for use inside jit."""
    return jnp.stack([_lane(x, *constants) for constants in _CONSTANTS])


_CONSTANTS = ((0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35), (0x85EBCA77, 0x7FEB352D, 0x846CA68B))
"""Odd: a stride for the index and the two multipliers of a 32-bit finalizer (MurmurHash3's, and
Wellons's lowbias32)."""


def _lane(x: jax.Array, stride: int, first: int, second: int) -> jax.Array:
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis in range(x.ndim):
        step = math.prod(x.shape[axis + 1 :]) % 2**32
        index += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(step)
    word = _words(x) ^ (index * jnp.uint32(stride) + jnp.uint32(first))
    word = (word ^ (word >> 16)) * jnp.uint32(first)
    word = (word ^ (word >> 13)) * jnp.uint32(second)
    return jnp.sum(word ^ (word >> 16), dtype=jnp.uint32)


def _words(x: jax.Array) -> jax.Array:
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
