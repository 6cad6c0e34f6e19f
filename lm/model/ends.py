"""The two ends of a stack of layers: from tokens to the stream, and from the stream to logits.

Each function makes its parameters in the scope of the module that it is given.
"""

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.config import Config
from lm.distributed.mesh import constrain
from lm.example import Example, Output
from lm.model.heads import head_outputs
from lm.model.layers import Activation, Norm, activate, gathered
from lm.model.positions import Learned, Sinusoidal

if TYPE_CHECKING:
    from lm.model.residual import Residual
    from lm.model.transformer import Transformer

    Ends: TypeAlias = Transformer | Residual


class Transform(Config):
    """What masked models put between states and vocabulary: dense, activated, normed (BERT)."""

    activation: Activation = "gelu_exact"
    bias: Annotated[Literal["none", "bias"], Meta(description="of the dense layer")] = "bias"


def tables(module: Any, config: "Ends") -> tuple[jax.Array, jax.Array]:
    """The tables of inputs and of outputs, [V, D]: one, if they are tied."""
    table = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("vocab", "embed"))
    shape = module.vocabulary_size, config.width
    # Tables are gathered whole in width before use: a lookup in a table that is split by
    # columns would be laid out anew, row by row.
    whole: Any = partial(constrain, mesh=module.mesh, axes=("vocab", "act_embed"))
    embedding_VD = whole(module.param("embedding", table, shape))
    if config.embedding == "tied" and not getattr(module, "apart", False):
        return embedding_VD, embedding_VD
    return embedding_VD, whole(module.param("unembedding", table, shape))


def embed(module: Any, config: "Ends", embedding_VD: jax.Array, example: Example) -> jax.Array:
    """The stream that the first layer reads, float32[B, L, D]."""
    axes = "batch", "length", "act_embed"
    x_BLD = constrain(embedding_VD[example.inputs], module.mesh, axes)
    if config.embedding_scale == "sqrt_width":
        x_BLD = x_BLD * config.width**0.5
    if config.token_types:
        types_BL = example.token_types
        types_BL = jnp.zeros_like(example.inputs) if types_BL is None else types_BL
        x_BLD = x_BLD + _table(module, config, "token_types", config.token_types)[types_BL]
    if isinstance(config.positions, Learned):
        rows, first = config.positions.rows, config.positions.offset
        # Past the end there is no vector: not a number says so, where a clip would not.
        at = _table(module, config, "positions", rows).at[first + example.positions]
        x_BLD = x_BLD + at.get(mode="fill", fill_value=jnp.nan)
    elif isinstance(config.positions, Sinusoidal):
        x_BLD = x_BLD + config.positions.table(example.positions, width=config.width)
    if config.embedding_norm == "norm":
        x_BLD = Norm(config.norm, name="embedding_norm")(x_BLD)
    dropout = nn.Dropout(config.dropout, deterministic=not module.has_rng("dropout"))
    embedded_BLD: jax.Array = dropout(x_BLD)
    return embedded_BLD


def last_norm(config: "Ends", x_BLD: jax.Array) -> jax.Array:
    """The stream after its last block, normed where blocks leave it as it is."""
    if config.norm_placement == "after":
        return x_BLD
    axis = "last_embed" if config.transform is None else "embed"
    normed_BLD: jax.Array = Norm(config.norm, axis=axis, name="norm")(x_BLD)
    return normed_BLD


def speak(
    module: Any,
    config: "Ends",
    x_BLD: jax.Array,
    unembedding_VD: jax.Array,
    example: Example,
) -> Output:
    """From the last layer's stream to the states that speak, and how they become logits."""
    targets = "length"
    if example.target_positions is not None:
        x_BLD = jnp.take_along_axis(x_BLD, example.target_positions[..., None], axis=1)
        targets = "targets"
    x_BPD = last_norm(config, x_BLD)
    if example.head is not None:
        return Output(*head_outputs(x_BPD, example))
    if config.transform is not None:
        x_BPD = _transformed(module, config, config.transform, x_BPD)
    if config.logit_scale == "rsqrt_width":
        x_BPD = x_BPD * config.width**-0.5
    hidden_BPD = constrain(x_BPD, module.mesh, ("batch", targets, "act_embed"))
    bias_V: Any = None
    if config.output_bias == "bias":
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
        bias_V = module.param("output_bias", zeros, (module.vocabulary_size,))
    return Output(hidden_BPD, unembedding_VD, bias_V, config.logit_softcap)


def _table(module: Any, config: "Ends", name: str, rows: int) -> jax.Array:
    """A learned vector for each of a few things that are looked up, [rows, D]."""
    init = nn.with_logical_partitioning(nn.initializers.normal(0.02), (name, "embed"))
    table: jax.Array = module.param(name, init, (rows, config.width))
    return constrain(table, module.mesh, (name, "act_embed"))


def _transformed(
    module: Any, config: "Ends", transform: Transform, x_BPD: jax.Array
) -> jax.Array:
    width = config.width
    init = nn.initializers.truncated_normal(width**-0.5)
    dense = nn.with_logical_partitioning(init, ("embed", "act_embed"))
    weight_DE: Any = module.param("transform", dense, (width, width))
    weight_DE = gathered(weight_DE, ("embed", "act_embed"), module.mesh)
    x_BPD = module.einsum("BPD,DE->BPE", x_BPD, weight_DE)
    if transform.bias == "bias":
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
        x_BPD = x_BPD + module.param("transform_bias", zeros, (width,))[None, None]
    x_BPD = activate(x_BPD, transform.activation, module.mesh)
    normed_BPD: jax.Array = Norm(config.norm, axis="last_embed", name="transform_norm")(x_BPD)
    return normed_BPD
