"""Classification: tiny labelled files are learnt by both kinds of model, and nothing leaks."""

import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.cli import main
from lm.config import UserError
from lm.data import Bytes, Data, Jsonl
from lm.example import Batch, Output
from lm.model import Transformer
from lm.numerics import Einsum
from lm.objectives import Causal, Classify
from lm.optimizer import Adamw
from lm.run import Run, check_channels
from lm.train.load import load_model
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run


def single(path: Path) -> Jsonl:
    """Words with a vowel that is the label's, at a place of its own."""
    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(400):
            label, word = draw.choice(["a", "o"]), draw.choices("bcdfg", k=draw.randint(3, 9))
            word.insert(draw.randrange(len(word)), label)
            file.write(json.dumps({"text": "".join(word), "is": label}) + "\n")
    return Jsonl(paths=(str(path),), label="is", classes=("a", "o"))


def pair(path: Path) -> Jsonl:
    """Two words, of which the label is whether the second begins as the first does."""
    draw = random.Random(1)
    with path.open("w") as file:
        for _ in range(600):
            first, second = draw.choices("ab", k=2)
            more = ["".join(draw.choices("cd", k=draw.randint(0, 3))) for _ in range(2)]
            line = {"one": first + more[0], "two": second + more[1], "same": first == second}
            file.write(json.dumps(line) + "\n")
    return Jsonl(
        paths=(str(path),), text=("one", "two"), label="same", classes=("false", "true")
    )


def run_of(corpus: Jsonl, objective: Classify, steps: int) -> Run:
    """A run that learns the labels in so many steps' worth of full rows."""
    return Run(
        data=Data(
            corpus=corpus,
            tokenizer=Bytes(),
            length=32,
            batch=32,
            validation=0.2,
            packing="whole",
        ),
        objective=objective,
        model=Transformer(depth=2, width=32, heads=2),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=steps * 32 * 32,
        precision="float32",
        evaluations=1,
    )


LAST = Classify(attention="causal", pool="last")


@pytest.mark.parametrize(
    ("source", "objective", "steps"),
    [
        (single, Classify(), 30),
        pytest.param(single, LAST, 30, marks=pytest.mark.slow),
        pytest.param(pair, Classify(pool="first"), 60, marks=pytest.mark.slow),
        (pair, LAST, 60),
    ],
    ids=["single, bidirectional", "single, causal", "pair, bidirectional", "pair, causal"],
)
def test_labelled_text_is_learnt(source, objective, steps, tmp_path) -> None:
    """Fails if labels are of another document, or the head is not trained."""
    run = run_of(source(tmp_path / "lines.jsonl"), objective, steps)
    result = train_run(run, tmp_path / "run")
    records = [r for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert records[0]["loss"] == pytest.approx(np.log(2), abs=0.15)
    assert records[0]["loss"] > 2 * np.mean([r["loss"] for r in records[-5:]])
    assert records[-1]["accuracy"] > 0.9
    assert result["validation_terms"]["validation_accuracy"] > 0.8
    assert result["predicted_targets"] > steps * 32  # of documents, several in a row
    # The budget is of tokens: there are more steps than if padding counted.
    assert 0 <= result["tokens"] - run.tokens <= 32 * 32 and result["steps"] > steps


def test_a_labelled_run_is_loaded_without_its_corpus(tmp_path, capsys) -> None:
    """Fails if how full its rows were must be found in the text again, or it has no score."""
    # What the first of the runs above compiles, so that nothing is compiled anew.
    run = run_of(single(tmp_path / "lines.jsonl"), Classify(), 30)
    result = train_run(run, tmp_path / "run")
    (tmp_path / "lines.jsonl").unlink()
    capsys.readouterr()
    loaded = load_model(tmp_path / "run")
    assert loaded.params["head_label"]["table"].shape == (2, 32)
    assert "not trained to its end" not in capsys.readouterr().err
    # Its score is what validation found: it has no bits per byte.
    main(["score", str(tmp_path / "run"), "--json"])
    found = json.loads(capsys.readouterr().out)["validation"]
    assert found.pop("validation_loss") == result["validation_loss"]
    assert found == result["validation_terms"] and "validation_accuracy" in found
    with pytest.raises(SystemExit) as stopped:
        main(["score", str(tmp_path / "run"), "--scorer", "chain-rule"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.count("\n") == 1
    assert "it predicts no tokens" in said and "`lm score RUN_DIR`" in said


def test_a_causal_model_cannot_tell_from_the_first_token() -> None:
    """Fails if a class is asked where nothing of the text is seen."""
    objective = Classify(attention="causal", pool="first")
    assert "pool=first" in (objective.check(length=32, sentinels=0) or "")


def test_loss_and_accuracy_are_of_labelled_documents_alone() -> None:
    """Fails if an unlabelled document or an empty slot counts, or each row is divided apart."""
    segments = jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0]])
    labels = jnp.array([[2, 2, 2, -1, -1, -1], [0, 0, 0, -1, -1, -1]])
    batch = Batch(jnp.full((2, 6), 5), segments, {"label": labels})
    objective = Classify(classes=3)
    example = objective(batch, None, jax.random.key(0))  # type: ignore[arg-type]
    states = jnp.zeros((2, 2, 3)).at[0, 0, 2].set(5.0).at[1, 0, 1].set(5.0)
    found = objective.loss(Output(states, jnp.eye(3)), example, einsum=Einsum("float32"))
    right, wrong = -np.log(np.exp(5) / (2 + np.exp(5))), -np.log(1 / (2 + np.exp(5)))
    assert float(found["loss"].mean) == pytest.approx((right + wrong) / 2, rel=1e-5)
    assert float(found["accuracy"].mean) == 0.5


def labelled(**changes) -> Run:
    corpus = Jsonl(paths=("a",), label="y", classes=("0", "1"))
    data = Data(corpus=corpus, packing="whole") if "data" not in changes else changes["data"]
    return Run(data=data, objective=changes.get("objective", Classify()))


def test_oneline_what_does_not_go_with_labels_is_refused() -> None:
    """Fails if a run begins that has no labels, cuts documents, or has another class."""
    check_channels(labelled())
    corpus = labelled().data.corpus
    for run, why in [
        (
            labelled(data=Data(corpus=corpus)),
            "packing=stream: .* whole documents; must be whole",
        ),
        (
            labelled(data=Data(packing="whole")),
            "reads the channel label, and this text has none",
        ),
        (labelled(objective=Classify(classes=3)), r"objective.classes=3, .* label has 2"),
    ]:
        with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
            check_channels(run)
    check_channels(Run(data=Data(corpus=corpus), objective=Causal()))  # labels are left aside
