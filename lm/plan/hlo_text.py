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


def sizes(type_: str, *, everywhere: bool = False, filled: bool = True) -> list[int]:
    """Bytes of each array of a type that lies in main memory (or, if asked, anywhere).

    A TPU's arrays are tiles, and what is moved of them is whole tiles: `filled` counts these.

    >>> types = "(f32[2,3]{1,0:T(8,128)}, f32[2,3], bf16[4]{0:T(128)S(1)}, u32[]{:S(2)})"
    >>> sizes(types), sizes(types, filled=False)
    ([4096, 24, 0, 0], [24, 24, 0, 0])
    """
    found = []
    for dtype, shape, layout in _ARRAY.findall(type_):
        bits = _BITS.get(dtype) or int((re.search(r"\d+", dtype) or [0])[0])
        elsewhere = re.search(r"S\([1-9]", layout) and not everywhere
        sides = _in_tiles(integers(shape), layout) if filled else integers(shape)
        found.append(0 if elsewhere else math.ceil(math.prod(sides) * bits / 8))
    return found


def _in_tiles(sides: list[int], layout: str) -> list[int]:
    """The sides of an array up to whole tiles, in the order of its layout.

    >>> _in_tiles([16, 1000, 64], "2,1,0:T(8,128)(2,1)"), _in_tiles([3, 5], "0,1:T(8,128)")
    ([128, 1000, 16], [128, 8])
    """
    order, _, tiles = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    if tile is None or not order:
        return sides
    minor_first = [sides[axis] for axis in integers(order)]
    for at, size in enumerate(reversed(integers(tile[1])[-len(minor_first) :])):
        minor_first[at] = -(-minor_first[at] // size) * size
    return minor_first


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


_PASSES = {"rematted_computation": "again", "transpose(": "backward", "jvp(": "forward"}


def place(instruction: Instruction) -> str:
    """What an instruction is of in the source, by what jax wrote: the pass, the place, the
    primitive; and its first result.

    >>> path = "jit(step)/while/body/closed_call/jvp(Module)/while/body/layers/layers._mlp/mul"
    >>> rest = f', metadata={{op_name="{path}"}}'
    >>> place(Instruction("fusion.7", "f32[2,8]{1,0}", "fusion", (), rest, "", is_root=False))
    'forward layers._mlp mul f32[2,8]'

    What has no path is named as the compiler names it.
    """
    path = re.search(r'op_name="([^"]*)"', instruction.rest)
    parts = path[1].split("/") if path else [re.sub(r"[.\d]+$", "", instruction.name)]
    passes = [word for sign, word in _PASSES.items() if path and sign in path[1]][:1]
    named = [part for part in parts[:-1] if "." in part][-1:]
    array = _ARRAY.search(instruction.type)
    out = [f"{array[1]}[{array[2]}]"] if array else []
    return " ".join([*passes, *named, parts[-1], *out])
