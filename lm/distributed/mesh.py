"""The mesh: four named axes, and the one table that lays arrays out on them."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from msgspec import Meta

from lm.config import Config, Count, UserError

AXES = ("replica", "fsdp", "tensor", "context")
MEMBERS = "members"
"""The axis outside of these where several runs are trained as one program: none spans it."""

LAYOUT: dict[str, tuple[str, ...]] = {
    # parameters
    "layers": (),
    "each_layer": ("fsdp",),  # of matrices that are whole while each is orthogonalized
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "kv": ("tensor",),
    "head": (),
    "vocab": ("tensor",),
    "classes": (),
    "last_embed": ("fsdp",),  # of the norm before the vocabulary
    "positions": (),
    "token_types": (),
    "buckets": (),
    "code": (),  # numbers between an encoder and a decoder
    "rank": (),  # of what is added to a matrix
    "experts": (),
    "channels": ("tensor",),  # of what mixes positions in attention's place
    "cells": ("tensor",),  # parts of them, each with matrices of its own
    "cell": (),
    "gates": (),
    "halves": (),
    "taps": (),
    # activations
    "batch": ("replica", "fsdp"),
    "length": ("context",),
    "steps": (),  # positions of which each is found by the one before
    "targets": (),
    "chunks": (),
    "act_embed": (),
    "act_mlp": ("tensor",),
    "act_heads": ("tensor",),
    "act_channels": ("tensor",),
}
"""Logical axis -> the mesh axes that split it. An array may use a mesh axis only once."""

Axes = tuple[str, ...]


class Mesh(Config):
    """Into how many shards each axis splits the devices; the product is the number of devices.

    What is null is chosen, so that the run fits (`choose_mesh`).
    """

    replica: Annotated[
        Count | None, Meta(description="copies across slices; null: one a slice, if fsdp fits")
    ] = None
    fsdp: Annotated[
        Count | None, Meta(description="splits batch and parameters; null: all it can take")
    ] = None
    tensor: Annotated[
        Count | None,
        Meta(description="splits heads, MLP, vocabulary; null: 1, more if it must"),
    ] = None
    context: Annotated[
        Count | None,
        Meta(description="splits the positions of a row; null: 1, more if it must"),
    ] = None


class Divisibility(NamedTuple):
    """A size that a mesh must divide."""

    axis: str
    """The logical axis."""
    size: int
    name: str
    """The field of the run that has this size, or how to say the size, if none has."""
    is_field: bool = True
    each: int = 1
    """So many parts are taken one after the other, and each is split."""


def choose_mesh(
    config: Mesh, splits: Iterable[Divisibility], *, devices: int, slices: int = 1
) -> dict[str, int]:
    """The size of each mesh axis: what is given, and a legal choice of what is not.

    Of the legal meshes it is the one that least splits what one row takes (tensor, context),
    then the one with the fewest copies, of which there is one a slice at least, then the one
    with the least context. Raises UserError in one line where no mesh is legal: what does not
    divide what, and what would.

    >>> rows = Divisibility("batch", 48, "data.batch")
    >>> width = Divisibility("embed", 768, "model.width")
    >>> choose_mesh(Mesh(), [rows, width], devices=32, slices=2)
    {'replica': 2, 'fsdp': 8, 'tensor': 2, 'context': 1}
    >>> choose_mesh(Mesh(fsdp=32), [rows, width], devices=32)
    Traceback (most recent call last):
    lm.config.struct.UserError: data.batch=48 is not a multiple of 32 (mesh.fsdp=32); ...
    """
    given = {axis: getattr(config, axis) for axis in AXES}
    legal = [n for n in range(1, devices + 1) if devices % n == 0]
    options = [legal if given[axis] is None else [given[axis]] for axis in AXES]
    meshes = [
        dict(zip(AXES, sizes, strict=True))
        for sizes in itertools.product(*options)
        if math.prod(sizes) == devices
    ]
    if not meshes:
        fixed = {axis: size for axis, size in given.items() if size is not None}
        said = " x ".join(f"{axis} {size}" for axis, size in fixed.items())
        raise UserError(
            f"mesh: {said} = {math.prod(fixed.values())}, but there are {devices} devices;"
            f" each axis must be one of {legal} and their product {devices}"
        )
    meshes.sort(
        key=lambda mesh: (
            mesh["replica"] % slices > 0,
            mesh["tensor"] * mesh["context"],
            mesh["replica"],
            mesh["context"],
        )
    )
    splits = list(splits)
    complaints = (
        next(filter(None, (_complaint(s, mesh) for s in splits)), "") for mesh in meshes
    )
    first = next(complaints)
    if not first:
        return meshes[0]
    for mesh, complaint in zip(meshes[1:], complaints, strict=True):
        if not complaint:
            return mesh
    raise UserError(first)


def _complaint(split: Divisibility, mesh: dict[str, int]) -> str | None:
    """What does not divide what, and what would; None if all is well."""
    by = {f"mesh.{axis}": mesh[axis] for axis in LAYOUT[split.axis] if mesh[axis] > 1}
    num_shards = math.prod(by.values()) * split.each
    if split.size % num_shards == 0:
        return None
    if split.each > 1:
        by["microbatches"] = split.each
    product = " x ".join(f"{name}={size}" for name, size in by.items())
    said = f"{split.name}={split.size}" if split.is_field else split.name
    line = f"{said} is not a multiple of {num_shards} ({product})"
    if split.is_field:
        below = split.size // num_shards * num_shards
        line += f"; nearest: {' or '.join(str(n) for n in (below, below + num_shards) if n)}"
    if len(by) > 1 or split.axis == "batch":
        return line
    devices = math.prod(mesh.values())
    may = [str(n) for n in range(1, devices + 1) if devices % n == 0 and split.size % n == 0]
    return f"{line}; {next(iter(by))} may be {', '.join(may)}"


def make(config: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """The device mesh; raises UserError where the axes do not multiply to the devices.

    Neighbours on the mesh are neighbours on the network: `replica`, the first axis, is the one
    that crosses slices, and within a slice an axis lies along the wires where it can.
    """
    devices = jax.devices() if devices is None else devices
    slices = count_slices(devices)
    sizes = choose_mesh(config, (), devices=len(devices), slices=slices)
    return jax.sharding.Mesh(
        _arranged(tuple(sizes.values()), devices, slices),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
    )


def count_slices(devices: Sequence[jax.Device]) -> int:
    """Parts of the devices that only the data center's network connects."""
    return len({slice_of(device) for device in devices})


