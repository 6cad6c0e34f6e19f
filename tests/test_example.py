"""Positions and visibility, held to their definitions token by token."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.example import BidirectionalMask, CausalMask, UntilMask, mask_array, positions_of

LENGTH = 7
"""One for all examples, so that each function compiles once."""


@st.composite
def packed(draw) -> list[int]:
    """The segments of a row: documents from 1 on, then padding."""
    ends = draw(st.lists(st.integers(1, LENGTH), max_size=4, unique=True).map(sorted))
    sizes = np.diff([0, *ends])
    row = [number for number, size in enumerate(sizes, 1) for _ in range(size)]
    return row + [0] * (LENGTH - len(row))


ROWS = st.lists(packed(), min_size=2, max_size=2)


@settings(max_examples=30)
@given(ROWS)
def test_positions_count_from_the_start_of_each_segment(rows):
    """Fails if positions run on over a boundary, or a row begins where the last one ended."""
    expected = [
        [sum(before == here for before in row[:at]) for at, here in enumerate(row)]
        for row in rows
    ]
    assert positions_of(jnp.array(rows)).tolist() == expected


@settings(max_examples=30)
@given(ROWS, st.lists(st.integers(-1, LENGTH), min_size=2 * LENGTH, max_size=2 * LENGTH))
def test_until_is_its_own_segment_up_to_a_row_position(rows, until):
    """Fails if the bound is exclusive, counts from the segment's start, or is the key's."""
    until_BL = np.array(until).reshape(2, LENGTH)
    expected = [
        [
            [row[key] == row[query] > 0 and key <= bound[query] for key in range(LENGTH)]
            for query in range(LENGTH)
        ]
        for row, bound in zip(rows, until_BL, strict=True)
    ]
    mask_BLM = mask_array(UntilMask(jnp.array(until_BL)), jnp.array(rows))
    assert mask_BLM.tolist() == expected


@settings(max_examples=20)
@given(ROWS)
def test_causal_and_full_are_until_here_and_until_the_end(rows):
    """Fails if a causal query does not see itself, or a full one not all of its segment."""
    segments_BL = jnp.array(rows)
    here_BL = jnp.broadcast_to(jnp.arange(LENGTH), segments_BL.shape)
    end_BL = jnp.full(segments_BL.shape, LENGTH - 1)
    for attention_mask, until_BL in ((CausalMask(), here_BL), (BidirectionalMask(), end_BL)):
        np.testing.assert_array_equal(
            mask_array(attention_mask, segments_BL),
            mask_array(UntilMask(until_BL), segments_BL),
        )


def test_jit_cannot_take_one_kind_for_another():
    """Fails if structures are equal: a compiled program of one kind then serves the other.

    Hashes differ even then, so that what it does goes wrong in one process of a hundred.
    """
    kinds = [CausalMask(), BidirectionalMask(), UntilMask(jnp.zeros((1, 3), int))]
    structures = [jax.tree.structure(kind) for kind in kinds]
    for one, other in itertools.combinations(structures, 2):
        assert one != other
    assert [jax.tree.structure(kind) for kind in kinds] == structures


@pytest.mark.parametrize(
    "attention_mask", [CausalMask(), BidirectionalMask(), UntilMask(jnp.full((1, 3), 2))]
)
def test_padding_sees_nothing_and_is_not_seen(attention_mask):
    """Fails if padding counts as a segment like another."""
    mask_BLM = np.asarray(mask_array(attention_mask, jnp.array([[1, 0, 0]])))
    assert mask_BLM[0, 0, 0]
    assert mask_BLM.sum() == 1
