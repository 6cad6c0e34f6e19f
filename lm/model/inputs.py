"""What the layers of a transformer are given beside the stream: what they see, and where."""

from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.distributed.mesh import num_shards, platform_of
from lm.example import AttentionMask, BidirectionalMask, CausalMask, Example, mask_array
from lm.model.attention import Backend, KeyExtent, choose, key_extents
from lm.model.layers import LayerNorm, NormKind
from lm.model.positions import Alibi, Buckets, Rotary, RotaryTable, alibi_slopes

if TYPE_CHECKING:
    from lm.model.transformer import Transformer


class LayerCache(NamedTuple):
    """Keys and values that a layer has read, [B, G, M, A]; of all layers [N, B, G, M, A].

    Heads come first, as products take them: otherwise all is copied for each token.
    """

    key: jax.Array
    value: jax.Array
    source_key: jax.Array | None = None
    source_value: jax.Array | None = None


class KVCache(NamedTuple):
    """What a causal module keeps of the positions it has read: it need not read them again.

    Each row is filled from the left and has a length of its own. Padding (segment 0) is not
    kept, so that prompts of several lengths and rows at several places go on together; a row
    whose length is set to 0 is empty.
    """

    layers: LayerCache | tuple[LayerCache, ...]
    """Of all layers, or of each by itself, where parameters are apart."""
    segments_BM: jax.Array
    positions_BM: jax.Array
    cache_length_B: jax.Array
    """int32[B]: how many of the M positions of each row are filled."""
    source_segments_BM: jax.Array | None = None
    """Of what an encoder has read."""

    def places(self, segments_BL: jax.Array) -> jax.Array:
        """Where the next positions of the rows are kept, int32[B, L]; padding is past the end.

        >>> rows = jnp.zeros((1, 4), jnp.int32)
        >>> cache = KVCache(LayerCache(rows, rows), rows, rows, jnp.array([1]))
        >>> cache.places(jnp.array([[1, 1, 0]])).tolist()
        [[1, 2, 4]]
        """
        real_BL = segments_BL > 0
        place_BL = self.cache_length_B[:, None] + jnp.cumsum(real_BL, axis=1) - 1
        return jnp.where(real_BL, place_BL, self.segments_BM.shape[1])

    def length_after(self, segments_BL: jax.Array) -> jax.Array:
        """How many positions of each row are filled after those of `segments`, int32[B]."""
        return self.cache_length_B + (segments_BL > 0).sum(axis=1)


class AttentionInputs(NamedTuple):
    """What the layers share: the rows' angles, what they see, and what they have read before.

    A kernel makes its own masks, so then there is none.
    """

    attention_mask: AttentionMask
    segments_BL: jax.Array
    mask_BLM: jax.Array | None
    angles: RotaryTable | None = None
    bias_BHLM: jax.Array | None = None
    """What is added to scores by distance."""
    places_BL: jax.Array | None = None
    """Where in the cache each position is kept."""
    local_mask_BLM: jax.Array | None = None
    local_angles: RotaryTable | None = None
    source_mask_BLM: jax.Array | None = None
    source_BMD: jax.Array | None = None
    """The encoder's states; None where their keys and values are in the cache."""


class LayerInputs(NamedTuple):
    """What differs from layer to layer beside the stacked parameters."""

    number: jax.Array
    """int32: from 0."""
    is_local: jax.Array
    norm: dict[str, jax.Array] | None
    """The scale, and bias, of the norm that the first layer does not have."""


class Seen(NamedTuple):
    """What computes attention, what the layers share, and what is known of all keys."""

    backend: Backend
    blocks: tuple[KeyExtent, ...]
    inputs: AttentionInputs
    segments_BM: jax.Array
    positions_BM: jax.Array


def see(module: Any, config: "Transformer", example: Example, cache: KVCache | None) -> Seen:
    """What the layers see of whole rows, or of rows that go on from a cache.

    The table of `Buckets` is a parameter of `module`.
    """
    length = example.inputs.shape[1]
    attention_mask, segments_BL = example.attention_mask, example.segments
    backend: Backend = "xla"  # which goes on from a cache, too
    mask_BLM = places_BL = None
    if cache is None:
        segments_BM, positions_BM = segments_BL, example.positions
        if config.scores_are_plain:
            backend = choose(
                module.attention,
                platform=platform_of(module.mesh),
                precision=module.precision,
                length=length,
            )
        # Where positions are spread over devices, each has some of every block.
        whole_row = num_shards(module.mesh, "length") > 1
        blocks = key_extents(BidirectionalMask() if whole_row else attention_mask, length)
        if backend == "xla":
            mask_BLM = mask_array(attention_mask, segments_BM)
    else:
        places_BL = cache.places(segments_BL)
        segments_BM = put(cache.segments_BM, segments_BL, places_BL)
        positions_BM = put(cache.positions_BM, example.positions, places_BL)
        blocks = (KeyExtent(0, length, segments_BM.shape[1]),)
        mask_BLM = _sees_past(example, segments_BM, places_BL)
    inputs = AttentionInputs(attention_mask, segments_BL, mask_BLM, places_BL=places_BL)
    size, most = config.head_size, segments_BM.shape[1]
    if isinstance(config.positions, Rotary):
        table = config.positions.table(example.positions, size=size, length=most)
        inputs = inputs._replace(angles=table)
    if not config.scores_are_plain:
        # By positions, not by places in the row: between a text and its spans is a gap.
        ahead_BLM = positions_BM[:, None, :] - example.positions[:, :, None]
        bias_BHLM = distance_bias(module, config, ahead_BLM, attention_mask)
        inputs = inputs._replace(bias_BHLM=bias_BHLM)
        if config.local is not None:
            assert mask_BLM is not None, "no kernel has local layers"
            near_BLM = mask_BLM & (jnp.abs(ahead_BLM) <= config.local.reach)
            inputs = inputs._replace(local_mask_BLM=near_BLM)
            if config.local.rotary is not None:
                table = config.local.rotary.table(example.positions, size=size, length=most)
                inputs = inputs._replace(local_angles=table)
    return Seen(backend, blocks, inputs, segments_BM, positions_BM)


