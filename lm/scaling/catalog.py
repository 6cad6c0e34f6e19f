"""Every law, by its name."""

from dataclasses import fields
from typing import Any

from lm.scaling.base import Law
from lm.scaling.data_constrained import DataConstrained
from lm.scaling.envelope import Envelope
from lm.scaling.free_floor import FreeFloor
from lm.scaling.isoflop import Isoflop
from lm.scaling.kaplan import Kaplan
from lm.scaling.parametric import Parametric
from lm.scaling.power import Power
from lm.scaling.shared_exponent import SharedExponent

_KINDS = (Parametric, Power, Isoflop, Envelope, DataConstrained, FreeFloor, SharedExponent)

LAWS: dict[str, type[Law]] = {law.name: law for law in (*_KINDS, Kaplan)}
"""In the order in which they are offered; the first is the default."""


def options_of(law: type[Law]) -> frozenset[str]:
    """The options that a law has.

    >>> sorted(options_of(Isoflop))
    ['method', 'tolerance']
    """
    return frozenset(field.name for field in fields(law))  # type: ignore[arg-type] # a dataclass


def law_of(name: str, **options: Any) -> Law:
    """The law of a name, with those of the options that it has and that are not None.

    >>> law_of(Power.name, against="params", method=None)
    Power(against='params', fixed={})
    """
    law = LAWS[name]
    given = {n: v for n, v in options.items() if n in options_of(law) and v is not None}
    return law(**given)
