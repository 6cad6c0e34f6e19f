"""What a compiled program does, read from its HLO text: products, memory traffic, collectives.

The compiler's own cost analysis counts the body of a loop once; here it counts as often as the
loop turns. Numbers are those of one device, as the program is partitioned already.
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

from lm.plan.found import Traffic
from lm.plan.hlo_groups import members
from lm.plan.hlo_products import convolution_flops, dot_flops, kernel_flops
from lm.plan.hlo_text import (
    ENTRY,
    Computation,
    HloModule,
    Instruction,
    integers,
    parse_module,
    place,
    sizes,
)


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
    traffic: list[Traffic]
    """By place in the source, the `MOST` that move the most."""
    collectives: tuple[Collective, ...]


MOST = 10


class Unreadable(ValueError):
    """A program's text is not as this module knows it: compilers change how they write."""


def work(text: str, devices: int) -> Work:
    """The work of a compiled program on so many devices; raises Unreadable."""
    try:
        return _Reader(parse_module(text), devices).work()
    except (LookupError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise Unreadable(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from error


_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "iota", "opt-barrier", "domain", "add-dependency", "async-update"),
)
_COLLECTIVES = (
    *("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute"),
)
_SLICES = ("dynamic-slice", "slice", "gather")
_NO_WORK = ("AllocateBuffer", "ConcatBitcast", "AsyncCollectiveStart", "AsyncCollectiveDone")


class _Kernel(NamedTuple):
    """The fusion that is walked through."""

    name: str
    """Of its computation."""

    scope: int
    """The computation that runs it."""
    begins: bool
    """Whether it begins a collective that others go on with."""


_BEGINS = "async-collective-start"
"""What libtpu calls kernels that begin a collective."""
_SCATTERS = "all-reduce-scatter"
"""What it calls those that keep one part of what an all-reduce in them gives."""


