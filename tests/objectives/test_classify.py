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
from lm.data import Bytes, Corpus, Data, Jsonl, Tabular
from lm.evaluate.labels import label_scores
from lm.example import Batch, Example, Output
from lm.model import Transformer
from lm.numerics import Einsum
from lm.objectives import Causal, Classify, Regress, Tag
from lm.objectives.labelled import Labelled
from lm.optimizer import Adamw
from lm.run import Run, check_channels
from lm.train.load import load_model
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from tests.train.steps import program


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


def numbers(path: Path) -> Tabular:
    """Words of two letters, of which the label is the percentage of the one."""
    draw = random.Random(2)
    with path.open("w") as file:
        for _ in range(400):
            word = draw.choices("ab", [draw.random(), 0.5], k=draw.randint(3, 9))
            number = 100 * word.count("a") / len(word)
            file.write(json.dumps({"text": "".join(word), "is": number}) + "\n")
    return Tabular(paths=(str(path),), label="is")


def words(path: Path) -> Tabular:
    """Lines of words, of which the label is the vowel that is at an end of each."""
    draw = random.Random(3)
    with path.open("w") as file:
        for _ in range(300):
            labels = draw.choices("ao", k=draw.randint(1, 4))
            spelled = [draw.choice([f"b{each}", f"{each}b"]) for each in labels]
            file.write(json.dumps({"text": spelled, "is": labels}) + "\n")
    return Tabular(paths=(str(path),), label="is", classes=("a", "o"), labelled="word")


def run_of(corpus: Corpus, objective: Labelled, steps: int) -> Run:
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


def test_numbers_are_learnt(tmp_path) -> None:
    """Fails if the query of pooling is not trained, or outputs are not brought to the unit."""
    corpus = numbers(tmp_path / "lines.jsonl")
    objective = Regress(center=50, scale=30, pool="attention")
    result = train_run(run_of(corpus, objective, 30), tmp_path / "run")
    first = next(r for r in read_metrics(tmp_path / "run") if "loss" in r)
    assert first["loss"] == pytest.approx(1, abs=0.7) and first["absolute_error"] > 15
    assert result["validation_terms"]["validation_absolute_error"] < 8
    model = load_model(tmp_path / "run")
    assert np.abs(model.params["head_label"]["query"]).max() > 0.01
    scores = label_scores(model, corpus)
    assert len(scores.ids) == 400 and scores.values["spearman"] > 0.9


@pytest.mark.eight_devices
def test_devices_find_the_same(tmp_path) -> None:
    """Fails if devices that share a row pool their parts of it, or a mean is of their means."""
    objective = Regress(center=50, scale=30, pool="attention")
    run, found = run_of(numbers(tmp_path / "lines.jsonl"), objective, 30), []
    for devices, grid in ((1, {}), (8, {"fsdp": 2, "tensor": 2, "context": 2})):
        made, batches = program(run, devices, **grid)
        _, metrics = made.step(made.init(), made.place(batches(0)))
        found.append({name: float(x) for name, x in metrics.items() if x.ndim == 0})
    assert found[0]["loss"] > 0.1
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_words_are_learnt(tmp_path) -> None:
    """Fails if a label is of another token than the first of its word."""
    corpus = words(tmp_path / "lines.jsonl")
    train_run(run_of(corpus, Tag(classes=2), 30), tmp_path / "run")
    assert label_scores(load_model(tmp_path / "run"), corpus).values["accuracy"] > 0.95


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


SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0]])


def found_by(objective, label, states, table) -> tuple[Example, dict[str, float]]:
    """The example of these labels, and what the loss finds of such outputs."""
    batch = Batch(jnp.full((2, 6), 5), SEGMENTS, {"label": jnp.array(label)})
    example = objective(batch, None, jax.random.key(0))
    terms = objective.loss(Output(states, table), example, einsum=Einsum("float32"))
    return example, {name: float(term.mean) for name, term in terms.items()}


def test_the_loss_of_numbers_is_the_square_of_the_standardized_error() -> None:
    """Fails if an unlabelled document counts, a row is divided apart, or units are mixed up."""
    none = [np.nan] * 3
    label = [[4.0] * 3 + none, [1.0] * 3 + none]
    outputs = jnp.array([[[1.5], [9.0]], [[0.0], [7.0]]])
    objective = Regress(center=2, scale=4)
    example, found = found_by(objective, label, outputs, jnp.eye(1))
    # (4 - 2) / 4 = 0.5, of which 1.5 was said; (1 - 2) / 4 = -0.25, of which 0 was.
    assert found["loss"] == pytest.approx((1.0**2 + 0.25**2) / 2)
    assert found["absolute_error"] == pytest.approx((4 * 1.0 + 4 * 0.25) / 2)
    assert example.weights.tolist() == [[1, 0], [1, 0]]
    einsum = Einsum("float32")
    answers = objective.answers(Output(outputs, jnp.eye(1)), example, einsum=einsum)
    assert answers[:, 0].tolist() == [[4.0, 8.0], [1.0, 2.0]]


def test_classes_may_be_numbers() -> None:
    """Fails if a document without a class is held to -1."""
    label = [[2, 2, 2, -1, -1, -1], [1, 1, 1, -1, -1, -1]]
    example, _ = found_by(Regress(), label, jnp.zeros((2, 2, 1)), jnp.eye(1))
    assert example.targets.tolist() == [[2, 0], [1, 0]]
    assert example.weights.tolist() == [[1, 0], [1, 0]]


def test_the_loss_of_words_is_of_labelled_tokens_alone() -> None:
    """Fails if a token without a label or one of padding counts, or a label is a document's."""
    label = [[-1, 2, -1, -1, 0, -1], [-1, 1, -1, 0, 0, 0]]
    states = jnp.zeros((2, 6, 3)).at[0, 1, 2].set(5.0).at[0, 4, 1].set(5.0)
    example, found = found_by(Tag(classes=3), label, states, jnp.eye(3))
    normalizer = np.log(2 + np.exp(5))
    nats = [normalizer - 5, normalizer, np.log(3)]
    assert found["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert np.argwhere(example.weights).tolist() == [[0, 1], [0, 4], [1, 1]]


def test_token_types_are_the_parts_of_a_pair() -> None:
    """Fails if a model with token types is not told which of two texts a token is of."""
    part, label = jnp.array([[0, 0, 1, 0, 1, 1]] * 2), jnp.zeros((2, 6), int)
    batch = Batch(jnp.full((2, 6), 5), SEGMENTS, {"label": label, "part": part})
    for objective in (Classify(), Regress(), Tag()):
        example = objective(batch, None, jax.random.key(0))
        assert (example.token_types == part).all()


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
        (labelled(objective=Tag(classes=3)), r"objective.classes=3, .* label has 2"),
    ]:
        with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
            check_channels(run)
    check_channels(Run(data=Data(corpus=corpus), objective=Causal()))  # labels are left aside
