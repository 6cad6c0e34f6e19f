"""JAX's kernel for GPUs in Pallas' Triton, which keeps no scores and is told of segments.

It makes masks of segments block by block, where cuDNN reads one of a row's length squared. It
knows causal and bidirectional rows; prefixes go to cuDNN. Off its platform it runs in Pallas'
interpreter, for tests and proofs.
"""

from functools import partial

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, CausalMask, UntilMask
from lm.model.attention import cudnn
from lm.model.attention.rows import fill_up

BLOCK = 128
"""Queries and keys of a block in the forward pass."""
BACKWARD = 7
"""Matrix products of the backward pass, of the size of the two in the forward pass: a pass for
keys and values and one for queries, each of which computes the scores and the weights'
cotangents again."""


def pairs(attention_mask: AttentionMask, length: int) -> int:
    """Pairs of a query and a key that are computed of a row, whether masked or not.

    >>> pairs(CausalMask(), 2048) == 2048**2 * 17 // 32
    True

    Blocks that no causal query sees are left out.
    """
    number = -(-length // BLOCK)
    causal = isinstance(attention_mask, CausalMask)
    return (number * (number + 1) // 2 if causal else number**2) * BLOCK**2


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

    Queries that share keys have them repeated. Where positions are spread over devices, a
    device has fewer queries than keys, whose segments the kernel cannot be told apart.
    """
    length, heads = query_BLHA.shape[1:3]
    if isinstance(attention_mask, UntilMask) or length != key_BMGA.shape[1]:
        return cudnn.attend(
            query_BLHA,
            key_BMGA,
            value_BMGA,
            query_segments_BL,
            key_segments_BM,
            attention_mask,
            at_home=at_home,
        )
    # Imported where it is used: few runs need it.
    from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

    fill = partial(fill_up, multiple=BLOCK)
    many = heads // key_BMGA.shape[2]
    key_BMHA, value_BMHA = (jnp.repeat(x, many, axis=2) for x in (key_BMGA, value_BMGA))
    sizes = BlockSizes(
        block_q=BLOCK,
        block_k=BLOCK,
        block_q_dkv=32,
        block_kv_dkv=32,
        block_q_dq=32,
        block_kv_dq=32,
    )
    mixed_BLHA: jax.Array = mha(
        fill(query_BLHA),
        fill(key_BMHA),
        fill(value_BMHA),
        fill(query_segments_BL),
        1.0,
        isinstance(attention_mask, CausalMask),
        sizes,
        interpret=not at_home,
    )
    return mixed_BLHA[:, :length]
