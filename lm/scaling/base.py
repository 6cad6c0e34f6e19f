"""What a law of loss owes: a frozen value that fits, predicts, and draws itself.

A new law is a file with one such class and a line in `lm/scaling/catalog.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lm.scaling.laws import LawValues
from lm.scaling.table import Runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lm.scaling.fit import Fit

Interval = tuple[float, float]


class Law(ABC):
    """A law; a subclass is a frozen dataclass whose fields are the law's options."""

    name: ClassVar[str]
    """What --law and a fit's file call it."""
    surface: ClassVar[bool] = False
    """Whether it is of size and data, with C = 6 N D, and not of one quantity."""
    split: ClassVar[tuple[str, ...]] = ()
    """Parameters that must be known for the best split of compute to be."""
    limits: ClassVar[Mapping[str, Interval]] = {}
    """What an interval holds beyond these was never tried."""
    minor: ClassVar[tuple[str, ...]] = ()
    """What a table of several groups has no room for."""
    resamples: ClassVar[str] = "rows"
    """What its bootstrap draws: rows, or residuals."""
    methods: ClassVar[tuple[str, ...]] = ()
    """Ways to find its minima or its envelope, the default first; () for laws that have one."""
    joint: ClassVar[bool] = False
    """Whether groups may have parameters in common (`fit_joint`)."""

    against: str = "flops"
    """The quantity that the law is drawn against."""
    method: str | None = None
    """The one of `methods` that is used."""

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """The quantities that every row must have: loss, params, tokens, flops, unique."""

    @abstractmethod
    def fit(self, runs: Runs, *, bootstrap: int, seed: int) -> "Fit":
        """Fits it to runs, with so many draws of the bootstrap; DataError where they do not do.

        What the rows cannot tell is in the fit's `unidentified` and `warnings`.
        """

    @abstractmethod
    def evaluate(self, parameters: LawValues, known: Mapping[str, Any]) -> dict[str, Any]:
        """What is known of a point, and what the law adds; parameters may be draws of them.

        Raises ValueError where it says nothing from what is known.
        """

    @abstractmethod
    def exponents(self, parameters: LawValues) -> dict[str, Any]:
        """How the best split of compute, and the loss, go with it: a, b, and of lines x."""

    @abstractmethod
    def figure(self, fit: "Fit", runs: Runs, loss: str) -> "Figure":
        """Its figure over the runs that it was fit to; `loss` names that axis."""

    def grid(self, runs: Runs, places: np.ndarray) -> dict[str, Any]:
        """The points of a figure of groups, where the law is drawn along `places`."""
        return {self.against: places}

    def best(
        self, fit: "Fit", runs: Runs, what: str
    ) -> Iterator[tuple[np.ndarray | float, np.ndarray | float]]:
        """Where rows themselves show the best size or loss: places, and the values there."""
        yield from ()

    def __str__(self) -> str:
        return self.name
