"""The kernels of attention, and what is the same for all: devices have rows and heads."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm.distributed.mesh import constrain, platform_of, spec
from lm.example import AttentionMask, CausalMask, UntilMask
from lm.model.attention import cudnn, splash, triton
from lm.numerics import Einsum


class Kernel(NamedTuple):
    """A kernel: what it is written for, what it computes, and the function of one device."""

    home: str
    """The platform that it is written for."""
    backward: int
    """Matrix products of its backward pass, of the size of the two in its forward pass."""
    pairs: Callable[[AttentionMask, int], int]
    """Pairs of a query and a key that are computed of a row of a length."""
    attend: Callable[..., jax.Array]
    """`(query_BLHA, key_BMGA, value_BMGA, query_segments_BL, key_segments_BM, attention_mask,
    at_home=)` to float[B, L, H, A]; queries are scaled already."""
    refuse_heads: Callable[[int], str | None] = lambda _: None
    """Why it cannot take heads of a size, or None."""


KERNELS = {
    "splash": Kernel("tpu", splash.BACKWARD, splash.pairs, splash.attend),
    "triton": Kernel("gpu", triton.BACKWARD, triton.pairs, triton.attend, cudnn.refuse_heads),
    "cudnn": Kernel("gpu", cudnn.BACKWARD, cudnn.pairs, cudnn.attend, cudnn.refuse_heads),
}


def attend_in_blocks(
    backend: str,
    query_BLHA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    segments_BL: jax.Array,
    attention_mask: AttentionMask,
    *,
    mesh: jax.sharding.Mesh,
    einsum: Einsum,
) -> jax.Array:
    """What `lm.model.attention.xla.attend` computes, by a kernel, float32[B, L, H, A]; M = L.

    Each device has its own rows and heads. Where positions are spread over devices too, each
    has its queries and gathers all keys and values (Grattafiori et al. 2024, section
    3.3.2).
    """
    if isinstance(attention_mask, CausalMask) and mesh.shape["context"] > 1:
        # Causal kernels count queries from 0, and these begin anywhere.
        index_1L = jnp.arange(segments_BL.shape[1], dtype=jnp.int32)[None]
        attention_mask = UntilMask(jnp.broadcast_to(index_1L, segments_BL.shape))
    kernel = KERNELS[backend]
    local = partial(kernel.attend, at_home=platform_of(mesh) == kernel.home)
    axes = "batch", "length", "act_heads", "head"
    # Projected where the positions are, rounded, and only then gathered.
    key_BMGA, value_BMGA = (
        constrain(einsum.rounded(x), mesh, axes) for x in (key_BMGA, value_BMGA)
    )
    queries = spec(axes)
    batch, context, heads, _ = queries
    keys = PartitionSpec(batch, None, heads)
    rows = PartitionSpec(batch, context)
    mixed_BLHA: jax.Array = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(queries, keys, keys, rows, PartitionSpec(batch), rows),
        out_specs=queries,
        check_vma=False,  # kernels do not say how their results vary
    )(
        einsum.rounded(query_BLHA * query_BLHA.shape[-1] ** -0.5),
        key_BMGA,
        value_BMGA,
        segments_BL,
        segments_BL,
        attention_mask,
    )
    return mixed_BLHA.astype(jnp.float32)
