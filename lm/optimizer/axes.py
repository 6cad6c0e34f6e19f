"""What a parameter is, by the axes that it was declared with."""

from typing import Any

import jax
import optax


def is_weight(axes: tuple[str, ...]) -> bool:
    """Whether these are the axes of a matrix: inputs and outputs, one or a stack.

    A table of numbers that are added to scores is none.

    >>> is_weight(("layers", "embed", "heads", "head")), is_weight(("vocab", "embed"))
    (True, True)
    >>> is_weight(("layers", "embed")), is_weight(("layers", "heads", "head"))
    (False, False)
    """
    return len(sides_of(axes)) == 2 and "buckets" not in axes


_SIDES = (
    *(("heads", "head"), ("kv", "head"), ("heads",), ("embed",), ("mlp",)),
    *(("vocab",), ("classes",), ("head",), ("last_embed",), ("act_embed",)),
    *(("positions",), ("token_types",), ("buckets",), ("rank",), ("experts",), ("code",)),
    *(("taps", "embed"), ("taps", "channels"), ("gates", "channels")),
    *(("halves", "channels"), ("channels",), ("gates", "cell"), ("cell",)),
)
"""Runs of axes that are one side of a matrix: all of its inputs or all of its outputs."""


_BESIDE = frozenset({"vocab", "classes", "positions", "token_types"})
"""Axes of tables beside the layers."""


_STACKED = frozenset({"layers", "experts", "cells"})


def sides_of(axes: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Positions of the axes of each side, inputs before outputs; what it is a stack over is no
    side.

    >>> sides_of(("layers", "embed", "heads", "head"))
    [(1,), (2, 3)]
    >>> sides_of(("layers", "experts", "embed", "mlp")), sides_of(("embed", "experts"))
    ([(2,), (3,)], [(0,), (1,)])
    >>> sides_of(("layers", "cells", "cell", "gates", "cell"))
    [(2,), (3, 4)]
    """
    sides: list[tuple[int, ...]] = []
    start = stack_axes(axes)
    while start < len(axes):
        run = next((run for run in _SIDES if axes[start : start + len(run)] == run), None)
        if run is None or len(sides) == 2:
            raise ValueError(f"which axes of {axes} are inputs, which outputs? See _SIDES")
        sides.append(tuple(range(start, start + len(run))))
        start += len(run)
    return sides


def stack_axes(axes: tuple[str, ...]) -> int:
    """How many axes lead that a parameter is only stacked over: layers, and experts or cells.

    >>> stack_axes(("layers", "experts", "mlp", "embed")), stack_axes(("embed", "experts"))
    (2, 0)
    """
    others = (n for n, axis in enumerate(axes) if axis not in _STACKED)
    return next(others, len(axes))


def is_layer_matrix(axes: tuple[str, ...]) -> bool:
    """Whether these are the axes of a matrix of the layers, and of no table beside them."""
    return is_weight(axes) and _BESIDE.isdisjoint(axes)


def is_axes(x: Any) -> bool:
    """Whether this is a leaf of a tree of axes."""
    return isinstance(x, tuple) and not isinstance(x, optax.MaskedNode)


def map_axes(function: Any, axes: Any, *trees: Any) -> Any:
    """`jax.tree.map` over a tree whose leaves are tuples of axis names, and others like it."""
    return jax.tree.map(function, axes, *trees, is_leaf=is_axes)
