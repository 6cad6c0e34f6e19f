"""The probe of whole documents: states as if alone, and a choice that never sees the score."""

import json

import numpy as np
import pytest

from lm.data import Tabular
from lm.evaluate.glue import LabelledSet
from lm.evaluate.labels import metrics_of
from lm.evaluate.probe.documents import document_states, probe_labels
from lm.model import Transformer
from lm.objectives import Causal, Classify, Regress
from lm.train.load import load_model
from tests.makers import save_untrained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that nobody trained: its states tell words from words all the same."""
    folder = tmp_path_factory.mktemp("probe") / "model"
    save_untrained(folder, Causal(), Transformer(depth=1, width=16, heads=2), length=32)
    return load_model(folder)


def labelled(folder, label, classes, *, flip=False) -> LabelledSet:
    """Texts labelled by a function of their words; those scored may have it flipped."""
    tables = []
    for part, numbers in (("train", range(160)), ("scored", range(160, 220))):
        rows = []
        for n in numbers:
            words = [["ab", "xy"][n % 2], *"abcde"[: n % 5], str(n)]
            value = label(words)
            if flip and part == "scored":
                value = 1 - value
            rows.append({"text": " ".join(words), "label": value})
        # One without a label is neither fitted nor asked.
        rows.append({"text": f"nothing {part}", "label": None})
        path = folder / f"{part}-{flip}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        tables.append(Tabular(paths=(str(path),), label="label", classes=classes))
    objective = Classify() if classes else Regress()
    return LabelledSet(*tables, objective, "accuracy" if classes else "spearman")


def test_states_are_those_of_each_text_alone(model, tmp_path):
    """Fails if a neighbour in a row, or padding, is in the mean, or texts change places."""
    task = labelled(tmp_path, lambda words: int(words[0] == "ab"), ("0", "1"))
    documents = list(task.scored.read())[:20]
    states_ND, label_N = document_states(model, documents, task, length=32)
    special = model.tokenizer.vocabulary
    # Each length compiles anew.
    for number, document in [*enumerate(documents)][:3]:
        ids = [special.bos, *model.tokenizer.encode(document.text).tolist(), special.eos]
        alone_D = model.hidden(np.array([ids]))[0].mean(axis=0)
        np.testing.assert_allclose(states_ND[number], alone_D, atol=1e-5)
        assert label_N[number] == document.parts[0].values["label"]


def test_a_probe_finds_what_states_tell_and_is_not_fitted_to_what_is_scored(model, tmp_path):
    """Fails if the map or its penalty is chosen by the file that is scored."""
    found = {}
    for flip in (False, True):
        task = labelled(tmp_path, lambda words: int(words[0] == "ab"), ("0", "1"), flip=flip)
        found[flip] = probe_labels(model, task, items=100, length=32, validation=0.2)
        assert found[flip].items in (99, 100) and len(found[flip].columns) == 60
    accuracy = metrics_of(Classify())["accuracy"]
    assert accuracy(found[False].columns) > 0.9
    assert accuracy(found[True].columns) == pytest.approx(1 - accuracy(found[False].columns))
    assert found[True].penalty == found[False].penalty


def test_numbers_are_probed_by_least_squares(model, tmp_path):
    """Fails if a number is taken for a class, or the mean is left out."""
    task = labelled(tmp_path, lambda words: 10.0 + len(words), ())
    found = probe_labels(model, task, items=120, length=32, validation=0.2)
    assert metrics_of(Regress())["spearman"](found.columns) > 0.7
    assert np.abs(found.columns[:, 1] - found.columns[:, 0]).mean() < 1
    np.testing.assert_allclose(
        found.columns[:, 2], (found.columns[:, 0] - found.columns[:, 1]) ** 2
    )
