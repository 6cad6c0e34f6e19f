"""The block that transformers are stacks of: attention, attention to a source, an MLP."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.distributed.mesh import constrain
from lm.model.apart import LAYERS
from lm.model.attention import Backend, KeyExtent, attend, attend_in_blocks
from lm.model.experts import Experts, Routing, mixture_of_experts
from lm.model.inputs import AttentionInputs, LayerCache, LayerInputs, Seen, put_heads, seen_by
from lm.model.layers import Norm, RmsNorm, feed_forward, gathered
from lm.model.positions import rotate
from lm.numerics import Einsum

if TYPE_CHECKING:
    from lm.model.transformer import Transformer


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    config: "Transformer"
    mesh: jax.sharding.Mesh | None
    einsum: Einsum
    backend: Backend
    blocks: tuple[KeyExtent, ...]
    reads_source: bool = False
    """Whether it attends to a source, after attention and before the MLP."""

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        inputs: AttentionInputs,
        cache: LayerCache | None,
        layer: LayerInputs | None,
    ) -> tuple[jax.Array, tuple[LayerCache | None, Routing | None]]:
        normed_BLD = self._before("norm_1", x_BLD, layer)
        added_BLD, cache = self._attention(normed_BLD, inputs, cache, layer)
        x_BLD = self._after("norm_1", x_BLD, added_BLD)
        if self.reads_source:
            normed_BLD = self._before("source_norm", x_BLD)
            added_BLD, cache = self._attend_to_source(normed_BLD, inputs, cache)
            x_BLD = self._after("source_norm", x_BLD, added_BLD)
        normed_BLD = self._before("norm_2", x_BLD)
        added_BLD, routing = self._mlp(normed_BLD, inputs.segments_BL)
        x_BLD = self._after("norm_2", x_BLD, added_BLD)
        x_BLD = constrain(x_BLD, self.mesh, ("batch", "length", "act_embed"))
        return x_BLD, (cache, routing)

    def _before(
        self, name: str, x_BLD: jax.Array, layer: LayerInputs | None = None
    ) -> jax.Array:
        """What a part of the block reads of the stream."""
        if self.config.norm_placement == "after":
            return x_BLD
        if layer is not None and layer.norm is not None:
            norm = Norm(self.config.norm, parent=None)
            normed_BLD: Any = norm.apply({"params": layer.norm}, x_BLD)
            return jnp.where(layer.number == 0, x_BLD, normed_BLD)
        return Norm(self.config.norm, name=name)(x_BLD)

    def _after(self, name: str, x_BLD: jax.Array, added_BLD: jax.Array) -> jax.Array:
        """The stream with what a part of the block adds to it."""
        placement, norm = self.config.norm_placement, self.config.norm
        if placement == "both":
            added_BLD = Norm(norm, name=f"{name}_after")(added_BLD)
        x_BLD = x_BLD + self._dropout(added_BLD)
        return Norm(norm, name=name)(x_BLD) if placement == "after" else x_BLD

    def _attention(
        self,
        x_BLD: jax.Array,
        inputs: AttentionInputs,
        cache: LayerCache | None,
        layer: LayerInputs | None,
    ) -> tuple[jax.Array, LayerCache | None]:
        c = self.config
        query_BLHA = self._project("query", "heads", x_BLD)
        key_BMGA = self._project("key", "kv", x_BLD)
        value_BMGA = self._project("value", "kv", x_BLD)
        out_HAD = self._out("out")
        if c.query_key_norm == "head":
            kind = RmsNorm(epsilon=c.norm.epsilon)
            query_BLHA = Norm(kind, axis="head", name="query_norm")(query_BLHA)
            key_BMGA = Norm(kind, axis="head", name="key_norm")(key_BMGA)
        angles, mask_BLM = seen_by(inputs, layer)
        if angles is not None:
            query_BLHA, key_BMGA = rotate(query_BLHA, angles), rotate(key_BMGA, angles)
        query_BLHA = self._scaled(query_BLHA, layer)
        if cache is not None and inputs.places_BL is not None:
            cache = cache._replace(
                key=put_heads(cache.key, self.einsum.rounded(key_BMGA), inputs.places_BL),
                value=put_heads(cache.value, self.einsum.rounded(value_BMGA), inputs.places_BL),
            )
            key_BMGA, value_BMGA = (x.swapaxes(1, 2) for x in (cache.key, cache.value))
        query_BLHA = constrain(query_BLHA, self.mesh, ("batch", "length", "act_heads", "head"))
        qkv = query_BLHA, key_BMGA, value_BMGA
        if self.is_initializing():  # what mixes them has no parameters
            mixed_BLHA = query_BLHA
        elif mask_BLM is not None:
            bias_BHLM = inputs.bias_BHLM
            mixed_BLHA = attend(
                *qkv, mask_BLM, self.blocks, einsum=self.einsum, bias_BHLM=bias_BHLM
            )
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
        return self._written("out", mixed_BLHA, out_HAD), cache

    def _attend_to_source(
        self, x_BLD: jax.Array, inputs: AttentionInputs, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attention to the encoder's states, which know their own places."""
        query_BLHA = self._scaled(self._project("source_query", "heads", x_BLD), None)
        out_HAD: jax.Array
        if inputs.source_BMD is not None:
            key_BMGA = self._project("source_key", "kv", inputs.source_BMD)
            value_BMGA = self._project("source_value", "kv", inputs.source_BMD)
            if cache is not None:
                key_BMGA, value_BMGA = map(self.einsum.rounded, (key_BMGA, value_BMGA))
                cache = cache._replace(
                    source_key=key_BMGA.swapaxes(1, 2), source_value=value_BMGA.swapaxes(1, 2)
                )
        else:
            assert cache is not None and cache.source_key is not None, "nothing was read"
            assert cache.source_value is not None
            key_BMGA = cache.source_key.swapaxes(1, 2)
            value_BMGA = cache.source_value.swapaxes(1, 2)
        out_HAD = self._out("source_out")
        if self.is_initializing():
            mixed_BLHA = query_BLHA
        else:
            assert inputs.source_mask_BLM is not None, "an example without a source"
            whole = (KeyExtent(0, x_BLD.shape[1], key_BMGA.shape[1]),)
            mixed_BLHA = attend(
                *(query_BLHA, key_BMGA, value_BMGA),
                inputs.source_mask_BLM,
                whole,
                einsum=self.einsum,
            )
        return self._written("source_out", mixed_BLHA, out_HAD), cache

    def _project(self, name: str, axis: str, x_BLD: jax.Array) -> jax.Array:
        """Queries, keys or values of H or G heads, [B, L, H, A]."""
        c = self.config
        shape = c.heads if axis == "heads" else c.groups, c.head_size
        weight_DHA = self._matrix(name, ("embed", axis, "head"), (c.width, *shape))
        x_BLHA = self.einsum("BLD,DHA->BLHA", x_BLD, weight_DHA)
        if c.attention_bias == "none":
            return x_BLHA
        return x_BLHA + self._bias(name, (axis, "head"), shape)[None, None]

    def _scaled(self, query_BLHA: jax.Array, layer: LayerInputs | None) -> jax.Array:
        """Queries such that scores, which are divided by sqrt(A), have the model's scale."""
        match self.config.attention_scale:
            case "one":
                return query_BLHA * self.config.head_size**0.5
            case "by_layer":
                assert layer is not None
                return query_BLHA / (layer.number + 1)
            case _:
                return query_BLHA

    def _out(self, name: str) -> jax.Array:
        c = self.config
        shape = c.heads, c.head_size, c.width
        return self._matrix(name, ("heads", "head", "embed"), shape)

    def _written(self, name: str, mixed_BLHA: jax.Array, out_HAD: jax.Array) -> jax.Array:
        """What attention adds to the stream."""
        x_BLD = self.einsum("BLHA,HAD->BLD", mixed_BLHA, out_HAD)
        if self.config.attention_bias != "all":
            return x_BLD
        return x_BLD + self._bias(name, ("embed",), (self.config.width,))[None, None]

    def _mlp(
        self, x_BLD: jax.Array, segments_BL: jax.Array
    ) -> tuple[jax.Array, Routing | None]:
        c = self.config
        if c.experts is not None:
            return self._experts(c.experts, x_BLD, segments_BL)
        up_DF = self._matrix("up", ("embed", "mlp"), (c.width, c.mlp_size))
        down_FD = self._matrix("down", ("mlp", "embed"), (c.mlp_size, c.width))
        gate_DF = up_bias_F = gate_bias_F = None
        if c.gated:
            gate_DF = self._matrix("gate", ("embed", "mlp"), (c.width, c.mlp_size))
        if c.mlp_bias == "all":
            up_bias_F = self._bias("up", ("mlp",), (c.mlp_size,))
            gate_bias_F = self._bias("gate", ("mlp",), (c.mlp_size,)) if c.gated else None
        x_BLD = feed_forward(
            *(x_BLD, up_DF, gate_DF, down_FD, c.mlp),
            einsum=self.einsum,
            mesh=self.mesh,
            up_bias_F=up_bias_F,
            gate_bias_F=gate_bias_F,
        )
        if c.mlp_bias == "none":
            return x_BLD, None
        return x_BLD + self._bias("down", ("embed",), (c.width,))[None, None], None

    def _experts(
        self, experts: Experts, x_BLD: jax.Array, segments_BL: jax.Array
    ) -> tuple[jax.Array, Routing]:
        c = self.config
        inward, outward = ("experts", "embed", "mlp"), ("experts", "mlp", "embed")
        shape = experts.count, c.width, c.mlp_size
        return mixture_of_experts(
            x_BLD,
            segments_BL,
            self._matrix("router", ("embed", "experts"), (c.width, experts.count)),
            self._matrix("up", inward, shape),
            self._matrix("gate", inward, shape) if c.gated else None,
            self._matrix("down", outward, (experts.count, c.mlp_size, c.width)),
            kind=c.mlp,
            active=experts.active,
            einsum=self.einsum,
            mesh=self.mesh,
        )

    def _matrix(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        """A weight with its axes: inputs first; what writes to the stream starts smaller.

        With the scale 1/sqrt(2 N) the stream's variance does not grow with depth (Radford et
        al. 2019, section 2.3).
        """
        writes = axes[-1] == "embed"
        first = int(axes[0] == "experts")  # a matrix each
        fan_in = self.config.width if axes[first] == "embed" else math.prod(shape[first:-1])
        scale = (2 * self.config.depth) ** -0.5 if writes else 1.0
        init = nn.initializers.truncated_normal(scale * fan_in**-0.5)
        weight: Any = self.param(name, nn.with_logical_partitioning(init, axes), shape)
        return gathered(weight, axes, self.mesh)

    def _bias(self, name: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> jax.Array:
        """What is added to the product with the matrix of a name."""
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, axes)
        bias: Any = self.param(f"{name}_bias", zeros, shape)
        return bias

    def _dropout(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.config.dropout, deterministic=not self.has_rng("dropout"))(x)


def _is_product(primitive: Any, *given: Any, **how: Any) -> Any:
    """Whether it is a product with a matrix, or with those of experts."""
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *given, **how)
    return dots or primitive.name == "ragged_dot_general"


