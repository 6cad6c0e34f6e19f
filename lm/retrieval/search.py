"""Searching an index: by its vectors, by words, or by both."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from lm.config import UserError
from lm.retrieval.embed import Embedder
from lm.retrieval.index import embedder_of
from lm.retrieval.near import NearVectors
from lm.retrieval.store import IndexFolder, StoredPassage
from lm.retrieval.words import Bm25

SearchBy = Literal["both", "vectors", "words"]
FUSED = 60
"""What is added to a rank before it is turned over (Cormack, Clarke and Buettcher 2009)."""
DEPTH = 100
"""Passages of each kind of search that both together choose from."""


class Retrieved(NamedTuple):
    """A passage that was found."""

    number: int
    """Of the index's passages."""
    score: float
    """What it is ranked by: its similarity, BM25, or the sum of 1 / (60 + rank) of both."""
    similarity: float | None
    """The cosine of its vector and the query's; None: there are no vectors."""
    words: float
    """Its BM25 score."""
    passage: StoredPassage


class TextIndex:
    """An index that is searched, as it was when it was opened."""

    def __init__(self, folder: Path, embedder: Embedder | None) -> None:
        """`embedder` is the one that made its vectors; None: only words are asked."""
        self.store, self.embedder = IndexFolder(folder), embedder
        self.manifest = self.store.manifest()
        self.shards = self.store.shards(self.manifest)
        self._firsts = [0, *accumulate(map(len, self.shards))]

    def __len__(self) -> int:
        return self._firsts[-1]

    @property
    def can(self) -> tuple[SearchBy, ...]:
        """How it may be asked."""
        return ("words",) if self.embedder is None else ("both", "vectors", "words")

    def passage(self, number: int) -> StoredPassage:
        """One of its passages."""
        shard, row = self._place(number)
        return self.shards[shard].passage(row)

    def number(self, shard: int, row: int) -> int:
        """The number of a shard's passage."""
        return self._firsts[shard] + row

    def _place(self, number: int) -> tuple[int, int]:
        shard = bisect_right(self._firsts, number) - 1
        return shard, number - self._firsts[shard]

    @cached_property
    def words(self) -> Bm25:
        """BM25 of its passages: as it was kept, or made now, where that is of others."""
        kept = self.manifest.words
        if kept is not None and kept.shards == self.manifest.names:
            return Bm25.load(self.store.folder / kept.name)
        return Bm25(passage.text for shard in self.shards for passage in shard)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        by: SearchBy | None = None,
        exact: bool = False,
        vector_D: np.ndarray | None = None,
    ) -> list[Retrieved]:
        """The best k passages for a query, best first; fewer where words are asked alone, and
        no more have one of the query's.

        `by`: both unless given, where there are vectors. `vector_D` is the query's, if it is
        known. Raises UserError for what the index cannot be asked.
        """
        by = by or self.can[0]
        if by not in self.can:
            raise UserError(f"{self.store.folder}: an index of words alone: it has no vectors")
        scores_N = self.words.scores(query)
        if by == "words":
            ranked, scores = self.words.rank(query, k)
            best = [*zip(ranked.tolist(), scores.tolist(), strict=True)]
        if self.embedder is not None and vector_D is None:
            vector_D = self.embedder([query])[0]
        if by != "words":
            assert vector_D is not None
            near, similar = self.nearest(vector_D, max(k, DEPTH if by == "both" else 0), exact)
            best = [*zip(near.tolist(), similar.tolist(), strict=True)]
        if by == "both":
            ranked, _ = self.words.rank(query, max(k, DEPTH))
            best = fuse([near.tolist(), ranked.tolist()])
        best = best[:k]
        numbers = [number for number, _ in best]
        similarities: Sequence[float | None] = [None] * len(best)
        if vector_D is not None:
            similarities = (self.vectors(numbers) @ vector_D).tolist()
        return [
            Retrieved(number, score, similarity, float(scores_N[number]), self.passage(number))
            for (number, score), similarity in zip(best, similarities, strict=True)
        ]

    def vectors(self, numbers: Sequence[int]) -> np.ndarray:
        """The vectors of passages, float32[n, D]."""
        assert self.embedder is not None
        found_ND = np.zeros((len(numbers), self.embedder.width), np.float32)
        for row, number in enumerate(numbers):
            shard, place = self._place(number)
            vectors_ND = self.shards[shard].vectors
            assert vectors_ND is not None
            found_ND[row] = vectors_ND[place]
        return found_ND

    def nearest(
        self, vector_D: np.ndarray, k: int, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k passages most similar to a vector, int64[n], and how similar, float32[n].

        All of them are compared, a shard at a time, unless the index is so large that its
        neighbours were made; `exact` compares them even so. Of equal ones the first is first.
        """
        near = self._near
        if near is not None and not exact:
            firsts = dict(zip(self.manifest.names, self._firsts, strict=False))
            # More than are asked for, as the order of the graph is that of rounded vectors.
            keys = near.search(vector_D, 2 * k + 16)
            numbers = np.array([firsts[name] + row for name, row in keys], np.int64)
            similar = self.vectors(numbers.tolist()) @ vector_D
            order = np.lexsort((numbers, -similar))[:k]
            return numbers[order], similar[order]
        numbers, similar = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for first, shard in zip(self._firsts, self.shards, strict=False):
            assert shard.vectors is not None
            own = np.asarray(shard.vectors, np.float32) @ vector_D
            best = np.argsort(-own, kind="stable")[:k]
            numbers = np.concatenate([numbers, first + best])
            similar = np.concatenate([similar, own[best]])
            order = np.argsort(-similar, kind="stable")[:k]
            numbers, similar = numbers[order], similar[order]
        return numbers, similar

    @cached_property
    def _near(self) -> NearVectors | None:
        """Its approximate neighbours, where they were made of the vectors that it has."""
        kept, settings = self.manifest.near, self.manifest.settings
        if kept is None or kept.shards != self.manifest.names or settings.model is None:
            return None
        return NearVectors(settings.model.width, settings.dtype).view(
            self.store.folder / kept.name
        )


def open_index(
    folder: Path, *, model: Path | None = None, words_only: bool = False
) -> TextIndex:
    """An index with the embedder that made its vectors, where it was, or at a path.

    `words_only` loads no model, and asks words alone. Raises UserError in one line.
    """
    of = IndexFolder(folder).manifest().settings.model
    if of is None and model is not None:
        raise UserError(f"{folder}: an index of words alone takes no model")
    embedder = None if of is None or words_only else embedder_of(folder, of, model)
    return TextIndex(folder, embedder)


def fuse(rankings: Iterable[Sequence[int]]) -> list[tuple[int, float]]:
    """Numbers and their sums of 1 / (60 + rank) over rankings, largest first; of equal ones
    the smaller number comes first (reciprocal rank fusion).

    >>> [number for number, _ in fuse([[7, 3, 5], [3, 9]])]
    [3, 7, 9, 5]
    """
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, number in enumerate(ranking, 1):
            sums[number] = sums.get(number, 0.0) + 1 / (FUSED + rank)
    return sorted(sums.items(), key=lambda found: (-found[1], found[0]))
