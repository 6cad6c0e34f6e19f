"""The encoder-decoder: an encoder reads the source, a causal decoder attends to it (T5)."""

from typing import Annotated, Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.example import (
    AttentionMask,
    BidirectionalMask,
    CausalMask,
    Example,
    Output,
    Source,
    unanswered,
)
from lm.model.attention import Attention, pairs
from lm.model.base import Remat
from lm.model.blocks import stack
from lm.model.code import Bottleneck, Code
from lm.model.ends import embed, last_norm, speak, tables
from lm.model.experts import Routing, terms_of
from lm.model.inputs import KVCache, LayerCache, layer_inputs, see
from lm.model.transformer import Transformer, TransformerModule
from lm.numerics import Einsum, Precision


class EncoderDecoder(Transformer, tag="encoder_decoder"):
    """Two stacks of the transformer's blocks (Vaswani et al. 2017, Raffel et al. 2020).

    All fields but `encoder_depth` and `code` are of both. Of the objectives, reconstruct has a
    source, and spans with `objective.stack=encoder_decoder`.
    """

    reads_source: ClassVar[bool] = True
    masks: ClassVar[frozenset[type[AttentionMask]]] = frozenset({CausalMask})
    encoder_depth: (
        Annotated[int, Meta(ge=1, description="layers of the encoder; null: as of the decoder")]
        | None
    ) = None
    code: (
        Annotated[Code, Meta(description="what alone the decoder reads; null: all states")]
        | None
    ) = None

    @property
    def encoder(self) -> Self:
        """The settings of the encoder, whose depth is its own."""
        return msgspec.structs.replace(self, depth=self.encoder_depth or self.depth)

    def tiny(self, depth: int) -> Self:
        return msgspec.structs.replace(super().tiny(depth), encoder_depth=depth)

    def at_depth(self, depth: int) -> Self:
        return msgspec.structs.replace(super().at_depth(depth), encoder_depth=None)

    def refuse_objective(
        self, masks: frozenset[type[AttentionMask]], *, source: bool = False
    ) -> str | None:
        if not source:
            return (
                "objective: its examples have no source, and model.type=encoder_decoder reads"
                " one; reconstruct does, and spans with objective.stack=encoder_decoder"
            )
        return super().refuse_objective(masks, source=source)

    def matmul_flops(
        self,
        vocabulary_size: int,
        *,
        rows: int,
        length: int,
        targets: int,
        attention_mask: AttentionMask,
        source: int = 0,
    ) -> dict[str, int]:
        """Each stack's products by its own positions; keys and values of the source by its."""
        head = super().matmul_parameters(vocabulary_size)["head"]
        found = {"embedding": 0, "attention": 0, "scores": 0, "mlp": 0}
        found["head"] = 2 * rows * targets * head
        for path, (component, size) in self.matrices().items():
            read = path.startswith("encoder/") or path.endswith(
                ("/source_key", "/source_value")
            )
            found[component] += 2 * rows * (source if read else length) * size
        if self.transform is not None:  # which is in the head
            found["mlp"] -= 2 * rows * length * self.width**2
        wide = self.heads * self.head_size
        seen = self.encoder.depth * pairs("xla", BidirectionalMask(), source)
        seen += self.depth * (pairs("xla", CausalMask(), length) + length * source)
        return found | {"scores": 4 * rows * seen * wide}

    def activation_bytes(self, remat: Remat) -> int:
        layers = self.depth + self.encoder.depth
        return super().activation_bytes(remat) * layers // self.depth

    @property
    def module_type(self) -> "type[EncoderDecoderModule]":
        return EncoderDecoderModule


_OF_SOURCE = "/source_key", "/source_value"
"""Parameters of the decoder that read the source's positions."""


class Encoder(nn.Module):
    """The stack that reads the source: its states, normed, or what a code holds of them."""

    config: EncoderDecoder
    mesh: jax.sharding.Mesh | None
    precision: Precision
    remat: Remat
    unroll: int
    attention: Attention
    apart: bool = False

    @property
    def einsum(self) -> Einsum:
        """The matrix product of this module."""
        return Einsum(self.precision)

    @nn.compact
    def __call__(
        self, embedding_VD: jax.Array, source: Source
    ) -> tuple[jax.Array, Routing | None]:
        c = self.config
        example = unanswered(
            source.inputs_BM,
            source.segments_BM,
            BidirectionalMask(),
            positions_BL=source.positions_BM,
        )
        seen = see(self, c, example, None)
        x_BMD = embed(self, c, embedding_VD, example)
        x_BMD, (_, routing) = stack(self, c, seen)(x_BMD, seen.inputs, None, layer_inputs(c))
        x_BMD = last_norm(c, x_BMD)
        if c.code is not None:
            bottleneck = Bottleneck(c.code, self.einsum, name="code")
            x_BMD = bottleneck(x_BMD, source.segments_BM)
        return x_BMD, routing


class EncoderDecoderModule(TransformerModule):
    """`apply({"params": params}, example) -> Output`, of an example with a source.

    With a `cache`, the first example has the source, and later ones go on without it.
    """

    config: EncoderDecoder

    def init_cache(self, rows: int, length: int, source: int = 0) -> KVCache:
        kv, source_kv = self.empty_kv(rows, length), self.empty_kv(rows, source)
        return (
            super()
            .init_cache(rows, length)
            ._replace(
                layers=self.by_layer(LayerCache(kv, kv, source_kv, source_kv)),
                source_segments_BM=jnp.zeros((rows, source), jnp.int32),
            )
        )

    @nn.compact
    def __call__(
        self, example: Example, cache: KVCache | None = None
    ) -> Output | tuple[Output, KVCache]:
        c, source = self.config, example.source
        embedding_VD, unembedding_VD = tables(self, c)
        source_BMD: jax.Array | None = None
        read: Routing | None = None
        if source is not None:
            source_segments_BM = source.segments_BM
            how = self.mesh, self.precision, self.remat, self.unroll, self.attention
            source_BMD, read = Encoder(c.encoder, *how, name="encoder")(embedding_VD, source)
        else:
            assert cache is not None and cache.source_segments_BM is not None, "no source"
            source_segments_BM = cache.source_segments_BM
        x_BLD = embed(self, c, embedding_VD, example)
        seen = see(self, c, example, cache)
        segments_BL1 = example.segments[:, :, None]
        inputs = seen.inputs._replace(
            source_BMD=source_BMD,
            source_mask_BLM=(segments_BL1 == source_segments_BM[:, None]) & (segments_BL1 > 0),
        )
        layers: Any = None if cache is None else cache.layers
        x_BLD, (layers, routing) = stack(self, c, seen, reads_source=True)(
            x_BLD, inputs, layers, layer_inputs(c)
        )
        output = speak(self, c, x_BLD, unembedding_VD, example)
        if c.experts is not None:
            if read is not None:
                routing = jax.tree.map(lambda *x_N: jnp.concatenate(x_N), read, routing)
            output = output._replace(terms=terms_of(routing, c.experts))
        if cache is None or layers is None:
            return output
        length_B = cache.length_after(example.segments)
        known = seen.segments_BM, seen.positions_BM, length_B, source_segments_BM
        return output, KVCache(layers, *known)