class _Reader:
    """Walks a module from its entry, loops as often as they turn."""

    def __init__(self, module: HloModule, devices: int) -> None:
        self.module = module
        self.devices = devices
        self.flops = self.flops_float32 = 0.0
        self.bytes = 0.0
        self.traffic: dict[str, Traffic] = {}
        self.collectives: dict[Hashable, Collective] = {}
        self.begun: Counter[tuple[str, int]] = Counter()

    def work(self) -> Work:
        self._walk(self.module[ENTRY], 1)
        most = heapq.nlargest(MOST, self.traffic.values(), key=lambda each: each.bytes)
        collectives = tuple(self.collectives.values())
        return Work(self.flops, self.flops_float32, self.bytes, most, collectives)

    def _walk(self, here: Computation, times: int, kernel: _Kernel | None = None) -> None:
        for instruction in here.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind == "while":
                module = self.module[instruction.attribute("body") or ""]
                self._walk(module, times * self._turns(instruction, here), kernel)
                continue
            for called in self._called(instruction):
                inner = kernel
                if kernel is None and instruction.opcode == "fusion":
                    inner = _Kernel(called, id(here), instruction.name.startswith(_BEGINS))
                self._walk(self.module[called], times, inner)
            if kind in ("dot", "convolution"):
                of = dot_flops if kind == "dot" else convolution_flops
                flops = times * of(instruction, here)
                self.flops += flops
                if here.instructions[instruction.operands[0]].type.startswith("f32"):
                    self.flops_float32 += flops
            if kind == "custom-call" and "ragged_dot" in instruction.rest:
                flops = times * kernel_flops(instruction)
                self.flops += flops
                if here.instructions[instruction.operands[-1]].type.startswith("f32"):
                    self.flops_float32 += flops
            if kind in _COLLECTIVES:
                self._collect(kind, instruction, here, times, kernel)
            if kind == "recv" and "_xla_megascale_transfer_type" in instruction.rest:
                self._collect_across(instruction, times)
            if kernel is None:
                moved = times * self._traffic(instruction, here)
                self.bytes += moved
                if moved:
                    name = place(instruction)
                    of_place = self.traffic.setdefault(name, Traffic(name, 0, 0.0))
                    of_place.times += times
                    of_place.bytes += moved

    def _called(self, instruction: Instruction) -> Iterator[str]:
        for name in ("calls", "true_computation", "false_computation"):
            if called := instruction.attribute(name):
                yield called
        if instruction.opcode == "call" and (called := instruction.attribute("to_apply")):
            yield called
        if branches := re.search(r"branch_computations=\{([^}]*)\}", instruction.rest):
            yield from re.findall(r"%([\w.\-]+)", branches[1])

    # Loops

    def _turns(self, loop: Instruction, here: Computation) -> int:
        """How often a loop turns: what it counts up to, from where, and by how much."""
        if known := re.search(r'known_trip_count"?:\{"n":"(\d+)"', loop.rest):
            return int(known[1])
        condition = self.module[loop.attribute("condition") or ""]
        module = self.module[loop.attribute("body") or ""]
        test = condition.root
        counter, limit = (condition.instructions[name] for name in test.operands)
        if "direction=LT" not in test.rest or counter.opcode != "get-tuple-element":
            raise ValueError(f"a loop that does not count up: {loop.name}")
        index = int(counter.attribute("index") or 0)
        end = self._value(limit, condition)
        start = self._value(here.instructions[loop.operands[0]], here, index)
        step = self._value(module.instructions[module.root.operands[index]], module)
        return max(0, math.ceil((end - start) / step))

    def _value(self, of: Instruction, here: Computation, index: int = -1) -> int:
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

    def _traffic(self, instruction: Instruction, here: Computation) -> float:
        opcode, out = instruction.opcode, sum(sizes(instruction.type))
        types = [here.instructions[name].type for name in instruction.operands]
        if opcode in _FREE or opcode in ("call", "conditional"):
            return 0
        target = re.search(r'custom_call_target="(\w+)"', instruction.rest)
        if target and target[1] in _NO_WORK:
            return 0
        if opcode in ("copy-done", "slice-done"):  # between main memory and a nearer one
            return sum(sizes(instruction.type, everywhere=True))
        if opcode.endswith(("-start", "-done")):
            return out if opcode.endswith("-done") else 0
        if opcode in _SLICES:
            return 2 * out
        if opcode == "dynamic-update-slice":
            return 2 * sum(sizes(types[1]))
        if opcode == "fusion":
            return self._fusion_traffic(instruction, types)
        return out + sum(sum(sizes(type_)) for type_ in types)

    def _fusion_traffic(self, fusion: Instruction, types: list[str]) -> float:
        """Of an operand that is only cut into, the tokens; of one written in place, those."""
        inner = self.module[fusion.attribute("calls") or ""]
        total = 0.0
        for number, type_ in enumerate(types):
            size, parameter = sum(sizes(type_)), inner.parameter(number)
            if size and parameter is not None:
                read = 0.0
                for user in self._readers(inner, parameter.name):
                    if user.opcode in _SLICES:
                        read += sum(sizes(user.type, everywhere=True))
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
        outs = sizes(fusion.type)
        for root, out in zip(roots, outs, strict=False):
            while root.opcode == "bitcast":
                root = inner.instructions[root.operands[0]]
            if root.opcode == "dynamic-update-slice" and out:
                out = sum(sizes(inner.instructions[root.operands[1]].type, everywhere=True))
            total += out
        return total

    def _readers(self, inner: Computation, name: str) -> Iterator[Instruction]:
        for user in inner.instructions.values():
            if name not in user.operands:
                continue
            if user.opcode == "bitcast":
                yield from self._readers(inner, user.name)
            else:
                yield user

    # Collectives

    def _collect(
        self,
        kind: str,
        instruction: Instruction,
        here: Computation,
        times: int,
        kernel: _Kernel | None,
    ) -> None:
        sent: Any = {"everywhere": True, "filled": False}
        given = [
            sum(sizes(here.instructions[name].type, **sent)) for name in instruction.operands
        ]
        out = sizes(instruction.type, **sent)
        if instruction.opcode.endswith("-start"):  # operands, results, and what is internal
            results = max(out) if len(given) == 1 else sum(out) - sum(given)
            size = max(sum(given), results)
        else:
            size = max(sum(given), sum(out))
        if kernel and kernel.name.startswith(_SCATTERS):
            kind = "reduce-scatter"
        found = Collective(kind, size, members(instruction, self.devices), times)
        # What runs beside other work stands in the kernel that begins it and in all up to its
        # end, under one number; so do other turns of a loop, and copies of an unrolled layer.
        channel = re.search(r"channel_id=(\d+)", instruction.rest)
        key: Hashable = id(here), instruction.name
        if kernel and channel:
            self.begun[channel[1], kernel.scope] += kernel.begins
            key = channel[1], kernel.scope, self.begun[channel[1], kernel.scope]
        self.collectives.setdefault(key, found)

    def _collect_across(self, recv: Instruction, times: int) -> None:
        """A collective between slices: libtpu has the hosts send each device's part."""
        kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', recv.rest)
        slices = re.search(r'_xla_megascale_target="\{([\d,:]+)\}x', recv.rest)
        channel = re.search(r"channel_id=(\d+)", recv.rest)
        if kind is None or slices is None or channel is None:
            raise ValueError(f"a transfer between slices that is not read: {recv.rest[:300]}")
        ends = [integers(part) for part in slices[1].split(",")]
        count = sum(end[-1] - end[0] + 1 for end in ends)
        apart = self.devices // count
        # Hosts count their channels by themselves.
        self.collectives[f"hosts' {channel[1]}"] = Collective(
            kind=kind[1].lower().replace("_", "-"),
            bytes=max(sizes(recv.type, everywhere=True, filled=False)),
            members=tuple(range(0, count * apart, apart)),
            times=times,
        )
