"""Answers from what was found: what the model is told, and whether anything supports it.

The rule: a question is supported where its support is at least a threshold. Support is the
similarity of the best passage and the question (the cosine of their vectors), or the part of
the question's words, weighted by how rare they are, that one passage has, or the mean of both.
Which of them, and the threshold, are measured on a small file of questions, some of which
nothing answers (`measure`), and kept in the index. Where nothing was measured it is the words,
at a threshold that was found on the questions about this package's own documents: how similar
texts are depends on the model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from lm.config import UserError
from lm.evaluate.tasks.metrics import wilson
from lm.retrieval.search import Retrieved, SearchBy, TextIndex
from lm.retrieval.store import SupportRule

UNMEASURED = SupportRule(by="overlap", least=0.48)
DECIDING = 3
"""Passages, the best ones, of which one must support an answer."""
NOTHING = "Nothing in the index supports an answer to this question."
"""What is answered in place of an answer."""
SUPPORT: tuple[Literal["similarity", "overlap", "both"], ...] = (
    "similarity",
    "overlap",
    "both",
)


class Support(NamedTuple):
    """How far what was found supports an answer."""

    supported: bool
    support: float
    rule: SupportRule


def support_of(index: TextIndex, query: str, found: Sequence[Retrieved]) -> Support:
    """Whether something that was found supports an answer, by the index's rule."""
    rule = index.manifest.support or UNMEASURED
    if index.embedder is None and rule.by != "overlap":
        rule = UNMEASURED
    value = supports(index, query, found)[rule.by]
    return Support(bool(found) and value >= rule.least, value, rule)


def supports(index: TextIndex, query: str, found: Sequence[Retrieved]) -> dict[str, float]:
    """The support of a query by each way to measure it, of the passage that has most of it
    among the best three.
    """
    found = found[:DECIDING]
    overlap = [index.words.overlap(query, each.passage.text) for each in found]
    similar = [0.0 if each.similarity is None else each.similarity for each in found]
    both = [(s + o) / 2 for s, o in zip(similar, overlap, strict=True)]
    return {
        "similarity": max(similar, default=0.0),
        "overlap": max(overlap, default=0.0),
        "both": max(both, default=0.0),
    }


def with_sources(question: str, found: Sequence[Retrieved]) -> str:
    """A question as it is put to a model: of sources, which are numbered from 1."""
    sources = "\n\n".join(
        f"[{number}] {each.passage.place}\n{each.passage.text}"
        for number, each in enumerate(found, 1)
    )
    # A small model goes on with what stands last, and would repeat a question.
    return f"{question}\n\nAnswer in one or two sentences, from this text:\n\n{sources}"


def said_in_sources(index: TextIndex, answer: str, found: Sequence[Retrieved]) -> float:
    """The part of an answer's words, weighted by how rare they are, that the sources have."""
    return index.words.overlap(answer, "\n".join(each.passage.text for each in found))


# How well the rule does, and at which threshold


class LabelledQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question, and what answers it."""

    question: str
    answered_by: tuple[str, ...] = ()
    """Ends of names of files that do; none: nothing does."""
    kind: str = ""
    """What rates are given for by itself, as of questions that are near the subject."""


class SupportRates(msgspec.Struct, frozen=True):
    """How well a way to measure support tells questions that something answers from others."""

    least: float
    """The threshold: the mean of both rates is best there."""
    answered: float
    """The part of the answerable that are called supported, each by the threshold of all
    others."""
    answered_interval: tuple[float, float]
    """Wilson's, 95 %."""
    refused: float
    """The part of the unanswerable that are called unsupported, likewise."""
    refused_interval: tuple[float, float]
    area: float
    """The chance that an answerable question has more support than an unanswerable one."""
    refused_by_kind: dict[str, float]


class Measured(msgspec.Struct, frozen=True):
    """What a file of questions says of an index."""

    answerable: int
    unanswerable: int
    found: dict[str, float]
    """By way of searching, the part of the answerable of which a file that answers is among
    the passages found."""
    first: dict[str, float]
    """Likewise, among them the first."""
    support: dict[str, SupportRates]
    rule: SupportRule
    """The way with the best mean of both rates, and its threshold over all questions."""


