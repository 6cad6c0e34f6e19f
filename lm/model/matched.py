"""Models of different kinds that have the same number of parameters."""

import bisect
import math
from typing import Any, TypeVar

import msgspec

from lm.model.base import Base

M = TypeVar("M", bound=Base)


def matched(model: M, parameters: int, vocabulary_size: int = 0, *, multiple: int = 1) -> M:
    """The model at the width at which it has most nearly so many parameters.

    Its other fields stay, so that what follows from the width follows it. Widths are multiples
    of `multiple` and of what the model's own must be (`Base.width_multiple`). Tables count as a
    vocabulary of this size makes them: with 0 the embedding is compared with nothing. What the
    model has in the end, `Base.parameters` says.

    >>> from lm.model import Lstm
    >>> found = matched(Lstm(depth=1), 100_000)
    >>> found.width, sum(found.parameters(0).values())
    (84, 99372)
    """
    step = math.lcm(model.width_multiple, multiple)

    def at(number: int) -> M:
        fields: dict[str, Any] = {"width": number * step}
        return msgspec.structs.replace(model, **fields)

    def count(number: int) -> int:
        return sum(at(number).parameters(vocabulary_size).values())

    most = 1
    while count(most) < parameters:
        most *= 2
    above = bisect.bisect_left(range(most + 1), parameters, lo=1, key=count)
    below = max(1, above - 1)
    return at(min(below, above, key=lambda number: abs(count(number) - parameters)))
