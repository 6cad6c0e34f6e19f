"""Which code computes attention, and the kernels that keep no scores in memory.

`lm.model.attention` is the reference, and runs everywhere. Kernels take a block of scores at a
time (Dao et al. 2022): splash on TPUs, in memory linear in a row's length, and cuDNN's on GPUs,
which is told of segments by a mask of each row. Off their platform they run too, for tests and
proofs: splash in Pallas' interpreter, and JAX's XLA form of the function that calls cuDNN.
"""

import math
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo
from jax.sharding import PartitionSpec

from lm.distributed.mesh import constrain, spec
from lm.example import Causal, Until, Visible
from lm.model.attention import reaches
from lm.numerics import Einsum, Precision

Backend = Literal["xla", "splash", "cudnn"]
Attention = Literal["auto", Backend]

HOME: dict[Attention, str] = {"splash": "tpu", "cudnn": "gpu"}
"""The platform that a kernel is written for."""
LONG = 512
"""Positions of a row from which on `auto` takes a kernel: below, a position's scores (H L of
them: 8 D in rows of 512 with heads of 64) are no more than the rest that a layer keeps."""
LANES = 128
"""Keys of a splash block, at least: a TPU's vector lanes."""
BLOCK = 512
"""Queries and keys of a splash block, at most, where they divide the row."""


def refusal(
    attention: Attention, *, precision: Precision, head_size: int, platform: str | None = None
) -> str | None:
    """Why a backend cannot do what is asked, in one line, or None.

    >>> refusal("cudnn", precision="float32", head_size=64)
    'attention=cudnn multiplies bfloat16 only, and precision=float32; it may be auto or xla'

    A platform of None is not known yet.
    """
    home = HOME.get(attention)
    if home is not None and platform not in (home, None):
        why = f"is for the platform {home}, and this one is {platform}"
    elif home is not None and precision != "bfloat16":
        why = f"multiplies bfloat16 only, and precision={precision}"
    elif attention == "cudnn" and (head_size % 8 or head_size > 128):
        why = f"takes heads of 8, 16, 24 ... 128 in size, and width/heads is {head_size}"
    else:
        return None
    return f"attention={attention} {why}; it may be auto or xla"


def choose(
    attention: Attention, *, platform: str, precision: Precision, length: int
) -> Backend:
    """The backend for rows of a length: by itself splash on TPUs, for long rows, else XLA.

    >>> on = {"platform": "tpu", "precision": "bfloat16"}
    >>> [choose("auto", length=length, **on) for length in (256, 2048)]
    ['xla', 'splash']

    cuDNN must be asked for: it was lowered for GPUs, and not run on one.
    """
    if attention != "auto":
        return attention
    if platform == "tpu" and precision == "bfloat16" and length >= LONG:
        return "splash"
    return "xla"


