"""The fourth word of an analogy: a is to b as c is to which word?"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm.config import UserError
from lm.evaluate.tasks.metrics import LEVEL, RESAMPLES, Estimate
from lm.evaluate.vectors.table import WordTable, unit
from lm.results.record import Record

_AT_ONCE = 512
"""Questions whose products with all candidates are in memory together."""


class Analogy(NamedTuple):
    """Athens is to Greece as Oslo is to Norway."""

    words: tuple[str, str, str, str]
    """The last one is asked for."""
    section: str = ""


class AnalogySection(Record):
    """How many of a section's questions were right."""

    asked: int
    known: int
    """Of how many all four words are known; the others are left out."""
    right: int
    accuracy: Estimate | None
    """Of the known ones; the interval is a bootstrap over pairs of words, each of which is in
    many questions. None: none is known."""


class AnalogiesResult(Record):
    """How a table answers analogies."""

    task: str
    table: str
    about: str
    """How the table has vectors, in words."""
    candidates: int
    """Among how many words each answer is looked for."""
    sections: dict[str, AnalogySection]
    """By name; none: the file has no sections."""
    total: AnalogySection


def as_questions(lines: Sequence[tuple[str, Sequence[str]]]) -> tuple[Analogy, ...]:
    """The questions of lines, given by their places and words; raises UserError for others.

    >>> as_questions([("f:1", [":", "family"]), ("f:2", ["boy", "girl", "king", "queen"])])
    (Analogy(words=('boy', 'girl', 'king', 'queen'), section='family'),)
    """
    found, section = [], ""
    for place, words in lines:
        if words[0] == ":":
            section = " ".join(words[1:])
            continue
        if len(words) != 4:
            raise UserError(
                f"{place}: {' '.join(words)[:40]!r}; must be the four words of an analogy, or"
                " `: SECTION`"
            )
        a, b, c, d = words
        found.append(Analogy((a, b, c, d), section))
    return tuple(found)


def ask_analogies(
    table: WordTable, questions: Sequence[Analogy], *, words: int, name: str = ""
) -> AnalogiesResult:
    """How a table answers analogies by 3CosAdd (Mikolov et al. 2013; Levy and Goldberg 2014).

    The answer is the candidate with the highest cosine to b - a + c, all of length 1, that is
    none of these three. Candidates are the first `words` of the table; where words of several
    tokens have vectors, the questions' words as well. A question is known if all of its words
    are candidates.

    >>> ends = np.array([[1, 0], [1, 1], [0, 1], [-1, 1.0]])
    >>> table = WordTable("t", ("a", "b", "c", "d"), ends, "")
    >>> ask_analogies(table, [Analogy(("a", "b", "c", "d"))], words=4).total.right
    1
    """
    names, vectors_CD = table.candidates(words)
    number = {word: place for place, word in enumerate(names)}
    asked = list(dict.fromkeys(word for question in questions for word in question.words))
    if table.others is not None:
        new = [word for word in asked if _place(number, word) is None]
        found = table.find(new)
        known = [at for at, tokens in enumerate(found.tokens_N) if tokens]
        number |= {new[at]: len(number) + rank for rank, at in enumerate(known)}
        vectors_CD = np.concatenate([vectors_CD, found.vectors_ND[known]])
    places = {word: _place(number, word) for word in asked}
    at_Q4 = np.array(
        [[-1 if (at := places[w]) is None else at for w in q.words] for q in questions], int
    )
    known_Q = at_Q4.min(axis=1) >= 0
    right_Q = np.zeros(len(questions), bool)
    right_Q[known_Q] = _right(at_Q4[known_Q], vectors_CD)
    of = np.array([question.section for question in questions])
    parts = {part: _pairs(questions, of == part) for part in dict.fromkeys(of.tolist())}
    return AnalogiesResult(
        task=name,
        table=table.name,
        about=table.about,
        candidates=len(vectors_CD),
        sections={
            title: _section(known_Q, right_Q, [part]) for title, part in parts.items() if title
        },
        total=_section(known_Q, right_Q, list(parts.values())),
    )


def _place(number: Mapping[str, int], word: str) -> int | None:
    return number.get(word, number.get(word.lower()))


def _right(at_Q4: np.ndarray, vectors_CD: np.ndarray) -> np.ndarray:
    """Whether each question's fourth word is found, bool[Q]."""
    found = []
    for first in range(0, len(at_Q4), _AT_ONCE):
        at = at_Q4[first : first + _AT_ONCE]
        a_QD, b_QD, c_QD = (vectors_CD[at[:, place]] for place in range(3))
        cosine_QC = unit(b_QD - a_QD + c_QD) @ vectors_CD.T
        np.put_along_axis(cosine_QC, at[:, :3], -np.inf, axis=1)
        found.append(cosine_QC.argmax(axis=1) == at[:, 3])
    return np.concatenate([np.zeros(0, bool), *found])


class _Pairs(NamedTuple):
    """A section's questions, by the two pairs of words that each is made of."""

    questions: np.ndarray
    """int[Q]: which they are."""
    pairs_Q2: np.ndarray
    """int[Q, 2]: the pair that is given, and the one that is asked for."""


def _pairs(questions: Sequence[Analogy], chosen_Q: np.ndarray) -> _Pairs:
    there = np.flatnonzero(chosen_Q)
    number: dict[tuple[str, str], int] = {}
    found = []
    for at in there.tolist():
        a, b, c, d = questions[at].words
        found.append([number.setdefault(pair, len(number)) for pair in ((a, b), (c, d))])
    return _Pairs(there, np.array(found, int).reshape(-1, 2))


def _section(
    known_Q: np.ndarray, right_Q: np.ndarray, parts: Sequence[_Pairs]
) -> AnalogySection:
    """Some sections as one; pairs of words are drawn within each (Snijders, Borgatti 1999)."""
    all_ = np.concatenate([part.questions for part in parts])
    known, right = int(known_Q[all_].sum()), int(right_Q[all_].sum())
    if not known:
        return AnalogySection(asked=len(all_), known=0, right=0, accuracy=None)
    random = np.random.default_rng(0)
    drawn = np.zeros((RESAMPLES, 2))
    for part in parts:
        mine = part.questions[known_Q[part.questions]]
        pairs_Q2 = part.pairs_Q2[known_Q[part.questions]]
        if not len(mine):
            continue
        # A pair's words may be known in some of its questions alone: those are who is drawn.
        there, pairs_Q2 = np.unique(pairs_Q2, return_inverse=True)
        pairs_Q2 = pairs_Q2.reshape(-1, 2)
        times_RP = random.multinomial(
            len(there), np.full(len(there), 1 / len(there)), RESAMPLES
        )
        weight_RQ = times_RP[:, pairs_Q2[:, 0]] * times_RP[:, pairs_Q2[:, 1]]
        drawn += np.stack([weight_RQ @ right_Q[mine], weight_RQ.sum(axis=1)], axis=1)
    there_R = drawn[:, 1] > 0
    accuracies = drawn[there_R, 0] / drawn[there_R, 1]
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low, high = np.quantile(accuracies, ends) if len(accuracies) else (0.0, 1.0)
    accuracy = Estimate(value=right / known, low=float(low), high=float(high))
    return AnalogySection(asked=len(all_), known=known, right=right, accuracy=accuracy)
