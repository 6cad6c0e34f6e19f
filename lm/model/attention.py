"""Attention by its definition: the reference that every faster backend is held to."""

import jax
import jax.numpy as jnp

from lm.numerics import Einsum


def attend(
    query_BLHA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    mask_BLM: jax.Array,
    *,
    einsum: Einsum,
) -> jax.Array:
    """Softmax attention in float32, [B, L, H, A]; H/G query heads share a key/value head.

    That sharing is Ainslie et al. 2023. A query that may see nothing (padding) gets a mean of
    all values, which nobody reads.
    """
    batch, length, heads, size = query_BLHA.shape
    groups = key_BMGA.shape[2]
    query_BLGRA = (query_BLHA * size**-0.5).reshape(
        batch, length, groups, heads // groups, size
    )
    scores_BGRLM = einsum("BLGRA,BMGA->BGRLM", query_BLGRA, key_BMGA)
    scores_BGRLM = jnp.where(mask_BLM[:, None, None], scores_BGRLM, -1e30)
    shares_BGRLM = jax.nn.softmax(scores_BGRLM, axis=-1)
    return einsum("BGRLM,BMGA->BLGRA", shares_BGRLM, value_BMGA).reshape(query_BLHA.shape)


def rotate(x_BLHA: jax.Array, positions_BL: jax.Array, theta: float) -> jax.Array:
    """Rotary positions on head halves (Su et al. 2021): dot products see only distances.

    >>> x = jnp.ones((1, 2, 1, 4))
    >>> rotate(x, jnp.array([[0, 1]]), 1e4)[0, 0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    half = x_BLHA.shape[-1] // 2
    frequency_a = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_BL1a = (
        positions_BL[:, :, None, None].astype(jnp.float32) * frequency_a[None, None, None]
    )
    sine, cosine = jnp.sin(angle_BL1a), jnp.cos(angle_BL1a)
    left, right = x_BLHA[..., :half], x_BLHA[..., half:]
    return jnp.concatenate(
        [left * cosine - right * sine, right * cosine + left * sine], axis=-1
    )
