"""Parameters as they generate fastest on a CPU: each layer's by itself, rounded once.

XLA copies a layer out of a stack before it multiplies, and takes a plain loop for products of a
vector in bfloat16 where inputs come first. A row that goes on reads every parameter for one
product, so that this costs several times what the products do (see docs/generation.md).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
from jax.experimental.layout import Format, Layout

from lm.numerics import Einsum, Quantized

if TYPE_CHECKING:
    from lm.model.transformer import Transformer

LAYERS = "layers"
"""The scope of the parameters of all layers."""


def take_apart(
    config: "Transformer", params: Mapping[str, Any], *, einsum: Einsum, rows: int
) -> dict[str, Any]:
    """The parameters with each layer in a scope of its own, and matrices rounded.

    The table of outputs is one of its own, even if it is tied: that of inputs is not rounded,
    and neither is a router, which chooses in float32. What is quantized stays so.
    """
    axes = config.axes()
    matrices = (config.matrices().keys() | {"unembedding"}) - {f"{LAYERS}/router"}
    # Of one row, XLA has a fast product in bfloat16 for matrices whose inputs come last.
    turned = rows == 1 and einsum.precision == "bfloat16"

    def rounded(path: Any, x: Any) -> Any:
        if isinstance(x, Quantized):
            return x
        name = "/".join(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        return einsum.rounded(x) if name in matrices else x

    found = dict(params)
    found.setdefault("unembedding", found["embedding"])
    found = jax.tree_util.tree_map_with_path(rounded, found, is_leaf=_is_quantized)
    stacked = found.pop(LAYERS)
    for number in range(config.depth):
        layer = jax.tree.map(lambda x, number=number: x[number], stacked)
        if turned:
            layer = {
                name: _turned(x, axes[f"{LAYERS}/{name}"])
                if f"{LAYERS}/{name}" in matrices and isinstance(x, jax.Array)
                else x
                for name, x in layer.items()
            }
        found[f"{LAYERS}_{number}"] = layer
    return found


def _turned(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """The same matrix of a layer, laid out with the axes of its inputs last."""
    # What writes to the stream has one axis of outputs, what reads it one of inputs.
    first = (x.ndim - 1,) if axes[-1] == "embed" else range(1, x.ndim)
    order = (*first, *(axis for axis in range(x.ndim) if axis not in first))
    return jax.device_put(x, Format(Layout(order), x.sharding))


def _is_quantized(x: object) -> bool:
    return isinstance(x, Quantized)
