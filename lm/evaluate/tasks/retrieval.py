"""Which documents of a collection answer a query: rankings, measured query by query."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta

from lm.config import UserError
from lm.data.tables import read_columns, read_lines
from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.base import Answers, Candidate, Conditions, Item, Statistic, Task
from lm.evaluate.tasks.ranks import ndcg, recall, reciprocal_rank

GAINS = "gains"
"""The field of a query that holds the gain of each relevant document, by its number."""
FIRST, DEPTH = 10, 100
"""How many documents nDCG and recall look at, and how many are ranked at all."""
MEASURES = ("ndcg_10", "ndcg_10_binary", "recall_10", "recall_100", "mrr", "documents_cut")
"""Columns of a query, in order: nDCG of the first 10 documents by the gains of grades, and with
one gain for all that is relevant; the fraction of the relevant ones among the first 10 and the
first 100; one over the rank of the first, within 100. The last is no measure of a query: the
fraction of documents of which some tokens did not fit, and were not read."""


class Retrieval(Task, kw_only=True, tag="retrieval"):
    """Find the documents of a collection that answer a query, as people judged (Cranfield)."""

    documents: Annotated[
        tuple[str, ...], Meta(min_length=1, description="files of documents, as `files`")
    ]
    judgements: Annotated[
        tuple[str, ...], Meta(min_length=1, description="files of lines of `columns`")
    ]
    columns: Annotated[
        tuple[str, ...],
        Meta(description="words of such a line; query, document and grade are read"),
    ] = ("query", "document", "grade")
    query: Annotated[str, Meta(description="the field of a query's text")] = "text"
    number: Annotated[
        str | None,
        Meta(
            description="the field of a query's name in judgements; null: queries count from 1"
            " in the order of their file"
        ),
    ] = None
    passage: Annotated[str, Meta(description="the field of a document's text")] = "text"
    document: Annotated[str, Meta(description="the field of its name in judgements")] = "id"
    grades: Annotated[
        tuple[str, ...],
        Meta(
            description="grades that are relevant, the best first, of which the last has a gain"
            " of 1, the one before it 2; none: a grade is its gain, above 0"
        ),
    ] = ()

    headline: ClassVar[str] = MEASURES[0]
    needs: ClassVar[str] = "rankings"

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        return {name: Statistic(metrics.mean(n)) for n, name in enumerate(MEASURES)}

    def check_conditions(self, conditions: Conditions) -> None:
        if conditions.shots or conditions.calibration is not None:
            raise UserError("rankings have no prompt: shots and calibration are of none")
        if missing := {"query", "document", "grade"} - set(self.columns):
            raise UserError(f"columns: no {' and no '.join(sorted(missing))} among them")

    def check(self, item: Item) -> None:
        self.text(item, self.query)

    def gather(
        self,
        items: Sequence[Item],
        read: Callable[[Sequence[str]], Sequence[tuple[str, bytes]]],
    ) -> tuple[list[Item], list[Item]]:
        """Queries with the gain of each document that is relevant, and the documents.

        Queries to which none is relevant can find nothing, and are left out.
        """
        documents = [
            Item(fields, "", place)
            for name, content in read(self.documents)
            for place, fields in read_lines(name, content, self.names)
        ]
        numbers: dict[str, int] = {}
        for number, item in enumerate(documents):
            self.text(item, self.passage)
            name = str(self.field(item, self.document))
            if numbers.setdefault(name, number) != number:
                raise UserError(f"{item.place}: another document is called {name}, too")
        gains: dict[str, dict[str, float]] = {}
        for name, content in read(self.judgements):
            for place, judged in read_columns(name, content, self.columns):
                if (document := judged["document"]) not in numbers:
                    raise UserError(f"{place}: no document is called {document}")
                if (gain := self._gain(place, judged["grade"])) > 0:
                    of = gains.setdefault(judged["query"], {})
                    of[str(numbers[document])] = gain
        asked = [
            item._replace(fields={**item.fields, GAINS: gains[name]})
            for name, item in zip(self._names(items), items, strict=True)
            if name in gains
        ]
        if not asked:
            raise UserError(f"{' '.join(self.judgements)}: nothing is relevant to any query")
        return asked, documents

    def sit(
        self,
        candidate: Candidate,
        items: Sequence[Item],
        pool: Sequence[Item],
        conditions: Conditions,
    ) -> Answers:
        ranking = candidate.ranked(
            [self.text(item, self.query) for item in items],
            [self.text(item, self.passage) for item in pool],
            DEPTH,
        )
        cut = float((ranking.cut_N > 0).mean())
        columns = [
            [*measured(found_K.tolist(), gains_of(item)), cut]
            for item, found_K in zip(items, ranking.documents_QK, strict=True)
        ]
        return Answers(np.array([columns], np.float64), ranking.cut_Q[None])

    def _gain(self, place: str, grade: str) -> float:
        if self.grades:
            at = self.grades.index(grade) if grade in self.grades else len(self.grades)
            return float(len(self.grades) - at)
        try:
            return float(grade)
        except ValueError:
            raise UserError(f"{place}: grade is {grade!r}; must be a number") from None

    def _names(self, items: Sequence[Item]) -> list[str]:
        """What judgements call each query."""
        if self.number is not None:
            return [str(self.field(item, self.number)) for item in items]
        if len(files := {item.place.rpartition(":")[0] for item in items}) > 1:
            raise UserError(f"number: queries of {len(files)} files; name the field of theirs")
        return [str(number) for number, _ in enumerate(items, 1)]


def gains_of(item: Item) -> dict[int, float]:
    """The gain of each document that is relevant to a query, by the document's number."""
    gains: Mapping[str, Any] = item.fields[GAINS]
    return {int(number): float(gain) for number, gain in gains.items()}


def measured(ranked: Sequence[int], gains: Mapping[int, float]) -> list[float]:
    """The measures of one query, in the order of `MEASURES`, but for the last.

    >>> [round(value, 3) for value in measured([5, 2, 8], {2: 4.0, 9: 1.0})]
    [0.545, 0.387, 0.5, 0.5, 0.5]
    """
    return [
        ndcg(ranked, gains, FIRST),
        ndcg(ranked, dict.fromkeys(gains, 1.0), FIRST),
        recall(ranked, gains, FIRST),
        recall(ranked, gains, DEPTH),
        reciprocal_rank(ranked[:DEPTH], gains),
    ]
