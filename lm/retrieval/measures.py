"""Whatever ranks texts sits tasks of retrieval: measured as models are, query by query."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np

from lm.config import UserError
from lm.evaluate.tasks.base import Completion, Likelihood, Note, Query, Ranking, TextStates
from lm.results import Kind
from lm.retrieval.words import Bm25


class Ranker(Protocol):
    """Texts that are ranked."""

    def rank(self, query: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the best texts, k at most, and their scores."""
        ...


@dataclass(frozen=True)
class RankingCandidate:
    """What ranks texts and does nothing else, as a candidate of `lm.evaluate.tasks`."""

    scorer: str
    index: Callable[[Sequence[str]], Ranker]
    """The index of texts."""
    around: str
    """What it makes of a text, in words."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.scorer} {self.around}".encode()).hexdigest()[:16]

    @property
    def kind(self) -> Kind:
        return "no likelihood"

    @property
    def sees_after(self) -> bool:
        return False

    def ranked(self, queries: Sequence[str], documents: Sequence[str], count: int) -> Ranking:
        index = self.index(documents)
        found_QK = np.full((len(queries), min(count, len(documents))), -1)
        for found_K, query in zip(found_QK, queries, strict=True):
            numbers, _ = index.rank(query, count)
            found_K[: len(numbers)] = numbers
        return Ranking(found_QK, np.zeros(len(queries), int), np.zeros(len(documents), int))

    def likelihoods(
        self, queries: Sequence[Query], note: Note = lambda *_: None
    ) -> list[Likelihood]:
        self._refuse()

    def states(self, texts: Sequence[str]) -> TextStates:
        self._refuse()

    def written(
        self,
        prompts: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        self._refuse()

    def answered(
        self,
        messages: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(f"{self.scorer} ranks texts, and is no model that could be asked more")


def bm25() -> RankingCandidate:
    """BM25 of the words of texts."""
    return RankingCandidate("bm25", Bm25, "words in lower case, without stop words")
