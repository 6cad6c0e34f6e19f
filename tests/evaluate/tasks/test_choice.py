"""Choices: what is asked, what is chosen, by which length, and what a tie counts."""

import numpy as np
import pytest

from lm.config import UserError
from lm.evaluate.tasks.base import Conditions, Likelihood
from lm.evaluate.tasks.choice import Choice, Cloze, Pairs
from lm.evaluate.tasks.files import read_items
from lm.evaluate.tasks.sitting import sheet_of, sit

pytestmark = pytest.mark.usefixtures("few_draws")
NONE = Conditions()


def sat(candidate, task, folder, conditions=NONE, **settings):
    return sit(candidate, sheet_of("task", task, folder, conditions), **settings)


QUESTION = {"query": "Which?", "choices": ["aa", "éé b c", "b"], "gold": 1}


@pytest.fixture
def question(lines):
    return lines("a.jsonl", [QUESTION])


def test_what_is_asked(question, oracle):
    """Fails if the templates of prompt and answer are not filled, or answers lose order."""
    task = Choice(files=("a.jsonl",), prompt="Q: {query}\nA:", answer=" {choice}.")
    candidate = oracle(lambda request: -1)
    result = sat(candidate, task, question)
    assert {request.context for request in candidate.asked} == {"Q: Which?\nA:"}
    assert [request.continuation for request in candidate.asked] == [
        " aa.", " éé b c.", " b."
    ]  # fmt: skip
    assert {request.after for request in candidate.asked} == {""}
    assert {request.number for request in candidate.asked} == {0}
    assert result.prompt == "Q: {query}\nA:| {choice}."


def test_each_norm_divides_by_its_length(question, oracle):
    """Fails if a norm is another's, or counts what the template puts around a choice."""
    task = Choice(files=("a.jsonl",), answer="    {choice}    ")
    # tokens 1, 3, 1; characters 2, 6, 1; bytes 2, 8, 1
    lengths = {"nothing": (1, 1, 1), "tokens": (1, 3, 1), "characters": (2, 6, 1)}
    lengths["bytes"] = (2, 8, 1)
    for norm, of in lengths.items():
        name = "accuracy" if norm == "nothing" else f"accuracy_{norm}"
        for other in range(3):
            # The right one is just behind or before the other by this norm.
            for gap, wanted in ((1.001, 1), (0.999, 0)):
                logs = [-1000.0 * n for n in of]
                logs[1] = -1.0 * of[1]
                logs[other] = -gap * of[other] if other != 1 else logs[1]

                def answer(request, logs=logs):
                    number = [" aa", " éé b c", " b"].index(f" {request.continuation.strip()}")
                    return Likelihood(logs[number], False, (1, 3, 1)[number])

                result = sat(oracle(answer), task, question)
                assert result.metrics[name].value == (wanted if other != 1 else 1)
    assert Choice(files=("a",), norm="bytes").metric == "accuracy_bytes"
    assert sat(oracle(lambda r: 0), task, question).metric == "accuracy"


def test_ties_count_as_their_part_and_are_reported(lines, oracle):
    """Fails if the first of those that are equal wins, or nothing says that they are."""
    folder = lines("a.jsonl", [QUESTION | {"gold": gold} for gold in (0, 1, 2, 0)])
    result = sat(oracle(lambda request: -1.5), Choice(files=("a.jsonl",)), folder)
    assert result.value == pytest.approx(1 / 3)
    assert result.metrics["tied"].value == 1
    pairs = lines("p.jsonl", [{"better": "a b", "worse": "b a"}] * 3)
    result = sat(oracle(lambda request: -1.5), Pairs(files=("p.jsonl",)), pairs)
    assert (result.value, result.metrics["tied"].value) == (0.5, 1)
    one = sat(
        oracle(lambda r: -1 - 1e-6 * (r.continuation == "b a")),
        Pairs(files=("p.jsonl",)),
        pairs,
    )
    assert (one.value, one.metrics["tied"].value) == (1, 0)


