"""The golden folders are whole: what other people's code made, with what, and of which size."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

GOLDEN = Path(__file__).parents[1] / "golden" / "hub"
MODELS = sorted(path.parent for path in GOLDEN.glob("*/config.json"))
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

    if (index := folder / "model.safetensors.index.json").is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        assert len(shards) > 1 and all((folder / name).is_file() for name in shards)
        assert config["dtype"] == "bfloat16"  # which safetensors does not read into numpy
        return
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


KNOWN = {
    "bert-base-uncased": 109_514_298,
    "bert-base-uncased-bare": 108_891_648,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "modernbert-base": 149_655_232,
    "modernbert-large": 395_881_664,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-v1.1-base": 247_577_856,
}
"""Parameters as published, of which a tied matrix counts once."""


def test_the_published_sizes_count_as_published():
    """Fails if a size is built of other settings than the published one, or has no source."""
    sizes = json.loads((GOLDEN / "published_sizes.json").read_text())
    assert sizes.pop("versions").keys() == {"torch", "transformers"}
    sources = sizes.pop("sources")
    assert {size["family"] for size in sizes.values()} == sources.keys()
    assert {name: sizes[name]["parameters"] for name in KNOWN} == KNOWN
    printed = {name for name, size in sizes.items() if "parameters_as_printed" in size}
    assert len(sizes) == 60 and len(printed) == 10
