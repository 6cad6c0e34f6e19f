"""The transformer: one architecture, encoder or decoder as the `Example` says."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.config import divisors
from lm.distributed.mesh import constrain, num_shards, platform_of
from lm.example import AttentionMask, BidirectionalMask, CausalMask, Example, mask_array
from lm.model.attention import (
    KERNELS,
    Attention,
    Backend,
    KeyExtent,
    attend,
    attend_in_blocks,
    choose,
    key_extents,
    pairs,
    refusal,
)
from lm.model.base import Base, Execution, Module, Output, Remat
from lm.model.heads import head_outputs
from lm.model.layers import Mlp, Norm, RotaryTable, feed_forward, rotary_table, rotate
from lm.numerics import Einsum, Precision

HEAD_SIZE = 64
"""Of the models that depth alone decides."""


class Transformer(Base, tag="transformer"):
    """Pre-norm transformer with rotary positions (GPT, BERT and what lies between)."""

    remats: ClassVar[frozenset[Remat]] = frozenset({"none", "matmuls", "block"})
    components: ClassVar[Mapping[str, str]] = {
        "query": "attention",
        "key": "attention",
        "value": "attention",
        "out": "attention",
    }
    depth: Annotated[int, Meta(ge=1, description="layers N")] = 4
    width: Annotated[int, Meta(ge=2, description="model width D")] = 256
    heads: Annotated[int, Meta(ge=1, description="query heads H; they divide the width")] = 4
    kv_heads: (
        Annotated[
            int, Meta(ge=1, description="key/value heads G; they divide heads; null: as many")
        ]
        | None
    ) = None
    mlp: Annotated[Mlp, Meta(description="plain or gated MLP")] = "gelu"
    mlp_width: (
        Annotated[
            int,
            Meta(ge=1, description="MLP width F; null: 4 D, gated 8/3 D up to a multiple of 8"),
        ]
        | None
    ) = None
    norm: Annotated[Literal["rms", "layer"], Meta(description="RMSNorm or LayerNorm")] = "rms"
    embedding: Annotated[
        Literal["tied", "untied"], Meta(description="whether input and output share a table")
    ] = "tied"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout rate in training")] = 0.0
    rope_theta: Annotated[float, Meta(gt=0, description="base of the rotary wavelengths")] = 1e4

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate, so three matrices in place of two."""
        return self.mlp in ("swiglu", "geglu")

    @property
    def groups(self) -> int:
        """Key/value heads G."""
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        """Head size A."""
        return self.width // self.heads

    @property
    def mlp_size(self) -> int:
        """MLP width F.

        >>> Transformer(width=256).mlp_size, Transformer(width=256, mlp="swiglu").mlp_size
        (1024, 688)
        """
        if self.mlp_width is not None:
            return self.mlp_width
        return -(-8 * self.width // 3 // 8) * 8 if self.gated else 4 * self.width

    def check(self) -> str | None:
        """What is wrong with the fields taken together, in one line, or None."""
        if self.width % self.heads:
            near = sorted(sorted(divisors(self.width), key=lambda h: abs(h - self.heads))[:3])
            return f"heads={self.heads} does not divide width {self.width}; nearest: {near}"
        if self.head_size % 2:
            return (
                f"heads={self.heads} leaves an odd head size {self.head_size}: not for rotary"
            )
        if self.heads % self.groups:
            return (
                f"kv_heads={self.kv_heads} does not divide heads {self.heads}; one of"
                f" {divisors(self.heads)}"
            )
        return None

    def splits(self) -> dict[str, tuple[str, int]]:
        """What a mesh may split, by logical axis: the field, and its size."""
        return {
            "embed": ("width", self.width),
            "heads": ("heads", self.heads),
            "kv": ("kv_heads", self.groups),
            "mlp": ("mlp_width", self.mlp_size),
        }

    @property
    def width_multiple(self) -> int:
        """Heads divide the width into even sizes."""
        return 2 * self.heads

    def tiny(self, depth: int) -> Self:
        """Width 16 with 2 query heads, which share keys if they did."""
        shared = self.groups < self.heads
        return msgspec.structs.replace(
            self, depth=depth, width=16, heads=2, kv_heads=1 if shared else None, mlp_width=None
        )

    def at_depth(self, depth: int) -> Self:
        """The model of a depth, the one dial: 64 times as wide, with heads of 64.

        The aspect ratio is nanochat's (github.com/karpathy/nanochat, scripts/base_train.py),
        where GPT-2 of 12 layers is too; the loss hardly depends on it (Kaplan et al. 2020,
        figure 5).

        >>> found = Transformer().at_depth(12)
        >>> found.width, found.heads, found.head_size
        (768, 12, 64)
        """
        return msgspec.structs.replace(self, depth=depth, width=HEAD_SIZE * depth, heads=depth)

    def refuse_execution(self, how: Execution) -> str | None:
        """Attention that the platform, the precision or the size of heads does not allow."""
        return refusal(
            how.attention,
            precision=how.precision,
            head_size=self.head_size,
            platform=how.platform,
        ) or self.refuse_remat(how.remat)

    def matmul_flops(
        self,
        vocabulary_size: int,
        *,
        rows: int,
        length: int,
        targets: int,
        attention_mask: AttentionMask,
    ) -> dict[str, int]:
        """Scores are counted for the pairs that are computed, whether masked or not."""
        found = super().matmul_flops(
            vocabulary_size,
            rows=rows,
            length=length,
            targets=targets,
            attention_mask=attention_mask,
        )
        scores = 4 * self.depth * rows * pairs("xla", attention_mask, length) * self.width
        order = "embedding", "attention", "scores", "mlp", "head"
        return {name: scores if name == "scores" else found[name] for name in order}

    def kernel_flops_of(
        self,
        how: Execution,
        *,
        rows: int,
        length: int,
        attention_mask: AttentionMask,
        train: bool,
    ) -> int:
        """FLOPs of attention's kernels; off its platform a kernel is a program as any other."""
        backend = self._backend(how, length)
        if backend == "xla" or KERNELS[backend].home != how.platform:
            return 0
        each = 2 * self.depth * rows * pairs(backend, attention_mask, length) * self.width
        if not train:
            return 2 * each
        forward = 2 if how.remat == "none" else 4  # neither policy keeps what a kernel gives
        return (forward + KERNELS[backend].backward) * each

    def recomputed_flops(self, forward: Mapping[str, int], remat: Remat) -> dict[str, int]:
        """Those of the forward FLOPs that the backward pass computes again, by component.

        matmuls: the scores, which alone have an axis of the batch on both sides. block: all
        products of a block but its last, which nothing in the block is derived from.

        >>> Transformer().recomputed_flops({"attention": 5, "scores": 3, "mlp": 8}, "block")
        {'attention': 5, 'scores': 3, 'mlp': 4}
        """
        if remat == "none":
            return {}
        if remat == "matmuls":
            return {"scores": forward["scores"]}
        matrices = 3 if self.gated else 2
        again = {name: forward[name] for name in ("attention", "scores")}
        return again | {"mlp": forward["mlp"] * (matrices - 1) // matrices}

    def activation_bytes(self, remat: Remat) -> int:
        """Queries, keys and values in half precision, residuals in float32."""
        each = {
            "block": 2 * self.width,
            "matmuls": 6 * self.width + 2 * self.mlp_size,
            "none": 16 * self.width + 4 * self.mlp_size,
        }[remat]
        return self.depth * each

    def score_bytes(self, how: Execution, length: int) -> int:
        """In half precision, of causal attention half of them, of other layers if kept."""
        if self._backend(how, length) != "xla":
            return 0
        return length * self.heads * (self.depth if how.remat == "none" else 1)

    def _backend(self, how: Execution, length: int) -> Backend:
        return choose(
            how.attention, platform=how.platform, precision=how.precision, length=length
        )

    def build(
        self,
        vocabulary_size: int,
        *,
        mesh: jax.sharding.Mesh | None,
        precision: Precision = "bfloat16",
        remat: Remat = "none",
        unroll: int | None = None,
        attention: Attention = "auto",
    ) -> "TransformerModule":
        if unroll is None:  # a rolled loop costs a CPU a third of its speed, a TPU nothing
            unroll = self.depth if platform_of(mesh) == "cpu" else 1
        return TransformerModule(
            config=self,
            vocabulary_size=vocabulary_size,
            mesh=mesh,
            precision=precision,
            remat=remat,
            unroll=unroll,
            attention=attention,
        )


KeysValues = tuple[jax.Array, jax.Array]
"""Keys and values, [B, M, G, A] in a layer, [N, B, M, G, A] in all of them."""


class KVCache(NamedTuple):
    """What a causal module keeps of the positions it has read: it need not read them again."""

    kv: KeysValues
    segments_BM: jax.Array
    cache_length: jax.Array
    """int32: how many of the M positions are filled."""


class AttentionInputs(NamedTuple):
    """What the layers share: the rows' angles, what they see, and what they have read before.

    A kernel makes its own masks, so then there is none.
    """

    angles: RotaryTable
    attention_mask: AttentionMask
    segments_BL: jax.Array
    mask_BLM: jax.Array | None
    cache_length: jax.Array | None


class TransformerModule(Module):
    """`apply({"params": params}, example) -> Output`, with the same parameters for all.

    With a `cache`, the rows of the example go on from it: `apply(..., example, cache)` gives
    the output and the cache that later positions go on from.
    """

    config: Transformer
    remat: Remat
    unroll: int
    attention: Attention

    def init_cache(self, rows: int, length: int) -> KVCache:
        c = self.config
        kv = jnp.zeros((c.depth, rows, length, c.groups, c.head_size), self.precision)
        return KVCache((kv, kv), jnp.zeros((rows, length), jnp.int32), jnp.int32(0))

    @nn.compact
    def __call__(
        self, example: Example, cache: KVCache | None = None
    ) -> Output | tuple[Output, KVCache]:
        embedding_VD, unembedding_VD = self._tables()
        x_BLD = constrain(
            embedding_VD[example.inputs], self.mesh, ("batch", "length", "act_embed")
        )
        x_BLD = self._dropout(x_BLD)
        backend, blocks, inputs, segments_BM = self._see(example, cache)
        layers = self._stack(backend, blocks)
        x_BLD, kv = layers(x_BLD, inputs, None if cache is None else cache.kv)
        targets = "length"
        if example.target_positions is not None:
            x_BLD = jnp.take_along_axis(x_BLD, example.target_positions[..., None], axis=1)
            targets = "targets"
        hidden_BPD = Norm(self.config.norm, name="norm")(x_BLD)
        if example.head is not None:
            return Output(*head_outputs(hidden_BPD, example))
        hidden_BPD = constrain(hidden_BPD, self.mesh, ("batch", targets, "act_embed"))
        output = Output(hidden_BPD, unembedding_VD)
        if cache is None or kv is None:
            return output
        return output, KVCache(kv, segments_BM, cache.cache_length + example.inputs.shape[1])

    def _tables(self) -> tuple[jax.Array, jax.Array]:
        """The tables of inputs and of outputs, [V, D]: one, if they are tied."""
        table = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
        shape = self.vocabulary_size, self.config.width
        # Tables are gathered whole in width before use: a lookup in a table that is split by
        # columns would be laid out anew, row by row.
        whole: Any = partial(constrain, mesh=self.mesh, axes=("vocab", "act_embed"))
        embedding_VD = whole(self.param("embedding", table, shape))
        if self.config.embedding == "tied":
            return embedding_VD, embedding_VD
        return embedding_VD, whole(self.param("unembedding", table, shape))

    def _see(
        self, example: Example, cache: KVCache | None
    ) -> tuple[Backend, tuple[KeyExtent, ...], AttentionInputs, jax.Array]:
        """What computes attention, what it sees, and the segments of all keys, [B, M]."""
        length = example.inputs.shape[1]
        backend: Backend = "xla"  # which goes on from a cache, too
        if cache is None:
            segments_BM, cache_length = example.segments, None
            backend = choose(
                self.attention,
                platform=platform_of(self.mesh),
                precision=self.precision,
                length=length,
            )
            # Where positions are spread over devices, each has some of every block.
            whole_row = num_shards(self.mesh, "length") > 1
            blocks = key_extents(
                BidirectionalMask() if whole_row else example.attention_mask, length
            )
            mask_BLM = None
            if backend == "xla":
                mask_BLM = mask_array(example.attention_mask, segments_BM)
        else:
            segments_BM, cache_length = (
                _put(cache.segments_BM, example.segments, cache.cache_length),
                cache.cache_length,
            )
            blocks = (KeyExtent(0, length, segments_BM.shape[1]),)
            mask_BLM = _sees_past(example, segments_BM, cache_length)
        angles = rotary_table(
            example.positions,
            size=self.config.head_size,
            theta=self.config.rope_theta,
            length=segments_BM.shape[1],
        )
        inputs = AttentionInputs(
            angles, example.attention_mask, example.segments, mask_BLM, cache_length
        )
        return backend, blocks, inputs, segments_BM

    def _stack(self, backend: Backend, blocks: tuple[KeyExtent, ...]) -> Any:
        """All layers, as a function of the stream: one program, its parameters stacked."""
        block = Block if self.remat == "none" else nn.remat(Block, policy=_POLICY[self.remat])
        stacked = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0),
            length=self.config.depth,
            unroll=self.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stacked(self.config, self.mesh, self.einsum, backend, blocks, name="layers")

    def _dropout(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.config.dropout, deterministic=not self.has_rng("dropout"))(x)


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    config: Transformer
    mesh: jax.sharding.Mesh | None
    einsum: Einsum
    backend: Backend
    blocks: tuple[KeyExtent, ...]

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, inputs: AttentionInputs, kv: KeysValues | None
    ) -> tuple[jax.Array, KeysValues | None]:
        kind = self.config.norm
        attention_BLD, kv = self._attention(Norm(kind, name="norm_1")(x_BLD), inputs, kv)
        x_BLD = x_BLD + self._dropout(attention_BLD)
        x_BLD = x_BLD + self._dropout(self._mlp(Norm(kind, name="norm_2")(x_BLD)))
        return constrain(x_BLD, self.mesh, ("batch", "length", "act_embed")), kv

    def _attention(
        self, x_BLD: jax.Array, inputs: AttentionInputs, kv: KeysValues | None
    ) -> tuple[jax.Array, KeysValues | None]:
        c = self.config
        width, heads, groups, size = c.width, c.heads, c.groups, c.head_size
        query_DHA = self._matrix("query", ("embed", "heads", "head"), (width, heads, size))
        key_DGA = self._matrix("key", ("embed", "kv", "head"), (width, groups, size))
        value_DGA = self._matrix("value", ("embed", "kv", "head"), (width, groups, size))
        out_HAD = self._matrix("out", ("heads", "head", "embed"), (heads, size, width))
        query_BLHA = rotate(self.einsum("BLD,DHA->BLHA", x_BLD, query_DHA), inputs.angles)
        key_BMGA = rotate(self.einsum("BMD,DGA->BMGA", x_BLD, key_DGA), inputs.angles)
        value_BMGA = self.einsum("BMD,DGA->BMGA", x_BLD, value_DGA)
        if kv is not None and inputs.cache_length is not None:
            new = self.einsum.rounded(key_BMGA), self.einsum.rounded(value_BMGA)
            kv = (
                _put(kv[0], new[0], inputs.cache_length),
                _put(kv[1], new[1], inputs.cache_length),
            )
            key_BMGA, value_BMGA = kv
        query_BLHA = constrain(query_BLHA, self.mesh, ("batch", "length", "act_heads", "head"))
        qkv = query_BLHA, key_BMGA, value_BMGA
        if self.is_initializing():  # what mixes them has no parameters
            mixed_BLHA = query_BLHA
        elif inputs.mask_BLM is not None:
            mixed_BLHA = attend(*qkv, inputs.mask_BLM, self.blocks, einsum=self.einsum)
        else:
            assert self.mesh is not None, "a kernel is for devices"
            mixed_BLHA = attend_in_blocks(
                self.backend,
                *qkv,
                inputs.segments_BL,
                inputs.attention_mask,
                mesh=self.mesh,
                einsum=self.einsum,
            )
        return self.einsum("BLHA,HAD->BLD", mixed_BLHA, out_HAD), kv

    def _mlp(self, x_BLD: jax.Array) -> jax.Array:
        c = self.config
        up_DF = self._matrix("up", ("embed", "mlp"), (c.width, c.mlp_size))
        down_FD = self._matrix("down", ("mlp", "embed"), (c.mlp_size, c.width))
        gate_DF = None
        if c.gated:
            gate_DF = self._matrix("gate", ("embed", "mlp"), (c.width, c.mlp_size))
        return feed_forward(
            x_BLD, up_DF, gate_DF, down_FD, c.mlp, einsum=self.einsum, mesh=self.mesh
        )

    def _matrix(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        """A weight with its axes: inputs first; what writes to the stream starts smaller.

        With the scale 1/sqrt(2 N) the stream's variance does not grow with depth (Radford et
        al. 2019, section 2.3).
        """
        writes = axes[-1] == "embed"
        fan_in = self.config.width if axes[0] == "embed" else math.prod(shape[:-1])
        scale = (2 * self.config.depth) ** -0.5 if writes else 1.0
        init = nn.initializers.truncated_normal(scale * fan_in**-0.5)
        weight: Any = self.param(name, nn.with_logical_partitioning(init, axes), shape)
        return weight

    def _dropout(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.config.dropout, deterministic=not self.has_rng("dropout"))(x)


def _put(whole_BM: jax.Array, part_BL: jax.Array, at: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole_BM, part_BL, at, axis=1)


def _sees_past(example: Example, segments_BM: jax.Array, cache_length: jax.Array) -> jax.Array:
    """What queries that come after `cache_length` positions see of all keys, bool[B, L, M]."""
    if not isinstance(example.attention_mask, CausalMask):
        raise ValueError("only a causal row can go on from a cache")
    length, capacity = example.segments.shape[1], segments_BM.shape[1]
    before_LM = jnp.arange(capacity)[None, :] <= cache_length + jnp.arange(length)[:, None]
    segments_BL1 = example.segments[:, :, None]
    return (segments_BL1 == segments_BM[:, None, :]) & (segments_BL1 > 0) & before_LM[None]


_POLICY = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "matmuls": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
