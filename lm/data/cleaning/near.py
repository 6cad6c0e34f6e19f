"""Documents that are nearly another: MinHash and locality-sensitive hashing, then verified."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from lm.data.cleaning.base import AcrossDocuments, Verdict
from lm.data.cleaning.observed import Observed
from lm.data.cleaning.words import WordArrays, blocks, mix, plain_words


class Near(AcrossDocuments, frozen=True, tag="near"):
    """Removes a document if one that stays is as similar to it as set, or more.

    Similar is the Jaccard index of the sets of runs of words. Candidates are the documents that
    agree in all hashes of a band (Broder 1997; Leskovec et al., Mining of Massive Datasets,
    section 3.4): with similarity s they meet with probability 1 - (1 - s^rows)^bands. Each
    candidate is verified against the sets themselves, and only documents that stay count: in a
    chain of which each is similar to the next, every second one stays, where clusters by
    connected components would keep one of all.

    Documents are taken by source, in the recipe's order, then by a hash of their ids, so that
    which of two stays depends on neither the order nor the number of processes.
    """

    rules: ClassVar = {
        "near-duplicate": "a document that stays is similar to it (Lee et al. 2022,"
        " arXiv:2107.06499, section 4.2; FineWeb, arXiv:2406.17557: 5 words, 14 x 8, 0.75)",
    }

    words: Annotated[int, Meta(ge=1, description="of a run")] = 5
    bands: Annotated[int, Meta(ge=1, le=256, description="of which one must agree")] = 14
    rows: Annotated[int, Meta(ge=1, le=64, description="hashes of a band")] = 8
    similarity: Annotated[
        float, Meta(gt=0, le=1, description="from which on one of two is removed")
    ] = 0.75
    most: Annotated[
        int,
        Meta(ge=1, description="documents of a band that one is verified against, at most"),
    ] = 1000

    def observe(self, texts: Sequence[str], seed: int) -> Mapping[str, np.ndarray]:
        """Of each text `bands`, uint64 [N, bands], and its set, in `sets` from `ends` on."""
        bands, sets, sizes = [], [], []
        for block in blocks(texts):
            hashes, counts = run_sets([plain_words(text) for text in block], self.words)
            bands.append(band_keys(hashes, counts, self.bands, self.rows, seed))
            sets.append(hashes)
            sizes.append(counts)
        size = np.concatenate([np.zeros(1, np.int64), *sizes])
        return {
            "bands": np.concatenate([np.empty((0, self.bands), np.uint64), *bands]),
            "sets": np.concatenate([np.empty(0, np.uint32), *sets]),
            "ends": np.cumsum(size),
        }

    def hashes(self, observed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Those of all bands of all documents that have a word."""
        found = np.flatnonzero(observed["bands"][:, 0])
        return observed["bands"][found].ravel(), np.repeat(found, self.bands)

    def some(
        self, observed: Mapping[str, np.ndarray], rows: np.ndarray
    ) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """The documents of these numbers."""
        ends = observed["ends"]
        sets = [observed["sets"][ends[row] : ends[row + 1]] for row in rows.tolist()]
        arrays = {
            "bands": observed["bands"][rows],
            "sets": np.concatenate([np.empty(0, np.uint32), *sets]),
            "ends": np.cumsum([0, *map(len, sets)]),
            "ranks": observed["ranks"][rows],
            "held": observed["held"][rows],
        }
        return arrays, rows

    def decide(self, observed: Observed) -> None:
        """`twin` and `similarity` of each document that is removed.

        Memory is that of the documents which share a band with another.
        """
        total = int(observed.documents[-1])
        twin = observed.decision("twin", np.int64, -1, total)
        across = observed.decision("across", np.bool_, False, total)
        similarity = observed.decision("similarity", np.float32, 0, total)
        documents, buckets = self._buckets(observed)
        order = np.lexsort((documents, observed.ranks[documents]))
        documents, buckets = documents[order], buckets[order]
        starts = np.flatnonzero(
            np.concatenate([[True], documents[1:] != documents[:-1]])[: len(documents)]
        )
        kept_of: dict[int, list[int]] = {}
        full = set[int]()
        read = _reader(observed)
        ends = np.append(starts, len(documents))[1:]
        for start, end in zip(starts, ends, strict=True):
            document, mine = int(documents[start]), buckets[start:end].tolist()
            candidates = dict.fromkeys(
                other for bucket in mine for other in kept_of.get(bucket, ())
            )
            own = read(document) if candidates else None
            for other in sorted(candidates, key=lambda each: (observed.ranks[each], each)):
                assert own is not None
                found = jaccard(own, read(other), self.similarity)
                if found >= self.similarity:
                    twin[document], similarity[document] = other, found
                    across[document] = observed.held[document] != observed.held[other]
                    break
            else:
                for bucket in mine:
                    kept = kept_of.setdefault(bucket, [])
                    if len(kept) < self.most:
                        kept.append(document)
                    else:
                        full.add(bucket)
        if full:
            observed.notes.append(
                f"{len(full):,} bands held more than {self.most:,} documents that stay; those"
                " beyond were not compared with what follows; set near.most higher"
            )

    def _buckets(self, observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        """(documents, buckets): each document with each bucket that it shares with others."""
        alone = np.arange(observed.documents[-1])
        documents, buckets, count = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
        for band in range(self.bands):
            for run in observed.equal("bands", observed.ranks, alone, band):
                # Those without a word have the key 0, and are like no other.
                found = np.repeat(run.keys, run.sizes) != 0
                numbers = np.repeat(np.arange(len(run.sizes)) + count, run.sizes)
                documents.append(run.rows[found])
                buckets.append(numbers[found])
                count += len(run.sizes)
        return np.concatenate(documents), np.concatenate(buckets)

    def judge(self, texts: Sequence[str], decided: Mapping[str, np.ndarray]) -> list[Verdict]:
        found = []
        for number, text in enumerate(texts):
            twin = int(decided["twin"][number])
            if twin < 0:
                found.append(Verdict(text))
                continue
            why = f"similarity {decided['similarity'][number]:.2f}"
            across = bool(decided["across"][number])
            found.append(Verdict(text, "near-duplicate", why, twin=twin, across=across))
        return found


def run_sets(texts: Sequence[list[str]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """The set of runs of n words of each text: (hashes, uint32, ascending; how many each has).

    A text of fewer words is one run; one without a word has none.

    >>> hashes, counts = run_sets(["a b a b".split(), ["a"], []], 2)
    >>> counts.tolist()
    [2, 1, 0]
    """
    # What is short is made up to a run by words that no text has.
    words = WordArrays.of(
        [
            text if len(text) >= n or not text else [*text, *[""] * (n - len(text))]
            for text in texts
        ]
    )
    hashes, places = words.ngrams(n)
    document = words.documents[places].astype(np.uint64)
    # One sort for all: the document stands in the upper half.
    joined = np.sort((document << np.uint64(32)) | (hashes >> np.uint64(32)))
    joined = joined[np.concatenate([[True], joined[1:] != joined[:-1]])[: len(joined)]]
    counts = np.bincount((joined >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return joined.astype(np.uint32), counts


def band_keys(
    hashes: np.ndarray, counts: np.ndarray, bands: int, rows: int, seed: int
) -> np.ndarray:
    """A key for each band of each set's MinHash signature: uint64 [N, bands]; 0 for empty sets.

    A signature is the least of each of bands x rows permutations of 32-bit numbers.
    """
    random = np.random.Generator(np.random.Philox(seed))
    multipliers = random.integers(0, 2**32, bands * rows, dtype=np.uint32) | np.uint32(1)
    offsets = random.integers(0, 2**32, bands * rows, dtype=np.uint32)
    keys = np.zeros((len(counts), bands), np.uint64)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return keys
    starts = (np.cumsum(counts) - counts)[filled]
    for band in range(bands):
        key = np.full(len(filled), band, np.uint64)
        for row in range(band * rows, (band + 1) * rows):
            permuted = hashes ^ offsets[row]
            permuted *= multipliers[row]
            least = np.minimum.reduceat(permuted, starts)
            key = mix(key * np.uint64(0x100000001B3) + least)
        keys[filled, band] = np.maximum(key, np.uint64(1))
    return keys


def hit_probability(similarity: float, bands: int = 14, rows: int = 8) -> float:
    """The probability that two documents become candidates.

    >>> [round(hit_probability(s), 3) for s in (0.5, 0.75, 0.9)]
    [0.053, 0.772, 1.0]
    """
    return 1 - (1 - similarity**rows) ** bands


def jaccard(a: np.ndarray, b: np.ndarray, least: float = 0.0) -> float:
    """How much two sets have in common: of all that is in either, what is in both.

    Sets are arrays without repetition, in ascending order. 0 where their sizes alone say that
    it is below `least`.

    >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    if min(len(a), len(b)) < least * max(len(a), len(b)):
        return 0.0
    both = np.concatenate([a, b])
    both.sort()
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    return common / max(len(a) + len(b) - common, 1)


def _reader(observed: Observed) -> Callable[[int], np.ndarray]:
    """Reads the set of a document by its number."""

    @lru_cache(maxsize=256)
    def of_chunk(chunk: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array(observed.array(chunk, "ends")), observed.array(chunk, "sets")

    @lru_cache(maxsize=4096)
    def read(document: int) -> np.ndarray:
        chunk = int(np.searchsorted(observed.documents, document, side="right")) - 1
        ends, sets = of_chunk(chunk)
        number = document - int(observed.documents[chunk])
        return np.array(sets[ends[number] : ends[number + 1]])

    return read
