"""One objective until a fraction of training is done, then another."""

from collections import Counter
from typing import Annotated

from msgspec import Meta

from lm.example import AttentionMask
from lm.objectives.base import Base, Prediction
from lm.objectives.causal import Causal
from lm.objectives.masked import Masked
from lm.objectives.mixture import Mixture
from lm.objectives.plain import Plain


class Curriculum(Base, tag="curriculum"):
    """One objective, then another; parameters and the optimizer's state carry over.

    Every step is that of one of the two, with its own slots P and its own cost: the ledger adds
    them up. A rate that is scheduled in one of them goes by the fraction of the whole training.
    """

    first: Annotated[Plain | Mixture, Meta(description="the objective that begins")] = Causal()
    then: Annotated[Plain | Mixture, Meta(description="the one that follows")] = Masked()
    switch: Annotated[
        float, Meta(ge=0, le=1, description="fraction of the steps that the first one trains")
    ] = 0.5

    @property
    def attention_mask(self) -> AttentionMask:  # type: ignore[override]
        """That of the objective that training ends with."""
        return self.last.attention_mask

    @property
    def masks(self) -> frozenset[type[AttentionMask]]:
        return self.first.masks | self.then.masks

    @property
    def predictions(self) -> frozenset[Prediction]:  # type: ignore[override]
        """What the last objective teaches: the other may be forgotten."""
        return self.last.predictions

    def target_count(self, length: int) -> int:
        """Those of the objective that training ends with."""
        return self.last.target_count(length)

    def positions(self, length: int) -> int:
        return self.last.positions(length)

    def check(self, *, length: int, sentinels: int) -> str | None:
        for name in ("first", "then"):
            if why := getattr(self, name).check(length=length, sentinels=sentinels):
                return f"{name}.{why}"
        return None

    @property
    def source(self) -> bool:
        return self.first.source or self.then.source

    def at(self, step: int, steps: int, seed: int) -> Base:  # type: ignore[override]
        """The objective of a step, from 0.

        >>> [type(Curriculum().at(step, 5, 0)).__name__ for step in range(5)]
        ['Causal', 'Causal', 'Masked', 'Masked', 'Masked']
        """
        phase = self.first if step < self._first_steps(steps) else self.then
        return phase.at(step, steps, seed)

    def parts(self, steps: int, seed: int) -> dict[Base, int]:  # type: ignore[override]
        first = self._first_steps(steps)
        before, whole = (self.then.parts(count, seed) for count in (first, steps))
        then = Counter(whole) - Counter(before)
        return Counter(self.first.parts(first, seed)) + then

    @property
    def last(self) -> Base:  # type: ignore[override]
        return (self.first if self.switch == 1 else self.then).last

    def _first_steps(self, steps: int) -> int:
        # What follows has a step at least, however few there are: the model is named by it.
        return min(round(self.switch * steps), steps if self.switch == 1 else steps - 1)
