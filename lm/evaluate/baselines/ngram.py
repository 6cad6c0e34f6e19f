"""An n-gram model: interpolated, modified Kneser-Ney smoothing, in sorted arrays.

As in Chen and Goodman (1999), section 3, after Kneser and Ney (1995), and as KenLM counts
(Heafield et al. 2013, section 3): its numbers are those of the field's tool.

An n-gram is a number: its rank among those of its length, sorted by the number of its context
(the same without the last token), then by the last token. These two fit one integer at any
length, so a level of the model is one sorted array, and an n-gram is found by as many searches
as it has tokens. Suffixes of array names: t positions of a stream of documents, k some of
these, g the n-grams of a level, c their contexts, m given tokens, V the ids.
"""

import io
import itertools
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lm.config import UserError
from lm.output.files import check_exists, write_whole

_FALLBACK = (0.0, 0.5, 1.0, 1.5)
"""Discounts where a text is too small, or too odd, to estimate them from: KenLM's."""
_BLOCK = 1 << 20
"""Positions that are scored at once, which bounds the memory that it takes."""

_Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class NGram:
    """Probabilities of the next token, or of a document's end, given the tokens before it."""

    size: int
    """V, the number of ids that are possible; the end mark is V, the begin mark V + 1."""
    levels: tuple["_Level", ...]
    """Of n-grams of one token, of two, and so on to the model's order."""

    @classmethod
    def fit(cls, documents: Iterable[_Ids], *, order: int = 5, size: int) -> "NGram":
        """The model of documents, each its tokens' ids, in [0, `size`), without special tokens.

        One begin mark stands before each document and is never predicted; the end mark after it
        is. At `order` n-grams have their counts; below it the number of tokens seen before
        them, but their counts where they begin with the begin mark, as nothing stands before
        these. What is left of the shortest goes to all V ids and the end alike. 20 million
        words take a minute of one core and under 3 GB. Raises ValueError where an id is out of
        range.

        >>> model = NGram.fit([[0, 1, 0, 1], [0, 1]], order=2, size=3)
        >>> model.probabilities([0]).round(3)  # of ids 0, 1 and 2, and of the end
        array([0.188, 0.625, 0.062, 0.125])
        >>> np.exp(-model.nats([0, 1], end=True)).round(3)
        array([0.688, 0.625, 0.458])
        """
        if order < 1:
            raise ValueError(f"order {order}: an n-gram has one token or more")
        stream_t = _stream(documents, size, end=True)
        begin, base = size + 1, size + 2
        keys: list[np.ndarray] = []
        counts: list[np.ndarray] = []
        rank_t = np.zeros(len(stream_t), np.int32)
        places_k, context_k = np.arange(len(stream_t)), rank_t
        for length in range(1, order + 1):
            keys_g, rank_k, counts_g = np.unique(
                context_k * np.int64(base) + stream_t[places_k],
                return_inverse=True,
                return_counts=True,
            )
            if length == 1:
                counts_g[keys_g == begin] = 0
            else:
                suffix_g = np.empty(len(keys_g), np.int32)
                suffix_g[rank_k] = rank_t[places_k]
                before_g = np.bincount(suffix_g, minlength=len(counts[-1]))
                counts[-1] = np.where(before_g > 0, before_g, counts[-1]).astype(np.int32)
            keys.append(keys_g)
            counts.append(counts_g.astype(np.int32))
            # What goes over a begin mark is no n-gram of a document.
            rank_t = np.full(len(stream_t), -1, np.int32)
            rank_t[places_k] = rank_k
            places_k = np.flatnonzero((rank_t[:-1] >= 0) & (stream_t[1:] != begin)) + 1
            context_k = rank_t[places_k - 1]
        return cls._of(size, keys, counts)

    @classmethod
    def _of(cls, size: int, keys: list[np.ndarray], counts: list[np.ndarray]) -> "NGram":
        contexts = [1, *map(len, keys)]
        levels = map(_Level.of, keys, counts, contexts, [size + 2] * len(keys))
        return cls(size, tuple(levels))

    @property
    def order(self) -> int:
        return len(self.levels)

    def nats(self, ids_n: _Ids, context_m: _Ids = (), *, end: bool = False) -> np.ndarray:
        """-log p of each token in float64[n], and with `end` of the end after it in [n + 1].

        The tokens stand after `context_m`, with which the document begins.
        """
        whole = np.concatenate([np.asarray(ids, np.int64) for ids in (context_m, ids_n)])
        return self.nats_all([whole], end=end)[0][len(context_m) :]

    def nats_all(self, documents: Iterable[_Ids], *, end: bool = False) -> list[np.ndarray]:
        """The same for each of many documents, fast where they are short.

        >>> model = NGram.fit([[0, 1, 0, 1], [0, 1]], order=2, size=3)
        >>> [nats_n.shape for nats_n in model.nats_all([[0, 1, 2], [2]], end=True)]
        [(4,), (2,)]
        """
        stream_t = _stream(documents, self.size, end=end)
        nats_t = np.empty(len(stream_t))
        for start in range(0, len(stream_t), _BLOCK):
            first = max(0, start - self.order + 1)
            block_t = stream_t[first : start + _BLOCK]
            probability_t = np.full(len(block_t), 1 / (self.size + 1))
            for level, places_k, context_k, rank_k in self._matches(block_t):
                below_k = probability_t[places_k]
                probability_t[places_k] = level.interpolate(rank_k, context_k, below_k)
            nats_t[start : start + _BLOCK] = -np.log(probability_t[start - first :])
        begins = [*np.flatnonzero(stream_t == self.size + 1).tolist(), len(stream_t)]
        return [nats_t[a + 1 : b] for a, b in itertools.pairwise(begins)]

    def probabilities(self, context_m: _Ids) -> np.ndarray:
        """Of each id, and last of the end, after a document's first tokens: float64[V + 1]."""
        # The last place is the one that is asked for, whatever stands there.
        stream_t = _stream([context_m], self.size, end=True)[-self.order :]
        probability_v = np.full(self.size + 2, 1 / (self.size + 1))
        for level, places_k, context_k, _ in self._matches(stream_t):
            if not len(places_k) or places_k[-1] != len(stream_t) - 1:
                break  # no longer context was ever seen
            rank_g, token_g = level.followers(context_k[-1], self.size + 2)
            probability_v *= level.rest_c[context_k[-1]]
            probability_v[token_g] += level.kept(rank_g, context_k[-1])
        return probability_v[:-1]

    def save(self, path: Path) -> None:
        """Writes the model to one .npz file; raises OSError where that cannot be."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {"size": self.size, "order": self.order}
        for n, level in enumerate(self.levels, 1):
            arrays |= {f"keys_{n}": level.keys_g, f"counts_{n}": level.counts_g}
        np.savez(file, **arrays)
        write_whole(path, file.getvalue())

    @classmethod
    def load(cls, path: Path) -> "NGram":
        """The model that a file holds; raises UserError where it is damaged or holds none."""
        check_exists(path)
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                lengths = range(1, int(arrays["order"]) + 1)
                return cls._of(
                    int(arrays["size"]),
                    [arrays[f"keys_{n}"] for n in lengths],
                    [arrays[f"counts_{n}"] for n in lengths],
                )
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
            raise UserError(f"{path}: no n-gram model, or a damaged one") from None

    def _matches(
        self, stream_t: np.ndarray
    ) -> Iterator[tuple["_Level", np.ndarray, np.ndarray, np.ndarray]]:
        """Of each level the places whose context was seen, that context, and the n-gram's rank.

        A rank of -1 is an n-gram that was not seen; n-grams start no earlier than the stream.
        """
        places_k, context_k = np.arange(len(stream_t)), np.zeros(len(stream_t), np.int64)
        for level in self.levels:
            rank_k = level.find(context_k * (self.size + 2) + stream_t[places_k])
            yield level, places_k, context_k, rank_k
            on_k = (rank_k >= 0) & (places_k < len(stream_t) - 1)
            places_k, context_k = places_k[on_k] + 1, rank_k[on_k]


class _Level(NamedTuple):
    """The n-grams of one length."""

    keys_g: np.ndarray
    """(rank of the context) * (V + 2) + the last token, sorted: int64."""
    counts_g: np.ndarray
    discounts: np.ndarray
    """Taken from a count of 0, of 1, of 2 and of 3 or more."""
    totals_c: np.ndarray
    """The sum of counts of each context's n-grams; 1 where it has none, to divide by."""
    rest_c: np.ndarray
    """The probability that each context leaves to the level below: 1 where it has no n-gram."""

    @classmethod
    def of(cls, keys_g: np.ndarray, counts_g: np.ndarray, contexts: int, base: int) -> "_Level":
        discounts = _discounts(counts_g)
        context_g = keys_g // base
        totals_c = np.bincount(context_g, counts_g, minlength=contexts)
        taken_c = np.bincount(context_g, discounts[np.minimum(counts_g, 3)], minlength=contexts)
        rest_c = np.divide(taken_c, totals_c, out=np.ones(contexts), where=totals_c > 0)
        return cls(keys_g, counts_g, discounts, np.maximum(totals_c, 1), rest_c)

    def find(self, keys_k: np.ndarray) -> np.ndarray:
        """The ranks of n-grams by their keys, -1 where there is none."""
        rank_k = np.full(len(keys_k), -1, np.int64)
        if len(self.keys_g):
            # In their order, in which neighbours are found in memory that was just read.
            order_k = np.argsort(keys_k)
            keys_k = keys_k[order_k]
            found_k = np.minimum(np.searchsorted(self.keys_g, keys_k), len(self.keys_g) - 1)
            rank_k[order_k] = np.where(self.keys_g[found_k] == keys_k, found_k, -1)
        return rank_k

    def followers(self, context: int, base: int) -> tuple[np.ndarray, np.ndarray]:
        """The ranks of a context's n-grams and their last tokens."""
        first, last = np.searchsorted(self.keys_g, [context * base, (context + 1) * base])
        return np.arange(first, last), self.keys_g[first:last] % base

    def kept(self, rank_k: np.ndarray, context_k: np.ndarray) -> np.ndarray:
        """What n-grams have of their context's counts, without what is taken from them."""
        counts_k = self.counts_g[rank_k]
        return (counts_k - self.discounts[np.minimum(counts_k, 3)]) / self.totals_c[context_k]

    def interpolate(
        self, rank_k: np.ndarray, context_k: np.ndarray, below_k: np.ndarray
    ) -> np.ndarray:
        """Probabilities of n-grams, of which those without their first tokens are `below_k`."""
        probability_k = self.rest_c[context_k] * below_k
        seen_k = rank_k >= 0
        probability_k[seen_k] += self.kept(rank_k[seen_k], context_k[seen_k])
        return probability_k