_POLICY = {"block": jax.checkpoint_policies.nothing_saveable, "matmuls": _is_product}


def stack(module: Any, config: "Transformer", seen: Seen, *, reads_source: bool = False) -> Any:
    """All layers, as a function of the stream: one program, its parameters stacked or apart."""
    how = config, module.mesh, module.einsum, seen.backend, seen.blocks
    if module.apart:
        return partial(
            _in_turn,
            [
                Block(*how, reads_source=reads_source, name=f"{LAYERS}_{n}")
                for n in range(config.depth)
            ],
        )
    block = Block
    if module.remat != "none":
        block = nn.remat(
            Block,
            policy=_POLICY[module.remat],
            prevent_cse=module.unroll >= config.depth,  # not of a loop's iterations
        )
    stacked = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, 0, 0),
        length=config.depth,
        unroll=min(module.unroll, config.depth),
        metadata_params={nn.PARTITION_NAME: "layers"},
    )
    return stacked(*how, reads_source=reads_source, name=LAYERS)


def _in_turn(
    blocks: list[Block],
    x_BLD: jax.Array,
    inputs: AttentionInputs,
    caches: tuple[LayerCache, ...] | None,
    layers: LayerInputs | None,
) -> tuple[jax.Array, tuple[tuple[LayerCache, ...] | None, Routing | None]]:
    """The stream after all blocks, the cache of each, and their routing."""
    found: list[Any] = []
    routings: list[Any] = []
    for number, block in enumerate(blocks):
        layer = jax.tree.map(lambda x, number=number: x[number], layers)
        cache = None if caches is None else caches[number]
        x_BLD, (cache, routing) = block(x_BLD, inputs, cache, layer)
        found.append(cache)
        routings.append(routing)
    routing = jax.tree.map(lambda *x: jnp.stack(x), *routings)
    return x_BLD, (None if caches is None else tuple(found), routing)