def slice_of(device: jax.Device) -> int:
    """The slice of a device; all are in one where a platform knows none."""
    return getattr(device, "slice_index", 0)


def _arranged(shape: tuple[int, ...], devices: Sequence[jax.Device], slices: int) -> np.ndarray:
    replica, *rest = shape
    if replica % slices:  # an axis that crosses slices in its middle has no better order
        return np.array(sorted(devices, key=slice_of)).reshape(shape)
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return mesh_utils.create_hybrid_device_mesh(
        (replica // slices, *rest), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
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
            raise ValueError(f"axis {name!r} of {axes} is not in lm.distributed.mesh.LAYOUT")
        for mesh_axis in LAYOUT[name]:
            if mesh_axis in used:
                raise ValueError(f"{axes}: two dimensions claim the mesh axis {mesh_axis!r}")
            used.append(mesh_axis)
    entries = [LAYOUT[name] for name in axes]
    return PartitionSpec(*(e[0] if len(e) == 1 else e or None for e in entries))


def sharding(mesh: jax.sharding.Mesh, *axes: str) -> NamedSharding:
    """Where an array of these logical axes lives; no axes: a copy on every device."""
    return NamedSharding(mesh, spec(axes))


def constrain(x: jax.Array, mesh: jax.sharding.Mesh | None, axes: Axes) -> jax.Array:
    """Pins an activation's layout, so that the compiler has nothing to guess."""
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, sharding(mesh, *axes))


def platform_of(mesh: jax.sharding.Mesh | None) -> str | None:
    """The platform of the mesh's devices: cpu, gpu or tpu; None without a mesh."""
    return None if mesh is None else str(mesh.devices.flat[0].platform)


def num_shards(mesh: jax.sharding.Mesh | None, axis: str) -> int:
    """Into how many parts the mesh splits a logical axis; 1 without a mesh."""
    if mesh is None:
        return 1
    return int(np.prod([mesh.shape[name] for name in LAYOUT[axis]]))
