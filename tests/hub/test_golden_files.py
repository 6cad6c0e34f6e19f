"""The golden folders are whole: what other people's code made, with what, and of which size."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

GOLDEN = Path(__file__).parents[1] / "golden" / "hub"
MODELS = sorted(path.parent for path in GOLDEN.glob("*/model.safetensors"))
TOKENIZERS = sorted(path.parent for path in GOLDEN.glob("tokenizers/*/reference.json"))


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
    assert all(path.stat().st_size < 40_000 for path in GOLDEN.glob("tokenizers/*/*"))


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


def test_the_kinds_of_tokenizers_are_there():
    """Fails if a kind of foreign tokenizer has no golden file."""
    names = {folder.name for folder in TOKENIZERS}
    assert names == {"bert", "gpt2", "llama", "smollm", "t5", "tiktoken"}
    files = {path.name for path in GOLDEN.glob("tokenizers/*/*")}
    assert files >= {"tokenizer.json", "tokenizer.model", "ranks.tiktoken", "vocab.txt"}


@pytest.mark.parametrize("folder", TOKENIZERS, ids=lambda folder: folder.name)
def test_a_tokenizer_is_whole(folder):
    """Fails if a text has no ids, an id is of no token, or a rendered chat is lost."""
    reference = json.loads((folder / "reference.json").read_text())
    versions = {"sentencepiece", "tiktoken", "tokenizers", "transformers"}
    assert reference["versions"].keys() == versions
    assert len(reference["encodings"]) == 13
    specials = reference.get("special_tokens", {})
    size = reference.get("size") or max(specials.values()) + 1
    for each in reference["encodings"]:
        assert bool(each["ids"]) == bool(each["text"])
        assert all(0 <= n < size for n in each["ids"])
        if "offsets" in each:
            assert len(each["offsets"]) == len(each["ids"])
            assert all(0 <= a <= b <= len(each["text"]) for a, b in each["offsets"])
        else:
            assert sum(each["bytes"]) == len(each["text"].encode())
    if folder.name in ("llama", "smollm"):
        chats = reference["chats"]
        assert len(chats) == 6 and sum("ids" in chat for chat in chats) == 4
        assert all(chat["messages"][-1]["content"].strip() in chat["text"] for chat in chats)
