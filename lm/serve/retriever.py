"""The index that a server answers from, and what it found for a question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm.retrieval.answer import (
    DECIDING,
    Support,
    as_json,
    said_in_sources,
    support_of,
    with_sources,
)
from lm.retrieval.search import Retrieved, TextIndex, open_index


@dataclass(frozen=True)
class RetrievedSources:
    """What was found for a question."""

    index: TextIndex
    question: str
    found: Sequence[Retrieved]
    support: Support

    @property
    def asked(self) -> str:
        """The question as the model is asked it, with what was found."""
        return with_sources(self.question, self.found)

    @property
    def shown(self) -> dict[str, Any]:
        """What is answered of it."""
        return as_json(self.question, self.found, self.support)

    def first(self, count: int) -> "RetrievedSources":
        """The best passages of it alone."""
        return replace(self, found=self.found[:count])

    def said(self, answer: str) -> float:
        """The part of an answer's words that what was found has."""
        return said_in_sources(self.index, answer, self.found)


@dataclass(frozen=True)
class Retriever:
    """An index by its name."""

    name: str
    index: TextIndex
    sources: int
    """Passages that an answer is written from, at most."""

    def vector(self, question: str) -> np.ndarray | None:
        """A question's vector, which a device computes; None: the index has words alone."""
        embedder = self.index.embedder
        return None if embedder is None else embedder([question])[0]

    def find(
        self, question: str, vector_D: np.ndarray | None, k: int | None = None
    ) -> RetrievedSources:
        """The best passages for a question whose vector is known, which takes no device."""
        k = k or self.sources
        found = self.index.search(question, max(k, DECIDING), vector_D=vector_D)
        support = support_of(self.index, question, found)
        return RetrievedSources(self.index, question, found[:k], support)


def open_retriever(folder: Path, *, model: Path | None, sources: int) -> Retriever:
    """An index to answer from, its programs for short questions compiled.

    Raises UserError in one line.
    """
    found = Retriever(folder.resolve().name, open_index(folder, model=model), sources)
    for words in (4, 20):
        question = "what " * words
        found.find(question, found.vector(question))
    return found
