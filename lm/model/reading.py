"""How models without attention read rows: from the left, or from both ends, one segment each.

A row that is read from both ends is so by channels: the first half of a mixer's channels comes
from the left, the other from the right. Parameters and products are the same either way, so
that one model can be causal or bidirectional, as a transformer can.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.example import AttentionMask, BidirectionalMask, CausalMask, Example


class RowState(NamedTuple):
    """What a causal module keeps of rows that it has read: it need not read them again.

    Each row has a length of its own. Padding (segment 0) leaves it as it is, and a row whose
    length is set to 0 is empty.
    """

    layers: dict[str, jax.Array]
    """Of all layers, [N, B, ...]."""
    segments_BT: jax.Array
    """Of the last T positions of each row."""
    cache_length_B: jax.Array
    """int32[B]: how many positions of each row have been read."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Reading:
    """Which positions of the rows go on from which, on each side that they are read from.

    T positions that were read before stand before the L of the rows; E = T + L.
    """

    sides: tuple[jax.Array, ...]
    """int32[B, E] each: the segments from the left, and from the right if that is read too."""
    before: int = field(metadata={"static": True})
    """T."""

    @property
    def two_way(self) -> bool:
        """Whether rows are read from both ends."""
        return len(self.sides) == 2

    def of(self, side: int) -> "Reading":
        """The rows as one side reads them, in its order."""
        return Reading((self.sides[side],), self.before)

    def turned(self, x_BLC: jax.Array) -> jax.Array:
        """The channels of the right side in the order in which it is read, or back from it.

        >>> rows = jnp.ones((1, 4), jnp.int32)
        >>> both = Reading((rows, rows), 1)
        >>> both.turned(jnp.arange(6).reshape(1, 3, 2))[0].tolist()
        [[0, 5], [2, 3], [4, 1]]
        """
        if not self.two_way:
            return x_BLC
        left, right = jnp.split(x_BLC, 2, axis=-1)
        return jnp.concatenate([left, right[:, ::-1]], axis=-1)

    def real(self, channels: int) -> jax.Array:
        """Where no padding is, bool[B, L, 1 or C], by side."""
        return _by_channel([side[:, self.before :] > 0 for side in self.sides], channels)

    def goes_on(self, by: jax.Array | int, channels: int) -> jax.Array:
        """Where what stands `by` positions before is of the segment, bool[B, L, 1 or C].

        >>> rows = Reading((jnp.array([[0, 1, 1, 2, 0, 0]]),), 1)
        >>> rows.goes_on(1, 8)[0, :, 0].astype(int).tolist()
        [0, 1, 0, 0, 0]
        """
        return _by_channel(
            [
                (side[:, self.before :] == self._shifted(side, by))
                & (side[:, self.before :] > 0)
                for side in self.sides
            ],
            channels,
        )

    def past(self, x_BEC: jax.Array, by: jax.Array | int) -> jax.Array:
        """What stands `by` positions before, [B, L, ..., C]: 0 where that is not the segment's.

        `by` is at most T.
        """
        kept_BLC = self.goes_on(by, x_BEC.shape[-1])
        wide = (*kept_BLC.shape[:2], *(1,) * (x_BEC.ndim - 3), kept_BLC.shape[2])
        return jnp.where(kept_BLC.reshape(wide), self._shifted(x_BEC, by), 0)

    def joined(self, before: jax.Array | None, x_BLC: jax.Array) -> jax.Array:
        """What was kept of the T positions before, or zeros, and then x: [B, E, ..., C]."""
        if before is None:
            shape = (x_BLC.shape[0], self.before, *x_BLC.shape[2:])
            before = jnp.zeros(shape, x_BLC.dtype)
        return jnp.concatenate([before, x_BLC], axis=1)

    def last(self, x_BEC: jax.Array) -> jax.Array:
        """The last T positions that are no padding, which stands last, [B, T, ..., C]."""
        count_B1 = (self.sides[0][:, self.before :] > 0).sum(axis=1, keepdims=True)
        index_BT = count_B1 + jnp.arange(self.before)[None]
        shape = (*index_BT.shape, *(1,) * (x_BEC.ndim - 2))
        return jnp.take_along_axis(x_BEC, index_BT.reshape(shape), axis=1)

    def _shifted(self, x_BEC: jax.Array, by: jax.Array | int) -> jax.Array:
        length = x_BEC.shape[1] - self.before
        return jax.lax.dynamic_slice_in_dim(x_BEC, self.before - by, length, axis=1)


def read(
    attention_mask: AttentionMask,
    segments_BL: jax.Array,
    state: RowState | None,
    before: int,
) -> Reading:
    """How whole rows are read, or rows that go on from a state, with T positions before them.

    Of rows that go on, padding must stand last.
    """
    if state is None:
        before_BT = jnp.zeros((len(segments_BL), before), segments_BL.dtype)
    elif isinstance(attention_mask, CausalMask):
        before_BT = jnp.where(state.cache_length_B[:, None] > 0, state.segments_BT, 0)
    else:
        raise ValueError("only a causal row can go on from what was read before")
    sides = [segments_BL]
    if isinstance(attention_mask, BidirectionalMask):
        sides.append(segments_BL[:, ::-1])
    joined = tuple(jnp.concatenate([before_BT, side], axis=1) for side in sides)
    return Reading(joined, before)


def padding_last(example: Example) -> tuple[jax.Array, jax.Array]:
    """The order of positions in which those of segment 0 stand last, and the one back.

    int32[B, L] each, for `take_along_axis`.
    """
    order_BL = jnp.argsort(example.segments == 0, axis=1, stable=True)
    return order_BL, jnp.argsort(order_BL, axis=1)


def _by_channel(of_sides: list[jax.Array], channels: int) -> jax.Array:
    """What holds on each side, [B, L], for the channels that are read there."""
    if len(of_sides) == 1:
        return of_sides[0][:, :, None]
    return jnp.repeat(jnp.stack(of_sides, axis=2), channels // 2, axis=2)
