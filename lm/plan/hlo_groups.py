"""Which devices of a program's partitions a collective joins."""

import math
import re
from typing import Any

import numpy as np

from lm.plan.hlo_text import Instruction, integers


def members(instruction: Instruction, devices: int) -> tuple[int, ...]:
    """The devices that take part in a collective together with the first."""
    rest = instruction.rest
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
        return int(pairs[1]), int(pairs[2])
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return tuple(integers(listed[1]))
    if iota := re.search(rf"replica_groups=\[(\d+),(\d+)\]<=({_ORDER})", rest):
        groups = _order(iota[3]).reshape(int(iota[1]), int(iota[2]))
        return tuple(groups[0].tolist())
    if named := re.search(r"replica_groups=(mesh\[.*?\].*?\{[^}]*\})", rest):
        return _named_members(named[1])
    if "replica_groups={}" in rest:
        return tuple(range(devices))
    raise ValueError(f"no devices of {instruction.opcode}: {rest[:200]}")


_ORDER = r"\[[\d,]+\](?:T\([\d,]+\))?"
"""Numbers from 0 on as an array of a shape, its axes then taken in another order."""


def _order(text: str) -> np.ndarray:
    """Those numbers, in a row.

    >>> _order("[2,3]T(1,0)").tolist()
    [0, 3, 1, 4, 2, 5]
    """
    shape, _, axes = text.partition("T")
    ids = np.arange(math.prod(integers(shape))).reshape(integers(shape))
    return (ids.transpose(integers(axes)) if axes else ids).ravel()


def _named_members(text: str) -> tuple[int, ...]:
    """The first group along some axes, or parts of axes, of a mesh.

    >>> _named_members("mesh['a'=2,'b'=4] {'b'}")
    (0, 1, 2, 3)
    >>> _named_members("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}")
    (0, 1)
    >>> _named_members("mesh['a'=2,'b'=4] {'b':(2)2}")  # the inner half of b
    (0, 1)
    """
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", text)}
    ids = np.arange(math.prod(sizes.values()))
    if given := re.search(rf"device_ids=\(?({_ORDER}|[\d,]+)", text):
        ids = _order(given[1]) if "[" in given[1] else np.array(integers(given[1]))
    ids, at = ids.reshape(tuple(sizes.values())), list[Any]()
    along = text[text.rindex("{") :]
    for name, size in sizes.items():
        part = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?", along)
        if part and part[1]:
            apart = size // (int(part[1]) * int(part[2]))
            at.append(slice(0, apart * int(part[2]), apart))
        else:
            at.append(slice(None) if part else slice(1))
    return tuple(ids[tuple(at)].ravel().tolist())
