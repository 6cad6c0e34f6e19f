"""Whether what was found supports an answer: the rule, and how it is measured."""

import json

import numpy as np
import pytest

from lm.config import UserError
from lm.retrieval.answer import (
    UNMEASURED,
    LabelledQuestion,
    measure,
    read_questions,
    said_in_sources,
    support_of,
    supports,
    threshold,
    with_sources,
)
from lm.retrieval.index import building
from lm.retrieval.search import open_index
from lm.retrieval.store import SupportRule
from tests.retrieval.test_index import add

QUESTIONS = [
    LabelledQuestion("What keeps ships upright?", ("water.txt",)),
    LabelledQuestion("What needs fuel and heat?", ("fire.md",)),
    LabelledQuestion("Which worms live in soil?", ("earth.html",)),
    LabelledQuestion("Who paints ships green?", (), "near"),
    LabelledQuestion("What is a derivative?", (), "far"),
    LabelledQuestion("Which planets have rings?", (), "far"),
]


@pytest.fixture
def index(files, tmp_path):
    add(tmp_path / "i", files, words_only=True)
    return open_index(tmp_path / "i")


def test_the_threshold_is_where_both_rates_are_best():
    """Fails if the more frequent label decides, or a place beside the gap is taken."""
    yes = np.array([True] * 2 + [False] * 8)
    value = np.array([0.9, 0.5, 0.55, *np.linspace(0.1, 0.4, 7)])
    assert threshold(value, yes) == pytest.approx(0.45)
    assert threshold(np.ones(4), np.array([True, False] * 2)) < 1.1


def test_an_answer_needs_support_of_the_best_passages(index):
    """Fails if the rule is not the index's own, or what was not found supports."""
    asked, other = "What keeps ships upright?", "Which planets have rings?"
    found = index.search(asked)
    assert supports(index, asked, found) == {"similarity": 0.0, "overlap": 1.0, "both": 0.5}
    assert support_of(index, asked, found) == (True, 1.0, UNMEASURED)
    nothing = support_of(index, other, index.search(other))
    assert not nothing.supported and nothing.support == 0.0
    # A passage that stands behind the best three decides nothing.
    behind = [*index.search("fire") * 3, *found]
    assert supports(index, asked, behind)["overlap"] < 0.5
    with building(index.store.folder) as builder:
        lowest = SupportRule(by="overlap", least=-1.0)
        builder.manifest = type(builder.manifest)(
            builder.manifest.settings, shards=builder.manifest.shards, support=lowest
        )
        builder.store.keep(builder.manifest)
    easy = open_index(index.store.folder)
    assert support_of(easy, asked, found).supported
    assert not support_of(easy, other, []).supported


def test_rates_are_those_of_questions_that_did_not_set_the_threshold(index):
    """Fails if a question decides of itself, or labels are mixed up."""
    measured = measure(index, QUESTIONS, 5)
    assert (measured.answerable, measured.unanswerable) == (3, 3)
    assert measured.found == measured.first == {"words": 1.0}
    rates = measured.support["overlap"]
    assert (rates.answered, rates.refused, rates.area) == (1.0, 1.0, 1.0)
    assert rates.refused_by_kind == {"far": 1.0, "near": 1.0}
    assert measured.rule.by == "overlap" and 0.3 < measured.rule.least < 1.0
    # The one question that is unlike all others: by the threshold of these it is supported.
    swapped = [
        *QUESTIONS[:3],
        LabelledQuestion("Ships float on water?", (), "odd"),
        *QUESTIONS[4:5],
    ]
    assert measure(index, swapped, 5).support["overlap"].refused_by_kind["odd"] == 0.0


def test_sources_are_numbered_in_what_the_model_is_asked(index):
    """Fails if a passage is left out, or has another's place."""
    found = index.search("fire and water")
    asked = with_sources("Which?", found)
    for number, each in enumerate(found, 1):
        assert f"[{number}] {each.passage.place}\n{each.passage.text}" in asked
    assert len(found) > 1 and asked.startswith("Which?\n")
    assert said_in_sources(index, "Fire needs water.", found) == 1.0
    assert said_in_sources(index, "Zebras graze.", found) == 0.0


def test_a_file_of_questions_is_read_or_refused_in_a_line(tmp_path):
    """Fails if a line that is damaged is passed over."""
    path = tmp_path / "q.jsonl"
    lines = [{"question": "a?", "answered_by": ["a.md"]}, {"question": "b?"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    assert [each.question for each in read_questions(path)] == ["a?", "b?"]
    for text, why in (
        ('{"question": 1}', r"q\.jsonl:1"),
        ('{"question": "a", "answer": "b"}', "answer"),
        ('{"question": "a"}', "some without"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=why):
            read_questions(path)
