"""Which array of theirs is which of ours: one list a family, read in both directions."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lm.config import UserError
from lm.output.tensors import FLOATS, Index, LazyArray


@dataclass(frozen=True)
class Rule:
    """One array of ours, and where theirs has it.

    Of ours, matrices have their inputs first, and those of all layers are one array; with
    "{n}" in its name theirs has an array for each layer.
    """

    ours: str
    theirs: str
    kind: Literal["same", "linear", "conv"] = "same"
    """linear: a matrix as PyTorch's Linear has it, [outputs, inputs]; conv: [inputs, outputs]
    (GPT-2's Conv1D); same: anything else."""
    part: tuple[int, int] = (0, 1)
    """Which of how many equal parts of theirs, along its outputs."""
    first: int = 0
    """The layer that is the first of ours."""

    def name(self, layer: int) -> str:
        """The name that theirs has for one of our layers.

        >>> Rule("layers/up", "h.{n}.up", first=1).name(0)
        'h.1.up'
        """
        return self.theirs.replace("{n}", str(layer + self.first))

    @property
    def layered(self) -> bool:
        """Whether theirs has an array for each layer."""
        return "{n}" in self.theirs

    @property
    def inputs(self) -> int | None:
        """How many axes of a layer of ours are inputs of a matrix; None: all but the last.

        >>> Rule("layers/out", "o").inputs, Rule("lora/layers/out/a", "o.lora_A").inputs
        (None, None)
        """
        return None if self.ours.endswith(("out", "out/a")) else 1


Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each array of ours."""


def names(rules: Iterable[Rule], shapes: Shapes) -> set[str]:
    """All names that theirs has for a model of these arrays.

    >>> sorted(names([Rule("layers/up", "{n}.up")], {"layers/up": (2, 4, 8)}))
    ['0.up', '1.up']
    """
    return {
        rule.name(layer)
        for rule in rules
        if rule.ours in shapes
        for layer in range(shapes[rule.ours][0] if rule.layered else 1)
    }


def to_ours(
    theirs: Mapping[str, LazyArray], rules: Iterable[Rule], shapes: Shapes
) -> dict[str, LazyArray]:
    """Ours by name, each read from theirs when it is asked for, and no more of it than is.

    Raises UserError for an array of theirs that is missing, or has not the shape of ours.
    """
    rule_of = {rule.ours: rule for rule in rules}
    if lost := sorted(shapes.keys() - rule_of.keys()):
        raise AssertionError(f"no rule for {lost[0]}")
    return {name: _ours(theirs, rule_of[name], shape) for name, shape in shapes.items()}


def to_theirs(ours: Mapping[str, LazyArray], rules: Iterable[Rule]) -> dict[str, LazyArray]:
    """Theirs by name, each made of ours when it is asked for."""
    parts: dict[str, dict[int, LazyArray]] = {}
    axis: dict[str, int] = {}
    for rule in rules:
        if rule.ours not in ours:
            continue
        whole = ours[rule.ours]
        for layer in range(whole.shape[0] if rule.layered else 1):
            name = rule.name(layer)
            parts.setdefault(name, {})[rule.part[0]] = _theirs(rule, whole, layer)
            axis[name] = 1 if rule.kind == "conv" else 0
    return {name: _joined(part, axis[name]) for name, part in parts.items()}


def _ours(theirs: Mapping[str, LazyArray], rule: Rule, shape: tuple[int, ...]) -> LazyArray:
    layers, one = (shape[0], shape[1:]) if rule.layered else (1, shape)
    sources = []
    for layer in range(layers):
        name = rule.name(layer)
        if name not in theirs:
            raise UserError(f"tensor {name} is missing")
        sources.append(theirs[name])
        if sources[-1].shape not in (wanted := _shapes_of(rule, one)):
            raise UserError(
                f"tensor {name} is {list(sources[-1].shape)}, and the settings say"
                f" {list(wanted[0])}"
            )
        if sources[-1].dtype not in FLOATS:
            raise UserError(
                f"tensor {name} is of {sources[-1].dtype}: quantized numbers are not read"
            )
    kinds = {source.dtype for source in sources}
    dtype = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
    if not rule.layered:
        return LazyArray(dtype, shape, lambda part: _read(sources[0], rule, one, part))

    def read(part: Index) -> np.ndarray:
        chosen = range(layers)[part[0]]
        sizes = [len(range(size)[each]) for size, each in zip(one, part[1:], strict=True)]
        stacked = np.empty((len(chosen), *sizes), dtype)
        for row, layer in enumerate(chosen):
            stacked[row] = _read(sources[layer], rule, one, part[1:])
        return stacked

    return LazyArray(dtype, shape, read)


def _shapes_of(rule: Rule, one: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The shapes that theirs may have."""
    if rule.kind == "same":
        return [(rule.part[1] * one[0], *one[1:]), (rule.part[1] * math.prod(one),)]
    split = len(one) - 1 if rule.inputs is None else rule.inputs
    inputs, outputs = math.prod(one[:split]), math.prod(one[split:]) * rule.part[1]
    return [(outputs, inputs) if rule.kind == "linear" else (inputs, outputs)]


def _read(source: LazyArray, rule: Rule, one: tuple[int, ...], part: Index) -> np.ndarray:
    """A part of a layer of ours, from what holds it of theirs."""
    number, _ = rule.part
    if rule.kind == "same":
        rows, rest = _flat(one, part)
        if len(source.shape) < len(one):  # heads and their elements are one axis
            begin = number * math.prod(one)
            block = source.read((slice(begin + rows.start, begin + rows.stop),))
            return block.reshape(-1, *one[1:])[(slice(None), *rest)]
        begin = number * one[0]
        a, b, _ = part[0].indices(one[0])
        return source.read((slice(begin + a, begin + b), *part[1:]))
    split = len(one) - 1 if rule.inputs is None else rule.inputs
    inputs, rest_inputs = _flat(one[:split], part[:split])
    outputs, rest_outputs = _flat(one[split:], part[split:])
    begin = number * math.prod(one[split:])
    outputs = slice(begin + outputs.start, begin + outputs.stop)
    if rule.kind == "linear":
        block = source.read((outputs, inputs)).T
    else:
        block = source.read((inputs, outputs))
    block = block.reshape(-1, *one[1:split], _first(part[split], one[split]), *one[split + 1 :])
    whole = slice(None)
    return block[(whole, *rest_inputs, whole, *rest_outputs)]


def _first(part: slice, size: int) -> int:
    return len(range(size)[part])


def _flat(shape: tuple[int, ...], part: Index) -> tuple[slice, Index]:
    """What of some axes, taken as one, holds a part of the first, and the parts of the rest."""
    each = math.prod(shape[1:])
    begin, end, _ = part[0].indices(shape[0])
    return slice(begin * each, end * each), part[1:]


def _theirs(rule: Rule, whole: LazyArray, layer: int) -> LazyArray:
    one = whole.shape[1:] if rule.layered else whole.shape
    # Heads and their elements are one axis in theirs; tables stay as they are.
    table = rule.kind == "same" and not rule.layered
    flat = rule.kind == "same" and rule.layered
    shape = (math.prod(one),) if flat else _part_shape(rule, one)

    def read(part: Index) -> np.ndarray:
        array = whole.whole() if not rule.layered else _layer(whole, layer)
        if rule.kind == "linear":
            array = array.reshape(shape[::-1]).T
        elif rule.kind == "conv" or not table:
            array = array.reshape(shape)
        return array[part]

    return LazyArray(whole.dtype, shape, read)


def _part_shape(rule: Rule, one: tuple[int, ...]) -> tuple[int, ...]:
    shape = list(_shapes_of(rule, one)[0])
    shape[1 if rule.kind == "conv" else 0] //= rule.part[1]
    return tuple(shape)


def _layer(whole: LazyArray, layer: int) -> np.ndarray:
    rest = (slice(None),) * (len(whole.shape) - 1)
    return whole.read((slice(layer, layer + 1), *rest))[0]


def _joined(parts: Mapping[int, LazyArray], axis: int) -> LazyArray:
    """Parts in their order as one array."""
    inside = [parts[number] for number in sorted(parts)]
    if len(inside) == 1:
        return inside[0]
    shape = list(inside[0].shape)
    shape[axis] = sum(part.shape[axis] for part in inside)

    def read(part: Index) -> np.ndarray:
        return np.concatenate([each.whole() for each in inside], axis=axis)[part]

    return LazyArray(inside[0].dtype, tuple(shape), read)
