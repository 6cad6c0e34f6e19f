"""What a compiled program does, read from its HLO text: products, memory traffic, collectives.

The compiler's own cost analysis counts the body of a loop once; here it counts as often as the
loop turns. Numbers are those of one device, as the program is partitioned already.
"""

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Collective(NamedTuple):
    """A collective operation, and how often the program does it."""

    kind: str
    """all-gather, reduce-scatter, all-reduce, all-to-all or collective-permute."""
    bytes: int
    """Of its result, or of its operand where that is larger, on one device."""
    members: tuple[int, ...]
    """Devices that take part together with the first, as numbers of the partitions."""
    times: int

    @property
    def received(self) -> float:
        """Bytes that a device must receive each time, at least.

        Of n shares it lacks n - 1; an all-reduce is a reduce-scatter and an all-gather.
        """
        if self.kind == "collective-permute":
            return self.bytes
        others = (len(self.members) - 1) / len(self.members)
        return self.bytes * others * (2 if self.kind == "all-reduce" else 1)


class Work(NamedTuple):
    """What one device does in one run of a program."""

    flops: float
    """Of matrix products, two a multiplication."""
    flops_float32: float
    """Of those, products of float32 operands."""
    bytes: float
    """Read from and written to its main memory by operations that do not share a kernel."""
    collectives: tuple[Collective, ...]


def work(text: str, devices: int) -> Work:
    """The work of a compiled program on so many devices."""
    return _Reader(_parse(text), devices).work()


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    """What stands behind the operands."""
    inside: str
    """What stands between the operands' parentheses."""
    is_root: bool

    def attribute(self, name: str) -> str | None:
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


class _Computation(NamedTuple):
    instructions: dict[str, _Instruction]

    @property
    def root(self) -> _Instruction:
        return next(i for i in self.instructions.values() if i.is_root)

    def users(self, name: str) -> list[_Instruction]:
        return [i for i in self.instructions.values() if name in i.operands]

    def parameter(self, number: int) -> _Instruction | None:
        return next(
            (
                i
                for i in self.instructions.values()
                if i.opcode == "parameter" and i.inside == str(number)
            ),
            None,
        )


_Module = dict[str, _Computation]
_ENTRY = ""
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")


def _parse(text: str) -> _Module:
    module: _Module = {}
    here: dict[str, _Instruction] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            if header := _HEADER.match(line):
                here = {}
                module[header[2]] = _Computation(here)
                if header[1]:
                    module[_ENTRY] = module[header[2]]
        elif found := _LINE.match(line):
            instruction = _instruction(found[2], found[3], is_root=bool(found[1]))
            here[instruction.name] = instruction
    return module


