"""Accelerators by their makers' numbers: products, memory, networks, and slice names."""

import difflib
import math
import re
from typing import Literal, NamedTuple

from lm.config import UserError


class Chip(NamedTuple):
    """One chip (TPU) or one GPU."""

    flops: float
    """Peak FLOP/s of dense products with bfloat16 operands, without sparsity."""
    memory: float
    """Bytes of HBM."""
    bandwidth: float
    """Bytes/s between the chip and its HBM."""
    kinds: tuple[str, ...]
    """What jax calls a device of it (`jax.Device.device_kind`)."""
    devices: int = 1
    """jax devices a chip: two where each of its cores is one."""
    counted: int = 1
    """What one chip counts in the name of a slice: two where names count cores."""
    platform: Literal["tpu", "gpu"] = "tpu"
    ici: float = 0.0
    """Bytes/s that a chip can receive from its neighbours, over all wires of a slice."""
    sides: int = 2
    """Dimensions of the torus (TPU) that shares `ici`; 1: all reach all (GPU)."""
    wraps: int = 4
    """A dimension that is a multiple of this is a ring, and a shorter one a line."""
    most: int = 256
    """Chips of the largest slice (TPU)."""
    dcn: float | None = None
    """Bytes/s that a chip can receive over the data center's network; None: not known."""


_GIB = 2**30

CHIPS = {
    # cloud.google.com/tpu/docs/v3: 123 TFLOP/s, 32 GiB, 900 GB/s; v3-8 is four chips. Four
    # links of 656 Gb/s: Jouppi et al. 2020, "A domain-specific supercomputer"; 100 GB/s in
    # jax-ml.github.io/scaling-book/tpus. The network is in neither.
    "v3": Chip(
        123e12,
        32 * _GIB,
        900e9,
        ("TPU v3",),
        devices=2,
        counted=2,
        ici=328e9,
        wraps=32,
        most=1024,
    ),
    # cloud.google.com/tpu/docs/v4: 275 TFLOP/s, 32 GiB, 1200 GB/s; v4-8 is four chips. Six
    # links of 50 GB/s: Jouppi et al. 2023 (arXiv:2304.01433). The network is in neither.
    "v4": Chip(
        275e12, 32 * _GIB, 1200e9, ("TPU v4",), counted=2, ici=300e9, sides=3, most=4096
    ),
    # docs.cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB (GiB: its compiler gives programs
    # 15.75 of them), 819 GB/s; v5e-16 is 16 chips; 400 GB/s between chips both ways, 6.4 Tb/s
    # of network for 256 chips.
    "v5e": Chip(
        197e12, 16 * _GIB, 819e9, ("TPU v5 lite", "TPU v5e"), ici=200e9, wraps=16, dcn=3.125e9
    ),
    # docs.cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB, 2765 GB/s; v5p-8 is four chips;
    # 1200 GB/s between chips both ways, 50 Gb/s of network a chip.
    "v5p": Chip(
        459e12,
        95 * _GIB,
        2765e9,
        ("TPU v5", "TPU v5p"),
        counted=2,
        ici=600e9,
        sides=3,
        most=8960,
        dcn=6.25e9,
    ),
    # docs.cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GiB, 1638 GB/s; v6e-16 is 16 chips;
    # 800 GB/s between chips both ways (3200 Gb/s one way), 25.6 Tb/s of network for 256 chips.
    "v6e": Chip(
        918e12, 32 * _GIB, 1638e9, ("TPU v6 lite", "TPU v6e"), ici=400e9, wraps=16, dcn=12.5e9
    ),
    # cloud.google.com/tpu/docs/tpu7x: 2307 TFLOP/s, 192 GiB, 7380 GB/s, two devices a chip;
    # tpu7x-8 is four chips (topology 2x2x1 in github.com/AI-Hypercomputer/xpk); 1200 GB/s
    # between chips both ways, 100 Gb/s of network.
    "tpu7x": Chip(
        2307e12,
        192 * _GIB,
        7380e9,
        ("TPU7x",),
        devices=2,
        counted=2,
        ici=600e9,
        sides=3,
        most=9216,
        dcn=12.5e9,
    ),
    # GPUs are the SXM boards. NVIDIA's data sheets print products with sparsity, twice these;
    # the dense numbers are in github.com/stas00/ml-engineering, compute/accelerator. NVLink is
    # half of what the sheets print both ways; the network is a port a GPU.
    # nvidia.com/en-us/data-center/a100: 312 TFLOP/s, 80 GB, 2039 GB/s, NVLink 600 GB/s; 1600
    # Gb/s of network for eight: github.com/mosaicml/llm-foundry, scripts/train/benchmarking.
    "a100": Chip(
        312e12,
        80e9,
        2039e9,
        ("NVIDIA A100-SXM4-80GB",),
        platform="gpu",
        ici=300e9,
        sides=1,
        dcn=25e9,
    ),
    # nvidia.com/en-us/data-center/h100: 1979 TFLOP/s with sparsity, 80 GB, 3.35 TB/s, NVLink
    # 900 GB/s; a port of 400 Gb/s a GPU: github.com/pytorch/torchtitan, benchmarks.
    "h100": Chip(
        989e12,
        80e9,
        3350e9,
        ("NVIDIA H100 80GB HBM3",),
        platform="gpu",
        ici=450e9,
        sides=1,
        dcn=50e9,
    ),
    # nvidia.com/en-us/data-center/h200: 1979 TFLOP/s with sparsity, 141 GB, 4.8 TB/s; NVLink
    # 900 GB/s and ports of 400 Gb/s: github.com/mlcommons/inference_results_v4.1, systems.
    "h200": Chip(
        989e12, 141e9, 4800e9, ("NVIDIA H200",), platform="gpu", ici=450e9, sides=1, dcn=50e9
    ),
    # nvidia.com/en-us/data-center/dgx-b200, eight of them: 180 GB and 8 TB/s each; 4500
    # TFLOP/s with sparsity; NVLink 14.4 TB/s for eight, a port of 400 Gb/s each:
    # github.com/mlcommons/inference_results_v6.0, systems.
    "b200": Chip(
        2250e12, 180e9, 8000e9, ("NVIDIA B200",), platform="gpu", ici=900e9, sides=1, dcn=50e9
    ),
}
"""Chips by the name that slices begin with.

`ici` is half of what makers print as bidirectional bandwidth. Programs see a tenth less (45
GB/s of the 50 of a link of v5e: jax-ml.github.io/scaling-book/tpus), and floors stay floors.
"""

