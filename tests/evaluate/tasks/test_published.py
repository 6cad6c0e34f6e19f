"""Real models at public tasks, where both are at hand, against what transformers answers.

`transformers_answers.py` and `cranfield_answers.py` beside this file made the answers.
"""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from lm.evaluate.tasks import open_sheet
from lm.evaluate.tasks.base import Conditions, Query
from lm.evaluate.tasks.candidate import ModelCandidate
from lm.evaluate.tasks.choice import ACCURACY
from lm.evaluate.tasks.sitting import sit
from lm.retrieval.measures import bm25
from lm.train.load import load_model

ASSETS, TASKS = (os.environ.get(f"YARDSTICK_{name}") for name in ("ASSETS", "TASKS"))
pytestmark = pytest.mark.skipif(
    not (ASSETS and TASKS), reason="YARDSTICK_ASSETS and YARDSTICK_TASKS name no folders"
)
ANSWERS = Path(__file__).parents[2] / "golden" / "tasks" / "transformers.json"


@pytest.fixture(scope="module")
def answers():
    return json.loads(ANSWERS.read_text())


@cache
def candidate(name, scorer):
    folder = Path(ASSETS) / name
    if not folder.exists():
        pytest.skip(f"{folder}: not there")
    return ModelCandidate.of(load_model(folder, precision="float32"), scorer)


def smollm2():
    return candidate("smollm2-135m-instruct", "chain_rule")


def sheet(name, items=None):
    return open_sheet(name, Path(TASKS), Conditions(items=items))


def test_log_probabilities_are_those_of_transformers(answers):
    """Fails if sentences stand after another token or none, a token of them is not scored, a
    prompt's template is another, or an answer's space belongs to the question.
    """
    blimp, arc = answers["blimp"]["log_p"], answers["arc_easy"]["log_p"][:5]
    pairs = {name: [] for name in blimp}
    for item in sheet("blimp", 5).items:
        if (name := item.fields["UID"]) in pairs:
            pairs[name] += [item.fields[f"sentence_{which}"] for which in ("good", "bad")]
    requests = [Query("", text) for texts in pairs.values() for text in texts]
    wanted = [log_p for of in blimp.values() for pair in of for log_p in pair]
    assert len(wanted) == len(requests) == 100
    for item, of in zip(sheet("arc_easy", len(arc)).items, arc, strict=True):
        query = f"{item.fields['query']}\nAnswer:"
        requests += [Query(query, f" {choice}") for choice in item.fields["choices"]]
        wanted += of
    found = [each.log_p for each in smollm2().likelihoods(requests)]
    assert found == pytest.approx(wanted, abs=2e-3)


@pytest.mark.slow
def test_as_many_pairs_of_each_paradigm_are_right(answers):
    """Fails if which sentence is likelier is decided otherwise: minutes, for 5,600."""
    wanted = answers["blimp"]
    found = sit(smollm2(), sheet("blimp", wanted["pairs"]))
    counted = {
        name.split("/")[1]: part.value * part.asked
        for name, part in found.groups.items()
        if "/" in name
    }
    assert counted.keys() == wanted["right"].keys() and len(counted) == 56
    apart = {name: abs(counted[name] - right) for name, right in wanted["right"].items()}
    assert max(apart.values()) <= 2, apart
    assert sum(apart.values()) <= 5, apart


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arc_easy", "piqa"])
def test_as_many_questions_are_right(answers, name):
    """Fails if prompts, the rule where prompt and answer meet, or a norm is another."""
    wanted = answers[name]
    found = sit(smollm2(), sheet(name, wanted["items"])).metrics
    for norm, right in wanted["right"].items():
        assert abs(found[ACCURACY[norm]].value * wanted["items"] - right) <= 2, norm


@pytest.mark.slow
def test_as_many_last_words_are_right(answers):
    """Fails if not all of a word's tokens count, or another token than the likeliest does."""
    wanted = answers["lambada"]
    found = sit(smollm2(), sheet("lambada", wanted["items"])).metrics
    assert abs(found["accuracy"].value * wanted["items"] - wanted["right"]) <= 2
    assert found["perplexity"].value == pytest.approx(wanted["perplexity"], rel=1e-3)


@pytest.mark.slow
def test_similarities_are_those_of_transformers(answers):
    """Fails if states are pooled otherwise, padding is, or what stands around a text is not."""
    wanted = answers["sts_b"]
    found = sit(candidate("minilm", None), sheet("sts_b"))
    assert found.asked == wanted["pairs"]
    for metric in ("spearman", "pearson"):
        assert found.metrics[metric].value == pytest.approx(wanted[metric], abs=1e-3)
    assert np.isfinite(found.array).all()


@pytest.fixture(scope="module")
def found():
    """What MiniLM and BM25 find of Cranfield, by code that is not of this project."""
    made = ANSWERS.parent / "cranfield.json"
    if not made.exists():
        pytest.skip(f"{made.name}: not made yet, see cranfield_answers.py")
    return json.loads(made.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["alone", "padded"])
def test_minilm_ranks_cranfield_as_transformers_does(found, how):
    """Fails if a document is cut elsewhere or lacks its title, queries are those of their
    file's numbers, a grade has another gain, or padding is pooled.
    """
    # Of one row each, or of as many as there is room for.
    ranker = replace(candidate("minilm", None), positions=1 if how == "alone" else 4096)
    result = sit(ranker, sheet("cranfield"))
    assert result.asked == 225
    _measured_alike(result, found[how])
    assert 0 < result.metrics["documents_cut"].value < 0.5


def test_minilm_reads_cranfield_as_transformers_does(found):
    """Fails if a text is cut elsewhere, alone or in a batch, or lines are not joined."""
    texts = {item.fields["id"]: item.fields["text"] for item in sheet("cranfield", 1).pool}
    states = candidate("minilm", None).states([texts[name] for name in found["vectors"]])
    vectors_ND = states.vectors_ND
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    wanted = np.array(list(found["vectors"].values()))
    np.testing.assert_allclose(vectors_ND[:, : wanted.shape[1]], wanted, atol=1e-5)
    assert states.cut_N[0] == 0 < states.cut_N[2]


def test_bm25_ranks_cranfield_as_by_hand(found):
    """Fails if words, stop words, their weights or a text's length count otherwise."""
    pytest.importorskip("bm25s")
    _measured_alike(sit(bm25(), sheet("cranfield")), found["bm25"])


def _measured_alike(result, wanted):
    for metric in ("ndcg_10", "ndcg_10_binary", "recall_10", "recall_100", "mrr"):
        assert result.metrics[metric].value == pytest.approx(wanted[metric], abs=1e-3), metric