def distance_bias(
    module: Any, config: "Transformer", ahead_BLM: jax.Array, attention_mask: AttentionMask
) -> jax.Array | None:
    """What is added to the scores of keys so far ahead of a query, float32[B, H, L, M]."""
    match config.positions:
        case Alibi():
            slopes_H = jnp.asarray(alibi_slopes(config.heads), jnp.float32)
            return -slopes_H[None, :, None, None] * jnp.abs(ahead_BLM)[:, None]
        case Buckets(buckets=buckets) as positions:
            normal = nn.initializers.normal(0.02)
            init = nn.with_logical_partitioning(normal, ("buckets", "heads"))
            table_KH = module.param("buckets", init, (buckets, config.heads))
            two_way = not isinstance(attention_mask, CausalMask)
            number_BLM = positions.number(ahead_BLM, two_way=two_way)
            return jnp.moveaxis(table_KH[number_BLM], 3, 1)
        case _:
            return None


def layer_inputs(config: "Transformer") -> LayerInputs | None:
    """What differs from layer to layer; None where nothing does. In a module's scope."""
    by_layer = config.attention_scale == "by_layer"
    if config.local is None and not by_layer and config.first_norm == "norm":
        return None
    depth, norm = config.depth, None
    if config.first_norm == "none":
        # One norm less than there are layers; the first has a row that nothing reads.
        later = LaterNorms(config.norm, depth - 1, name="later_norm_1")(config.width)
        norm = {name: jnp.pad(rows, ((1, 0), (0, 0))) for name, rows in later.items()}
    local = (False,) * depth if config.local is None else config.local.is_local(depth)
    return LayerInputs(jnp.arange(depth), jnp.array(local), norm)


class LaterNorms(nn.Module):
    """The parameters of the norms of some layers, [rows, D] each."""

    kind: NormKind
    rows: int

    @nn.compact
    def __call__(self, width: int) -> dict[str, jax.Array]:
        inits: dict[str, Any] = {"scale": nn.initializers.ones}
        if isinstance(self.kind, LayerNorm) and self.kind.bias == "bias":
            inits["bias"] = nn.initializers.zeros
        axes, shape = ("layers", "embed"), (self.rows, width)
        boxed = {name: nn.with_logical_partitioning(init, axes) for name, init in inits.items()}
        found: Any = {name: self.param(name, init, shape) for name, init in boxed.items()}
        return found


def seen_by(
    inputs: AttentionInputs, layer: LayerInputs | None
) -> tuple[RotaryTable | None, jax.Array | None]:
    """A layer's angles and its mask: those of local layers, if it is one."""
    angles, mask_BLM = inputs.angles, inputs.mask_BLM
    if layer is None or inputs.local_mask_BLM is None or mask_BLM is None:
        return angles, mask_BLM
    mask_BLM = jnp.where(layer.is_local, inputs.local_mask_BLM, mask_BLM)
    if inputs.local_angles is not None and angles is not None:
        pairs = zip(inputs.local_angles, angles, strict=True)
        angles = RotaryTable(*(jnp.where(layer.is_local, *pair) for pair in pairs))
    return angles, mask_BLM


def put(whole_BM: jax.Array, part_BL: jax.Array, places_BL: jax.Array) -> jax.Array:
    """`whole` with a part of each row put in its places; what is past the end is dropped.

    >>> put(jnp.zeros((1, 3), int), jnp.array([[5, 6]]), jnp.array([[1, 3]])).tolist()
    [[0, 5, 0]]
    """
    rows_B1 = jnp.arange(len(whole_BM))[:, None]
    return whole_BM.at[rows_B1, places_BL].set(part_BL, mode="drop")


def put_heads(whole_BGMA: jax.Array, part_BLGA: jax.Array, places_BL: jax.Array) -> jax.Array:
    """The same of what a layer keeps: its heads come before its positions."""
    rows_B1 = jnp.arange(len(whole_BGMA))[:, None]
    return whole_BGMA.at[rows_B1, :, places_BL].set(part_BLGA, mode="drop")


def _sees_past(example: Example, segments_BM: jax.Array, places_BL: jax.Array) -> jax.Array:
    """What queries that are kept in these places see of all keys, bool[B, L, M].

    What a row that is long gone has left behind the places stays unseen.
    """
    if not isinstance(example.attention_mask, CausalMask):
        raise ValueError("only a causal row can go on from a cache")
    index_11M = jnp.arange(segments_BM.shape[1])[None, None]
    before_BLM = index_11M <= places_BL[:, :, None]
    segments_BL1 = example.segments[:, :, None]
    return (segments_BL1 == segments_BM[:, None, :]) & (segments_BL1 > 0) & before_BLM
