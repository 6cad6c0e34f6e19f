"""The golden folders are whole: what other people's code made, with what, and of which size."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

GOLDEN = Path(__file__).parents[1] / "golden" / "hub"
MODELS = sorted(path.parent for path in GOLDEN.glob("*/model.safetensors"))


def test_the_families_are_there():
    """Fails if a family has no golden model."""
    kinds = {
        json.loads((folder / "config.json").read_text())["model_type"] for folder in MODELS
    }
    decoders = {"gpt2", "llama", "mistral", "qwen2", "qwen3", "modernbert-decoder"}
    assert kinds == decoders | {"bert", "distilbert", "modernbert", "roberta", "t5"}


def test_all_of_it_is_small():
    """Fails if a golden folder grows beyond what a repository should hold."""
    files = [path for path in GOLDEN.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    for folder in MODELS:
        assert sum(path.stat().st_size for path in folder.iterdir()) < 150_000, folder.name


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_model_is_whole(folder):
    """Fails if an answer is missing or flat, or a tensor is not as it was made."""
    reference = json.loads((folder / "reference.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    assert reference["versions"].keys() == {"torch", "tokenizers", "transformers"}
    assert reference["versions"]["transformers"] == config["transformers_version"]
    assert config["architectures"] == [reference["model"]]

    ids, mask = np.array(reference["input_ids"]), np.array(reference["attention_mask"])
    assert ids.shape == mask.shape == (2, 20)
    assert mask[0].all() and not mask[1].all()
    answers = reference[reference["output"]]
    assert [len(row) for row in answers] == mask.sum(1).tolist()
    width = {"logits": config["vocab_size"], "last_hidden_state": config.get("hidden_size")}
    for row in map(np.array, answers):
        assert row.shape[1] == width[reference["output"]]
        assert row.std() > 0.5

    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            tensor = file.get_tensor(name)
            assert tensor.dtype == np.float32
            assert tensor.std() > 0.01 and np.isfinite(tensor).all(), name
