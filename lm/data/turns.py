"""Whose turn each row of a mixture is: as near to the weights as can be, found for any row.

Of the first n rows n x weight are a component's by its weight. What is found here, count(n), is
always less than one row from that, for all components at once. So a component's j-th row (from
0 on) may come no earlier than row floor(j / weight), and must come before row
ceil((j + 1) / weight). Rows that are given by the earliest such deadline meet all of them
(Tijdeman 1980, Discrete Mathematics 32; Baruah et al. 1996, Algorithmica 15, where components
are tasks that share a processor).

For a row to be found without those before it, rows are cut into blocks that are longer than any
component waits for its turn. At each row, counts are known from which all deadlines can be met,
whatever was before: each component has had the whole rows of its weight, and of those that have
begun another, as many as rows are missing have had it, the earliest deadlines first. A block
begins with what one block of deadlines makes of the counts that are known for the beginning of
the block before it, and from there to the next such beginning is given by deadlines again.
Everything is in whole numbers.
"""

import bisect
import functools
import heapq
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from lm.config import UserError

LEAST_WEIGHT = Fraction(1, 10**5)
"""Of a component, of the sum of all: below, a block is too long to be found at once."""


class Phase(NamedTuple):
    """From this row on components have these weights, which sum to 1."""

    row: int
    weights: tuple[Fraction, ...]


class Turns:
    """Which component each row is of, and the how-manieth of it; any row, in any order.

    Each phase but the last must have whole rows of each component. `end` is the first row that
    there is none of, and why, where components end.

    >>> turns = Turns([Phase(0, (Fraction(2, 3), Fraction(1, 3)))], seed=0)
    >>> [turns(row)[0] for row in range(6)].count(0), turns.counts(10**12)
    (4, [666666666667, 333333333333])
    """

    def __init__(
        self, phases: Sequence[Phase], seed: int, end: tuple[int, str] | None = None
    ) -> None:
        self.phases, self.end = tuple(phases), end
        self._rows = [phase.row for phase in phases]
        self._turns = [_Turns(weights, f"{seed}/{row}") for row, weights in phases]

    def __call__(self, row: int) -> tuple[int, int]:
        """The component of a row, and how many of its rows are before it.

        Raises UserError where components have ended before it.
        """
        if self.end is not None and row >= self.end[0]:
            raise UserError(self.end[1])
        phase = bisect.bisect(self._rows, row) - 1
        block, at = self._turns[phase].find(row - self._rows[phase])
        component = block.order[at]
        before = self._before[phase][component] + block.counts[component]
        return component, before + block.order.count(component, 0, at)

    def counts(self, rows: int) -> list[int]:
        """How many of the first so many rows are each component's."""
        if rows == 0:
            return [0] * len(self.phases[0].weights)
        phase = bisect.bisect(self._rows, rows - 1) - 1
        block, at = self._turns[phase].find(rows - 1 - self._rows[phase])
        found = _after(block.counts, block.order[: at + 1])
        return [a + b for a, b in zip(self._before[phase], found, strict=True)]

    def weighed(self, rows: int) -> list[Fraction]:
        """How many of them would be each component's by the weights alone."""
        phase = bisect.bisect(self._rows, rows) - 1
        past = rows - self._rows[phase]
        return [
            before + past * weight
            for before, weight in zip(
                self._before[phase], self.phases[phase].weights, strict=True
            )
        ]

    @functools.cached_property
    def _before(self) -> list[list[int]]:
        """Rows of each component before each phase."""
        found = [[0] * len(self.phases[0].weights)]
        for phase, after in itertools.pairwise(self.phases):
            rows = [(after.row - phase.row) * weight for weight in phase.weights]
            if any(each.denominator > 1 for each in rows):
                raise ValueError(f"{phase} has no whole rows of a component")
            found.append([a + int(b) for a, b in zip(found[-1], rows, strict=True)])
        return found


