"""Attention, one file a backend. A new kernel: one file, a line in `KERNELS`, and its name."""

from lm.model.attention.choose import Attention, Backend, choose, pairs, refusal
from lm.model.attention.kernels import KERNELS, attend_in_blocks
from lm.model.attention.xla import KeyExtent, attend, key_extents

__all__ = [
    "KERNELS",
    "Attention",
    "Backend",
    "KeyExtent",
    "attend",
    "attend_in_blocks",
    "choose",
    "key_extents",
    "pairs",
    "refusal",
]