def _instruction(name: str, text: str, *, is_root: bool) -> _Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    type_, text = text[:end], text[end:].lstrip()
    start = text.index("(")
    end = _closing(text, start)
    inside = text[start + 1 : end - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return _Instruction(name, type_, text[:start], operands, text[end:], inside, is_root)


def _closing(text: str, start: int) -> int:
    """Just behind the parenthesis that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at + 1
    raise ValueError(f"no closing parenthesis: {text[start : start + 80]}")


_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_BITS = {"pred": 8, "s4": 4, "u4": 4}


def _sizes(type_: str, *, everywhere: bool = False) -> list[int]:
    """Bytes of each array of a type that lies in main memory (or, if asked, anywhere).

    >>> _sizes("(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:T(128)S(1)}, u32[]{:S(2)})")
    [24, 0, 0]
    """
    found = []
    for dtype, shape, layout in _ARRAY.findall(type_):
        bits = _BITS.get(dtype) or int((re.search(r"\d+", dtype) or [0])[0])
        elsewhere = re.search(r"S\([1-9]", layout) and not everywhere
        found.append(0 if elsewhere else math.ceil(math.prod(_numbers(shape)) * bits / 8))
    return found


def _shape(type_: str) -> list[int]:
    array = _ARRAY.search(type_)
    return _numbers(array[2]) if array else []


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


_FREE = frozenset(
    [
        "parameter",
        "constant",
        "tuple",
        "get-tuple-element",
        "bitcast",
        "after-all",
        "partition-id",
        "iota",
        "opt-barrier",
        "domain",
        "add-dependency",
        "async-update",
    ]
)
_COLLECTIVES = frozenset(
    ["all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute"]
)
_SLICES = frozenset(["dynamic-slice", "slice", "gather"])
_NO_WORK = frozenset(
    ["AllocateBuffer", "ConcatBitcast", "AsyncCollectiveStart", "AsyncCollectiveDone"]
)


class _Kernel(NamedTuple):
    """The fusion that is walked through."""

    scope: int
    """The computation that runs it."""
    begins: bool
    """Whether it begins a collective that others go on with."""


_BEGINS = "async-collective-start"
"""What libtpu calls kernels that begin a collective."""


class _Reader:
    """Walks a module from its entry, loops as often as they turn."""

    def __init__(self, module: _Module, devices: int) -> None:
        self.module = module
        self.devices = devices
        self.flops = self.flops_float32 = 0.0
        self.bytes = 0.0
        self.collectives: dict[Hashable, Collective] = {}
        self.begun: Counter[tuple[str, int]] = Counter()

    def work(self) -> Work:
        self._walk(self.module[_ENTRY], 1)
        return Work(
            self.flops, self.flops_float32, self.bytes, tuple(self.collectives.values())
        )

    def _walk(self, here: _Computation, times: int, kernel: _Kernel | None = None) -> None:
        for instruction in here.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind == "while":
                body = self.module[instruction.attribute("body") or ""]
                self._walk(body, times * self._turns(instruction, here), kernel)
                continue
            for called in self._called(instruction):
                inner = kernel
                if kernel is None and instruction.opcode == "fusion":
                    inner = _Kernel(id(here), instruction.name.startswith(_BEGINS))
                self._walk(self.module[called], times, inner)
            if kind in ("dot", "convolution"):
                of = _dot_flops if kind == "dot" else _convolution_flops
                flops = times * of(instruction, here)
                self.flops += flops
                if here.instructions[instruction.operands[0]].type.startswith("f32"):
                    self.flops_float32 += flops
            if kind in _COLLECTIVES:
                self._collect(kind, instruction, here, times, kernel)
            if kind == "recv" and "_xla_megascale_transfer_type" in instruction.rest:
                self._collect_across(instruction, times)
            if kernel is None:
                self.bytes += times * self._traffic(instruction, here)

    def _called(self, instruction: _Instruction) -> Iterator[str]:
        for name in ("calls", "true_computation", "false_computation"):
            if called := instruction.attribute(name):
                yield called
        if instruction.opcode == "call" and (called := instruction.attribute("to_apply")):
            yield called
        if branches := re.search(r"branch_computations=\{([^}]*)\}", instruction.rest):
            yield from re.findall(r"%([\w.\-]+)", branches[1])

    # Loops

    def _turns(self, loop: _Instruction, here: _Computation) -> int:
        """How often a loop turns: what it counts up to, from where, and by how much."""
        if known := re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self.module[loop.attribute("condition") or ""]
        body = self.module[loop.attribute("body") or ""]
        test = condition.root
        counter, limit = (condition.instructions[name] for name in test.operands)
        if "direction=LT" not in test.rest or counter.opcode != "get-tuple-element":
            raise ValueError(f"a loop that does not count up: {loop.name}")
        index = int(counter.attribute("index") or 0)
        end = self._value(limit, condition)
        start = self._value(here.instructions[loop.operands[0]], here, index)
        step = self._value(body.instructions[body.root.operands[index]], body)
        return max(0, math.ceil((end - start) / step))

    def _value(self, of: _Instruction, here: _Computation, index: int = -1) -> int:
        """The value of a scalar, where what enters the computation counts as zero."""
        operands = [here.instructions[name] for name in of.operands]
        match of.opcode:
            case "constant":
                return int(of.inside)
            case "parameter" | "get-tuple-element":
                return 0
            case "tuple":
                return self._value(operands[index], here)
            case "copy" | "bitcast" | "convert" | "copy-done" | "copy-start":
                return self._value(operands[0], here)
            case "add":
                return sum(self._value(operand, here) for operand in operands)
            case "fusion":
                inner = self.module[of.attribute("calls") or ""]
                total = self._value(inner.root, inner)
                return total + sum(self._value(operand, here) for operand in operands)
        raise ValueError(f"a loop whose counter is {of.opcode}: {of.name}")

    # Memory

    def _traffic(self, instruction: _Instruction, here: _Computation) -> float:
        opcode, out = instruction.opcode, sum(_sizes(instruction.type))
        types = [here.instructions[name].type for name in instruction.operands]
        if opcode in _FREE or opcode in ("call", "conditional"):
            return 0
        target = re.search(r'custom_call_target="(\w+)"', instruction.rest)
        if target and target[1] in _NO_WORK:
            return 0
        if opcode in ("copy-done", "slice-done"):  # between main memory and a nearer one
            return sum(_sizes(instruction.type, everywhere=True))
        if opcode.endswith(("-start", "-done")):
            return out if opcode.endswith("-done") else 0
        if opcode in _SLICES:
            return 2 * out
        if opcode == "dynamic-update-slice":
            return 2 * sum(_sizes(types[1]))
        if opcode == "fusion":
            return self._fusion_traffic(instruction, types)
        return out + sum(sum(_sizes(type_)) for type_ in types)

    def _fusion_traffic(self, fusion: _Instruction, types: list[str]) -> float:
        """Of an operand that is only cut into, the pieces; of one written in place, those."""
        inner = self.module[fusion.attribute("calls") or ""]
        total = 0.0
        for number, type_ in enumerate(types):
            size, parameter = sum(_sizes(type_)), inner.parameter(number)
            if size and parameter is not None:
                read = 0.0
                for user in self._readers(inner, parameter.name):
                    if user.opcode in _SLICES:
                        read += sum(_sizes(user.type, everywhere=True))
                    elif (
                        user.opcode != "dynamic-update-slice"
                        or user.operands[0] in (user.operands[1:])
                    ):
                        read = size
                        break
                size = int(min(size, read))
            total += size
        roots = [inner.root]
        if inner.root.opcode == "tuple":
            roots = [inner.instructions[name] for name in inner.root.operands]
        outs = _sizes(fusion.type)
        for root, out in zip(roots, outs, strict=False):
            while root.opcode == "bitcast":
                root = inner.instructions[root.operands[0]]
            if root.opcode == "dynamic-update-slice" and out:
                out = sum(_sizes(inner.instructions[root.operands[1]].type, everywhere=True))
            total += out
        return total

    def _readers(self, inner: _Computation, name: str) -> Iterator[_Instruction]:
        for user in inner.users(name):
            if user.opcode == "bitcast":
                yield from self._readers(inner, user.name)
            else:
                yield user

    # Collectives

    def _collect(
        self,
        kind: str,
        instruction: _Instruction,
        here: _Computation,
        times: int,
        kernel: _Kernel | None,
    ) -> None:
        given = [
            sum(_sizes(here.instructions[n].type, everywhere=True))
            for n in instruction.operands
        ]
        out = _sizes(instruction.type, everywhere=True)
        if instruction.opcode.endswith("-start"):  # operands, results, and what is internal
            results = max(out) if len(given) == 1 else sum(out) - sum(given)
            size = max(sum(given), results)
        else:
            size = max(sum(given), sum(out))
        found = Collective(kind, size, self._members(instruction), times)
        # What runs beside other work stands in the kernel that begins it and in all up to its
        # end, under one number; so do other turns of a loop, and copies of an unrolled layer.
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        key: Hashable = id(here), instruction.name
        if kernel and channel:
            self.begun[channel[1], kernel.scope] += kernel.begins
            key = channel[1], kernel.scope, self.begun[channel[1], kernel.scope]
        self.collectives.setdefault(key, found)

    def _collect_across(self, recv: _Instruction, times: int) -> None:
        """A collective between slices: libtpu has the hosts send each device's part."""
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', recv.rest)
        slices = re.search(r'_xla_megascale_target="\{([\d,:]+)\}x', recv.rest)
        channel = re.search(r"channel_id=(\d+)", recv.rest)
        if kind is None or slices is None or channel is None:
            raise ValueError(f"a transfer between slices that is not read: {recv.rest[:300]}")
        ends = [_numbers(part) for part in slices[1].split(",")]
        count = sum(end[-1] - end[0] + 1 for end in ends)
        apart = self.devices // count
        # Hosts count their channels by themselves.
        self.collectives[f"hosts' {channel[1]}"] = Collective(
            kind=kind[1].lower().replace("_", "-"),
            bytes=max(_sizes(recv.type, everywhere=True)),
            members=tuple(range(0, count * apart, apart)),
            times=times,
        )

    def _members(self, instruction: _Instruction) -> tuple[int, ...]:
        rest = instruction.rest
        if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
            return int(pairs[1]), int(pairs[2])
        if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
            return tuple(_numbers(listed[1]))
        if iota := re.search(rf"replica_groups=\[(\d+),(\d+)\]<=({_ORDER})", rest):
            groups = _order(iota[3]).reshape(int(iota[1]), int(iota[2]))
            return tuple(groups[0].tolist())
        if named := re.search(r"replica_groups=(mesh\[.*?\].*?\{[^}]*\})", rest):
            return _named_members(named[1])
        if "replica_groups={}" in rest:
            return tuple(range(self.devices))
        raise ValueError(f"no devices of {instruction.opcode}: {rest[:200]}")


_ORDER = r"\[[\d,]+\](?:T\([\d,]+\))?"
"""Numbers from 0 on as an array of a shape, its axes then taken in another order."""


def _order(text: str) -> np.ndarray:
    """Those numbers, in a row.

    >>> _order("[2,3]T(1,0)").tolist()
    [0, 3, 1, 4, 2, 5]
    """
    shape, _, axes = text.partition("T")
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return (ids.transpose(_numbers(axes)) if axes else ids).ravel()


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
        ids = _order(given[1]) if "[" in given[1] else np.array(_numbers(given[1]))
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


def _dot_flops(dot: _Instruction, here: _Computation) -> float:
    summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.rest)
    left = _shape(here.instructions[dot.operands[0]].type)
    inner = math.prod(left[axis] for axis in _numbers(summed[1])) if summed else 1
    return 2.0 * math.prod(_shape(dot.type)) * inner


def _convolution_flops(convolution: _Instruction, here: _Computation) -> float:
    """Two for every pair of an input and a weight that meet; a TPU's products are of this kind.

    Padding and the holes of dilated inputs meet nothing, which is how batches of products are
    written as windows.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.rest)
    if labels is None:
        raise ValueError(f"a convolution without labels: {convolution.rest[:200]}")
    left, right = (_shape(here.instructions[name].type) for name in convolution.operands)
    out = _shape(convolution.type)
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