def test_pairs_are_whole_sentences(lines, oracle):
    """Fails if worse is taken for better, or something stands before a sentence."""
    folder = lines("p.jsonl", [{"good": "they sit", "bad": "they sits"}])
    candidate = oracle(lambda request: -len(request.continuation))
    task = Pairs(files=("p.jsonl",), better="good", worse="bad")
    assert sat(candidate, task, folder).value == 1
    assert [request[:3] for request in candidate.asked] == [
        ("", "they sit", ""), ("", "they sits", "")
    ]  # fmt: skip
    assert sat(oracle(lambda r: len(r.continuation)), task, folder).value == 0
    for conditions in (Conditions(shots=1), Conditions(calibration="N/A")):
        with pytest.raises(UserError, match="stand alone"):
            sat(candidate, task, folder, conditions)


def test_baselines_by_hand(lines):
    """Fails if chance is one over another number, or the longest is of bytes or the last."""
    items = [
        {"query": "", "choices": ["aaa", "éé", "b"], "gold": 0},
        {"query": "", "choices": ["a", "ab"], "gold": 0},
        {"query": "", "choices": ["a", "b"], "gold": 0},
        {"query": "", "choices": ["ééé", "aaaa"], "gold": 1},
    ]
    task = Choice(files=("a.jsonl",))
    found = task.baselines(read_items(task, lines("a.jsonl", items)))
    assert found == {
        "chance": pytest.approx((1 / 3 + 3 / 2) / 4), "majority": 0.75, "longest": 0.75
    }  # fmt: skip
    pairs = [("ab", "abc"), ("abc", "ab"), ("ab", "ba"), ("ab", "abc")]
    folder = lines("p.jsonl", [{"better": a, "worse": b} for a, b in pairs])
    task = Pairs(files=("p.jsonl",))
    assert task.baselines(read_items(task, folder)) == {"chance": 0.5, "longest": 1.5 / 4}


MOOD = Choice(
    files=("m.jsonl",),
    prompt="Review: {text}\nMood:",
    words=("bad", "good"),
    cloze=Cloze(prompt="{text} It was", after=" , {more} .", words=("terrible", "great")),
    gold="label",
    classes=("0", "1"),
    f1="f1",
)
MOODS = [{"text": f"film {n}", "more": f"more {n}", "label": str(n % 2)} for n in range(6)]


def test_who_sees_both_sides_is_given_the_cloze(lines, oracle):
    """Fails if a causal model is given the gap, or a masked one the question; or what stands
    behind is no part of what it is asked.
    """
    folder = lines("m.jsonl", MOODS[:1])
    for both, context, words, after in (
        (False, "Review: film 0\nMood:", [" bad", " good"], ""),
        (True, "film 0 It was", [" terrible", " great"], " , more 0 ."),
    ):
        candidate = oracle(lambda request: -len(request.continuation), sees_after=both)
        result = sat(candidate, MOOD, folder)
        assert [request.context for request in candidate.asked] == [context] * 2
        assert [request.continuation for request in candidate.asked] == words
        assert {request.after for request in candidate.asked} == {after}
        assert result.value == (0 if both else 1)
        assert result.prompt.startswith("{text} It was" if both else "Review: {text}")
        assert result.prompt.endswith(" , {more} ." if both else "{choice}")


def test_f1_is_of_what_was_chosen(lines, oracle):
    """Fails if truth and choice are taken from other columns."""
    folder = lines("m.jsonl", MOODS)
    # Says good of films 1, 2, 3: of the good ones 1, 3, 5 it finds two.
    likes = ("film 1", "film 2", "film 3")

    def answer(request):
        good = any(film in request.context for film in likes)
        return -1.0 - (good != request.continuation.endswith("good"))

    result = sat(oracle(answer), MOOD, folder)
    assert result.value == pytest.approx(4 / 6)
    assert result.metrics["f1"].value == pytest.approx(2 / 3)
    assert result.baselines == {"chance": 0.5, "majority": 0.5, "longest": 0.5}
    columns = np.array(result.columns)[0]
    assert columns[:, 4].tolist() == [0, 1, 0, 1, 0, 1]
    assert columns[:, 5].tolist() == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("both", [False, True])
