"""How long a collective takes on the wires of a slice, and between slices."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from lm.cost.chips import Chip, parse_slice
from lm.plan.found import HERE
from lm.plan.hlo import Collective


class DevicePlace(NamedTuple):
    """Where a device is."""

    slice: int
    coords: tuple[int, ...]


def axes_of(collective: Collective, mesh: jax.sharding.Mesh) -> str:
    """The mesh axes along which a collective's devices lie."""
    at = np.array(np.unravel_index(collective.members, mesh.devices.shape))
    return "+".join(
        a for a, line in zip(mesh.axis_names, at, strict=True) if len(set(line.tolist())) > 1
    )


def seconds_of(
    collective: Collective, places: Sequence[DevicePlace], slice_: str
) -> tuple[float, float]:
    """The least time of a collective on the wires within slices, and between them.

    What all devices of a slice must have from another slice comes once, a fraction to each.
    """
    if slice_ == HERE:
        return 0.0, 0.0
    machine = parse_slice(slice_)
    chip = machine.chip
    members = [places[number] for number in collective.members]
    inside = [place for place in members if place.slice == members[0].slice]
    slices = len({place.slice for place in members})
    outer = collective._replace(members=tuple(range(slices)))
    far = outer.received / len(inside) if slices > 1 else 0.0
    near = collective.received - far
    ici = near / (ici_bandwidth(chip, machine.topology, inside) / chip.devices)
    return ici, far / ((chip.dcn or math.inf) / chip.devices)


def ici_bandwidth(chip: Chip, topology: Sequence[int], places: Sequence[DevicePlace]) -> float:
    """Bytes/s that a chip can receive in a collective of these devices of a slice.

    Each side of the torus along which they lie adds two wires where it is a ring, and one
    where it is a line.

    >>> chip = parse_slice("v5e-256").chip
    >>> row = [DevicePlace(0, (x, 0, 0)) for x in range(16)]
    >>> ici_bandwidth(chip, (16, 16), row), ici_bandwidth(chip, (16, 16), row[:4])
    (100000000000.0, 50000000000.0)
    """
    if chip.sides == 1:
        return chip.ici
    wires = 0
    for side, size in enumerate(topology):
        met = len({place.coords[side] for place in places})
        if met > 1:
            wires += 2 if met == size and size % chip.wraps == 0 else 1
    # Two devices of one chip share its memory.
    return chip.ici * wires / (2 * chip.sides) if wires else chip.bandwidth
