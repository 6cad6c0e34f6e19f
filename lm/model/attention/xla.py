"""Attention as XLA compiles it on any platform: the reference that kernels are held to."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, CausalMask
from lm.numerics import Einsum


class KeyExtent(NamedTuple):
    """A block of queries, `start .. stop - 1`, and how many keys it needs from the first on."""

    start: int
    stop: int
    keys: int


BLOCK = 128
"""Fewest queries in a block: fewer would leave matrix kernels too little to do."""


def key_extents(attention_mask: AttentionMask, length: int) -> tuple[KeyExtent, ...]:
    """Blocks of queries that leave out keys which none of their queries may see.

    A causal query sees half of the keys on average. In blocks (four at most, so that programs
    stay small) 62.5% of all pairs are computed, for long rows.

    >>> key_extents(CausalMask(), 256)
    (KeyExtent(start=0, stop=128, keys=128), KeyExtent(start=128, stop=256, keys=256))
    """
    if not isinstance(attention_mask, CausalMask):
        return (KeyExtent(0, length, length),)
    size = max(BLOCK, -(-length // 4))
    starts = range(0, length, size)
    stops = [*starts[1:], length]
    return tuple(KeyExtent(*block, block[1]) for block in zip(starts, stops, strict=True))


def pairs(attention_mask: AttentionMask, length: int) -> int:
    """Pairs of a query and a key that are computed of a row, whether masked or not.

    >>> pairs(CausalMask(), 2048) == 2048**2 * 10 // 16
    True
    """
    return sum(
        (stop - start) * keys for start, stop, keys in key_extents(attention_mask, length)
    )


def attend(
    query_BLHA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    mask_BLM: jax.Array,
    blocks: tuple[KeyExtent, ...],
    *,
    einsum: Einsum,
    bias_BHLM: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention in float32, [B, L, H, A]; H/G query heads share a key/value head.

    That sharing is Ainslie et al. 2023. The bias is added to the scores. The mask may allow a
    block of queries no key beyond its reach. A query that may see nothing (padding) gets a mean
    of values, which nobody reads.
    """
    batch, length, heads, size = query_BLHA.shape
    groups = key_BMGA.shape[2]
    query_BLGRA = (query_BLHA * size**-0.5).reshape(
        batch, length, groups, heads // groups, size
    )
    bias_BGRLM = None
    if bias_BHLM is not None:
        shape = len(bias_BHLM), groups, heads // groups, *bias_BHLM.shape[2:]
        bias_BGRLM = bias_BHLM.reshape(shape)
    mixed_BLGRA = _mix(einsum, blocks, query_BLGRA, key_BMGA, value_BMGA, mask_BLM, bias_BGRLM)
    return mixed_BLGRA.reshape(query_BLHA.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mix(
    einsum: Einsum,
    blocks: tuple[KeyExtent, ...],
    query_BLGRA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    mask_BLM: jax.Array,
    bias_BGRLM: jax.Array | None,
) -> jax.Array:
    given = query_BLGRA, key_BMGA, value_BMGA, mask_BLM, bias_BGRLM
    return _mix_forward(einsum, blocks, *given)[0]


Saved = tuple[jax.Array, jax.Array, jax.Array, list[jax.Array], jax.Array, jax.Array | None]
"""Queries, keys, values, the weights of each block, and the output, all rounded; the bias."""


def _mix_forward(
    einsum: Einsum,
    blocks: tuple[KeyExtent, ...],
    query_BLGRA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    mask_BLM: jax.Array,
    bias_BGRLM: jax.Array | None,
) -> tuple[jax.Array, Saved]:
    query, key, value = map(einsum.rounded, (query_BLGRA, key_BMGA, value_BMGA))
    mixed, weights = [], []
    for start, stop, keys in blocks:
        scores_BGRlm = einsum("BLGRA,BMGA->BGRLM", query[:, start:stop], key[:, :keys])
        if bias_BGRLM is not None:
            scores_BGRlm += bias_BGRLM[..., start:stop, :keys]
        allowed_B11lm = mask_BLM[:, None, None, start:stop, :keys]
        scores_BGRlm = jnp.where(allowed_B11lm, scores_BGRlm, -1e30)
        weights.append(einsum.rounded(jax.nn.softmax(scores_BGRlm, axis=-1)))
        mixed.append(einsum("BGRLM,BMGA->BLGRA", weights[-1], value[:, :keys]))
    mixed_BLGRA = jnp.concatenate(mixed, axis=1)
    saved = query, key, value, weights, einsum.rounded(mixed_BLGRA), bias_BGRLM
    return mixed_BLGRA, saved


def _mix_backward(
    einsum: Einsum, blocks: tuple[KeyExtent, ...], saved: Saved, cotangent_BLGRA: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None, jax.Array | None]:
    """The softmax's derivative needs the sum of weights times their cotangents for each query.

    It equals the product of output and cotangent (Dao et al. 2022, appendix B.2), so weights
    are read once. They are kept rounded, as the products take them.
    """
    query, key, value, weights, mixed, bias_BGRLM = saved
    d_bias = None if bias_BGRLM is None else jnp.zeros_like(bias_BGRLM)
    sum_BGRL = jnp.einsum("BLGRA,BLGRA->BGRL", cotangent_BLGRA, mixed.astype(jnp.float32))
    given = einsum.rounded(cotangent_BLGRA)
    d_query, d_key, d_value = [], jnp.zeros(key.shape), jnp.zeros(value.shape)
    for (start, stop, keys), weights_BGRlm in zip(blocks, weights, strict=True):
        d_weights = einsum("BLGRA,BMGA->BGRLM", given[:, start:stop], value[:, :keys])
        d_scores_BGRlm = weights_BGRlm * (d_weights - sum_BGRL[..., start:stop, None])
        if d_bias is not None:
            d_bias = d_bias.at[..., start:stop, :keys].set(d_scores_BGRlm)
        d_scores = einsum.rounded(d_scores_BGRlm)
        d_query.append(einsum("BGRLM,BMGA->BLGRA", d_scores, key[:, :keys]))
        d_key = _add(d_key, einsum("BGRLM,BLGRA->BMGA", d_scores, query[:, start:stop]))
        d_value = _add(
            d_value, einsum("BGRLM,BLGRA->BMGA", weights_BGRlm, given[:, start:stop])
        )
    return jnp.concatenate(d_query, axis=1), d_key, d_value, None, d_bias


_mix.defvjp(_mix_forward, _mix_backward)


def _add(total_BMGA: jax.Array, part_BmGA: jax.Array) -> jax.Array:
    keys = part_BmGA.shape[1]
    rest_BMGA = total_BMGA[:, keys:]
    return jnp.concatenate([total_BMGA[:, :keys] + part_BmGA, rest_BMGA], axis=1)