class _Block(NamedTuple):
    counts: tuple[int, ...]
    """How many rows of each component are before it."""
    order: bytes
    """The component of each of its rows."""


class _Turns:
    """The turns of one phase, whose rows are counted from its own beginning, without an end.

    Where it ends the rows of each component are whole, and so its counts are these.
    """

    def __init__(self, weights: Sequence[Fraction], seed: str) -> None:
        self._weights, self._seed = weights, seed
        waits = max(math.ceil(1 / weight) + 2 for weight in weights if weight)
        self._size = max(_LEAST_BLOCK, waits)
        # Kept as long as this is, and no longer.
        self._beginning = functools.lru_cache(64)(self._find_beginning)
        self._block = functools.lru_cache(16)(self._find_block)

    def find(self, row: int) -> tuple[_Block, int]:
        """The block of a row, and its place in that."""
        block, at = divmod(row, self._size)
        return self._block(block), at

    def _find_block(self, block: int) -> _Block:
        counts, after = self._beginning(block), self._beginning(block + 1)
        return _Block(counts, self._given(block, counts, after))

    def _find_beginning(self, block: int) -> tuple[int, ...]:
        """Counts where a block begins."""
        if block == 0:
            return (0,) * len(self._weights)
        counts = self._possible((block - 1) * self._size)
        return _after(counts, self._given(block - 1, counts))

    def _possible(self, row: int) -> tuple[int, ...]:
        """Counts at a row from which all deadlines can be met."""
        weighed = [row * weight for weight in self._weights]
        counts = [math.floor(each) for each in weighed]
        begun = [each for each, rows in enumerate(weighed) if rows != counts[each]]
        begun.sort(key=lambda each: (math.ceil((counts[each] + 1) / self._weights[each]), each))
        for each in begun[: row - sum(counts)]:
            counts[each] += 1
        return tuple(counts)

    def _given(
        self, block: int, counts: tuple[int, ...], after: tuple[int, ...] | None = None
    ) -> bytes:
        """The component of each row of a block, by the earliest deadline.

        Counts are those before it, and `after` those that must be reached. Those of one
        deadline are in an order that the seed draws.
        """
        start, stop = block * self._size, (block + 1) * self._size
        drawn = random.Random(f"{self._seed}/{start}").random
        windows = [
            _windows(weight, count) for weight, count in zip(self._weights, counts, strict=True)
        ]
        left = [stop - start if weight else 0 for weight in self._weights]
        if after is not None:
            left = [end - count for count, end in zip(counts, after, strict=True)]
        waiting = [(*next(windows[each]), each) for each, rows in enumerate(left) if rows]
        heapq.heapify(waiting)
        ready: list[tuple[int, float, int]] = []
        order = bytearray()
        for row in range(start, stop):
            while waiting and waiting[0][0] <= row:
                _, last, each = heapq.heappop(waiting)
                last = last if after is None else min(last, stop)
                heapq.heappush(ready, (last, drawn(), each))
            _, _, each = heapq.heappop(ready)
            order.append(each)
            left[each] -= 1
            if left[each]:
                heapq.heappush(waiting, (*next(windows[each]), each))
        return bytes(order)


_LEAST_BLOCK = 256


def _windows(weight: Fraction, count: int) -> Iterator[tuple[int, int]]:
    """Of a component's rows from the `count`-th on: the first row that may be it, and the one
    that it must come before.

    >>> windows = _windows(Fraction(2, 5), 0)
    >>> [next(windows) for _ in range(3)]
    [(0, 3), (2, 5), (5, 8)]
    """
    for number in itertools.count(count):
        first = number * weight.denominator // weight.numerator
        yield first, -(-(number + 1) * weight.denominator // weight.numerator)


def _after(counts: Sequence[int], order: bytes) -> tuple[int, ...]:
    return tuple(count + order.count(each) for each, count in enumerate(counts))
