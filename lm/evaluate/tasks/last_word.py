"""What the last word of a passage is (LAMBADA)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from lm.config import UserError
from lm.evaluate.tasks.base import (
    Answers,
    Candidate,
    Conditions,
    Item,
    Query,
    Statistic,
    Task,
)
from lm.evaluate.tasks.metrics import mean
from lm.evaluate.tasks.prompts import fill_template, solved_before, template_fields


class LastWord(Task, tag="last_word"):
    """Write the last word: right where no token of it has a likelier rival.

    The metrics are that accuracy, and the word's perplexity: e to the mean of its nats (Paperno
    et al. 2016).
    """

    prompt: Annotated[
        str, Meta(description="template of the passage without its last word")
    ] = "{context}"
    word: Annotated[str, Meta(description="template of the word")] = " {continuation}"

    headline: ClassVar[str] = "accuracy"

    def prompt_text(self, candidate: Candidate) -> str:
        return f"{self.prompt}|{self.word}"

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        return {
            "accuracy": Statistic(mean(0)),
            "perplexity": Statistic(lambda columns: float(np.exp(-columns[:, 1].mean()))),
        }

    def check_conditions(self, conditions: Conditions) -> None:
        if conditions.calibration is not None:
            raise UserError("a last word is no choice among answers: calibration is of none")

    def check(self, item: Item) -> None:
        for template in (self.prompt, self.word):
            for name in template_fields(template):
                self.text(item, name)

    def sit(
        self,
        candidate: Candidate,
        items: Sequence[Item],
        pool: Sequence[Item],
        conditions: Conditions,
    ) -> Answers:
        columns, cut = [], []
        for seed in conditions.draws:
            before = solved_before(self, items, pool, self._solved, conditions, seed)
            found = candidate.likelihoods(
                [
                    Query(
                        text + self._filled(self.prompt, item),
                        self._filled(self.word, item),
                        number=number,
                    )
                    for number, (item, text) in enumerate(zip(items, before, strict=True))
                ]
            )
            columns.append([[each.likeliest, each.log_p] for each in found])
            cut.append([each.cut for each in found])
        return Answers(np.array(columns, np.float64), np.array(cut))

    def _solved(self, item: Item) -> str:
        return self._filled(self.prompt, item) + self._filled(self.word, item)

    def _filled(self, template: str, item: Item) -> str:
        return fill_template(template, item.fields, item.place)
