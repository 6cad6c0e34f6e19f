"""The stack that models without attention share: what mixes positions, then an MLP, N times.

It is the transformer's with another part in attention's place (normed streams, added to what
was there, the same MLP and the same ends), so that what the part is worth can be compared.

Letters beside those of everywhere: C channels of a mixer, H cells of A elements each, K taps,
T positions that were read before, and E = T + L.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.distributed.mesh import constrain
from lm.example import AttentionMask, BidirectionalMask, CausalMask, Example, Output
from lm.model.attention import Attention
from lm.model.base import Base, Module, Remat
from lm.model.ends import embed, speak, tables
from lm.model.layers import (
    GATED,
    Mlp,
    Norm,
    NormKind,
    RmsNorm,
    feed_forward,
    gathered,
    mlp_size,
)
from lm.model.positions import NoPositions
from lm.model.reading import Reading, RowState, padding_last, read
from lm.numerics import Einsum, Precision

WIDTH_A_LAYER = 64
"""Of the models that depth alone decides, as the transformer's."""


class Residual(Base):
    """A stack of mixers and MLPs: what its kinds declare beside the part that is theirs."""

    masks: ClassVar[frozenset[type[AttentionMask]]] = frozenset({CausalMask, BidirectionalMask})
    remats: ClassVar[frozenset[Remat]] = frozenset({"none", "block"})
    components: ClassVar[Mapping[str, str]] = {"mixer": "mixer"}
    depth: Annotated[int, Meta(ge=1, description="layers N")] = 4
    width: Annotated[int, Meta(ge=2, description="model width D")] = 256
    mlp: Annotated[Mlp, Meta(description="plain or gated MLP")] = "gelu"
    mlp_width: (
        Annotated[
            int,
            Meta(ge=1, description="MLP width F; null: 4 D, gated 8/3 D up to a multiple of 8"),
        ]
        | None
    ) = None
    norm: Annotated[NormKind, Meta(description="RMSNorm or LayerNorm")] = RmsNorm()
    embedding: Annotated[
        Literal["tied", "untied"], Meta(description="whether input and output share a table")
    ] = "tied"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout rate in training")] = 0.0

    # What the ends ask of a transformer, and is as here in each of these.
    positions: ClassVar[NoPositions] = NoPositions()
    norm_placement: ClassVar[Literal["before"]] = "before"
    embedding_norm: ClassVar[Literal["none"]] = "none"
    embedding_scale: ClassVar[Literal["none"]] = "none"
    token_types: ClassVar[int] = 0
    transform: ClassVar[None] = None
    output_bias: ClassVar[Literal["none"]] = "none"
    logit_scale: ClassVar[Literal["none"]] = "none"
    logit_softcap: ClassVar[None] = None

    # What a kind owes

    @property
    def channels(self) -> int:
        """Channels C of its mixer."""
        return self.width

    @property
    def before(self) -> int:
        """Positions T before a row's next that its mixers read, at least 1."""
        return 1

    @property
    def mixer_type(self) -> "type[Mixer]":
        """What mixes positions."""
        raise NotImplementedError

    def empty_state(self, rows: int) -> dict[str, jax.Array]:
        """What a layer keeps of rows of which nothing is read yet, [rows, ...] each."""
        raise NotImplementedError

    # What all have

    @property
    def mlp_size(self) -> int:
        """MLP width F."""
        return self.mlp_width or mlp_size(self.width, self.mlp)

    def splits(self) -> dict[str, tuple[str, int]]:
        """What a mesh may split, by logical axis: the field, and its size."""
        return {
            "embed": ("width", self.width),
            "mlp": ("mlp_width", self.mlp_size),
            "channels": ("width", self.channels),
        }

    def tiny(self, depth: int) -> Self:
        return msgspec.structs.replace(self, depth=depth, width=16, mlp_width=None)

    def at_depth(self, depth: int) -> Self:
        return msgspec.structs.replace(self, depth=depth, width=WIDTH_A_LAYER * depth)

    def recomputed_flops(self, forward: Mapping[str, int], remat: Remat) -> dict[str, int]:
        """All products of a block but its last, which nothing in the block is derived from."""
        if remat == "none":
            return {}
        matrices = 3 if self.mlp in GATED else 2
        return {
            "mixer": forward["mixer"],
            "mlp": forward["mlp"] * (matrices - 1) // matrices,
        }

    def activation_bytes(self, remat: Remat) -> int:
        """The stream, and what goes into the products, in half precision."""
        each = 2 * self.width
        if remat == "none":
            each += 4 * self.width + 2 * self.channels + 2 * self.mlp_size
        return self.depth * each

    def build(
        self,
        vocabulary_size: int,
        *,
        mesh: jax.sharding.Mesh | None,
        precision: Precision = "bfloat16",
        remat: Remat = "none",
        unroll: int | None = None,
        attention: Attention = "auto",
    ) -> "ResidualModule":
        unroll = self.layers_in_a_row(unroll, mesh)
        return ResidualModule(self, vocabulary_size, mesh, precision, remat, unroll)


