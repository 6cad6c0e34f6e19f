"""`lm import` and `lm export`, from a folder of others and back to one."""

import json
from pathlib import Path

import numpy as np
import pytest

from lm.cli import main
from lm.hub.folder import HfFolder
from lm.hub.parity import REFERENCE
from lm.output.tensors import read_arrays

GOLDEN = Path(__file__).parents[1] / "golden" / "hub"


def said(capsys, *arguments):
    main([str(each) for each in arguments])
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def folder(tmp_path):
    """A golden Llama with a tokenizer of 64 words, and a file of answers."""
    tokenizers = pytest.importorskip("tokenizers")
    source, made = GOLDEN / "llama", tmp_path / "theirs"
    made.mkdir()
    for name in ("config.json", "model.safetensors"):
        (made / name).write_bytes((source / name).read_bytes())
    words = {f"w{id}": id for id in range(64)}
    model = tokenizers.models.WordLevel(words, unk_token="w0")
    tokenizers.Tokenizer(model).save(str(made / "tokenizer.json"))
    reference = json.loads((source / "reference.json").read_text())
    rows = {n: np.array(reference[n]) for n in ("input_ids", "attention_mask")}
    logits = np.zeros((*rows["input_ids"].shape, 64), np.float32)
    for row, answer in enumerate(reference["logits"]):
        logits[row, : len(answer)] = answer
    np.savez(made / REFERENCE, **rows, logits=logits)
    return made


def same(one, other):
    ours, theirs = read_arrays(one), read_arrays(other)
    return ours.keys() == theirs.keys() and all(
        np.array_equal(array.whole(), theirs[name].whole()) for name, array in ours.items()
    )


def test_there_and_back(folder, tmp_path, capsys):
    """Fails if an import is not compared, loses its tokenizer, where it comes from or its
    numbers, or if an export is no folder that can be imported.
    """
    line = said(capsys, "import", folder, tmp_path / "ours")
    assert "llama" in line and "compared with reference.npz: differs by at most" in line
    card = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert card["origin"]["family"] == "llama" and card["origin"]["consumed"] is None
    assert card["origin"]["source"] == str(folder)
    line = said(capsys, "export", tmp_path / "ours", tmp_path / "back", "--format", "hf")
    assert "LlamaForCausalLM" in line and "differs by" in line
    assert same(folder, tmp_path / "back")
    assert not list(tmp_path.glob(".back*"))
    names = ("tokenizer.json", "generation_config.json", "config.json")
    assert all((tmp_path / "back" / name).exists() for name in names)
    assert HfFolder(tmp_path / "back").settings == HfFolder(folder).settings


def test_bfloat16_stays_so_in_an_artifact(folder, tmp_path, capsys):
    """Fails if what is written in half the bytes is widened, or written in another type."""
    (folder / REFERENCE).unlink()
    said(
        capsys, "export", folder, tmp_path / "half", "--format", "hf", "--precision", "bfloat16"
    )
    line = said(capsys, "import", tmp_path / "half", tmp_path / "ours")
    assert "not compared" in line
    kinds = {str(array.dtype) for array in read_arrays(tmp_path / "ours").values()}
    assert kinds == {"bfloat16"}


def test_a_model_that_answers_otherwise_is_not_imported(folder, tmp_path, capsys):
    """Fails if an import that is wrong goes by, or leaves something behind."""
    with np.load(folder / REFERENCE) as arrays:
        found = dict(arrays)
    found["logits"][0, 3, 5] += 0.01
    np.savez(folder / REFERENCE, **found)
    with pytest.raises(SystemExit) as exit_:
        main(["import", str(folder), str(tmp_path / "ours")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and "differ from reference.npz by 0.01" in error
    assert not (tmp_path / "ours").exists()