def pairs(backend: Backend, visible: Visible, length: int) -> int:
    """Pairs of a query and a key that are computed of a row, whether masked or not.

    >>> pairs("xla", Causal(), 2048) == pairs("splash", Causal(), 2048) == 2048**2 * 10 // 16
    True

    Splash leaves out blocks that no causal query sees; what `Until` says is known too late for
    that. cuDNN's blocks are its own affair: its number is the least possible.
    """
    if backend == "xla":
        return sum((stop - start) * keys for start, stop, keys in reaches(visible, length))
    causal = isinstance(visible, Causal)
    if backend == "cudnn":
        return length * (length + 1) // 2 if causal else length**2
    padded = -(-length // LANES) * LANES
    block = math.gcd(padded, BLOCK)
    number = padded // block
    return (number * (number + 1) // 2 if causal else number**2) * block**2


BACKWARD: dict[Backend, int] = {"splash": 7, "cudnn": 5}
"""Matrix products of a kernel's backward pass, of the size of the two in its forward pass.

Without kernels they are four. Kernels compute the scores again, and splash, which has a pass
for queries and another for keys and values, does so twice, and the shares' cotangents too."""


def attend_in_blocks(
    backend: Backend,
    query_BLHA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    segments_BL: jax.Array,
    visible: Visible,
    *,
    mesh: jax.sharding.Mesh,
    einsum: Einsum,
) -> jax.Array:
    """What `lm.model.attention.attend` computes, by a kernel, float32[B, L, H, A]; M = L.

    Each device has its own rows and heads. Where positions are spread over devices too, each
    has its queries and gathers all keys and values (Grattafiori et al. 2024, section
    3.3.2).
    """
    if isinstance(visible, Causal) and mesh.shape["context"] > 1:
        # Causal kernels count queries from 0, and these begin anywhere.
        index_1L = jnp.arange(segments_BL.shape[1], dtype=jnp.int32)[None]
        visible = Until(jnp.broadcast_to(index_1L, segments_BL.shape))
    at_home = mesh.devices.flat[0].platform == HOME[backend]
    local = partial(_LOCAL[backend], at_home=at_home)
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
        visible,
    )
    return mixed_BLHA.astype(jnp.float32)


def _splash(
    query_BLHA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    query_segments_BL: jax.Array,
    key_segments_BM: jax.Array,
    visible: Visible,
    *,
    at_home: bool,
) -> jax.Array:
    """Rows are filled up with padding to whole blocks; it sees itself, and nothing sees it.

    The kernel's causal mask compares each key's index with a number that it has of each query,
    its own index: with `until` in that place it is `Until`.
    """
    length = query_BLHA.shape[1]
    fill = partial(_fill, multiple=LANES)
    query_BLHA, key_BMGA, value_BMGA = map(fill, (query_BLHA, key_BMGA, value_BMGA))
    segments = splash.SegmentIds(fill(query_segments_BL), fill(key_segments_BM))
    visible = jax.tree.map(fill, visible)
    size, keys = (math.gcd(x.shape[1], BLOCK) for x in (query_BLHA, key_BMGA))
    settings: dict[str, Any] = {
        "block_sizes": splash.BlockSizes(
            block_q=size, block_kv=keys,
            block_q_dkv=size, block_kv_dkv=keys,
            block_q_dq=size, block_kv_dq=keys,
        ),
        "interpret": not at_home,
    }  # fmt: skip
    causal = masks.CausalMask((query_BLHA.shape[1], key_BMGA.shape[1]))

    def row(query_HLA: Any, key_GMA: Any, value_GMA: Any, segments: Any, visible: Any) -> Any:
        if isinstance(visible, Causal):
            mask = masks.MultiHeadMask([causal] * len(query_HLA))
            kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, **settings)
        else:
            until: Any = visible.until_BL if isinstance(visible, Until) else None
            kernel = splash.SplashAttentionKernel(
                *[MaskInfo(None, None, None, None, until)] * 3,
                is_mqa=False, save_residuals=False, mask_value=splash.DEFAULT_MASK_VALUE,
                attn_logits_soft_cap=None, residual_checkpoint_name=None,
                mask_function=None if until is None else causal.mask_function, **settings,
            )  # fmt: skip
        return kernel(query_HLA, key_GMA, value_GMA, segments)

    first = partial(jnp.swapaxes, axis1=1, axis2=2)
    mixed_BHLA = jax.vmap(row)(
        first(query_BLHA), first(key_BMGA), first(value_BMGA), segments, visible
    )
    return first(mixed_BHLA)[:, :length]


def _cudnn(
    query_BLHA: jax.Array,
    key_BMGA: jax.Array,
    value_BMGA: jax.Array,
    query_segments_BL: jax.Array,
    key_segments_BM: jax.Array,
    visible: Visible,
    *,
    at_home: bool,
) -> jax.Array:
    """Segments are a mask, one of a row for all its heads; what is causal is left out too.

    With a mask cuDNN takes rows of an even length alone, so an odd one is filled up. Float32,
    which proofs ask for, it does not take at all.
    """
    length = query_BLHA.shape[1]
    fill = partial(_fill, multiple=2)
    query_BLHA, key_BMGA, value_BMGA = map(fill, (query_BLHA, key_BMGA, value_BMGA))
    query_segments_BL, key_segments_BM = fill(query_segments_BL), fill(key_segments_BM)
    mask_BLM = query_segments_BL[:, :, None] == key_segments_BM[:, None, :]
    if isinstance(visible, Until):
        until_BL = fill(visible.until_BL)
        mask_BLM &= jnp.arange(mask_BLM.shape[2])[None, None] <= until_BL[:, :, None]
    mixed_BLHA = jax.nn.dot_product_attention(
        query_BLHA,
        key_BMGA,
        value_BMGA,
        mask=mask_BLM[:, None],
        scale=1.0,
        is_causal=isinstance(visible, Causal),
        implementation="cudnn" if at_home and query_BLHA.dtype != jnp.float32 else "xla",
    )
    return mixed_BLHA[:, :length]


_LOCAL = {"splash": _splash, "cudnn": _cudnn}


def _fill(x_BL: jax.Array, multiple: int) -> jax.Array:
    more = -x_BL.shape[1] % multiple
    return jnp.pad(x_BL, [(0, 0), (0, more), *[(0, 0)] * (x_BL.ndim - 2)])
