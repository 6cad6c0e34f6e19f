"""The transformer: one architecture, encoder or decoder as the `Example` says."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
from msgspec import Meta

from lm.config import divisors
from lm.distributed.mesh import platform_of
from lm.example import AttentionMask, Example, Output
from lm.model.apart import take_apart
from lm.model.attention import KERNELS, Attention, Backend, choose, pairs, refusal
from lm.model.base import Base, Execution, Module, Remat
from lm.model.blocks import stack
from lm.model.ends import Transform, embed, speak, tables
from lm.model.experts import Experts, terms_of
from lm.model.inputs import KVCache, LayerCache, layer_inputs, see
from lm.model.layers import GATED, Mlp, NormKind, RmsNorm, mlp_size
from lm.model.positions import Alibi, Buckets, Learned, Local, Positions, Rotary, Sinusoidal
from lm.numerics import Precision

HEAD_SIZE = 64
"""Of the models that depth alone decides."""


class Transformer(Base, tag="transformer"):
    """Transformer of any kind: GPT, BERT and what lies between, one field a part.

    By default pre-norm with rotary positions. What others published is in `lm.model.presets`.
    """

    remats: ClassVar[frozenset[Remat]] = frozenset({"none", "matmuls", "block"})
    components: ClassVar[Mapping[str, str]] = {
        **{f"{source}{name}{bias}": "attention"
           for source in ("", "source_") for name in ("query", "key", "value", "out")
           for bias in ("", "_bias")},
        **{f"{name}_bias": "mlp" for name in ("up", "gate", "down")},
        **dict.fromkeys(("buckets", "query_norm", "key_norm"), "attention"),
    }  # fmt: skip
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
    experts: (
        Annotated[
            Experts, Meta(description="MLPs in the place of one, of which each token has some")
        ]
        | None
    ) = None
    norm: Annotated[NormKind, Meta(description="RMSNorm or LayerNorm")] = RmsNorm()
    embedding: Annotated[
        Literal["tied", "untied"], Meta(description="whether input and output share a table")
    ] = "tied"
    dropout: Annotated[float, Meta(ge=0, lt=1, description="dropout rate in training")] = 0.0
    positions: Annotated[Positions, Meta(description="how it knows where tokens stand")] = (
        Rotary()
    )
    head_width: (
        Annotated[int, Meta(ge=1, description="head size A; null: the heads divide the width")]
        | None
    ) = None
    norm_placement: Annotated[
        Literal["before", "after", "both"],
        Meta(
            description="of a block's norms: x + f(norm(x)); norm(x + f(x)) without a last norm"
            " (BERT); x + norm(f(norm(x)))"
        ),
    ] = "before"
    first_norm: Annotated[
        Literal["norm", "none"],
        Meta(description="whether the first layer's attention reads the stream normed"),
    ] = "norm"
    embedding_norm: Annotated[
        Literal["none", "norm"], Meta(description="whether embeddings are normed")
    ] = "none"
    embedding_scale: Annotated[
        Literal["none", "sqrt_width"], Meta(description="what tokens' embeddings are times")
    ] = "none"
    token_types: Annotated[
        int, Meta(ge=0, description="kinds of tokens with embeddings, as the texts of a pair")
    ] = 0
    attention_bias: Annotated[
        Literal["none", "qkv", "all"], Meta(description="which projections have biases")
    ] = "none"
    mlp_bias: Annotated[Literal["none", "all"], Meta(description="whether MLPs have")] = "none"
    query_key_norm: Annotated[
        Literal["none", "head"], Meta(description="RMSNorm of each query and key (Qwen 3)")
    ] = "none"
    attention_scale: Annotated[
        Literal["rsqrt_head", "one", "by_layer"],
        Meta(description="of scores: 1/sqrt(A), 1 (T5), or 1/sqrt(A) over the layer's number"),
    ] = "rsqrt_head"
    local: Annotated[Local, Meta(description="layers that see near keys alone")] | None = None
    transform: (
        Annotated[Transform, Meta(description="of states before the vocabulary (BERT)")] | None
    ) = None
    output_bias: Annotated[
        Literal["none", "bias"], Meta(description="whether each logit has a bias")
    ] = "none"
    logit_scale: Annotated[
        Literal["none", "rsqrt_width"], Meta(description="what logits are times (T5)")
    ] = "none"
    logit_softcap: (
        Annotated[float, Meta(gt=0, description="c: logits z become c tanh(z / c)")] | None
    ) = None

    @classmethod
    def of_before(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Norms had no settings, and all positions were rotary.

        >>> sorted(Transformer.of_before({"norm": "layer", "rope_theta": 5e4}).items())
        [('norm', {'type': 'layer'}), ('positions', {'type': 'rotary', 'theta': 50000.0})]
        """
        found = dict(fields)
        if isinstance(norm := found.get("norm"), str):
            found["norm"] = {"type": norm}
        if "rope_theta" in found:
            theta = found.pop("rope_theta")
            found.setdefault("positions", {"type": "rotary", "theta": theta})
        return found

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate, so three matrices in place of two."""
        return self.mlp in GATED

    @property
    def groups(self) -> int:
        """Key/value heads G."""
        return self.kv_heads or self.heads

    @property
    def head_size(self) -> int:
        """Head size A."""
        return self.head_width or self.width // self.heads

    @property
    def mlp_size(self) -> int:
        """MLP width F.

        >>> Transformer(width=256).mlp_size, Transformer(width=256, mlp="swiglu").mlp_size
        (1024, 688)
        """
        return self.mlp_width or mlp_size(self.width, self.mlp)

    @property
    def mlp_matrices(self) -> dict[str, int]:
        """Elements of a layer's matrices that a position's MLP, or its experts, multiply.

        >>> Transformer(width=8, mlp_width=20, mlp="swiglu").mlp_matrices
        {'up': 160, 'gate': 160, 'down': 160}
        """
        passed = 1 if self.experts is None else self.experts.active
        names = ("up", "gate", "down") if self.gated else ("up", "down")
        found = dict.fromkeys(names, passed * self.width * self.mlp_size)
        if self.experts is not None:
            found["router"] = self.width * self.experts.count
        return found

    @property
    def window(self) -> int | None:
        if self.local is None or not all(self.local.is_local(self.depth)):
            return None
        return self.local.reach

    @property
    def longest(self) -> int | None:
        return self.positions.length if isinstance(self.positions, Learned) else None

    @property
    def has_last_norm(self) -> bool:
        return self.norm_placement != "after" or self.transform is not None

    @property
    def scores_are_plain(self) -> bool:
        """Whether attention's kernels can compute it: masks and products alone."""
        return self.local is None and not isinstance(self.positions, Alibi | Buckets)

    def check(self) -> str | None:
        """What is wrong with the fields taken together, in one line, or None."""
        if self.head_width is None and self.width % self.heads:
            near = sorted(sorted(divisors(self.width), key=lambda h: abs(h - self.heads))[:3])
            return f"heads={self.heads} does not divide width {self.width}; nearest: {near}"
        for field, rotary in self._rotaries():
            if (turned := rotary.turned(self.head_size)) % 2 or not turned:
                if rotary.fraction == 1 and self.head_width is None:
                    return (
                        f"heads={self.heads} leaves an odd head size {self.head_size}: not for"
                        " rotary"
                    )
                return (
                    f"{field}.fraction={rotary.fraction:g} turns {turned} of {self.head_size}"
                    " elements of a head; must be an even number"
                )
        if self.heads % self.groups:
            return (
                f"kv_heads={self.kv_heads} does not divide heads {self.heads}; one of"
                f" {divisors(self.heads)}"
            )
        if isinstance(self.positions, Sinusoidal) and self.width % 2:
            return f"width={self.width} is odd: not for positions.type=sinusoidal"
        if self.first_norm == "none" and self.norm_placement == "after":
            return "first_norm=none: norm_placement=after has no norm before attention"
        if self.experts is not None:
            if self.experts.active > self.experts.count:
                return (
                    f"experts.active={self.experts.active} is more than experts.count"
                    f" {self.experts.count}; at most that"
                )
            if self.mlp_bias != "none":
                return f"mlp_bias={self.mlp_bias}: experts have none; must be none"
        return None

    def _rotaries(self) -> list[tuple[str, Rotary]]:
        """The settings of rotary positions, by their fields."""
        found = []
        if isinstance(self.positions, Rotary):
            found.append(("positions", self.positions))
        if self.local is not None and self.local.rotary is not None:
            found.append(("local.rotary", self.local.rotary))
        return found

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
        """Width 16 with 2 query heads, which share keys if they did; windows of 3."""
        replace = msgspec.structs.replace
        shared = self.groups < self.heads
        positions, local, experts = self.positions, self.local, self.experts
        if isinstance(positions, Learned):
            positions = Learned(length=256)
        return replace(
            self,
            depth=depth,
            width=16,
            heads=2,
            kv_heads=1 if shared else None,
            head_width=None if self.head_width is None else 12,
            mlp_width=None,
            positions=positions,
            local=None if local is None else replace(local, reach=1),
            experts=None
            if experts is None
            else replace(experts, count=4, active=min(2, experts.active)),
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
        if how.attention not in ("auto", "xla") and not self.scores_are_plain:
            what = "local layers" if self.local is not None else "scores by distance"
            return f"attention={how.attention}: has no {what}; it may be auto or xla"
        return refusal(
            how.attention,
            precision=how.precision,
            head_size=self.head_size,
            platform=how.platform,
        ) or self.refuse_remat(how.remat)

    @property
    def idle_parameters(self) -> int:
        active = sum(size for _, size in self.matrices().values())
        return sum(size for _, size in super().matrices().values()) - active

    def matrices(self) -> dict[str, tuple[str, int]]:
        """Of experts those that a token passes through are counted."""
        found = super().matrices()
        if self.experts is None:
            return found
        axes = self.axes()
        return {
            path: (component, size * self.experts.active // self.experts.count)
            if axes[path][1] == "experts"
            else (component, size)
            for path, (component, size) in found.items()
        }

    def matmul_parameters(self, vocabulary_size: int) -> dict[str, int]:
        found = super().matmul_parameters(vocabulary_size)
        if self.transform is not None:  # which only targets pass through
            found["mlp"] -= self.width**2
            found["head"] += self.width**2
        return found

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
        """Scores are counted for the pairs that are computed, whether masked or not."""
        found = super().matmul_flops(
            vocabulary_size,
            rows=rows,
            length=length,
            targets=targets,
            attention_mask=attention_mask,
        )
        wide = self.heads * self.head_size
        scores = 4 * self.depth * rows * pairs("xla", attention_mask, length) * wide
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
        wide = self.heads * self.head_size
        each = 2 * self.depth * rows * pairs(backend, attention_mask, length) * wide
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
        again = {name: forward[name] for name in ("attention", "scores")}
        if self.norm_placement != "before":  # whose norm is derived from the last product
            return again | {"mlp": forward["mlp"]}
        matrices = self.mlp_matrices
        last, each = matrices["down"], sum(matrices.values())
        return again | {"mlp": forward["mlp"] * (each - last) // each}

    def activation_bytes(self, remat: Remat) -> int:
        """Queries, keys and values in half precision, residuals in float32."""
        wide = self.mlp_size * (1 if self.experts is None else self.experts.active)
        each = {
            "block": 2 * self.width,
            "matmuls": 6 * self.width + 2 * wide,
            "none": 16 * self.width + 4 * wide,
        }[remat]
        return self.depth * each

    def score_bytes(self, how: Execution, length: int) -> int:
        """In half precision, of causal attention half of them, of other layers if kept."""
        if self._backend(how, length) != "xla":
            return 0
        return length * self.heads * (self.depth if how.remat == "none" else 1)

    @property
    def module_type(self) -> "type[TransformerModule]":
        """The module that computes it."""
        return TransformerModule

    def _backend(self, how: Execution, length: int) -> Backend:
        if not self.scores_are_plain:
            return "xla"
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
        unroll = self.layers_in_a_row(unroll, mesh)
        return self.module_type(
            config=self,
            vocabulary_size=vocabulary_size,
            mesh=mesh,
            precision=precision,
            remat=remat,
            unroll=unroll,
            attention=attention,
        )


class TransformerModule(Module):
    """`apply({"params": params}, example) -> Output`, with the same parameters for all.

    With a `cache`, the rows of the example go on from it: `apply(..., example, cache)` gives
    the output and the cache that later positions go on from.
    """

    config: Transformer
    remat: Remat
    unroll: int
    attention: Attention
    apart: bool = False
    """Whether each layer's parameters and cache are by themselves, as in `lm.model.apart`."""

    def init_cache(self, rows: int, length: int, source: int = 0) -> KVCache:
        zeros_BM = jnp.zeros((rows, length), jnp.int32)
        kv = self.empty_kv(rows, length)
        return KVCache(
            self.by_layer(LayerCache(kv, kv)), zeros_BM, zeros_BM, jnp.zeros(rows, jnp.int32)
        )

    def empty_kv(self, rows: int, length: int) -> jax.Array:
        """Keys or values of no position yet, of one layer or, stacked, of all."""
        c = self.config
        stacked = () if self.apart else (c.depth,)
        return jnp.zeros((*stacked, rows, c.groups, length, c.head_size), self.precision)

    def by_layer(self, cache: LayerCache) -> LayerCache | tuple[LayerCache, ...]:
        """The cache of all layers, which is one for each where they are apart."""
        return (cache,) * self.config.depth if self.apart else cache

    @nn.nowrap  # it asks the settings for names, which make a module that is no part of this
    def for_generating(
        self, params: Any, *, rows: int
    ) -> tuple["TransformerModule", dict[str, Any]]:
        if self.apart or platform_of(self.mesh) != "cpu":
            return self, params
        apart = take_apart(self.config, params, einsum=self.einsum, rows=rows)
        return self.clone(apart=True), apart

    @nn.compact
    def __call__(
        self, example: Example, cache: KVCache | None = None
    ) -> Output | tuple[Output, KVCache]:
        c = self.config
        embedding_VD, unembedding_VD = tables(self, c)
        x_BLD = embed(self, c, embedding_VD, example)
        seen = see(self, c, example, cache)
        read = None if cache is None else cache.layers
        x_BLD, (layers, routing) = stack(self, c, seen)(
            x_BLD, seen.inputs, read, layer_inputs(c)
        )
        output = speak(self, c, x_BLD, unembedding_VD, example)
        if c.experts is not None:
            output = output._replace(terms=terms_of(routing, c.experts))
        if cache is None or layers is None:
            return output
        length_B = cache.length_after(example.segments)
        return output, KVCache(layers, seen.segments_BM, seen.positions_BM, length_B)
