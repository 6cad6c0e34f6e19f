"""cuDNN's kernel for GPUs, which keeps no scores in memory and is told of segments by a mask.

Off its platform JAX's XLA form of the function that calls it runs, for tests and proofs.
"""

from functools import partial

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, CausalMask, UntilMask
from lm.model.attention.rows import fill_up

BACKWARD = 5
"""Matrix products of the backward pass, of the size of the two in the forward pass: those of
XLA's, and the scores again."""


def pairs(attention_mask: AttentionMask, length: int) -> int:
    """Pairs of a query and a key that are computed of a row: the least number possible.

    Its blocks are its own affair.
    """
    return length * (length + 1) // 2 if isinstance(attention_mask, CausalMask) else length**2


def refuse_heads(head_size: int) -> str | None:
    """Why it cannot take heads of this size, or None."""
    if head_size % 8 or head_size > 128:
        return f"takes heads of 8, 16, 24 ... 128 in size, and width/heads is {head_size}"
    return None


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
    """Segments are a mask, one of a row for all its heads; what is causal is left out too.

    With a mask cuDNN takes rows of an even length alone, so an odd one is filled up. Float32,
    which proofs ask for, it does not take at all.
    """
    length = query_BLHA.shape[1]
    fill = partial(fill_up, multiple=2)
    query_BLHA, key_BMGA, value_BMGA = map(fill, (query_BLHA, key_BMGA, value_BMGA))
    query_segments_BL, key_segments_BM = fill(query_segments_BL), fill(key_segments_BM)
    mask_BLM = query_segments_BL[:, :, None] == key_segments_BM[:, None, :]
    if isinstance(attention_mask, UntilMask):
        until_BL = fill(attention_mask.until_BL)
        mask_BLM &= jnp.arange(mask_BLM.shape[2])[None, None] <= until_BL[:, :, None]
    mixed_BLHA = jax.nn.dot_product_attention(
        query_BLHA,
        key_BMGA,
        value_BMGA,
        mask=mask_BLM[:, None],
        scale=1.0,
        is_causal=isinstance(attention_mask, CausalMask),
        implementation="cudnn" if at_home and query_BLHA.dtype != jnp.float32 else "xla",
    )
    return mixed_BLHA[:, :length]
