"""FLOPs of the matrix products that HLO has: dots, and convolutions that stand for them."""

import math
import re

import numpy as np

from lm.plan.hlo_text import Computation, Instruction, integers, shape


def dot_flops(dot: Instruction, here: Computation) -> float:
    """Two for each element of the result and of what is summed over."""
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.rest)
    left = shape(here.instructions[dot.operands[0]].type)
    inner = math.prod(left[axis] for axis in integers(summed[1])) if summed else 1
    return 2.0 * math.prod(shape(dot.type)) * inner


def kernel_flops(kernel: Instruction) -> float:
    """What a kernel says that it computes, as those of ragged products do; 0 if nothing.

    >>> rest = 'backend_config={"cost_estimate":{"flops":"64","transcendentals":"0"}}'
    >>> kernel_flops(Instruction("a", "f32[2]", "custom-call", (), rest, "", is_root=False))
    64.0
    """
    said = re.search(r'"cost_estimate":\{"flops":"(\d+)"', kernel.rest)
    return float(said[1]) if said else 0.0


def convolution_flops(convolution: Instruction, here: Computation) -> float:
    """Two for every pair of an input and a weight that meet; a TPU's products are of this kind.

    Padding and the holes of dilated inputs meet nothing, which is how batches of products are
    written as windows.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.rest)
    if labels is None:
        raise ValueError(f"a convolution without labels: {convolution.rest[:200]}")
    left, right = (shape(here.instructions[name].type) for name in convolution.operands)
    out = shape(convolution.type)
    groups = re.search(r"batch_group_count=(\d+)", convolution.rest)
    rows = left[labels[1].index("b")] / (int(groups[1]) if groups else 1)
    features = right[labels[2].index("i")]
    columns = out[labels[3].index("f")]
    pairs = 1
    window = _window(convolution.rest)
    for axis in range(len(labels[1]) - 2):
        size = left[labels[1].index(str(axis))]
        taps = right[labels[2].index(str(axis))]
        places = out[labels[3].index(str(axis))]
        pairs *= _meet(size, taps, places, {k: v[axis] for k, v in window.items()})
    return 2.0 * rows * features * columns * pairs


def _window(rest: str) -> dict[str, list[tuple[int, ...]]]:
    found = re.search(r"window=\{([^}]*)\}", rest)
    parts = dict(part.split("=") for part in found[1].split()) if found else {}
    rank = len(parts["size"].split("x")) if parts else 0
    default = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    return {
        name: [
            tuple(int(n) for n in part.split("_"))
            for part in (parts[name].split("x") if name in parts else [usual] * rank)
        ]
        for name, usual in default.items()
    }


def _meet(size: int, taps: int, places: int, window: dict[str, tuple[int, ...]]) -> int:
    """How many pairs of an output place and a tap of the window lie on an input.

    >>> _meet(4, 4, 4, {"stride": (1,), "pad": (0, 3), "lhs_dilate": (1,), "rhs_dilate": (1,)})
    10
    """
    (stride,), (low, _) = window["stride"], window["pad"]
    (dilate,), (apart,) = window["lhs_dilate"], window["rhs_dilate"]
    at = np.arange(places)[:, None] * stride + np.arange(taps)[None, :] * apart - low
    return int(((at >= 0) & (at <= (size - 1) * dilate) & (at % dilate == 0)).sum())
