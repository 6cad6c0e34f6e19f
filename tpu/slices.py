"""The slices that Google offers: their names, shapes, hosts, and the runtime that fits them.

From Google's pages on each TPU version (docs.cloud.google.com/tpu/docs/v6e and so on), on TPU
software versions (tpu/docs/runtimes) and on TPUs in GKE (kubernetes-engine/docs/concepts/
plan-tpus). Only usual shapes are here; a new generation is an entry.
"""

import difflib
import math
import re
from typing import NamedTuple

from tpu.errors import UserError, nearest


class Generation(NamedTuple):
    """What the slices of one generation have in common."""

    accelerator: str
    """What the TPU API calls it, before the size."""
    cores: int
    """How many each chip counts for in the size."""
    runtime: str | None
    """The machine image; None if the TPU API does not offer this generation."""
    gke: str
    """The node label `cloud.google.com/gke-tpu-accelerator`."""
    topologies: tuple[str, ...]
    multislice: bool = True
    """Whether several of its slices can be one run: tpu/docs/multislice-introduction."""


class Slice(NamedTuple):
    """Chips that are wired together, and the machines that they are in."""

    name: str
    accelerator: str
    """What the TPU API calls it: `v5litepod-16`."""
    topology: str
    chips: int
    chips_per_host: int
    runtime: str | None
    gke: str
    multislice: bool

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_per_host


_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_SQUARES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

GENERATIONS = {
    "v3": Generation(
        accelerator="v3",
        cores=2,
        runtime="tpu-ubuntu2204-base",
        gke="tpu-v3-slice",
        topologies=("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
        multislice=False,
    ),
    "v4": Generation(
        accelerator="v4",
        cores=2,
        runtime="tpu-ubuntu2204-base",
        gke="tpu-v4-podslice",
        topologies=(*_CUBES, "8x8x16", "8x16x16"),
    ),
    "v5e": Generation(
        accelerator="v5litepod",
        cores=1,
        runtime="v2-alpha-tpuv5-lite",
        gke="tpu-v5-lite-podslice",
        topologies=_SQUARES,
    ),
    "v5p": Generation(
        accelerator="v5p",
        cores=2,
        runtime="v2-alpha-tpuv5",
        gke="tpu-v5p-slice",
        topologies=(*_CUBES, "8x8x16", "8x16x16", "16x16x16", "16x16x24"),
    ),
    "v6e": Generation(
        accelerator="v6e",
        cores=1,
        runtime="v2-alpha-tpuv6e",
        gke="tpu-v6e-slice",
        topologies=_SQUARES,
    ),
    "tpu7x": Generation(
        accelerator="tpu7x",
        cores=2,
        # "For Ironwood (TPU7x), you must use" GKE: tpu/docs/queued-resources.
        runtime=None,
        gke="tpu7x",
        topologies=(*_CUBES, "8x8x16", "8x16x16", "16x16x16", "16x16x24"),
    ),
}


def _slice(name: str, generation: Generation, topology: str) -> Slice:
    chips = math.prod(int(side) for side in topology.split("x"))
    size = chips * generation.cores
    gke = generation.gke
    if name == "v3" and chips == 4:
        gke = "tpu-v3-device"  # a single v3 host is another kind of node
    return Slice(
        name=f"{name}-{size}",
        accelerator=f"{generation.accelerator}-{size}",
        topology=topology,
        chips=chips,
        # Hosts have four chips; of v5e and v6e there are hosts of one and of eight, for slices
        # that are one host.
        chips_per_host=chips if chips == 1 or topology == "2x4" else 4,
        runtime=generation.runtime,
        gke=gke,
        multislice=generation.multislice,
    )


SLICES = {
    slice_.name: slice_
    for name, generation in GENERATIONS.items()
    for slice_ in (_slice(name, generation, topology) for topology in generation.topologies)
}


def find(name: str) -> Slice:
    """The slice of this name; the error names the nearest ones.

    >>> find("v5e-16").hosts
    4
    >>> find("v5e-12")
    Traceback (most recent call last):
    tpu.errors.UserError: --slice v5e-12: no such slice; nearest: v5e-8, v5e-16
    """
    if name in SLICES:
        return SLICES[name]
    generation, _, size = name.rpartition("-")
    aliases = {g.accelerator: known for known, g in GENERATIONS.items()}
    generation = aliases.get(generation, generation)
    if generation in GENERATIONS and re.fullmatch("[0-9]{1,9}", size):
        names = [known for known in SLICES if known.rpartition("-")[0] == generation]
        sizes = sorted(names, key=lambda known: abs(math.log(_size(known) / max(int(size), 1))))
        near = sorted(sizes[:1] if _size(sizes[0]) == int(size) else sizes[:2], key=_size)
        raise UserError(f"--slice {name}: no such slice; nearest: {', '.join(near)}")
    near = difflib.get_close_matches(name, SLICES, 2, 0.6)
    if not near:
        raise UserError(
            f"--slice {name}: no such slice; write a generation ({', '.join(GENERATIONS)})"
            " and a size: v5e-16"
        )
    raise UserError(f"--slice {name}: no such slice; nearest: {', '.join(near)}")


def check_number(slice_: Slice, number: int) -> None:
    """Raises UserError for several slices of a generation of which one run takes one."""
    if number > 1 and not slice_.multislice:
        several = ", ".join(name for name, g in GENERATIONS.items() if g.multislice)
        raise UserError(
            f"--slices {number}: slices of {slice_.name.partition('-')[0]} cannot be one run,"
            f" those of {several} can; take one, or a larger one"
        )


def check_runtime(slice_: Slice, runtime: str | None) -> str:
    """The runtime to ask for, the slice's own if none is named."""
    if slice_.runtime is None:
        raise UserError(
            f"--slice {slice_.name}: Google offers it on GKE alone; use python -m tpu manifest"
            " --kind jobset"
        )
    if runtime not in (None, slice_.runtime):
        known = dict.fromkeys(g.runtime for g in GENERATIONS.values() if g.runtime)
        what = "of another generation" if runtime in known else nearest(runtime or "", known)
        raise UserError(f"--runtime {runtime}: {slice_.name} needs {slice_.runtime} ({what})")
    return slice_.runtime


def _size(name: str) -> int:
    return int(name.rpartition("-")[2])
