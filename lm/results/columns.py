"""Columns of results, derived from the fields of their parts."""

from typing import Annotated, Literal, get_args, get_origin

import msgspec

from lm.results.record import ColumnInfo
from lm.results.result import Costs, Evaluation, Training


def columns() -> dict[str, ColumnInfo]:
    """All columns that tables show, by name: those of costs, of the evaluation, of training.

    >>> columns()["flops"].title, columns()["flops"].show(1.62e14)
    ('FLOPs', '1.6×10¹⁴')
    """
    return {
        field.name: about
        for part in (Costs, Evaluation, Training)
        for field in msgspec.structs.fields(part)
        if get_origin(field.type) is Annotated
        for about in get_args(field.type)
        if isinstance(about, ColumnInfo)
    }


def leading() -> tuple[str, ...]:
    """The columns that every results.csv begins with, in order."""
    return tuple(name for name, column in columns().items() if column.leading)


def compared(how: Literal["equal", "spent"]) -> dict[str, ColumnInfo]:
    """What variants that are compared must agree in, or what each of them spent.

    >>> list(compared("spent"))
    ['predicted_targets', 'target_positions', 'flops', 'flops_6nd', 'device_seconds']
    """
    return {name: column for name, column in columns().items() if column.compared == how}
