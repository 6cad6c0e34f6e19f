"""The text of a compiled program (HLO), taken apart: computations, instructions, sizes."""

import math
import re
from typing import NamedTuple


class Instruction(NamedTuple):
    """A line of a computation."""

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


class Computation(NamedTuple):
    """Instructions by their names, in order."""

    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.is_root)

    def parameter(self, number: int) -> Instruction | None:
        parameters = (i for i in self.instructions.values() if i.opcode == "parameter")
        return next((i for i in parameters if i.inside == str(number)), None)


HloModule = dict[str, Computation]
ENTRY = ""
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")


def parse_module(text: str) -> HloModule:
    """The computations of a program by their names, its entry also as `ENTRY`."""
    module: HloModule = {}
    here: dict[str, Instruction] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            if header := _HEADER.match(line):
                here = {}
                module[header[2]] = Computation(here)
                if header[1]:
                    module[ENTRY] = module[header[2]]
        elif found := _LINE.match(line):
            instruction = _instruction(found[2], found[3], is_root=bool(found[1]))
            here[instruction.name] = instruction
    return module


def _instruction(name: str, text: str, *, is_root: bool) -> Instruction:
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    type_, text = text[:end], text[end:].lstrip()
    start = text.index("(")
    end = _closing(text, start)
    inside = text[start + 1 : end - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, type_, text[:start], operands, text[end:], inside, is_root)


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


def sizes(type_: str, *, everywhere: bool = False) -> list[int]:
    """Bytes of each array of a type that lies in main memory (or, if asked, anywhere).

    >>> sizes("(f32[2,3]{1,0:T(8,128)}, bf16[4]{0:T(128)S(1)}, u32[]{:S(2)})")
    [24, 0, 0]
    """
    found = []
    for dtype, shape, layout in _ARRAY.findall(type_):
        bits = _BITS.get(dtype) or int((re.search(r"\d+", dtype) or [0])[0])
        elsewhere = re.search(r"S\([1-9]", layout) and not everywhere
        found.append(0 if elsewhere else math.ceil(math.prod(integers(shape)) * bits / 8))
    return found


def shape(type_: str) -> list[int]:
    """The sizes of the first array of a type.

    >>> shape("f32[2,3]{1,0}")
    [2, 3]
    """
    array = _ARRAY.search(type_)
    return integers(array[2]) if array else []


def integers(text: str) -> list[int]:
    """The numbers in a text, in order."""
    return [int(number) for number in re.findall(r"\d+", text)]
