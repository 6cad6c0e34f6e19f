"""How long documents are: the code that pays for where they begin and end.

A length counts what a model may be asked for of a document: its tokens and the eos token. A
document of length n goes on after its tokens 1 .. n - 1 and ends at token n, so the nats of
"goes on" and "ends" at each token, given that it has come so far, sum to -log p(n), whichever
windows the tokens stand in.
"""

from typing import Annotated, NamedTuple, Protocol

import numpy as np
from msgspec import Meta

from lm.config import Config


class Lengths(Protocol):
    """A distribution over the lengths 1, 2, 3, ..."""

    def log_probabilities(self, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """(log p(n), log p(more than n)) for n = 0 .. `longest`, float64 in nats."""
        ...


class Nats(NamedTuple):
    """What each token pays for its document's length, given that it has come so far."""

    ends_N: np.ndarray
    """-log p(n | n or more); index 0 is unused."""
    goes_on_N: np.ndarray
    """-log p(more than n | n or more)."""


def length_nats(lengths: Lengths, longest: int) -> Nats:
    """The nats at the tokens 1 .. `longest` of a document; infinite where that cannot be.

    >>> ends_N, goes_on_N = length_nats(Geometric(mean=4), 3)
    >>> np.exp(-ends_N[1:]).round(6).tolist(), np.exp(-goes_on_N[1:]).round(6).tolist()
    ([0.0, 0.25, 0.25], [1.0, 0.75, 0.75])
    """
    log_p_N, log_more_N = lengths.log_probabilities(longest)
    so_far_N = np.concatenate([[0.0], log_more_N[:-1]])
    with np.errstate(invalid="ignore"):  # beyond the longest that can be: -inf less -inf
        ends_N, goes_on_N = so_far_N - log_p_N, so_far_N - log_more_N
    return Nats(*(np.where(np.isnan(nats_N), np.inf, nats_N) for nats_N in (ends_N, goes_on_N)))


class LengthModel(Config, frozen=True):
    """A length model fitted to training documents: how often each length was seen, and a curve.

    p(n) = (c(n) + e q(n)) / (N + T), where N is the number of documents, c(n) how often length
    n was seen, T the number of lengths in the table `counts` (those seen more than once, at
    most the 4,096 most frequent), and e = N + T - the sum of c: new lengths get the weight that
    new symbols have in method C of Witten and Bell (1991, IEEE Trans. Inf. Theory 37(4)). They
    are spread by q, a log-normal distribution with the documents' own moments, cut at half
    integers. So documents of one length cost next to nothing, and none is impossible.
    """

    documents: Annotated[int, Meta(ge=1, description="training documents (N)")]
    log_mean: Annotated[float, Meta(description="mean of the log of their lengths")]
    log_sd: Annotated[float, Meta(gt=0, description="standard deviation of that, at least 0.5")]
    counts: Annotated[
        tuple[tuple[int, int], ...], Meta(description="(length, how often) for frequent ones")
    ]

    @staticmethod
    def fit(lengths_n: np.ndarray) -> "LengthModel":
        """The model of documents with these lengths, each at least 1.

        >>> LengthModel.fit(np.array([3, 3, 3, 9])).counts
        ((3, 3),)
        """
        seen, times = np.unique(lengths_n, return_counts=True)
        frequent = np.sort(np.argsort(-times, kind="stable")[:_MOST])
        frequent = frequent[times[frequent] > 1]
        logs_n = np.log(lengths_n)
        return LengthModel(
            documents=len(lengths_n),
            log_mean=float(logs_n.mean()),
            log_sd=max(float(logs_n.std()), _LEAST_SD),
            counts=tuple(zip(seen[frequent].tolist(), times[frequent].tolist(), strict=True)),
        )

    def log_probabilities(self, longest: int) -> tuple[np.ndarray, np.ndarray]:
        table_N = np.zeros(longest + 1)
        known = [(length, times) for length, times in self.counts if length <= longest]
        for length, times in known:
            table_N[length] = times
        total = sum(times for _, times in self.counts)
        more_N = total - np.cumsum(table_N)
        log_q_N, log_more_q_N = self._curve(longest)
        whole = np.log(self.documents + len(self.counts))
        new = np.log(self.documents + len(self.counts) - total)
        with np.errstate(divide="ignore"):
            return (
                np.logaddexp(np.log(table_N), new + log_q_N) - whole,
                np.logaddexp(np.log(more_N), new + log_more_q_N) - whole,
            )

    def _curve(self, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """(log q(n), log q(more than n)): the normal distribution between half integers."""
        from scipy.special import log_ndtr  # half a second, of which reading a run has no need

        edges_N = (np.log(np.arange(longest + 1) + 0.5) - self.log_mean) / self.log_sd
        edges_N[0] = -np.inf  # what would be shorter counts as 1
        below_N, above_N = log_ndtr(edges_N), log_ndtr(-edges_N)
        # From the nearer tail: the difference of two numbers near 1 would lose its digits.
        with np.errstate(divide="ignore"):  # in the other tail, which is not taken
            low_N = below_N[1:] + np.log1p(-np.exp(below_N[:-1] - below_N[1:]))
            high_N = above_N[:-1] + np.log1p(-np.exp(above_N[1:] - above_N[:-1]))
        inside_N = np.where(edges_N[1:] < 0, low_N, high_N)
        return np.concatenate([[-np.inf], inside_N]), above_N


class Geometric(NamedTuple):
    """The true lengths of documents that have a token, and end after each with p = 1 / mean.

    `mean` is that of the tokens without the eos token, at least 1.
    """

    mean: float

    def log_probabilities(self, longest: int) -> tuple[np.ndarray, np.ndarray]:
        # A length of n is n - 1 tokens and the end; of 0 or 1 there is none.
        tokens_N = np.arange(longest + 1) - 1.0
        stay = np.log1p(-1 / self.mean) if self.mean > 1 else -np.inf
        with np.errstate(invalid="ignore"):
            log_more_N = np.where(tokens_N > 0, tokens_N * stay, 0.0)
            log_p_N = np.where(tokens_N > 1, (tokens_N - 1) * stay, 0.0) - np.log(self.mean)
        return np.where(tokens_N > 0, log_p_N, -np.inf), log_more_N


_MOST = 4096
_LEAST_SD = 0.5
