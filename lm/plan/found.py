"""What is planned for a device, and what its compiler found: the words of this package."""

from typing import Literal

import msgspec

StepKind = Literal["train", "validate", "score"]
HERE = "cpu"
"""The slice that is this machine's own processor."""


class Moved(msgspec.Struct):
    """The collectives of one kind along the same mesh axes, in one step of one device."""

    kind: str
    axes: str
    """Joined by `+`."""
    times: int
    bytes: float
    """That a device receives."""
    ici_seconds: float
    dcn_seconds: float


class Traffic(msgspec.Struct):
    """What the operations of one place in the source move through main memory in a step."""

    name: str
    times: int
    bytes: float


class Found(msgspec.Struct):
    """What one device needs and does in a step; bytes and FLOPs."""

    mesh: dict[str, int]
    arguments: dict[str, int] = {}
    """parameters, optimizer, rows: as they lie in memory, by shardings and layouts."""
    argument_bytes: int = 0
    """All of them, as the compiler says."""
    output_bytes: int = 0
    """What is returned, but for what takes an argument's place."""
    temporary_bytes: int = 0
    code_bytes: int = 0
    flops: float = 0.0
    """Of matrix products in the program's text, or by the ledger where that is not read."""
    flops_float32: float = 0.0
    """Of those, products of float32 operands."""
    kernel_flops: float = 0.0
    """Of attention's kernels, by the ledger: no compiler counts them."""
    bytes: float = 0.0
    """Read from and written to main memory."""
    traffic: list[Traffic] = []
    """Of that, what moves the most."""
    collectives: list[Moved] = []
    unread: str = ""
    """Why the program's text was not read: traffic and collectives are then not known."""
    compile_seconds: float = 0.0
    rematerialized: bool = False
    """Whether the partitioner said that it copies an array whole, as no other way fits."""
    refused: str = ""
    """What the compiler says where the program does not fit."""
    refused_bytes: float | None = None
    """What it would have needed, at least."""
    measured_seconds: list[float] = []

    @property
    def used(self) -> float:
        """Bytes of main memory that are needed at once."""
        if self.refused_bytes is not None:
            return self.refused_bytes
        return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


class Speed(msgspec.Struct):
    """What this machine's processor does, as measured."""

    flops: float
    flops_float32: float
    bandwidth: float
