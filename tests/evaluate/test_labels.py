"""What a tuned model says of a labelled file: each document once, as if it were alone."""

import json
import os

import numpy as np
import pytest

from lm.config import UserError
from lm.data import Tabular
from lm.evaluate.glue import SETS
from lm.evaluate.labels import label_scores, metrics_of
from lm.evaluate.tasks.metrics import estimate_all
from lm.model import Transformer
from lm.objectives import Causal, Classify, Regress, Tag
from lm.train.load import load_model
from tests.makers import save_untrained

CASES = {
    "classify": Classify(classes=2, attention="causal", pool="last"),
    "regress": Regress(center=2, scale=3),
    "tag": Tag(classes=3),
    "causal": Causal(),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models that nobody trained, which yet tell texts apart."""
    found, folder = {}, tmp_path_factory.mktemp("labels")
    for name, objective in CASES.items():
        model = Transformer(depth=1, width=16, heads=2)
        save_untrained(folder / name, objective, model, length=32)
        found[name] = load_model(folder / name)
        for head in objective.heads:
            own = found[name].params[f"head_{head.name}"]
            own["table"], own["bias"] = 30 * own["table"], own["bias"] + 0.1
    return found


def lines(path, number, labels) -> tuple[str, ...]:
    """Texts of many lengths, with labels in turn."""
    fields = [
        {"text": " ".join(["abc"[n % 3] * (1 + n % 4)] * (1 + n % 5)), "y": labels(n)}
        for n in range(number)
    ]
    path.write_text("\n".join(map(json.dumps, fields)))
    return (str(path),)


def outputs(model, text: str) -> np.ndarray:
    """What the head says of each token of a text that stands alone, [L, C]."""
    special = model.tokenizer.vocabulary
    ids = [special.bos, *model.tokenizer.encode(text).tolist(), special.eos]
    states = model.hidden(np.array([ids]))[0]
    head = model.params["head_label"]
    return states @ np.asarray(head["table"]).T + np.asarray(head["bias"])


def test_each_document_is_asked_once_and_as_if_alone(models, tmp_path) -> None:
    """Fails if answers are of another document, rows that fill up are asked, or the order is
    that of the rows; or a document without a label counts.
    """
    paths = lines(tmp_path / "a.jsonl", 70, lambda n: [0, 1, None][n % 3])
    corpus = Tabular(paths=paths, label="y", classes=("0", "1"))
    model = models["classify"]
    found = label_scores(model, corpus)
    documents = [each for each in corpus.read() if each.parts[0].values["label"] >= 0]
    assert found.ids == tuple(each.id for each in documents) and len(found.ids) == 47
    label = [each.parts[0].values["label"] for each in documents]
    said = [outputs(model, each.text)[-1].argmax() for each in documents]
    np.testing.assert_array_equal(found.columns[:, 0], label)
    np.testing.assert_array_equal(found.columns[:, 1], said)
    assert 0 < np.mean(said) < 1
    right = np.equal(label, said)
    assert found.values["accuracy"] == pytest.approx(right.mean())
    assert found.values["matthews"] == pytest.approx(np.corrcoef(label, said)[0, 1])
    interval = estimate_all(found.metrics, found.columns[None])["accuracy"]
    assert interval.low < interval.value < interval.high


def test_numbers_are_in_the_labels_unit(models, tmp_path) -> None:
    """Fails if an answer is in the head's unit, or a correlation is of errors."""
    paths = lines(tmp_path / "a.jsonl", 40, lambda n: n / 4)
    found = label_scores(models["regress"], Tabular(paths=paths, label="y"))
    documents = list(Tabular(paths=paths, label="y").read())
    said = [2 + 3 * outputs(models["regress"], each.text).mean() for each in documents]
    np.testing.assert_allclose(found.columns[:, 0], np.arange(40) / 4, atol=1e-6)
    np.testing.assert_allclose(found.columns[:, 1], said, atol=1e-4)
    errors = found.columns[:, 1] - found.columns[:, 0]
    assert found.values["squared_error"] == pytest.approx(np.mean(errors**2))
    pearson = np.corrcoef(found.columns[:, 0], found.columns[:, 1])[0, 1]
    assert found.values["pearson"] == pytest.approx(pearson)


def test_words_are_counted_by_text(models, tmp_path) -> None:
    """Fails if tokens that begin no word count, or an item of the interval is a word."""
    paths = lines(tmp_path / "a.jsonl", 30, lambda n: ["0", "1", "2", "1", "0"][: 1 + n % 5])
    corpus = Tabular(paths=paths, label="y", classes=("0", "1", "2"), labelled="word")
    model = models["tag"]
    found = label_scores(model, corpus)
    assert found.columns.shape == (30, 3)
    for columns, document in zip(found.columns, corpus.read(), strict=True):
        said = outputs(model, document.text).argmax(-1)
        # A byte is a token, and a word but the first begins with its space.
        sizes = [len(word.text) for word in document.words]
        starts = np.cumsum([1, *sizes])[:-1]
        labels = [word.values["label"] for word in document.words]
        assert columns.tolist() == [len(sizes), sum(said[starts] == labels), 0]
    total = found.columns.sum(0)
    assert found.values == {"accuracy": total[1] / total[0]}


def test_oneline_a_model_that_says_no_such_labels_is_refused(models, tmp_path) -> None:
    """Fails if classes of another number are compared, or a language model is asked."""
    paths = lines(tmp_path / "a.jsonl", 5, lambda n: n % 2)
    two = Tabular(paths=paths, label="y", classes=("0", "1"))
    nothing = lines(tmp_path / "b.jsonl", 5, lambda n: None)
    empty = lines(tmp_path / "c.jsonl", 0, lambda n: n)
    for name, corpus, why in [
        ("regress", Tabular(paths=nothing, label="y"), "none of its texts has a label"),
        ("regress", Tabular(paths=empty, label="y"), "data.corpus: .* holds no text"),
        ("causal", two, "objective.type=causal, which says no labels"),
        ("tag", two, "says one of 3 classes, and the text's label has 2"),
        ("classify", Tabular(paths=paths, label="y"), "one of 2 .* label has no classes"),
        ("classify", Tabular(paths=paths), "says the channel label, and the text has none"),
    ]:
        with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
            label_scores(models[name], corpus)


def test_the_sets_have_their_headline() -> None:
    """Fails if a set's headline is no metric of its objective."""
    for each in SETS.values():
        assert each.headline in metrics_of(each.objective)
        assert each.train.channels == each.scored.channels


@pytest.mark.skipif("YARDSTICK_TASKS" not in os.environ, reason="YARDSTICK_TASKS is not set")
def test_the_sets_of_glue_are_as_they_are_published() -> None:
    """Fails if a column of GLUE's files is taken for another, or a line is left out."""
    for name, sizes, mean in [
        ("cola", (8551, 1043), 721 / 1043),
        ("sst2", (67349, 872), 444 / 872),
        ("mrpc", (3667, 408), 279 / 408),
        ("sts_b", (5749, 1500), 2.3639),
    ]:
        tables = SETS[name].train, SETS[name].scored
        documents = [list(table.read()) for table in tables]
        assert tuple(map(len, documents)) == sizes, name
        labels = [each.parts[0].values["label"] for each in documents[1]]
        assert np.mean(labels) == pytest.approx(mean, abs=1e-4), name
        assert len(documents[0][0].parts) == len(tables[0].text)
