"""Models of a source whose truth is known: they come near it from above, and never pass it."""

import math

import numpy as np
import pytest
from msgspec.structs import replace

from lm.config import override
from lm.data import Bytes, Data, Hmm, open_tokens
from lm.data.sources.hmm import symbols_of
from lm.evaluate.bits import ratio_se
from lm.evaluate.evaluate import evaluate
from lm.evaluate.scoring import Effort
from lm.evaluate.truth import known_source
from lm.model import Transformer
from lm.objectives import AnyOrder, Causal
from lm.optimizer import Muon
from lm.run import Run
from lm.train.train import train_run

SOURCE = Hmm(states=3, symbols=5, length=13, documents=6000, concentration=0.2, seed=3)
DATA = Data(corpus=SOURCE, tokenizer=Bytes(), length=SOURCE.row_length, batch=64)
EFFORT = Effort(rows=256, samples=4, replicates=2, curve_rows=64, probe_tokens=3000)
OBJECTIVES = {"causal": Causal(), "any order": AnyOrder()}
RANDOM = replace(
    DATA, corpus=replace(SOURCE, lengths="geometric", length=8, documents=9000), length=32
)


def run_of(objective, data=DATA) -> Run:
    return Run(
        data=data,
        objective=objective,
        model=Transformer(depth=2, width=32, heads=2),
        optimizer=Muon(learning_rate=1e-2),
        tokens=160 * 64 * 16,
        evaluations=1,
        evaluation_rows=64,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What is found of each variant, trained for a few seconds."""
    folder = tmp_path_factory.mktemp("truth")
    return {
        name + of: train_run(
            run_of(objective, data),
            folder / (name + of),
            evaluate=lambda trained: evaluate(trained, EFFORT),
        )
        for name, objective in OBJECTIVES.items()
        for of, data in (("", DATA), (" of random lengths", RANDOM))
    }


def gap(result) -> tuple[float, float]:
    """Bits per byte above the truth on the same documents, and the error of that."""
    bits, true = (
        np.array(found["document_nats"]) / math.log(2) for found in (result, result["truth"])
    )
    sizes = np.array(result["document_bytes"])
    return (bits - true).sum() / sizes.sum(), ratio_se(bits - true, sizes)


def test_the_truth_is_the_forward_algorithms_of_the_same_documents(results):
    """Fails if the truth is of other documents, counts the end, or depends on the variant."""
    split = open_tokens(DATA).validation
    texts = [split.text(number) for number in range(len(split.ids))]
    found = results["causal"]["truth"]
    assert set(found["document_bytes"]) == {SOURCE.length}
    assert len(found["document_bytes"]) == len(found["document_nats"])
    # The scored windows are spread evenly over the documents.
    chosen = np.unique(np.linspace(0, len(texts) - 1, 256).astype(int))
    symbols = np.stack([symbols_of(texts[number]) for number in chosen])
    nats = np.array(found["document_nats"])
    assert nats == pytest.approx(-SOURCE.source().log_probability(symbols), abs=1e-3)
    for result in (results["causal"], results["any order"]):
        assert result["truth"]["document_nats"] == pytest.approx(found["document_nats"])


@pytest.mark.parametrize("name", ["causal", "any order"])
def test_m2_no_model_lies_below_the_truth_where_lengths_are_random(results, name):
    """Fails if a masked model is told where documents end and does not pay for it: it then lies
    0.3 below. A GPT predicts the ends, and pays once."""
    result = results[f"{name} of random lengths"]
    above, error = gap(result)
    assert -2 * error < above < 0.3
    told, needed = result["layout_bits"], result["truth"]["layout_bits"]
    if name == "causal":
        assert told == 0
    else:
        # What is at a row's end is not told: a 31st of the layout.
        assert 0.9 * needed < told < 1.1 * needed
    assert result["truth"]["probe_accuracy"] is None


def test_m2_the_truth_of_random_lengths_is_that_of_its_documents(results):
    """Fails if ends are not counted, or a document's text in a window is not a text by itself:
    where windows cut no document it is what the source needs for the documents."""
    split, corpus = open_tokens(RANDOM).validation, RANDOM.corpus
    sizes = np.diff(split.offsets) - 2
    exact, seen = {}, results["causal of random lengths"]["truth"]
    for number in range(len(sizes)):
        symbols = symbols_of(split.text(number))[None]
        ends = (sizes[number] - 1) * math.log(1 - 1 / 8) + math.log(1 / 8)
        exact[number] = -corpus.source().log_probability(symbols)[0] - ends
    whole = sum(exact.values()) / math.log(2) / sizes.sum()
    # Cut documents lose what is before the cut; 256 of the windows are scored.
    assert whole - 3 * seen["text_se"] < seen["bits_per_byte"] < whole + 0.1


@pytest.mark.parametrize(("name", "near"), [("causal", 0.06), ("any order", 0.15)])
def test_a_model_comes_near_the_truth_from_above(results, name, near):
    """Fails if the target leaks to the model, a byte is not counted, or training learns
    another thing than what is scored."""
    above, error = gap(results[name])
    assert -3 * error < above < near
    # What is left to learn is far less than what has been learnt.
    start = math.log2(260)
    assert above < 0.1 * (start - results[name]["truth"]["bits_per_byte"])


def test_no_model_finds_masked_tokens_better_than_the_source(results):
    """Fails if a mask lets through what it hides, or the truth is of other masks."""
    result = results["any order"]
    for fraction, truth in result["truth"]["error_by_fraction"].items():
        found = result["error_by_fraction"][fraction]
        noise = 3 * math.hypot(found["mc_se"], truth["mc_se"]) / 4
        above = found["bits_per_byte"] - truth["bits_per_byte"]
        assert -noise < above < 0.25


@pytest.mark.parametrize(("name", "more"), [("causal", 0.25), ("any order", 0.04)])
def test_the_probe_finds_states_and_never_more_than_can_be_known(results, name, more):
    """Fails if labels are shifted by a place, or the ceiling is that of another sight.

    Of a token that it sees the masked model is never asked, and what its state says there is
    between 0.08 and 0.22 above the most frequent label, by seed and rounding.
    """
    result = results[name]
    truth = result["truth"]
    error = math.hypot(result["probe_se"], truth["probe_se"])
    assert result["probe_accuracy"] < truth["probe_accuracy"] + 3 * error
    assert result["probe_accuracy"] > result["probe"]["majority_accuracy"] + more


def test_what_a_gpt_may_know_of_a_state_is_less(results):
    """Fails if the ceiling of a causal model is given what comes after."""
    one, other = (results[name]["truth"]["probe_accuracy"] for name in ("causal", "any order"))
    assert one < other - 0.01


def test_rows_that_are_no_documents_have_no_truth():
    """Fails if windows that cut documents, or tokens that are no symbols, are held to it."""
    assert known_source(run_of(Causal())) == SOURCE
    for other in ("data.length=20", "data.tokenizer.type=sentencepiece"):
        assert known_source(override(run_of(Causal()), [other])) is None
