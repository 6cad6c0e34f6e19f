"""The devices that are planned for, by a slice's name."""

import importlib.util
import math
from typing import NamedTuple

from lm.config import UserError
from lm.cost.chips import CHIPS, Slice, parse_slice
from lm.plan.found import HERE, Found


class Machine(NamedTuple):
    """The devices that are planned for, and what one of them does."""

    name: str
    slices: int
    devices: int
    chips: int
    flops: float
    memory: float
    bandwidth: float
    groups: int = 1
    """Parts that are wired together within: the slices, and of GPUs the eights."""
    platform: str = "cpu"
    """For which its programs are compiled."""
    flops_float32: float | None = None
    """Of products of float32 operands, where they are known to be slower."""
    efficiency: float = 1.0
    """Fraction of the floors' speed that is reached."""
    told: bool = False
    """Whether that fraction is what the user says, and was not measured."""
    decides: bool = False
    """Whether the compiler refuses what does not fit."""
    estimate: str = ""
    """Why it is no more than an estimate, if it is not."""

    def floors(self, found: Found) -> dict[str, float]:
        """Seconds that a step takes at least, by what takes them."""
        slow = found.flops_float32 if self.flops_float32 else 0.0
        fast = found.flops + found.kernel_flops - slow
        return {
            "compute": fast / self.flops + slow / (self.flops_float32 or 1.0),
            "memory": found.bytes / self.bandwidth,
            "ici": sum(moved.ici_seconds for moved in found.collectives),
            "dcn": sum(moved.dcn_seconds for moved in found.collectives),
        }

    def seconds(self, found: Found) -> float:
        """Seconds of a step, NaN of one that was refused.

        A CPU's products wait for its memory; elsewhere they overlap.
        """
        if found.refused:
            return math.nan
        floors = self.floors(found)
        least = sum(floors.values()) if self.name == HERE else max(floors.values())
        return least / self.efficiency

    def fits(self, found: Found) -> bool:
        """Whether the memory is enough; of a TPU its compiler knows that better."""
        return not found.refused and (self.decides or found.used <= self.memory)


def find_machine(name: str, slices: int) -> Machine:
    """The machine of a name; raises UserError where there is none, or no compiler for it."""
    if name == HERE:
        if slices > 1:
            raise UserError(f"--slices {slices}: {HERE} is one machine")
        from lm.cost.memory import machine_memory

        return Machine(HERE, 1, 1, 1, math.nan, machine_memory(), math.nan)
    machine = machine_of_slice(name, slices)
    if not machine.estimate and importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--slice {name}: the TPU's compiler is not installed:"
            " pip install 'yardstick-lm[plan]'"
        )
    return machine


def machine_of_slice(name: str, slices: int = 1) -> Machine:
    """So many slices of a name, by their maker's numbers; no compiler need be there.

    Raises UserError where there is no such slice, or its network is not known.
    """
    try:
        slice_: Slice = parse_slice(name)
    except UserError as error:
        raise UserError(f"--slice {error}, or {HERE}") from None
    chip, estimate = slice_.chip, ""
    if chip.platform == "gpu":
        estimate = "compiled for CPUs in place of the GPUs, whose compiler fuses more"
    if slices > 1 and chip.dcn is None:
        kind = name.partition("-")[0]
        raise UserError(f"--slices {slices}: the network between {kind} slices is not known")
    fraction = chip.devices
    devices = slices * slice_.chips * fraction
    return Machine(
        name=name.lower(),
        slices=slices,
        devices=devices,
        chips=slices * slice_.chips,
        groups=-(-slices * slice_.chips // slice_.together),
        flops=chip.flops / fraction,
        memory=chip.memory / fraction,
        bandwidth=chip.bandwidth / fraction,
        platform="cpu" if estimate else "tpu",
        decides=not estimate,
        estimate=estimate,
    )


def slice_of_scale(scale: str | None) -> str | None:
    """The slice that a scale names, if it names one.

    >>> slice_of_scale("v5e-8"), slice_of_scale("laptop")
    ('v5e-8', None)
    """
    return scale if scale and scale.partition("-")[0] in CHIPS else None
