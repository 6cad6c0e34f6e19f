"""BM25, through bm25s: which texts have the words of a query."""

import logging
import re
from array import array
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import UserError

_WORD = re.compile(r"(?u)\b\w\w+\b")


class Bm25:
    """Scores of texts by the words of a query (Lucene's form, k1 = 1.5, b = 0.75).

    Words are runs of two letters or digits at least, in lower case, without bm25s's English
    stop words and without stemming: what `bm25s.tokenize` finds. A score is that of all texts
    that there are: more texts are another `Bm25`.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Texts are read once, one after the other, and only their words' numbers are kept."""
        library = bm25_library()
        numbers: dict[str, int] = {}
        of_texts = [
            array("i", [numbers.setdefault(word, len(numbers)) for word in words(text)])
            for text in texts
        ]
        self.size = len(of_texts)
        """How many texts there are."""
        self._scorer: Any = None
        if numbers:
            self._scorer = library.BM25(method="lucene", k1=1.5, b=0.75, backend="numpy")
            self._scorer.index(
                (of_texts, numbers), create_empty_token=False, show_progress=False
            )

    def scores(self, query: str) -> np.ndarray:
        """How well each text has the words of a query, float32[N]; 0: it has none of them."""
        ids = self._ids(words(query))
        if not ids:
            return np.zeros(self.size, np.float32)
        return np.asarray(self._scorer.get_scores_from_ids(ids))

    def rank(self, query: str, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the best texts, int64[n], and their scores, float32[n], best first.

        n is at most k: a text without any word of the query is none of them. Of equal texts the
        first comes first.
        """
        scores_N = self.scores(query)
        there = np.flatnonzero(scores_N > 0)
        if len(there) > k > 0:
            least = np.partition(scores_N[there], len(there) - k)[len(there) - k]
            there = there[scores_N[there] >= least]
        best = there[np.argsort(-scores_N[there], kind="stable")][:k]
        return best, scores_N[best]

    def weights(self, query: str) -> dict[str, float]:
        """How much each word of a query says: log(1 + (N - n + 1/2) / (n + 1/2)), of n texts
        that have it; most of all a word that none has. What asks is not asked for: `how`, say,
        and all of bm25s's longer list of stop words.
        """
        found = {}
        for word in set(words(query)) - _asking_words():
            (number,) = self._ids([word]) or [-1]
            n = 0
            if number >= 0:
                starts = self._scorer.scores["indptr"]
                n = int(starts[number + 1]) - int(starts[number])
            found[word] = float(np.log1p((self.size - n + 0.5) / (n + 0.5)))
        return found

    def overlap(self, query: str, text: str) -> float:
        """The part of a query's words that a text has, by their weights, from 0 to 1."""
        weights, there = self.weights(query), set(words(text))
        total = sum(weights.values())
        return sum(w for word, w in weights.items() if word in there) / total if total else 0.0

    def save(self, folder: Path) -> None:
        """Writes it to a folder as bm25s does."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._scorer is not None:
            self._scorer.save(folder, show_progress=False)
        np.save(folder / "size.npy", self.size)

    @classmethod
    def load(cls, folder: Path) -> "Bm25":
        """What was saved, its arrays mapped into memory and not read."""
        library, found = bm25_library(), cls.__new__(cls)
        found.size = int(np.load(folder / "size.npy"))
        found._scorer = None
        if (folder / "params.index.json").exists():
            found._scorer = library.BM25.load(folder, mmap=True, show_progress=False)
        return found

    def _ids(self, given: list[str]) -> list[int]:
        if self._scorer is None:
            return []
        vocabulary = self._scorer.vocab_dict
        return [vocabulary[word] for word in given if word in vocabulary]


def words(text: str) -> list[str]:
    """The words of a text that count, in their order.

    >>> words("The shock-wave of a cone, and THE cone")
    ['shock', 'wave', 'cone', 'cone']
    """
    stop = _stop_words()
    return [word for word in _WORD.findall(text.lower()) if word not in stop]


@cache
def _asking_words() -> frozenset[str]:
    return frozenset(bm25_library().stopwords.STOPWORDS_EN_PLUS)


@cache
def _stop_words() -> frozenset[str]:
    return frozenset(bm25_library().stopwords.STOPWORDS_EN)


def bm25_library() -> Any:
    """bm25s; raises UserError where it is not installed."""
    try:
        import bm25s
    except ImportError as error:
        if error.name != "bm25s":
            raise
        raise UserError("bm25s is not installed: pip install yardstick-lm[retrieval]") from None
    # It tells of each step, to whoever listens to anything.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return bm25s
