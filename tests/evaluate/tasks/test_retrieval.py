"""Rankings: measures by hand, what judgements make of queries, and each refusal in a line."""

import json
import math

import msgspec
import numpy as np
import pytest

from lm.config import UserError, parse
from lm.evaluate.tasks import TaskConfig
from lm.evaluate.tasks.base import Conditions, Ranking
from lm.evaluate.tasks.ranks import ranked_by_vectors
from lm.evaluate.tasks.result import above
from lm.evaluate.tasks.retrieval import MEASURES, Retrieval
from lm.evaluate.tasks.sitting import sheet_of, sit

pytestmark = pytest.mark.usefixtures("few_draws")
NONE = Conditions()
TASK = Retrieval(
    files=("queries.jsonl",), documents=("documents.jsonl",), judgements=("judged",)
)
JUDGED = "1 d0 3\n1 d2 1\n1 d3 -1\n2 d1 0\n3 d4 1\n3 d1 2 \n"


@pytest.fixture
def collection(lines, tmp_path):
    """Three queries, of which one has no answer, and twelve documents."""
    lines("queries.jsonl", [{"text": f"query {n}"} for n in range(3)])
    lines("documents.jsonl", [{"id": f"d{n}", "text": f"about {n}"} for n in range(12)])
    (tmp_path / "judged").write_text(JUDGED)
    return tmp_path


class Ranker:
    """Ranks by what it is told of each query."""

    scorer, kind, around = "told", "no likelihood", "nothing"

    def __init__(self, told, name="ranker"):
        self.told, self.digest = told, name

    def ranked(self, queries, documents, count):
        self.asked = queries, documents, count
        found = np.array([self.told[query] for query in queries])
        cut_N = np.arange(len(documents)) == 0
        return Ranking(found, np.zeros(len(queries), int), cut_N.astype(int))


def test_measures_are_those_that_are_counted_by_hand(collection):
    """Fails if a rank's discount, a gain, the ideal order or a depth is another; if a document
    of no gain is relevant; or if a query to which nothing is relevant is asked.
    """
    sheet = sheet_of("t", TASK, collection, NONE)
    assert [item.fields["text"] for item in sheet.items] == ["query 0", "query 2"]
    ranker = Ranker(
        # The second's only answers stand at ranks 11 and 12.
        {"query 0": [3, 2, 1, 0, *range(4, 12)], "query 2": [0, 2, 3, *range(5, 12), 4, 1]}
    )
    result = sit(ranker, sheet)
    assert ranker.asked[1:] == ([f"about {n}" for n in range(12)], 100)
    log = math.log2
    ideal = 3 / log(2) + 1 / log(3)
    first = (1 / log(3) + 3 / log(5)) / ideal
    binary = (1 / log(3) + 1 / log(5)) / (1 / log(2) + 1 / log(3))
    by_query = [[first, binary, 1.0, 1.0, 1 / 2, 1 / 12], [0, 0, 0, 1.0, 1 / 11, 1 / 12]]
    np.testing.assert_allclose(result.array[0], by_query)
    assert (result.metric, result.value) == ("ndcg_10", pytest.approx(first / 2))
    assert result.metrics["mrr"].value == pytest.approx((1 / 2 + 1 / 11) / 2)
    assert set(result.metrics) == set(MEASURES) and result.asked == 2
    assert result.low <= result.value <= result.high
    perfect = Ranker({"query 0": [0, 2, *range(3, 13)], "query 2": [1, 4, *range(5, 15)]}, "p")
    best = sit(perfect, sheet)
    assert best.value == best.metrics["recall_10"].value == 1.0
    assert above(TASK, best, result).value == pytest.approx(1 - first / 2)


def test_grades_may_be_worth_less_the_higher_they_are(collection):
    """Fails if the best grade has the least gain, or one that is not named has any."""
    task = msgspec.structs.replace(TASK, grades=("1", "2"))
    sheet = sheet_of("t", task, collection, NONE)
    assert [item.fields["gains"] for item in sheet.items] == [{"2": 2.0}, {"4": 2.0, "1": 1.0}]
    assert sheet.places != sheet_of("t", TASK, collection, NONE).places


def test_queries_have_the_names_that_judgements_call_them(collection, lines):
    """Fails if queries are counted where they have names, or after those that were cut."""
    lines("queries.jsonl", [{"text": f"query {n}", "n": n} for n in (3, 1, 2)])
    named = msgspec.structs.replace(TASK, number="n")
    assert [i.fields["n"] for i in sheet_of("t", named, collection, NONE).items] == [3, 1]
    counted = sheet_of("t", TASK, collection, Conditions(items=2))
    assert [i.fields["n"] for i in counted.items] == [3]