def _discounts(counts_g: np.ndarray) -> np.ndarray:
    """Those of Chen and Goodman's equation 26, from how many n-grams have a count of 1 to 4.

    Each is above 0, or nothing would be left for what was not seen, and below the count.

    >>> _discounts(np.array([1] * 8 + [2] * 4 + [3] * 2 + [4, 7, 9]))
    array([0.  , 0.5 , 1.25, 2.  ])
    """
    n = np.bincount(np.minimum(counts_g, 5), minlength=6)
    if n[1:5].all():
        k = np.arange(1, 4)
        found = k - (k + 1) * n[1] / (n[1] + 2 * n[2]) * n[2:5] / n[1:4]
        if (found > 0).all():
            return np.array([0, *found])
    return np.array(_FALLBACK)


def _stream(documents: Iterable[_Ids], size: int, *, end: bool) -> np.ndarray:
    """Documents one after the other, each with its marks; ValueError for an id out of range.

    >>> _stream([[0, 1], [], [2]], 3, end=True).tolist()
    [4, 0, 1, 3, 4, 3, 4, 2, 3]
    """
    rows = [np.asarray(ids, np.int64) for ids in documents]
    ids_t = np.concatenate([np.zeros(0, np.int64), *rows])
    outside = (ids_t < 0) | (ids_t >= size)
    if outside.any():
        raise ValueError(f"id {ids_t[outside][0]}: ids are 0 to {size - 1}")
    lengths = np.array([len(ids) for ids in rows], np.int64) + 1 + end
    begins = np.cumsum(lengths) - lengths
    stream_t = np.full(lengths.sum(), -1, np.int32)
    stream_t[begins] = size + 1
    if end:
        stream_t[begins + lengths - 1] = size
    stream_t[stream_t < 0] = ids_t
    return stream_t
