"""What a cleaning step owes: a verdict on each text, by a rule that has a name and a source."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from lm.config import Config

if TYPE_CHECKING:
    from lm.data.cleaning.observed import Observed


class Verdict(NamedTuple):
    """What a step makes of a document."""

    text: str
    """What is left of it."""
    rule: str = ""
    """The rule by which it is removed; none: it stays."""
    why: str = ""
    """What the rule found, in a few words."""
    changes: Mapping[str, int] = MappingProxyType({})
    """How often each rule took something from its text."""
    twin: int = -1
    """The number, among all documents that the step saw, of the one that stays in its place."""
    across: bool = False
    """Whether these two fall on the two sides of the split by document."""


TextJudge = Callable[[Sequence[str]], list[Verdict]]
"""A verdict for each text."""


class Base(Config):
    """A step: a frozen value that removes documents, or changes their texts.

    It looks at each document by itself; `AcrossDocuments` are those that look at all.
    """

    rules: ClassVar[Mapping[str, str]]
    """What each rule does, in words, with its source."""

    def applied(self) -> Mapping[str, str]:
        """Those of its rules that its settings apply."""
        return self.rules

    def files(self) -> list[tuple[str, Path]]:
        """(name, path) of all that it reads, of which its verdicts depend."""
        return []

    def open(self) -> TextJudge:
        """Reads what it needs, once a process. Raises UserError in one line."""
        raise NotImplementedError


class AcrossDocuments(Config):
    """A step that compares all documents, whatever order they come in.

    Each process observes some of them; what was observed of all is decided upon at once; then
    each judges some by what was decided. On many machines only what shares a hash with others
    is decided upon, and where hashes are `apart` each machine decides upon some of them.
    """

    rules: ClassVar[Mapping[str, str]]
    row: ClassVar[str] = "ranks"
    """The array that has as many rows as decisions: one a document, unless a step says so."""
    judged_by: ClassVar[tuple[str, ...]] = ("ranks",)
    """The arrays that `judge` reads, and `row`."""
    apart: ClassVar[bool] = False
    """Whether rows that meet in one hash are decided upon without those of another."""

    def applied(self) -> Mapping[str, str]:
        return self.rules

    def files(self) -> list[tuple[str, Path]]:
        return []

    def observe(self, texts: Sequence[str], seed: int) -> Mapping[str, np.ndarray]:
        """Arrays, to be kept for `decide`."""
        raise NotImplementedError

    def hashes(self, observed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(hashes, uint64; the row of each): what meets no other's hash stays as it is."""
        raise NotImplementedError

    def some(
        self, observed: Mapping[str, np.ndarray], rows: np.ndarray
    ) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """What was observed of these rows alone, and the documents that they are of."""
        raise NotImplementedError

    def decide(self, observed: "Observed") -> None:
        """Fills `observed.decision`s from the arrays of all documents."""
        raise NotImplementedError

    def judge(self, texts: Sequence[str], decided: Mapping[str, np.ndarray]) -> list[Verdict]:
        """A verdict for each text, from what was observed of these and decided about them."""
        raise NotImplementedError
