"""Attention, one file a backend. A new kernel: one file, a line in `KERNELS`, and its name."""

from lm.model.attention.choose import KERNEL_LENGTH, Attention, Backend, choose, pairs, refusal
from lm.model.attention.kernels import KERNELS, attend_in_blocks
from lm.model.attention.measured import note_backend, note_file, noted_backend
from lm.model.attention.xla import KeyExtent, attend, key_extents

__all__ = [
    "KERNELS",
    "KERNEL_LENGTH",
    "Attention",
    "Backend",
    "KeyExtent",
    "attend",
    "attend_in_blocks",
    "choose",
    "key_extents",
    "note_backend",
    "note_file",
    "noted_backend",
    "pairs",
    "refusal",
]
