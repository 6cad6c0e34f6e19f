"""How alike two sentences are, by the angle between their pooled states."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from lm.config import UserError
from lm.evaluate.tasks.base import Answers, Candidate, Conditions, Item, Statistic, Task
from lm.evaluate.tasks.metrics import pearson, spearman


class Similarity(Task, tag="similarity"):
    """Order pairs of sentences as people did, by the cosine of their vectors (STS)."""

    first: Annotated[str, Meta(description="the field of one sentence")] = "sentence1"
    second: Annotated[str, Meta(description="the field of the other")] = "sentence2"
    score: Annotated[str, Meta(description="the field of what people said, a number")] = "score"

    headline: ClassVar[str] = "spearman"
    needs: ClassVar[str] = "states"

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        return {
            "spearman": Statistic(spearman(0, 1)),
            "pearson": Statistic(pearson(0, 1)),
        }

    def check_conditions(self, conditions: Conditions) -> None:
        if conditions.shots or conditions.calibration is not None:
            raise UserError("similarities have no prompt: shots and calibration are of none")

    def check(self, item: Item) -> None:
        self.text(item, self.first)
        self.text(item, self.second)
        self._said(item)

    def sit(
        self,
        candidate: Candidate,
        items: Sequence[Item],
        pool: Sequence[Item],
        conditions: Conditions,
    ) -> Answers:
        texts = [self.text(item, name) for name in (self.first, self.second) for item in items]
        states = candidate.states(texts)
        vectors_ND = states.vectors_ND.astype(np.float64)
        vectors_ND /= np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-30)
        first_ND, second_ND = vectors_ND[: len(items)], vectors_ND[len(items) :]
        said = [self._said(item) for item in items]
        columns = np.stack([said, (first_ND * second_ND).sum(axis=1)], axis=1)
        return Answers(columns[None], states.cut_N.reshape(2, -1).sum(axis=0)[None])

    def _said(self, item: Item) -> float:
        found = self.field(item, self.score)
        try:
            number = float(found)
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise UserError(f"{item.place}: {self.score} is {found!r}; must be a number")
        return number
