"""Accelerators by their makers' numbers: peak of matrix products, memory, and slice names."""

import difflib
import re
from typing import NamedTuple

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


_GIB = 2**30

CHIPS = {
    # cloud.google.com/tpu/docs/v3: 123 TFLOP/s, 32 GiB, 900 GB/s; v3-8 is four chips.
    "v3": Chip(123e12, 32 * _GIB, 900e9, ("TPU v3",), devices=2, counted=2),
    # cloud.google.com/tpu/docs/v4: 275 TFLOP/s, 32 GiB, 1200 GB/s; v4-8 is four chips.
    "v4": Chip(275e12, 32 * _GIB, 1200e9, ("TPU v4",), counted=2),
    # cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB, 819 GB/s; v5e-16 is 16 chips.
    "v5e": Chip(197e12, 16e9, 819e9, ("TPU v5 lite", "TPU v5e")),
    # cloud.google.com/tpu/docs/tpu7x, which has v5p and v6e beside it: 459 TFLOP/s, 95 GiB,
    # 2765 GB/s; v5p-8 is four chips.
    "v5p": Chip(459e12, 95 * _GIB, 2765e9, ("TPU v5", "TPU v5p"), counted=2),
    # Both that page and cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GiB, 1638 GB/s; v6e-16
    # is 16 chips.
    "v6e": Chip(918e12, 32 * _GIB, 1638e9, ("TPU v6 lite", "TPU v6e")),
    # cloud.google.com/tpu/docs/tpu7x: 2307 TFLOP/s, 192 GiB, 7380 GB/s, two devices a chip;
    # tpu7x-8 is four chips (topology 2x2x1 in github.com/AI-Hypercomputer/xpk).
    "tpu7x": Chip(2307e12, 192 * _GIB, 7380e9, ("TPU7x",), devices=2, counted=2),
    # GPUs are the SXM boards. NVIDIA's data sheets print products with sparsity, twice these;
    # the dense numbers are in github.com/stas00/ml-engineering, compute/accelerator.
    # nvidia.com/en-us/data-center/a100: 312 TFLOP/s, 80 GB, 2039 GB/s.
    "a100": Chip(312e12, 80e9, 2039e9, ("NVIDIA A100-SXM4-80GB",)),
    # nvidia.com/en-us/data-center/h100: 1979 TFLOP/s with sparsity, 80 GB, 3.35 TB/s.
    "h100": Chip(989e12, 80e9, 3350e9, ("NVIDIA H100 80GB HBM3",)),
    # nvidia.com/en-us/data-center/h200: 1979 TFLOP/s with sparsity, 141 GB, 4.8 TB/s.
    "h200": Chip(989e12, 141e9, 4800e9, ("NVIDIA H200",)),
    # nvidia.com/en-us/data-center/dgx-b200, eight of them: 180 GB and 8 TB/s each; 4500
    # TFLOP/s with sparsity.
    "b200": Chip(2250e12, 180e9, 8000e9, ("NVIDIA B200",)),
}
"""Chips by the name that slices begin with."""


class Slice(NamedTuple):
    """So many chips of a kind."""

    chip: Chip
    chips: int

    @property
    def flops(self) -> float:
        """Peak FLOP/s of all chips."""
        return self.chips * self.chip.flops


def parse_slice(name: str) -> Slice:
    """The slice of a name such as v5e-16, or h100-8 for eight GPUs.

    As in Cloud TPU's accelerator types, the number counts chips for v5e and v6e, and cores, two
    a chip, for the other TPUs. Raises UserError for a name that is none.

    >>> parse_slice("v5e-16").chips, parse_slice("v5p-16").chips, parse_slice("h100-8").chips
    (16, 8, 8)
    >>> parse_slice("v5-16")
    Traceback (most recent call last):
    lm.config.UserError: v5-16: no such slice; nearest: v5p-16, v5e-16, v4-16
    """
    known = re.fullmatch(r"(\w+)-([1-9][0-9]{0,6})", name.lower())
    chip = CHIPS.get(known[1]) if known else None
    if known is None or chip is None:
        kind, _, number = name.lower().partition("-")
        near = difflib.get_close_matches(kind, CHIPS, cutoff=0.5) or list(CHIPS)
        number = number if re.fullmatch("[1-9][0-9]*", number) else "16"
        several = ", ".join(f"{kind}-{number}" for kind in near)
        raise UserError(f"{name}: no such slice; nearest: {several}")
    count = int(known[2])
    if count % chip.counted:
        raise UserError(f"{name}: {known[1]} counts cores, two a chip; nearest: {count + 1}")
    return Slice(chip, count // chip.counted)


def peak_of(kind: str) -> float | None:
    """Peak FLOP/s of one jax device by its `device_kind`, or None where it is not known.

    >>> peak_of("TPU v5 lite"), peak_of("TPU v3"), peak_of("cpu")
    (197000000000000.0, 61500000000000.0, None)
    """
    return next(
        (chip.flops / chip.devices for chip in CHIPS.values() if kind in chip.kinds), None
    )
