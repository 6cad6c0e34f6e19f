"""Splash: the kernel for TPUs that keeps no scores in memory (Dao et al. 2022), from Pallas.

Off its platform it runs in Pallas' interpreter, for tests and proofs.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, CausalMask, UntilMask
from lm.model.attention.rows import fill_up

LANES = 128
"""Keys of a block, at least: a TPU's vector lanes."""
BLOCK = 512
"""Queries and keys of a block, at most, where they divide the row."""
BACKWARD = 7
"""Matrix products of the backward pass, of the size of the two in the forward pass.

Without kernels they are four. This one has a pass for queries and another for keys and values:
each computes the scores again, and the weights' cotangents too."""


def pairs(attention_mask: AttentionMask, length: int) -> int:
    """Pairs of a query and a key that are computed of a row, whether masked or not.

    >>> pairs(CausalMask(), 2048) == 2048**2 * 10 // 16
    True

    Blocks that no causal query sees are left out; what `UntilMask` says is known too late.
    """
    padded = -(-length // LANES) * LANES
    block = math.gcd(padded, BLOCK)
    number = padded // block
    return (
        number * (number + 1) // 2 if isinstance(attention_mask, CausalMask) else number**2
    ) * block**2


def attend(
    query_BLHA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    query_segments_BL: jax.Array,
    key_segments_BM: jax.Array,
    attention_mask: AttentionMask,
    *,
    at_home: bool,
) -> jax.Array:
    """Rows are filled up with padding to whole blocks; it sees itself, and nothing sees it.

    The kernel's causal mask compares each key's index with a number that it has of each query,
    its own index: with `until` in that place it is `UntilMask`.
    """
    # Imported where it is used: it takes long, and few runs need it.
    from jax.experimental.pallas.ops.tpu import splash_attention as package

    masks = package.splash_attention_mask
    splash = package.splash_attention_kernel
    info = package.splash_attention_mask_info

    length = query_BLHA.shape[1]
    fill = partial(fill_up, multiple=LANES)
    query_BLHA, key_BMGA, value_BMGA = map(fill, (query_BLHA, key_BMGA, value_BMGA))
    segments = splash.SegmentIds(fill(query_segments_BL), fill(key_segments_BM))
    attention_mask = jax.tree.map(fill, attention_mask)
    size, keys = (math.gcd(x.shape[1], BLOCK) for x in (query_BLHA, key_BMGA))
    # These heads would be filled up to the lanes in memory. Positions, of which a row has whole
    # lanes, then lie along lanes.
    is_narrow = query_BLHA.shape[-1] in (32, 64)
    layout = splash.QKVLayout.SEQ_MINOR if is_narrow else splash.QKVLayout.HEAD_DIM_MINOR
    settings: dict[str, Any] = {
        "block_sizes": splash.BlockSizes(
            block_q=size, block_kv=keys,
            block_q_dkv=size, block_kv_dkv=keys,
            block_q_dq=size, block_kv_dq=keys,
            q_layout=layout, k_layout=layout, v_layout=layout,
        ),
        "interpret": not at_home,
    }  # fmt: skip
    causal = masks.CausalMask((query_BLHA.shape[1], key_BMGA.shape[1]))

    def row(
        query_HLA: Any, key_GMA: Any, value_GMA: Any, segments: Any, attention_mask: Any
    ) -> Any:
        if isinstance(attention_mask, CausalMask):
            mask = masks.MultiHeadMask([causal] * len(query_HLA))
            kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, **settings)
        else:
            until: Any = (
                attention_mask.until_BL if isinstance(attention_mask, UntilMask) else None
            )
            kernel = splash.SplashAttentionKernel(
                *[info.MaskInfo(None, None, None, None, until)] * 3,
                is_mqa=False, save_residuals=False, mask_value=splash.DEFAULT_MASK_VALUE,
                attn_logits_soft_cap=None, residual_checkpoint_name=None,
                mask_function=None if until is None else causal.mask_function, **settings,
            )  # fmt: skip
        return kernel(query_HLA, key_GMA, value_GMA, segments)

    first = partial(jnp.swapaxes, axis1=1, axis2=2)
    mixed_BHLA = jax.vmap(row)(
        first(query_BLHA), first(key_BMGA), first(value_BMGA), segments, attention_mask
    )
    return first(mixed_BHLA)[:, :length]
