"""What layers are made of: norms, and gated and plain MLPs."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from msgspec import Meta

from lm.config import Config
from lm.distributed.mesh import Axes, constrain, num_shards, platform_of
from lm.numerics import Einsum, Factor, LowRank

NormEpsilon = Annotated[float, Meta(gt=0, description="added to the mean square")]


class RmsNorm(Config, tag="rms"):
    """Divided by the root of the mean square, and scaled (Zhang & Sennrich 2019)."""

    epsilon: NormEpsilon = 1e-6


class LayerNorm(Config, tag="layer"):
    """The same after the mean is taken off, with a bias or without (Ba et al. 2016)."""

    epsilon: NormEpsilon = 1e-6
    bias: Annotated[Literal["none", "bias"], Meta(description="whether it is added to")] = (
        "bias"
    )


NormKind = RmsNorm | LayerNorm


class Norm(nn.Module):
    """A norm over the last axis, in float32."""

    kind: NormKind
    axis: str = "embed"
    """The logical axis that is normed."""

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        scale_D: Any = self._vector("scale", nn.initializers.ones, x_BLD)
        bias_D: Any = None
        if isinstance(self.kind, LayerNorm):
            if self.kind.bias == "bias":
                bias_D = self._vector("bias", nn.initializers.zeros, x_BLD)
            x_BLD = x_BLD - x_BLD.mean(-1, keepdims=True)
        x_BLD = x_BLD * jax.lax.rsqrt(
            jnp.square(x_BLD).mean(-1, keepdims=True) + self.kind.epsilon
        )
        x_BLD = x_BLD * _wide(scale_D, x_BLD)
        return x_BLD if bias_D is None else x_BLD + _wide(bias_D, x_BLD)

    def _vector(self, name: str, init: Any, x_BLD: jax.Array) -> Any:
        boxed = nn.with_logical_partitioning(init, (self.axis,))
        return self.param(name, boxed, (x_BLD.shape[-1],))


def _wide(vector_D: jax.Array, x_BLD: jax.Array) -> jax.Array:
    """The vector with as many axes as what it scales."""
    return vector_D.reshape((1,) * (x_BLD.ndim - 1) + vector_D.shape)


def gathered(weight: Any, axes: Axes, mesh: jax.sharding.Mesh | None) -> Any:
    """A matrix of which each device has some inputs or outputs, whole.

    Left to itself a TPU's compiler multiplies each part as it comes from its device, and adds
    up the products in main memory.
    """
    if num_shards(mesh, "embed") == 1:
        return weight
    if isinstance(weight, LowRank):
        return replace(weight, weight=gathered(weight.weight, axes, mesh))
    if isinstance(weight, Factor):
        return weight
    return constrain(
        weight, mesh, tuple("act_embed" if axis == "embed" else axis for axis in axes)
    )


Activation = Literal["gelu", "gelu_exact", "silu", "relu", "relu2", "tanh"]
"""gelu is the form with tanh (Hendrycks & Gimpel 2016), gelu_exact the one with erf; relu2 is
ReLU squared (So et al. 2021)."""

Mlp = Literal[
    "gelu", "gelu_exact", "silu", "relu", "relu2", "geglu", "geglu_exact", "swiglu", "reglu"
]
"""A plain MLP by its activation, or a gated one whose gate is activated (Shazeer 2020)."""

GATED: dict[Mlp, Activation] = {
    "geglu": "gelu",
    "geglu_exact": "gelu_exact",
    "swiglu": "silu",
    "reglu": "relu",
}
"""The activation of each gate."""


def mlp_size(width: int, kind: Mlp) -> int:
    """The usual width F of an MLP: 4 D, and of a gated one 8/3 D up to a multiple of 8.

    >>> mlp_size(256, "gelu"), mlp_size(256, "swiglu")
    (1024, 688)
    """
    return -(-8 * width // 3 // 8) * 8 if kind in GATED else 4 * width


def activate(
    x: jax.Array, name: Activation, mesh: jax.sharding.Mesh | None = None
) -> jax.Array:
    """An activation by its name.

    >>> activate(jnp.array([-1.0, 3.0]), "relu2").tolist()
    [0.0, 9.0]

    It is computed again in the backward pass: that costs less than to write and read what it
    needs. Where layers are no loop, as on a CPU, that must be said to the compiler; elsewhere
    it would only keep it from doing it together with the product.
    """
    is_loop = platform_of(mesh) not in (None, "cpu")
    again = jax.checkpoint(_ACTIVATION[name], prevent_cse=not is_loop)
    activated: jax.Array = again(x)
    return activated


def feed_forward(
    x_BLD: jax.Array,
    up_DF: jax.Array,
    gate_DF: jax.Array | None,
    down_FD: jax.Array,
    kind: Mlp,
    *,
    einsum: Einsum,
    mesh: jax.sharding.Mesh | None,
    up_bias_F: jax.Array | None = None,
    gate_bias_F: jax.Array | None = None,
) -> jax.Array:
    """An MLP of width F at every position, float32[B, L, D]; with a gate, it is activated.

    The bias of what comes out is the caller's.
    """
    x_BLF = _plus(einsum("BLD,DF->BLF", x_BLD, up_DF), up_bias_F)
    if gate_DF is not None:
        gate_BLF = _plus(einsum("BLD,DF->BLF", x_BLD, gate_DF), gate_bias_F)
        x_BLF = x_BLF * activate(gate_BLF, GATED[kind], mesh)
    else:
        x_BLF = activate(x_BLF, kind, mesh)  # type: ignore[arg-type] # an activation, not gated
    x_BLF = constrain(x_BLF, mesh, ("batch", "length", "act_mlp"))
    return einsum("BLF,FD->BLD", x_BLF, down_FD)


def _plus(x_BLF: jax.Array, bias_F: jax.Array | None) -> jax.Array:
    return x_BLF if bias_F is None else x_BLF + bias_F[None, None]


def _gelu(x: jax.Array) -> jax.Array:
    """The form with tanh, as 1/2 (1 + tanh u) = sigmoid(2 u)."""
    return x * nn.sigmoid(2 * (2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x))


_ACTIVATION: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "gelu": _gelu,
    "gelu_exact": lambda x: nn.gelu(x, approximate=False),
    "silu": nn.silu,
    "relu": nn.relu,
    "relu2": lambda x: jnp.square(nn.relu(x)),
    "tanh": jnp.tanh,
}
