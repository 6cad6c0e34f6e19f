"""Similarity of sentences by their vectors, and the last word of a passage."""

import math

import numpy as np
import pytest
from scipy import stats

from lm.config import UserError
from lm.evaluate.tasks.base import Conditions, Likelihood
from lm.evaluate.tasks.last_word import LastWord
from lm.evaluate.tasks.similarity import Similarity
from lm.evaluate.tasks.sitting import sheet_of, sit

pytestmark = pytest.mark.usefixtures("few_draws")
NONE = Conditions()
PAIRS = [("ab", "abc", 4.5), ("x", "yz", 0.5), ("one", "on", 3.0), ("q", "qq", 3.0)]


@pytest.fixture
def pairs(lines):
    made = [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in PAIRS]
    return sheet_of(
        "alike",
        Similarity(files=("a.jsonl",)),
        lines("a.jsonl", made),
        NONE,
    )


@pytest.mark.parametrize("name", ["masked", "causal", "classes"])
@pytest.mark.parametrize("pool", ["mean", "first", "last"])
def test_vectors_are_pooled_states(model_of, sitting, pairs, name, pool):
    """Fails if padding or a neighbour is pooled, the states are not the last, or another mask
    is theirs than in training.
    """
    model = model_of(name)
    candidate = sitting(model, None, pool=pool)
    texts = [text for pair in PAIRS for text in pair[:2]]
    wanted = []
    for text in texts:
        ids = [2, *model.tokenizer.encode(text).tolist()]
        row = np.zeros((1, 8), int)
        row[0, : len(ids)] = ids
        states_LD = model.hidden(row, (row > 0).astype(int))[0, : len(ids)]
        pooled = {"mean": states_LD.mean(0), "first": states_LD[0], "last": states_LD[-1]}
        wanted.append(pooled[pool])
    found = candidate.states([*texts, texts[0]])
    np.testing.assert_allclose(found.vectors_ND, [*wanted, wanted[0]], rtol=1e-4, atol=1e-5)
    assert found.cut_N.tolist() == [0] * (len(texts) + 1)
    if pool == "mean":
        result = sit(candidate, pairs)
        first, second = np.array(wanted[::2]), np.array(wanted[1::2])
        cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1)
        cosines /= np.linalg.norm(second, axis=1)
        said = [score for *_, score in PAIRS]
        assert result.metrics["pearson"].value == pytest.approx(
            stats.pearsonr(said, cosines).statistic, abs=1e-4
        )
        assert result.value == pytest.approx(stats.spearmanr(said, cosines).statistic)
        assert (result.metric, result.scorer, result.kind) == (
            "spearman",
            "states",
            "no likelihood",
        )


def test_an_encoder_of_a_source_has_no_states_of_a_text(model_of, sitting, pairs):
    """Fails if a decoder without its source is asked, in a traceback."""
    with pytest.raises(UserError, match="the model reads a source"):
        sit(sitting(model_of("t5"), None), pairs)


def test_a_text_that_does_not_fit_is_cut_behind_and_counted(model_of, sitting):
    """Fails if its beginning is cut, or nothing says so."""
    candidate = sitting(model_of("causal"), None)
    room = candidate.frame.room
    short, long = candidate.states(["a" * room, "a" * room + "bcd"]).vectors_ND
    np.testing.assert_allclose(short, long, rtol=1e-5)
    assert candidate.states(["a" * room + "bcd", "a"]).cut_N.tolist() == [3, 0]


def test_a_text_of_no_tokens_has_no_states(model_of, sitting):
    """Fails if nothing is pooled, which is no number."""
    candidate = sitting(model_of("causal"), None, prefix="none")
    with pytest.raises(UserError, match="a text of no tokens"):
        candidate.states(["ab", ""])
    assert np.isfinite(sitting(model_of("causal"), None).states([""]).vectors_ND).all()


def test_similarity_has_no_prompt(lines):
    folder = lines("a.jsonl", [{"sentence1": "a", "sentence2": "b", "score": "1"}] * 3)
    for conditions in (Conditions(shots=1), Conditions(calibration="N/A")):
        with pytest.raises(UserError, match="similarities have no prompt"):
            sheet_of("a", Similarity(files=("a.jsonl",)), folder, conditions)


PASSAGES = [{"context": f"It is {n}, and", "continuation": f"word{n}"} for n in range(4)]


def test_the_last_word(lines, oracle):
    """Fails if a rival of one token does not count, or perplexity is of bits or of tokens."""
    folder = lines("w.jsonl", PASSAGES)
    nats = [0.5, 1.5, 2.0, 4.0]

    def answer(request):
        number = int(request.continuation[-1])
        return Likelihood(-nats[number], number in (0, 3), 2, 7 * (number == 2))

    candidate = oracle(answer)
    result = sit(candidate, sheet_of("w", LastWord(files=("w.jsonl",)), folder, NONE))
    assert result.value == 0.5 and (result.cut, result.cut_tokens) == (1, 7)
    assert result.metrics["perplexity"].value == pytest.approx(math.exp(2))
    assert [request[:2] for request in candidate.asked] == [
        (f"It is {n}, and", f" word{n}") for n in range(4)
    ]
    assert result.prompt == "{context}| {continuation}"


def test_solved_passages_stand_before_the_last_word(lines, oracle):
    """Fails if a solved passage lacks its word, or the word asked for is one of them."""
    folder = lines("w.jsonl", PASSAGES)
    candidate = oracle(lambda request: -1.0)
    conditions = Conditions(shots=2, seeds=(0, 1))
    result = sit(candidate, sheet_of("w", LastWord(files=("w.jsonl",)), folder, conditions))
    assert len(candidate.asked) == 8 and len(result.columns) == 2
    for request in candidate.asked:
        *solved, asked = request.context.split("\n\n")
        assert len(solved) == 2
        own = asked[6]
        assert all(text.endswith(f"and word{text[6]}") and text[6] != own for text in solved)
