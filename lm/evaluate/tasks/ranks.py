"""Measures of rankings, query by query, and the ranking that vectors give."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np


def ndcg(ranked: Sequence[int], gains: Mapping[int, float], k: int) -> float:
    """Discounted gain of the first k documents over the best that k documents can have.

    The document at rank r counts for its gain over log2(r + 1) (Järvelin and Kekäläinen 2002,
    with the gain itself, as trec_eval has it). `gains` are of the documents that have any.

    >>> round(ndcg([7, 3, 9], {3: 1.0}, 10), 4), ndcg([3, 7], {3: 1.0}, 10)
    (0.6309, 1.0)
    """
    found = discounted([gains.get(document, 0.0) for document in ranked[:k]])
    return found / discounted(sorted(gains.values(), reverse=True)[:k])


def discounted(gains: Sequence[float]) -> float:
    """The sum of gains, each over log2 of its rank and one.

    >>> discounted([1.0, 0.0, 1.0])
    1.5
    """
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def recall(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Which fraction of the relevant documents is among the first k.

    >>> recall([7, 3, 9], {3, 8}, 2)
    0.5
    """
    return len(set(ranked[:k]) & set(relevant)) / len(relevant)


def reciprocal_rank(ranked: Sequence[int], relevant: Collection[int]) -> float:
    """One over the rank of the first relevant document; 0 where there is none.

    >>> reciprocal_rank([7, 3, 9], {3, 9}), reciprocal_rank([7], {3})
    (0.5, 0.0)
    """
    ranks = (rank for rank, document in enumerate(ranked, 1) if document in relevant)
    return 1 / next(ranks, math.inf)


def ranked_by_vectors(query_QD: np.ndarray, document_ND: np.ndarray, k: int) -> np.ndarray:
    """The k documents nearest in angle to each query, int[Q, k]; of equals the first.

    >>> ranked_by_vectors(np.array([[2.0, 0.0]]), np.array([[0, 1], [3, 1], [1, 0]]), 2)
    array([[2, 1]])
    """
    cosines_QN = _unit(query_QD) @ _unit(document_ND).T
    # Of vectors that are the same, which rounding may tell apart, it is not decided here.
    return np.argsort(-cosines_QN, axis=1, kind="stable")[:, :k]


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    vectors_ND = vectors_ND.astype(np.float64)
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-30)
