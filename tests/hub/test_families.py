"""Every family, by tiny models that transformers made: what they answer, and there and back."""

import json
from pathlib import Path

import numpy as np
import pytest

from lm.artifact import as_tree
from lm.hub.families import KINDS, spelled_out
from lm.hub.folder import HfFolder, is_hf_folder
from lm.hub.parity import answers
from lm.hub.without import without_tokenizer
from lm.hub.writing import choose_family, write_folder
from lm.model import build

GOLDEN = Path(__file__).parents[1] / "golden" / "hub"
FOLDERS = sorted(
    path.name for path in GOLDEN.iterdir() if (path / "model.safetensors").exists()
)
NAMES = ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids",
         "decoder_attention_mask")  # fmt: skip
TOLERANCE = 1e-4


def reference_of(folder):
    """Rows and answers of a golden folder, the answers of real tokens alone."""
    said = json.loads((folder / "reference.json").read_text())
    rows = {name: np.array(said[name], np.int32) for name in NAMES if name in said}
    return rows, [np.array(row, np.float32) for row in said[said["output"]]]


def test_every_family_has_a_golden_model():
    """Fails if a family is added without one."""
    made = {
        json.loads((GOLDEN / name / "config.json").read_text())["model_type"]
        for name in FOLDERS
    }
    assert made == set(KINDS) - {"arcee"}  # which the next file trains


@pytest.mark.parametrize("name", FOLDERS)
def test_a_golden_model_answers_as_transformers_does_and_comes_back(name, tmp_path):
    """Fails if any tensor is taken for another or turned over, or an option for another."""
    folder = GOLDEN / name
    assert is_hf_folder(folder)
    before = HfFolder(folder)
    settings = before.settings
    module = build(settings.model, settings.vocabulary, mesh=None, precision="float32")
    params = as_tree({key: array.whole() for key, array in before.arrays.items()})
    rows, wanted = reference_of(folder)
    found = answers(module, params, settings.objective, rows)
    for row, answer in enumerate(wanted):
        assert np.abs(found[row, : len(answer)] - answer).max() < TOLERANCE
    written = choose_family(settings, first=before.kind)
    assert written.kind == before.kind
    tokenizer, _ = without_tokenizer(folder, size=settings.vocabulary)
    write_folder(tmp_path, written, before.arrays, tokenizer)
    after = HfFolder(tmp_path)
    assert spelled_out(after.settings.model) == spelled_out(settings.model)
    assert after.settings[1:] == settings[1:]
    assert after.arrays.keys() == before.arrays.keys()
    for each, array in before.arrays.items():
        assert np.array_equal(array.whole(), after.arrays[each].whole()), each


@pytest.mark.parametrize(
    "name", [n for n in FOLDERS if (GOLDEN / n / "config.before_5.json").exists()]
)
def test_settings_of_before_transformers_5_say_the_same(name, tmp_path):
    """Fails if a base, a scaling or a window is only understood as 5 writes it."""
    folder = GOLDEN / name
    (tmp_path / "config.json").write_bytes((folder / "config.before_5.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert HfFolder(tmp_path).settings == HfFolder(folder).settings
