"""Which code computes attention: XLA's, which runs everywhere, or a platform's own kernel.

Kernels take a block of scores at a time (Dao et al. 2022). They run off their platform too, for
tests and proofs.
"""

from typing import Literal

from lm.example import AttentionMask
from lm.model.attention import xla
from lm.model.attention.kernels import KERNELS
from lm.numerics import Precision

Backend = Literal["xla", "splash", "triton", "cudnn"]
Attention = Literal["auto", Backend]

KERNEL_LENGTH = 512
"""Positions of a row from which on `auto` takes a kernel: below, a position's scores (H L of
them: 8 D in rows of 512 with heads of 64) are no more than the rest that a layer keeps."""


def refusal(
    attention: Attention, *, precision: Precision, head_size: int, platform: str | None = None
) -> str | None:
    """Why a backend cannot do what is asked, in one line, or None.

    >>> refusal("cudnn", precision="float32", head_size=64)
    'attention=cudnn multiplies bfloat16 only, and precision=float32; it may be auto or xla'

    A platform of None is not known yet.
    """
    kernel = KERNELS.get(attention)
    if kernel is None:
        return None
    if platform not in (kernel.home, None):
        why = f"is for the platform {kernel.home}, and this one is {platform}"
    elif precision != "bfloat16":
        why = f"multiplies bfloat16 only, and precision={precision}"
    elif not (why := kernel.refuse_heads(head_size) or ""):
        return None
    return f"attention={attention} {why}; it may be auto or xla"


def choose(
    attention: Attention, *, platform: str | None, precision: Precision, length: int
) -> Backend:
    """The backend for rows of a length: by itself splash on TPUs, for long rows, else XLA.

    >>> on = {"platform": "tpu", "precision": "bfloat16"}
    >>> [choose("auto", length=length, **on) for length in (256, 2048)]
    ['xla', 'splash']

    Kernels for GPUs must be asked for, or noted (`lm.model.attention.measured`): they were
    lowered for GPUs, and not run on one.
    """
    if attention != "auto":
        return attention
    if platform == "tpu" and precision == "bfloat16" and length >= KERNEL_LENGTH:
        return "splash"
    return "xla"


def pairs(backend: Backend, attention_mask: AttentionMask, length: int) -> int:
    """Pairs of a query and a key that a backend computes of a row, whether masked or not."""
    count = xla.pairs if backend == "xla" else KERNELS[backend].pairs
    return count(attention_mask, length)
