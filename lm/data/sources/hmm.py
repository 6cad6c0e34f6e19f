"""A hidden Markov source: the corpus for which every probability is known.

Dimension letters: N texts, T symbols of a text, S hidden states, K symbols of the alphabet.
The recursions are those of Rabiner (1989, "A tutorial on hidden Markov models", section III),
scaled at every symbol, in float64; they hold a few arrays of N x T x S numbers.
"""

import functools
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from msgspec import Meta

from lm.data.sources.base import Base
from lm.data.sources.draws import philox, uniform

ALPHABET = string.ascii_lowercase + string.ascii_uppercase + string.digits + "-_"
"""Symbol k is written as character k: one byte, so one token of the `bytes` tokenizer."""


class Hmm(Base, frozen=True, tag="hmm"):
    """Texts from a hidden Markov source whose every probability is known.

    With equal lengths all documents have `length` symbols, so that rows of `row_length`
    positions hold exactly one each: begin, its symbols, end, and the next document's begin,
    which nobody is asked for. No window cuts a document, and the optimum of a model is the
    source's own conditional; the eos token, whose place is known, adds nothing to it. By
    default a symbol takes 3.17 bits if nothing else is known, 2.61 after the one before it and
    2.26 after all (the entropy rate).

    With geometric lengths a document ends after each of its symbols with probability 1 /
    `length`. As the source is stationary, what a window holds of a document is distributed as a
    document is, wherever the window cuts it: so its truth is known in rows of any length.

    What is drawn depends on (states, symbols, length, lengths, concentration, seed) and the
    document's index alone, and is the same on every machine: raw Philox bits, their seeding and
    the distributions of `RandomState` never change between releases of NumPy (NEP 19), unlike
    those of its `Generator`. A counter-based generator can begin at any document.
    """

    states: Annotated[int, Meta(ge=1, le=64, description="hidden states")] = 8
    symbols: Annotated[
        int, Meta(ge=2, le=len(ALPHABET), description="size of the alphabet, a byte a symbol")
    ] = 16
    length: Annotated[
        int, Meta(ge=1, le=2**16, description="symbols of a document, on average")
    ] = 61
    lengths: Annotated[
        Literal["equal", "geometric"], Meta(description="how documents differ in length")
    ] = "equal"
    documents: Annotated[int, Meta(ge=1, description="how many are drawn")] = 20_000
    concentration: Annotated[
        float,
        Meta(ge=0.05, le=1000, description="Dirichlet's, of both tables; small: less random"),
    ] = 0.1
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="of the tables and the texts")] = 0

    @property
    def row_length(self) -> int:
        """The row length (L) at which every row is one document of `length` symbols."""
        return self.length + 3

    @functools.cache  # noqa: B019 - a frozen value, of which there are few
    def source(self) -> "HmmSource":
        """The source: rows of both tables from a symmetric Dirichlet distribution.

        Each is turned into whole numbers of at least 1 out of 2^20. So no symbol or transition
        is impossible, and the last bits, in which mathematical libraries differ, are gone.
        """
        draw = np.random.RandomState(self._bits(0))
        tables = [
            np.floor(draw.dirichlet([self.concentration] * size, self.states) * 2**20) + 1
            for size in (self.states, self.symbols)
        ]
        return HmmSource.of(*(table / table.sum(axis=1, keepdims=True) for table in tables))

    def draw(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents `first .. stop - 1`: (states_NT, symbols_NT), both int64.

        T is the longest one's number of symbols (`sizes`); what a shorter one has beyond its
        own is no part of it.

        >>> states_NT, symbols_NT = Hmm(length=4).draw(122, 125)
        >>> (Hmm(length=4).draw(123, 124)[1] == symbols_NT[1:2]).all()
        np.True_
        """
        most = int(self.sizes(first, stop).max(initial=1))
        counts = -(-2 * self._longest // 4)  # of Philox's counter, which gives 4 numbers each
        if self.lengths == "equal":
            bits = self._bits(1).advance(first * counts).random_raw((stop - first) * counts * 4)
            bits_NT2 = bits.reshape(stop - first, -1, 2)[:, :most]
        else:
            bits_NT2 = np.stack(
                [
                    self._bits(1).advance(index * counts).random_raw(2 * most).reshape(most, 2)
                    for index in range(first, stop)
                ]
            )
        return self.source().draw(uniform(bits_NT2))

    def sizes(self, first: int, stop: int) -> np.ndarray:
        """How many symbols the documents `first .. stop - 1` have, int64[N].

        >>> Hmm(length=4).sizes(0, 3).tolist()
        [4, 4, 4]
        """
        if self.lengths == "equal":
            return np.full(stop - first, self.length)
        more_T = np.cumprod(np.full(self._longest - 1, 1 - 1 / self.length))
        # Four to a step of the counter, as above; a document takes the first.
        bits = self._bits(2).advance(first).random_raw(4 * (stop - first))[::4]
        return 1 + np.searchsorted(-more_T, -uniform(bits), side="left")

    def contents(self) -> Iterator[tuple[str, int, bytes]]:
        """A few thousand documents are in memory at a time."""
        letters_K = np.frombuffer(ALPHABET.encode(), np.uint8)
        step = max(1, 2**17 // self.length)
        for first in range(0, self.documents, step):
            stop = min(first + step, self.documents)
            symbols_NT = self.draw(first, stop)[1]
            documents = zip(self.sizes(first, stop), symbols_NT, strict=True)
            for index, (size, symbols_T) in enumerate(documents, first):
                yield f"hmm:{index:06}", 0, letters_K[symbols_T[:size]].tobytes()

    @property
    def title(self) -> str:
        return "a hidden Markov source"

    @property
    def expected_documents(self) -> int:
        return self.documents

    def truth(self) -> "Hmm":
        return self

    @property
    def _longest(self) -> int:
        """Symbols of the longest document; 1e-14 of geometric lengths would exceed it."""
        return self.length if self.lengths == "equal" else 32 * self.length

    def _bits(self, purpose: int) -> np.random.Philox:
        return philox(self.seed, purpose)


def index_of(id: str) -> int:
    """The index of a document, from its id.

    >>> index_of("hmm:000123")
    123
    """
    return int(id.removeprefix("hmm:"))


def symbols_of(text: str) -> np.ndarray:
    """The symbols of a document, int64[T].

    >>> symbols_of("abba").tolist()
    [0, 1, 1, 0]
    """
    return np.array([_SYMBOL[letter] for letter in text], np.int64)


_SYMBOL = {letter: symbol for symbol, letter in enumerate(ALPHABET)}


class EntropyRate(NamedTuple):
    """Bits per symbol in the long run: it lies between the bounds, each known to `se`."""

    lower: float
    upper: float
    se: float
    """One standard error, over independent texts."""

    @property
    def bits(self) -> float:
        return (self.lower + self.upper) / 2


class Accuracy(NamedTuple):
    """The fraction of symbols whose state is named rightly, and its standard error over
    texts.
    """

    value: float
    se: float | None
    """None with one text."""


@dataclass(frozen=True, eq=False)
class HmmSource:
    """p(states, symbols) = initial[z1] emission[z1, x1] transition[z1, z2] emission[z2, x2] ...

    A coin that is fair, or always shows its head, and is exchanged one time in ten:

    >>> emissions = np.array([[0.5, 0.5], [1, 0]])
    >>> source = HmmSource.of(np.array([[0.9, 0.1], [0.1, 0.9]]), emissions)
    >>> np.exp(source.log_probability(np.array([[0], [1]]))).round(6).tolist()
    [0.75, 0.25]
    """

    initial_S: np.ndarray
    transition_SS: np.ndarray
    """From the row's state to the column's."""
    emission_SK: np.ndarray

    @staticmethod
    def of(transition_SS: np.ndarray, emission_SK: np.ndarray) -> "HmmSource":
        """The stationary source: the first state is drawn like any later one."""
        return HmmSource(stationary(transition_SS), transition_SS, emission_SK)

    def draw(self, uniform_NT2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(states_NT, symbols_NT) by inversion of two numbers from [0, 1) for each symbol."""
        first_S, next_SS, letter_SK = (
            np.cumsum(table, axis=-1)[..., :-1]
            for table in (self.initial_S, self.transition_SS, self.emission_SK)
        )
        states_NT = np.empty(uniform_NT2.shape[:2], np.int64)
        states_NT[:, 0] = (uniform_NT2[:, 0, :1] >= first_S[None, :]).sum(axis=1)
        for t in range(1, uniform_NT2.shape[1]):
            bounds_NS = next_SS[states_NT[:, t - 1]]
            states_NT[:, t] = (uniform_NT2[:, t, :1] >= bounds_NS).sum(axis=1)
        return states_NT, (uniform_NT2[:, :, 1:] >= letter_SK[states_NT]).sum(axis=2)

    def log_probability(self, symbols_NT: np.ndarray) -> np.ndarray:
        """Log p(text) in nats, float64[N], by the forward algorithm; -inf if it is impossible.

        >>> fair = HmmSource.of(np.array([[1.0]]), np.array([[0.5, 0.5]]))
        >>> (fair.log_probability(np.array([[0, 1, 1]])) / np.log(2)).tolist()
        [-3.0]
        """
        return -self.prediction_nats(symbols_NT).sum(axis=1)

    def prediction_nats(self, symbols_NT: np.ndarray) -> np.ndarray:
        """-log p(symbol | all before it), float64[N, T]: the least loss of a causal model.

        It is infinite from the first symbol on that cannot follow those before it.
        """
        evidence_NTS = self._evidence(symbols_NT)
        before_NTS, _ = self._forward(evidence_NTS, self.initial_S[None, :])
        return _nats((before_NTS * evidence_NTS).sum(axis=2))

    def conditional_nats(self, symbols_NT: np.ndarray, hidden_NT: np.ndarray) -> np.ndarray:
        """-log p(symbol | all that are not hidden) of each hidden one, float64[N, T], else 0.

        The least loss of a masked model under this mask: the other masked symbols are summed
        out, by the forward-backward algorithm with observations missing.

        >>> coin = HmmSource.of(np.array([[0.9, 0.1], [0.1, 0.9]]), np.eye(2))
        >>> hidden = np.array([[True, True, False]])
        >>> np.exp(-coin.conditional_nats(np.array([[0, 0, 0]]), hidden)).round(6).tolist()
        [[0.82, 0.9, 1.0]]
        """
        letter_NTS = self._evidence(symbols_NT)
        evidence_NTS = np.where(hidden_NT[:, :, None], 1.0, letter_NTS)
        state_NTS = self._smoothed(evidence_NTS)
        return np.where(hidden_NT, _nats((state_NTS * letter_NTS).sum(axis=2)), 0.0)

    def conditionals(self, symbols_NT: np.ndarray, hidden_NT: np.ndarray) -> np.ndarray:
        """p(symbol | all others that are not hidden) of each hidden place, float64[N, T, K].

        At a place that is not hidden, it is what another symbol of the same state would be.

        >>> coin = HmmSource.of(np.array([[0.9, 0.1], [0.1, 0.9]]), np.eye(2))
        >>> hidden = np.array([[False, True]])
        >>> coin.conditionals(np.array([[0, 0]]), hidden)[0, 1].round(6).tolist()
        [0.9, 0.1]
        """
        letter_NTS = self._evidence(symbols_NT)
        evidence_NTS = np.where(hidden_NT[:, :, None], 1.0, letter_NTS)
        return self._smoothed(evidence_NTS) @ self.emission_SK

    def state_posterior(
        self, symbols_NT: np.ndarray, *, given: Literal["all", "so far"]
    ) -> np.ndarray:
        """p(state | symbols), float64[N, T, S], given all symbols or those up to its own.

        The first (smoothing) is what an encoder may know of a position that it sees, the second
        (filtering) what a causal model may.
        """
        evidence_NTS = self._evidence(symbols_NT)
        if given == "all":
            return self._smoothed(evidence_NTS)
        return self._forward(evidence_NTS, self.initial_S[None, :])[1]

    def entropy_rate(
        self, *, texts: int = 2000, length: int = 200, seed: int = 0
    ) -> EntropyRate:
        """The bounds H(x_n | x_<n, z_1) <= rate <= H(x_n | x_<n), in bits per symbol.

        Cover & Thomas (2006, theorem 4.5.1). The entropy of x_n is exact for each of `texts`
        drawn texts, and the mean is over them and over n in their second half. The bounds meet
        once the first state is forgotten; a `length` that leaves them apart is too short.

        >>> HmmSource.of(np.array([[1.0]]), np.array([[0.5, 0.25, 0.25]])).entropy_rate()
        EntropyRate(lower=1.5, upper=1.5, se=0.0)
        """
        uniform_NT2 = np.random.RandomState(seed).random_sample((texts, length, 2))
        states_NT, symbols_NT = self.draw(uniform_NT2)
        evidence_NTS = self._evidence(symbols_NT)
        first_NS = np.eye(len(self.initial_S))[states_NT[:, 0]]
        lower_N, upper_N = (
            _entropy(self._forward(evidence_NTS, start_NS)[0][:, length // 2 :], self)
            for start_NS in (first_NS, self.initial_S[None, :])
        )
        se = max(bound_N.std(ddof=1) for bound_N in (lower_N, upper_N)) / np.sqrt(texts)
        return EntropyRate(float(lower_N.mean()), float(upper_N.mean()), float(se))

    def _evidence(self, symbols_NT: np.ndarray) -> np.ndarray:
        """p(symbol | state), float64[N, T, S]."""
        return self.emission_SK.T[symbols_NT]

    def _forward(
        self, evidence_NTS: np.ndarray, start_NS: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """p(state | evidence before), and p(state | evidence up to its own), [N, T, S] each."""
        before_NTS, so_far_NTS = np.empty_like(evidence_NTS), np.empty_like(evidence_NTS)
        for t in range(evidence_NTS.shape[1]):
            before_NTS[:, t] = so_far_NTS[:, t - 1] @ self.transition_SS if t else start_NS
            so_far_NTS[:, t] = _normalized(before_NTS[:, t] * evidence_NTS[:, t])
        return before_NTS, so_far_NTS

    def _smoothed(self, evidence_NTS: np.ndarray) -> np.ndarray:
        """p(state | all evidence), float64[N, T, S]."""
        _, so_far_NTS = self._forward(evidence_NTS, self.initial_S[None, :])
        after_NTS = np.ones_like(evidence_NTS)  # in proportion to p(evidence after | state)
        for t in reversed(range(evidence_NTS.shape[1] - 1)):
            later_NS = evidence_NTS[:, t + 1] * after_NTS[:, t + 1]
            after_NTS[:, t] = _normalized(later_NS @ self.transition_SS.T)
        return _normalized(so_far_NTS * after_NTS)


def bayes_accuracy(posterior_NTS: np.ndarray, states_NT: np.ndarray) -> Accuracy:
    """How often the likeliest state is the true one: no probe that saw the same does better.

    >>> bayes_accuracy(np.array([[[0.9, 0.1], [0.4, 0.6]]] * 2), np.array([[0, 0], [0, 1]]))
    Accuracy(value=0.75, se=0.25)
    """
    right_N = (posterior_NTS.argmax(axis=2) == states_NT).mean(axis=1)
    number = len(right_N)
    se = float(right_N.std(ddof=1) / np.sqrt(number)) if number > 1 else None
    return Accuracy(float(right_N.mean()), se)


def stationary(transition_SS: np.ndarray) -> np.ndarray:
    """The distribution that an irreducible transition leaves as it is, float64[S].

    Grassmann, Taksar & Heyman (1985): elimination without a subtraction, so that states which
    are rarely left lose no digits.

    >>> stationary(np.array([[0.9, 0.1], [0.3, 0.7]])).round(6).tolist()
    [0.75, 0.25]
    """
    rest_SS, fraction_S = transition_SS.astype(np.float64), np.ones(len(transition_SS))
    for s in reversed(range(1, len(fraction_S))):
        rest_SS[:s, s] /= rest_SS[s, :s].sum()
        rest_SS[:s, :s] += np.outer(rest_SS[:s, s], rest_SS[s, :s])
    for s in range(1, len(fraction_S)):
        fraction_S[s] = fraction_S[:s] @ rest_SS[:s, s]
    return fraction_S / fraction_S.sum()


def _entropy(state_NTS: np.ndarray, source: HmmSource) -> np.ndarray:
    """Bits of the next symbol's distribution, given the state's, mean over T: float64[N]."""
    fraction_NTK = state_NTS @ source.emission_SK
    return (_nats(fraction_NTK + (fraction_NTK == 0)) * fraction_NTK).sum(axis=2).mean(
        1
    ) / np.log(2)


def _normalized(weight: np.ndarray) -> np.ndarray:
    """Weights over their sum in the last dimension; all 0 stays 0: the text is impossible."""
    total = weight.sum(axis=-1, keepdims=True)
    return weight / np.where(total > 0, total, 1.0)


def _nats(probability: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -np.log(probability)
