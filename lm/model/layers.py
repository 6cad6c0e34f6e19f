"""What layers are made of: norms, gated and plain MLPs, rotary positions."""

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from lm.distributed.mesh import constrain
from lm.numerics import Einsum

Mlp = Literal["gelu", "relu2", "swiglu", "geglu"]


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016), in float32."""

    kind: Literal["rms", "layer"]

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        ones = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        scale_D: Any = self.param("scale", ones, (x_BLD.shape[-1],))
        bias_D: Any = None
        if self.kind == "layer":
            zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
            bias_D = self.param("bias", zeros, (x_BLD.shape[-1],))
            x_BLD = x_BLD - x_BLD.mean(-1, keepdims=True)
        x_BLD = x_BLD * jax.lax.rsqrt(jnp.square(x_BLD).mean(-1, keepdims=True) + 1e-6)
        x_BLD = x_BLD * scale_D[None, None, :]
        return x_BLD if bias_D is None else x_BLD + bias_D[None, None, :]


def feed_forward(
    x_BLD: jax.Array,
    up_DF: jax.Array,
    gate_DF: jax.Array | None,
    down_FD: jax.Array,
    kind: Mlp,
    *,
    einsum: Einsum,
    mesh: jax.sharding.Mesh | None,
) -> jax.Array:
    """An MLP of width F at every position, float32[B, L, D]; with a gate, it is activated."""
    activate = _ACTIVATION[kind]
    x_BLF = einsum("BLD,DF->BLF", x_BLD, up_DF)
    if gate_DF is not None:
        x_BLF = x_BLF * activate(einsum("BLD,DF->BLF", x_BLD, gate_DF))
    else:
        x_BLF = activate(x_BLF)
    x_BLF = constrain(x_BLF, mesh, ("batch", "length", "act_mlp"))
    return einsum("BLF,FD->BLD", x_BLF, down_FD)


def _gelu(x: jax.Array) -> jax.Array:
    """The form with tanh (Hendrycks & Gimpel 2016), as 1/2 (1 + tanh u) = sigmoid(2 u)."""
    return x * nn.sigmoid(2 * (2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x))


# Computed again in the backward pass: that costs less than to write and read what it needs.
_ACTIVATION = {
    name: jax.checkpoint(function)
    for name, function in {
        "gelu": _gelu,
        "geglu": _gelu,
        "swiglu": nn.silu,
        "relu2": lambda x: jnp.square(nn.relu(x)),  # So et al. 2021
    }.items()
}


class RotaryTable(NamedTuple):
    """Cosine and sine of the rotary angles, float32[B, L, 1, A/2], equal in every layer."""

    cosine: jax.Array
    sine: jax.Array


def rotary_table(
    positions_BL: jax.Array, *, size: int, theta: float, length: int
) -> RotaryTable:
    """The angles for head size A at positions below `length` (Su et al. 2021, eq. 15).

    They are looked up, as XLA would compute them anew for every head of every layer.
    """
    frequency_a = theta ** (-jnp.arange(size // 2, dtype=jnp.float32) / (size // 2))
    angle_La = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency_a[None, :]
    return RotaryTable(*(f(angle_La)[positions_BL][:, :, None] for f in (jnp.cos, jnp.sin)))


def rotate(x_BLHA: jax.Array, by: RotaryTable) -> jax.Array:
    """Rotary positions on head halves (Su et al. 2021): dot products see only distances.

    >>> x = jnp.ones((1, 2, 1, 4))
    >>> table = rotary_table(jnp.array([[0, 1]]), size=4, theta=1e4, length=2)
    >>> rotate(x, table)[0, 0, 0].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    left, right = jnp.split(x_BLHA, 2, axis=-1)
    return jnp.concatenate(
        [left * by.cosine - right * by.sine, right * by.cosine + left * by.sine], axis=-1
    )