class LayerPart(nn.Module):
    """What has parameters in a layer, which it makes with their axes."""

    config: Any
    mesh: jax.sharding.Mesh | None
    einsum: Einsum

    def matrix(
        self, name: str, axes: tuple[str, ...], shape: tuple[int, ...], *, inputs: int
    ) -> jax.Array:
        """A weight with its axes and as many inputs; what writes to the stream starts smaller.

        As the transformer's: 1/sqrt(2 N) for what writes to the stream.
        """
        scale = (2 * self.config.depth) ** -0.5 if axes[-1] == "embed" else 1.0
        init = nn.initializers.truncated_normal(scale * inputs**-0.5)
        weight = self.parameter(name, axes, shape, init)
        return gathered(weight, axes, self.mesh)

    def parameter(
        self,
        name: str,
        axes: tuple[str, ...],
        shape: tuple[int, ...],
        init: Any = nn.initializers.zeros,
    ) -> jax.Array:
        """A parameter with its axes; zeros if nothing else is said."""
        found: Any = self.param(name, nn.with_logical_partitioning(init, axes), shape)
        return found


class Mixer(LayerPart):
    """What mixes positions: `(x_BLD, rows, state, number) -> (what is added, the next state)`.

    `number` is the layer's, an int32 from 0. Without a state the rows are whole, and none comes
    out.
    """


class ResidualBlock(LayerPart):
    """A mixer, then an MLP, each on the normed stream and added to it."""

    config: Residual

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        rows: Reading,
        state: dict[str, jax.Array] | None,
        number: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
        c = self.config
        mixer = c.mixer_type(c, self.mesh, self.einsum, name="mixer")
        added_BLD, state = mixer(Norm(c.norm, name="norm_1")(x_BLD), rows, state, number)
        x_BLD = x_BLD + self._dropout(added_BLD)
        wide, gate_DF = (c.width, c.mlp_size), None
        up_DF = self.matrix("up", ("embed", "mlp"), wide, inputs=c.width)
        down_FD = self.matrix("down", ("mlp", "embed"), wide[::-1], inputs=c.mlp_size)
        if c.mlp in GATED:
            gate_DF = self.matrix("gate", ("embed", "mlp"), wide, inputs=c.width)
        normed_BLD = Norm(c.norm, name="norm_2")(x_BLD)
        how: Any = {"einsum": self.einsum, "mesh": self.mesh}
        added_BLD = feed_forward(normed_BLD, up_DF, gate_DF, down_FD, c.mlp, **how)
        x_BLD = x_BLD + self._dropout(added_BLD)
        return constrain(x_BLD, self.mesh, ("batch", "length", "act_embed")), state

    def _dropout(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(self.config.dropout, deterministic=not self.has_rng("dropout"))(x)


class ResidualModule(Module):
    """`apply({"params": params}, example) -> Output`, with the same parameters for both masks.

    With a `cache`, the rows of the example go on from it: `apply(..., example, cache)` gives
    the output and the cache that later positions go on from.
    """

    config: Residual
    remat: Remat
    unroll: int

    def init_cache(self, rows: int, length: int, source: int = 0) -> RowState:
        del length, source  # what is kept of a row does not grow
        c = self.config
        layers = {
            name: jnp.zeros((c.depth, *x.shape), x.dtype)
            for name, x in c.empty_state(rows).items()
        }
        before_BT = jnp.zeros((rows, c.before), jnp.int32)
        return RowState(layers, before_BT, jnp.zeros(rows, jnp.int32))

    @nn.compact
    def __call__(
        self, example: Example, cache: RowState | None = None
    ) -> Output | tuple[Output, RowState]:
        c = self.config
        embedding_VD, unembedding_VD = tables(self, c)
        x_BLD = embed(self, c, embedding_VD, example)
        segments_BL, states = example.segments, None
        if cache is not None:
            order_BL, back_BL = padding_last(example)
            segments_BL = jnp.take_along_axis(segments_BL, order_BL, axis=1)
            x_BLD = jnp.take_along_axis(x_BLD, order_BL[:, :, None], axis=1)
            states = cache.layers
        rows = read(example.attention_mask, segments_BL, cache, c.before)
        x_BLD, states = self._stack()(x_BLD, rows, states, jnp.arange(c.depth))
        if cache is None or states is None:
            return speak(self, c, x_BLD, unembedding_VD, example)
        x_BLD = jnp.take_along_axis(x_BLD, back_BL[:, :, None], axis=1)
        output = speak(self, c, x_BLD, unembedding_VD, example)
        length_B = cache.cache_length_B + (segments_BL > 0).sum(axis=1)
        return output, RowState(states, rows.last(rows.sides[0]), length_B)

    def _stack(self) -> Any:
        """All layers, as a function of the stream: one program, its parameters stacked."""
        block = ResidualBlock
        if self.remat == "block":
            block = nn.remat(
                block,
                policy=jax.checkpoint_policies.nothing_saveable,
                prevent_cse=self.unroll >= self.config.depth,  # not of a loop's iterations
            )
        stacked = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0, 0),
            length=self.config.depth,
            unroll=min(self.unroll, self.config.depth),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return stacked(self.config, self.mesh, self.einsum, name="layers")