def test_vectors_of_a_model_rank_by_their_angle(collection, model_of, sitting):
    """Fails if a longer vector is nearer, or documents are ranked for another query."""
    sheet = sheet_of("t", TASK, collection, NONE)
    candidate = sitting(model_of("masked"), None)
    texts = [item.fields["text"] for item in (*sheet.items, *sheet.pool)]
    vectors = candidate.states(texts).vectors_ND.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = np.argsort(-(vectors[:2] @ vectors[2:].T), axis=1)
    found = candidate.ranked(texts[:2], texts[2:], 100)
    np.testing.assert_array_equal(found.documents_QK, wanted)
    assert found.cut_Q.shape == (2,) and found.cut_N.shape == (12,)
    assert sit(candidate, sheet).scorer == "states"
    far = ranked_by_vectors(np.array([[1.0, 0.1]]), np.array([[100, 100.0], [0.1, 0.0]]), 1)
    assert far.tolist() == [[1]]


@pytest.mark.parametrize(
    ("change", "files", "why"),
    [
        ({}, {"judged": "1 d0\n"}, "judged:1: 2 columns; must be 3: query, document, grade"),
        ({}, {"judged": "1 d99 1\n"}, "judged:1: no document is called d99"),
        ({}, {"judged": "1 d0 good\n"}, "judged:1: grade is 'good'; must be a number"),
        ({}, {"judged": "9 d0 1\n"}, "judged: nothing is relevant to any query"),
        ({"columns": ("query", "document")}, {}, "columns: no grade among them"),
        ({"documents": ("absent.jsonl",)}, {}, "absent.jsonl: nothing in .*; name the folder"),
        ({"passage": "body"}, {}, "documents.jsonl:1: no field body; it has id, text"),
        (
            {},
            {"documents.jsonl": '{"id": 1, "text": ""}\n' * 2},
            "another document is called 1",
        ),
        ({"query": "question"}, {}, "queries.jsonl:1: no field question"),
        ({"files": ("queries.jsonl", "more.jsonl")}, {}, "number: queries of 2 files"),
    ],
)
def test_what_is_no_collection_is_refused_in_one_line(collection, change, files, why):
    for name, content in files.items():
        (collection / name).write_text(content)
    (collection / "more.jsonl").write_text('{"text": "one more"}\n')
    with pytest.raises(UserError, match=why) as error:
        sheet_of("t", msgspec.structs.replace(TASK, **change), collection, NONE)
    assert "\n" not in str(error.value)


def test_rankings_have_no_prompt(collection):
    for conditions in (Conditions(shots=1), Conditions(calibration="N/A")):
        with pytest.raises(UserError, match="rankings have no prompt"):
            sheet_of("t", TASK, collection, conditions)


def test_a_task_of_ones_own_is_a_json_file(collection):
    """Fails if the form is in no union, or its files are not read beside it."""
    fields = {"type": "retrieval"} | {
        name: [f"{name}"] for name in ("files", "documents", "judgements")
    }
    assert parse(TaskConfig, json.dumps(fields), "t").judgements == ("judgements",)


def test_whatever_ranks_is_measured(collection):
    """Fails if what has no word of a query is ranked all the same, or an empty place counts."""
    measures = pytest.importorskip("lm.retrieval.measures")
    sheet = sheet_of("t", TASK, collection, NONE)

    class Index:
        def __init__(self, texts):
            self.texts = texts

        def rank(self, query, k):
            return (np.array([2]), np.array([1.0])) if query == "query 0" else ([], [])

    result = sit(measures.RankingCandidate("one", Index, "texts"), sheet)
    assert result.array[0, :, 2].tolist() == [0.5, 0.0] and result.scorer == "one"
    candidate = measures.RankingCandidate("one", Index, "texts")
    for ask in (
        lambda: candidate.states(["a"]),
        lambda: candidate.likelihoods([]),
        lambda: candidate.written([], count=1, stop=()),
        lambda: candidate.answered([], count=1, stop=()),
    ):
        with pytest.raises(UserError, match="one ranks texts, and is no model"):
            ask()
    other = measures.RankingCandidate("other", Index, "texts")
    assert candidate.digest != other.digest