def test_calibration_divides_by_what_is_said_of_nothing(lines, oracle, both):
    """Fails if it multiplies, the item's own text stands in any field of what is asked of
    nothing, or the headline alone is calibrated.
    """
    folder = lines("m.jsonl", MOODS[:2])
    right = {"film 0": 0, "film 1": 1}
    first = ("bad", "terrible")

    def answer(request):
        said = 1 - request.continuation.strip().startswith(first)
        bias = 3.0 * (said == 1)
        film = next((f for f in right if f in request.context), None)
        return -9 + bias + (film is not None and said == right[film])

    usual = oracle(answer, sees_after=both)
    assert sat(usual, MOOD, folder).value == 0.5
    candidate = oracle(answer, sees_after=both)
    result = sat(candidate, MOOD, folder, Conditions(calibration="N/A"))
    assert result.value == 1 and result.metrics["accuracy_bytes"].value == 1
    assert result.calibration == "N/A"
    blank = [request for request in candidate.asked if "N/A" in request.context]
    # What is asked of nothing is the same for both items, so it is asked of each by number.
    assert len(blank) == 4 and len({request[:3] for request in blank}) == 2
    assert not any("film" in str(r) or "more" in str(r) for r in blank)
    if both:
        assert {r.after for r in blank} == {" , N/A ."}


def test_solved_items_stand_before_the_question_and_before_nothing(lines, oracle):
    """Fails if a demonstration lacks its answer or its rest, or calibration leaves them out."""
    folder = lines("m.jsonl", MOODS)
    for both, solved in (
        (False, "Review: film {n}\nMood: {a}\n\n"),
        (True, "film {n} It was {a} , more {n} .\n\n"),
    ):
        candidate = oracle(lambda request: -1, sees_after=both)
        conditions = Conditions(shots=1, calibration="N/A", items=2)
        sat(candidate, MOOD, folder, conditions)
        words = MOOD.cloze.words if both else MOOD.words
        shown = {solved.format(n=n, a=words[n % 2]) for n in range(6)}
        asked = [request.context for request in candidate.asked]
        assert len(asked) == 8
        for context in asked:
            assert any(context.startswith(each) for each in shown), context
        assert sum("N/A" in context for context in asked) == 4


def test_several_seeds_are_several_draws(lines, oracle):
    """Fails if seeds draw the same, are not all asked, or their values are not told apart."""
    folder = lines("m.jsonl", MOODS)

    def answer(request):  # right where the solved one is good, and wrong otherwise
        shown, asked = request.context.split("\n\n")
        truth = int(asked.split()[2]) % 2
        says_good = request.continuation == " good"
        return -1 - ((says_good == truth) != shown.endswith("good"))

    conditions = Conditions(shots=1, seeds=(0, 1, 2, 3))
    result = sat(oracle(answer), MOOD, folder, conditions)
    assert result.seeds == (0, 1, 2, 3) and list(result.by_seed) == ["0", "1", "2", "3"]
    assert len(set(result.by_seed.values())) > 1
    assert result.value == pytest.approx(np.mean(list(result.by_seed.values())))
    assert np.array(result.columns).shape == (4, 6, 7)
    again = sat(oracle(answer), MOOD, folder, Conditions(shots=1, seeds=(2,)))
    assert again.value == result.by_seed["2"] and not again.by_seed
    # Without solved items nothing is drawn.
    plain = sat(oracle(lambda r: -1), MOOD, folder, Conditions(seeds=(5, 6)))
    assert plain.seeds == (5,) and len(plain.columns) == 1


def test_what_is_cut_is_counted_by_item(lines, oracle):
    """Fails if a choice's cut counts twice, or the seeds' are added up."""
    folder = lines("m.jsonl", MOODS)

    def answer(request):
        cut = {"film 1": 3, "film 2": 5}.get(request.context.split("\n")[-2][8:], 0)
        return Likelihood(-1.0, False, 1, cut if request.continuation == " bad" else 0)

    for conditions in (NONE, Conditions(shots=1, seeds=(0, 1))):
        result = sat(oracle(answer), MOOD, folder, conditions)
        assert (result.cut, result.cut_tokens, result.asked) == (2, 8, 6)


def test_what_is_no_number_is_no_answer(lines, oracle):
    """Fails if a model whose states overflow is given a score."""
    folder = lines("m.jsonl", MOODS)
    with (
        pytest.raises(UserError, match=r"^task: the model answers with what is no number"),
        np.errstate(invalid="ignore"),
    ):
        sat(oracle(lambda request: float("nan")), MOOD, folder)