GPUS_TOGETHER = 8
"""So many GPUs are wired together; further ones are reached over the data center's network."""


class Slice(NamedTuple):
    """So many chips of a kind."""

    chip: Chip
    chips: int

    @property
    def flops(self) -> float:
        """Peak FLOP/s of all chips."""
        return self.chips * self.chip.flops

    def hours(self, flops: float, utilization: float) -> float:
        """Hours that so many FLOPs take at a fraction of the peak."""
        return flops / (self.flops * utilization) / 3600

    @property
    def topology(self) -> tuple[int, ...]:
        """Chips along each side of a TPU slice, as Google offers it; () if it offers none.

        >>> parse_slice("v5e-8").topology, parse_slice("v5p-128").topology
        ((2, 4), (4, 4, 4))
        >>> parse_slice("v5p-3072").topology
        (8, 12, 16)
        >>> parse_slice("v4-8").topology, Slice(CHIPS["v5e"], 6).topology
        ((2, 2, 1), ())
        """
        sides = self.chip.sides
        if self.chips == 4 and sides == 3:
            return 2, 2, 1
        if sides == 3 and self.chips % 64 == 0 and self.chips <= self.chip.most:
            # 4A x 4B x 4C, as near to a cube as there is (cloud.google.com/tpu/docs/v4).
            parts = range(1, self.chips // 64 + 1)
            A, B, C = min(
                (
                    (a, b, self.chips // 64 // (a * b))
                    for a in parts
                    for b in parts[a - 1 :]
                    if self.chips // 64 % (a * b) == 0 and a * b * b <= self.chips // 64
                ),
                key=lambda shape: (shape[2], shape[1]),
            )
            return 4 * A, 4 * B, 4 * C
        power = round(math.log2(self.chips))
        smallest = 0 if sides == 2 else 3
        offered = smallest <= power != 1 and self.chips <= self.chip.most
        if 2**power != self.chips or not offered:
            return ()
        return tuple(2 ** ((power + side) // sides) for side in range(sides))

    @property
    def is_offered(self) -> bool:
        """Whether there is such a slice: of GPUs 1, 2, 4 or whole machines of 8."""
        if self.chip.platform == "gpu":
            whole = self.chips % GPUS_TOGETHER == 0
            return whole or self.chips in (1, 2, 4)
        return bool(self.topology)

    @property
    def offered(self) -> list[int]:
        """Chips of the slices of this kind that come nearest, the smaller one first.

        >>> Slice(CHIPS["v5e"], 6).offered, Slice(CHIPS["v5e"], 2).offered
        ([4, 8], [1, 4])
        >>> Slice(CHIPS["v5e"], 512).offered, Slice(CHIPS["h100"], 12).offered
        ([256], [8, 16])
        >>> Slice(CHIPS["v5p"], 200).offered
        [192, 256]
        """
        if self.chip.platform == "gpu" and self.chips > GPUS_TOGETHER:
            whole = self.chips // GPUS_TOGETHER * GPUS_TOGETHER
            return [whole, whole + GPUS_TOGETHER]
        # Powers of two and, where chips have six neighbours, blocks of 64.
        sizes = sorted({2**power for power in range(14)} | {*range(64, self.chip.most + 1, 64)})
        there = [size for size in sizes if self._replace(chips=size).is_offered]
        below = [size for size in there if size < self.chips][-1:]
        return below + [size for size in there if size > self.chips][:1]

    @property
    def together(self) -> int:
        """Chips that are wired together."""
        return min(GPUS_TOGETHER, self.chips) if self.chip.platform == "gpu" else self.chips


def parse_slice(name: str) -> Slice:
    """The slice of a name such as v5e-16, or h100-8 for eight GPUs.

    As in Cloud TPU's accelerator types, the number counts chips for v5e and v6e, and cores, two
    a chip, for the other TPUs. Raises UserError for a name that is none.

    >>> parse_slice("v5e-16").chips, parse_slice("v5p-16").chips, parse_slice("h100-8").chips
    (16, 8, 8)
    >>> parse_slice("v5e-7")
    Traceback (most recent call last):
    lm.config.struct.UserError: v5e-7: no such shape is offered; nearest: v5e-4, v5e-8
    >>> parse_slice("v5-16")
    Traceback (most recent call last):
    lm.config.struct.UserError: v5-16: no such slice; nearest: v5p-16, v5e-16, v4-16
    """
    known = re.fullmatch(r"(\w+)-([1-9][0-9]{0,6})", name.lower())
    chip = CHIPS.get(known[1]) if known else None
    if known is None or chip is None:
        kind, _, number = name.lower().partition("-")
        near = difflib.get_close_matches(kind, CHIPS, cutoff=0.5) or list(CHIPS)
        most = 10**6  # as what is named must be a name itself
        count = min(int(number[:8]), most) if re.fullmatch("[1-9][0-9]*", number) else 16
        several = ", ".join(each for kind in near for each in _nearest(kind, count))
        raise UserError(f"{name}: no such slice; nearest: {several}")
    count = int(known[2])
    found = Slice(chip, -(-count // chip.counted))
    several = ", ".join(_nearest(known[1], count))
    if count % chip.counted:
        raise UserError(f"{name}: {known[1]} counts cores, two a chip; nearest: {several}")
    if not found.is_offered:
        raise UserError(f"{name}: no such shape is offered; nearest: {several}")
    return found


def _nearest(kind: str, count: int) -> list[str]:
    """Names of the slices of a kind that come nearest to a number, that one if there is it."""
    chip = CHIPS[kind]
    found = Slice(chip, -(-count // chip.counted))
    sizes = [found.chips] if found.is_offered else found.offered
    return [f"{kind}-{size * chip.counted}" for size in sizes]


def peak_of(kind: str) -> float | None:
    """Peak FLOP/s of one jax device by its `device_kind`, or None where it is not known.

    >>> peak_of("TPU v5 lite"), peak_of("TPU v3"), peak_of("cpu")
    (197000000000000.0, 61500000000000.0, None)
    """
    return next(
        (chip.flops / chip.devices for chip in CHIPS.values() if kind in chip.kinds), None
    )
