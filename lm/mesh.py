"""The mesh: four named axes, and the one table that lays arrays out on them."""

from collections.abc import Sequence
from typing import Annotated

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from msgspec import Meta

from lm.config import Config, UserError

AXES = ("replica", "fsdp", "tensor", "context")

LAYOUT: dict[str, tuple[str, ...]] = {
    # parameters
    "layers": (),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv": ("tensor",),
    "head": (),
    "vocab": ("tensor",),
    # activations
    "batch": ("replica", "fsdp"),
    "length": ("context",),
    "slots": (),
    "act_embed": (),
    "act_mlp": ("tensor",),
    "act_heads": ("tensor",),
}
"""Logical axis -> the mesh axes that split it. An array may use a mesh axis only once."""

Axes = tuple[str, ...]


class Mesh(Config):
    """How many ways each axis splits the devices; the product is the number of devices."""

    replica: Annotated[int, Meta(ge=1, description="copies across slices (slow network)")] = 1
    fsdp: (
        Annotated[
            int, Meta(ge=1, description="splits batch and parameters; null: all devices left")
        ]
        | None
    ) = None
    tensor: Annotated[int, Meta(ge=1, description="splits heads, MLP and vocabulary")] = 1
    context: Annotated[int, Meta(ge=1, description="splits the positions of a row")] = 1


def make(config: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The device mesh; raises UserError where the axes do not multiply to the devices."""
    devices = jax.devices() if devices is None else devices
    others = config.replica * config.tensor * config.context
    fsdp = config.fsdp if config.fsdp is not None else max(1, len(devices) // others)
    if fsdp * others != len(devices):
        legal = [n for n in range(1, len(devices) + 1) if len(devices) % n == 0]
        raise UserError(
            f"mesh: replica {config.replica} x fsdp {fsdp} x tensor {config.tensor} x context"
            f" {config.context} = {fsdp * others}, but there are {len(devices)} devices;"
            f" each axis must be one of {legal} and their product {len(devices)}"
        )
    shape = (config.replica, fsdp, config.tensor, config.context)
    return jax.sharding.Mesh(
        np.array(devices).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )


def spec(axes: Axes) -> PartitionSpec:
    """Logical axes of an array -> how the mesh splits it.

    >>> tuple(spec(("layers", "embed", "mlp")))
    (None, 'fsdp', 'tensor')

    Raises ValueError on an unknown name and where two dimensions claim one mesh axis: both
    would otherwise replicate without a word.
    """
    used: list[str] = []
    for name in axes:
        if name not in LAYOUT:
            raise ValueError(f"axis {name!r} of {axes} is not in lm.mesh.LAYOUT")
        for mesh_axis in LAYOUT[name]:
            if mesh_axis in used:
                raise ValueError(f"{axes}: two dimensions claim the mesh axis {mesh_axis!r}")
            used.append(mesh_axis)
    entries = [LAYOUT[name] for name in axes]
    return PartitionSpec(*(e[0] if len(e) == 1 else e or None for e in entries))


def sharding(mesh: jax.sharding.Mesh, *axes: str) -> NamedSharding:
    """Where an array of these logical axes lives; no axes: a copy on every device."""
    return NamedSharding(mesh, spec(axes))


def constrain(x: jax.Array, mesh: jax.sharding.Mesh, axes: Axes) -> jax.Array:
    """Pins an activation's layout, so that the compiler has nothing to guess."""
    return jax.lax.with_sharding_constraint(x, sharding(mesh, *axes))


def ways(mesh: jax.sharding.Mesh, axis: str) -> int:
    """Into how many parts the mesh splits a logical axis."""
    return int(np.prod([mesh.shape[name] for name in LAYOUT[axis]]))
