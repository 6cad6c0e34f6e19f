"""Rules in both directions, by arrays of which every number is another."""

import itertools

import numpy as np
import pytest

from lm.config import UserError
from lm.hub.rules import Rule, names, to_ours, to_theirs
from lm.output.tensors import LazyArray

SHAPES = {
    "layers/query": (2, 6, 4, 3),
    "layers/query_bias": (2, 4, 3),
    "layers/key": (2, 6, 4, 3),
    "layers/key_bias": (2, 4, 3),
    "layers/out": (2, 4, 3, 6),
    "layers/up": (2, 6, 8),
    "layers/down": (2, 8, 6),
    "later_norm_1/scale": (1, 6),
    "embedding": (10, 6),
    "buckets": (5, 6),
    "norm/scale": (6,),
}
RULES = [
    Rule("layers/query", "h.{n}.qk.weight", "linear", part=(0, 2)),
    Rule("layers/key", "h.{n}.qk.weight", "linear", part=(1, 2)),
    Rule("layers/query_bias", "h.{n}.qk.bias", part=(0, 2)),
    Rule("layers/key_bias", "h.{n}.qk.bias", part=(1, 2)),
    Rule("layers/out", "h.{n}.o.weight", "conv"),
    Rule("layers/up", "h.{n}.up.weight", "conv"),
    Rule("layers/down", "h.{n}.down.weight", "linear"),
    Rule("later_norm_1/scale", "h.{n}.norm.weight", first=1),
    Rule("embedding", "table.weight"),
    Rule("buckets", "buckets.weight"),
    Rule("norm/scale", "norm.weight"),
]


def ours():
    count = itertools.count(1)
    return {
        name: LazyArray.of(np.fromiter(count, np.float32, int(np.prod(shape))).reshape(shape))
        for name, shape in SHAPES.items()
    }


def test_names_are_those_of_theirs():
    """Fails if a layer is left out, or its number is another."""
    assert names(RULES, SHAPES) == to_theirs(ours(), RULES).keys()
    assert "h.1.norm.weight" in names(RULES, SHAPES)
    assert "h.0.norm.weight" not in names(RULES, SHAPES)


def test_theirs_is_laid_out_as_theirs():
    """Fails if a matrix is not turned over, or parts change places."""
    mine, theirs = ours(), to_theirs(ours(), RULES)
    both = theirs["h.1.qk.weight"].whole()
    assert both.shape == theirs["h.1.qk.weight"].shape == (24, 6)
    assert np.array_equal(both[12:].T, mine["layers/key"].whole()[1].reshape(6, 12))
    out = theirs["h.0.o.weight"].whole()
    assert np.array_equal(out, mine["layers/out"].whole()[0].reshape(12, 6))
    table = theirs["buckets.weight"].whole()
    assert np.array_equal(table, mine["buckets"].whole())


@pytest.mark.parametrize("name", SHAPES)
def test_there_and_back_and_any_part_of_it(name):
    """Fails if a device would be given another part than the one it asks for."""
    mine = ours()[name].whole()
    again = to_ours(to_theirs(ours(), RULES), RULES, SHAPES)[name]
    assert again.shape == mine.shape and np.array_equal(again.whole(), mine)
    halves = [(slice(None), slice(0, (n + 1) // 2), slice(n // 2, n)) for n in mine.shape]
    for part in itertools.product(*halves):
        assert np.array_equal(again.read(part), mine[part]), part


def test_another_shape_is_named():
    """Fails if an array is cut or repeated until it fits."""
    theirs = to_theirs(ours(), RULES) | {"norm.weight": LazyArray.of(np.ones(7, np.float32))}
    with pytest.raises(UserError, match=r"norm.weight is \[7\], and the settings say \[6\]"):
        to_ours(theirs, RULES, SHAPES)


def test_quantized_numbers_are_not_taken_for_others():
    """Fails if integers become weights."""
    theirs = to_theirs(ours(), RULES) | {"norm.weight": LazyArray.of(np.ones(6, np.int8))}
    with pytest.raises(UserError, match=r"norm.weight is of int8: quantized"):
        to_ours(theirs, RULES, SHAPES)