def read_questions(path: Path) -> list[LabelledQuestion]:
    """The questions of a file, a JSON object a line; raises UserError in one line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found.append(msgspec.json.decode(line, type=LabelledQuestion))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(f"{path}:{number}: {error}") from None
    if len({bool(each.answered_by) for each in found}) < 2:
        raise UserError(f"{path}: it needs questions with answered_by, and some without")
    return found


def measure(index: TextIndex, questions: Sequence[LabelledQuestion], k: int) -> Measured:
    """How well files are found and support is told, by k passages a question."""
    answerable = [bool(each.answered_by) for each in questions]
    hits: dict[SearchBy, list[int | None]] = {by: [] for by in index.can}
    values: dict[str, list[float]] = {by: [] for by in SUPPORT}
    for each in questions:
        for by in index.can:
            found = index.search(each.question, max(k, DECIDING), by=by)
            if each.answered_by:
                hits[by].append(
                    rank_of([one.passage.file for one in found[:k]], each.answered_by)
                )
            if by == index.can[0]:
                for way, value in supports(index, each.question, found).items():
                    values[way].append(value)
    ways = SUPPORT if index.embedder is not None else ("overlap",)
    kinds = [each.kind for each in questions]
    rates: dict[str, SupportRates] = {
        way: _rates(np.array(values[way]), np.array(answerable), kinds) for way in ways
    }
    best = max(ways, key=lambda way: rates[way].answered + rates[way].refused)
    return Measured(
        answerable=sum(answerable),
        unanswerable=len(answerable) - sum(answerable),
        found={by: float(np.mean([r is not None for r in of])) for by, of in hits.items()},
        first={by: float(np.mean([r == 0 for r in of])) for by, of in hits.items()},
        support=rates,
        rule=SupportRule(by=best, least=round(rates[best].least, 4)),
    )


def rank_of(files: Sequence[str], answered_by: Sequence[str]) -> int | None:
    """Which of the files that passages are of is the first that answers; None: none does.

    >>> rank_of(["docs/hosts.md", "docs/data.md"], ["data.md"])
    1
    """
    ends = tuple(answered_by)
    return next((rank for rank, file in enumerate(files) if file.endswith(ends)), None)


def _rates(value_n: np.ndarray, yes_n: np.ndarray, kinds: Sequence[str]) -> SupportRates:
    called_n = np.zeros(len(value_n), bool)
    for each in range(len(value_n)):
        others = np.arange(len(value_n)) != each
        called_n[each] = value_n[each] >= threshold(value_n[others], yes_n[others])
    answered, refused = float(called_n[yes_n].mean()), float(1 - called_n[~yes_n].mean())
    above = value_n[yes_n][:, None] - value_n[~yes_n][None]
    of_kinds = {
        kind: float(
            np.mean(
                [
                    not c
                    for c, k, y in zip(called_n, kinds, yes_n, strict=True)
                    if k == kind and not y
                ]
            )
        )
        for kind in sorted({k for k, y in zip(kinds, yes_n, strict=True) if not y})
    }
    return SupportRates(
        least=threshold(value_n, yes_n),
        answered=answered,
        answered_interval=wilson(answered, int(yes_n.sum())),
        refused=refused,
        refused_interval=wilson(refused, int((~yes_n).sum())),
        area=float(((above > 0) + (above == 0) / 2).mean()),
        refused_by_kind=of_kinds,
    )


def threshold(value_n: np.ndarray, yes_n: np.ndarray) -> float:
    """Where the mean of both rates is best; of equal places that with the widest gap.

    >>> yes_n = np.array([False, False, True, True])
    >>> round(threshold(np.array([0.2, 0.3, 0.6, 0.9]), yes_n), 4)
    0.45
    """
    sorted_n = np.unique(value_n)
    # Between two values, and below and above all.
    places = np.concatenate(
        [[sorted_n[0] - 1e-6], (sorted_n[1:] + sorted_n[:-1]) / 2, [sorted_n[-1] + 1e-6]]
    )
    gaps = np.concatenate([[0.0], np.diff(sorted_n), [0.0]])
    rates = [
        (np.mean(value_n[yes_n] >= at) if yes_n.any() else 1.0)
        + (np.mean(value_n[~yes_n] < at) if (~yes_n).any() else 1.0)
        for at in places
    ]
    best = np.flatnonzero(np.isclose(rates, max(rates)))
    return float(places[best[np.argmax(gaps[best])]])


def as_json(query: str, found: Sequence[Retrieved], support: Support) -> dict[str, Any]:
    """What was found for a query, and how far it supports an answer, for JSON."""
    return {
        "query": query,
        "supported": support.supported,
        "support": support.support,
        "rule": {"by": support.rule.by, "least": support.rule.least},
        "sources": [
            {
                "number": number,
                "place": each.passage.place,
                "file": each.passage.file,
                "unit": each.passage.unit,
                "first": each.passage.first,
                "last": each.passage.last,
                "score": each.score,
                "similarity": each.similarity,
                "words": each.words,
                "text": each.passage.text,
            }
            for number, each in enumerate(found, 1)
        ],
    }
