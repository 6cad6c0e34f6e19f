"""Records: frozen values with typed fields, which tables and fits also read by column name."""

from abc import ABCMeta
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, dataclass_transform

import msgspec


class ColumnInfo(NamedTuple):
    """How tables call and show a field of a result, and what comparisons do with it."""

    title: str
    show: Callable[[Any], str] = str
    error: str | None = None
    """The column that holds its standard error."""
    leading: bool = False
    """Whether it is among the first columns of results.csv."""
    compared: Literal["equal", "spent"] | None = None
    """equal: variants that are compared must agree in it. spent: it follows from the objective,
    and is reported beside the comparison."""


class _Meta(msgspec.StructMeta, ABCMeta):
    """Lets a struct be a mapping."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record(
    msgspec.Struct,
    Mapping[str, Any],
    metaclass=_Meta,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
):
    """A struct that is also a read-only mapping from its fields' names to their values.

    >>> class Point(Record):
    ...     x: int
    >>> Point(x=3)["x"], dict(Point(x=3)), Point(x=3).get("y")
    (3, {'x': 3}, None)
    """

    def __getitem__(self, name: str) -> Any:
        if name in self.__struct_fields__:
            return getattr(self, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__struct_fields__)

    def __len__(self) -> int:
        return len(self.__struct_fields__)
