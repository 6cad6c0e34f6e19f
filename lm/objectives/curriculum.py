"""One objective until a share of training is done, then another."""

from collections import Counter
from typing import Annotated

from msgspec import Meta

from lm.example import Visible
from lm.objectives.base import Answer, Base
from lm.objectives.causal import Causal
from lm.objectives.masked import Masked
from lm.objectives.mixture import Mixture
from lm.objectives.plain import Plain


class Curriculum(Base, tag="curriculum"):
    """One objective, then another; parameters and the optimizer's state carry over.

    Every step is that of one of the two, with its own slots P and its own cost: the ledger adds
    them up. A rate that is scheduled in one of them goes by the share of the whole training.
    """

    first: Annotated[Plain | Mixture, Meta(description="the objective that begins")] = Causal()
    then: Annotated[Plain | Mixture, Meta(description="the one that follows")] = Masked()
    switch: Annotated[
        float, Meta(ge=0, le=1, description="share of the steps that the first one trains")
    ] = 0.5

    @property
    def visible(self) -> Visible:  # type: ignore[override]
        """That of the objective that training ends with."""
        return self.last.visible

    @property
    def answers(self) -> frozenset[Answer]:  # type: ignore[override]
        """What the last objective teaches: the other may be forgotten."""
        return self.last.answers

    def slots(self, length: int) -> int:
        """Those of the objective that training ends with."""
        return self.last.slots(length)

    def positions(self, length: int) -> int:
        return self.last.positions(length)

    def check(self, *, length: int, sentinels: int) -> str | None:
        for name in ("first", "then"):
            if why := getattr(self, name).check(length=length, sentinels=sentinels):
                return f"{name}.{why}"
        return None

    def at(self, step: int, steps: int, seed: int) -> Base:  # type: ignore[override]
        """The objective of a step, from 0.

        >>> [type(Curriculum().at(step, 5, 0)).__name__ for step in range(5)]
        ['Causal', 'Causal', 'Masked', 'Masked', 'Masked']
        """
        return self._phase(step, steps).at(step, steps, seed)

    def parts(self, steps: int, seed: int) -> dict[Base, int]:  # type: ignore[override]
        return Counter(self.at(step, steps, seed) for step in range(steps))

    @property
    def last(self) -> Base:  # type: ignore[override]
        return (self.first if self.switch == 1 else self.then).last

    def _phase(self, step: int, steps: int) -> Plain | Mixture:
        return self.first if step < round(self.switch * steps) else self.then
