"""What we write, read by transformers itself, where it is installed."""

from pathlib import Path

import numpy as np
import pytest

from lm.cli import main
from lm.data import Bytes
from lm.hub.base import FamilySettings
from lm.hub.folder import HfFolder, shapes_of
from lm.hub.parity import answers, largest_difference, read_reference
from lm.hub.writing import choose_family, write_folder
from lm.model import Transformer
from lm.objectives import Causal
from lm.output.tensors import LazyArray
from lm.train.load import load_model

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
GOLDEN = Path(__file__).parents[1] / "golden" / "hub"
FOLDERS = sorted(
    path.name for path in GOLDEN.iterdir() if (path / "model.safetensors").exists()
)


def compare(folder):
    """By how much our answers to what is in a folder differ from those of transformers."""
    main(["reference", str(folder)])
    rows, wanted = read_reference(folder)
    model = load_model(folder)
    found = answers(model.program.module, model.params, model.run.objective, rows)
    return largest_difference(found, wanted, rows)


@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_reads_what_we_write_of_theirs(name, tmp_path):
    """Fails if an option or a tensor is written under a name that transformers passes over."""
    before = HfFolder(GOLDEN / name)
    tokenizer = load_model(GOLDEN / name).tokenizer
    write_folder(
        tmp_path, choose_family(before.settings, first=before.kind), before.arrays, tokenizer
    )
    assert compare(tmp_path) < 1e-4


@pytest.mark.parametrize(
    "model", [Transformer(), Transformer(mlp="swiglu", kv_heads=2)], ids=str
)
def test_transformers_reads_what_we_write_of_ours(model, tmp_path):
    """Fails if the default model, or a gated one, is not what its family computes."""
    settings = FamilySettings(model, Causal(), 64, 260)
    draw = np.random.default_rng(0)
    arrays = {
        name: LazyArray.of(draw.normal(name.endswith("scale"), 0.1, shape).astype(np.float32))
        for name, shape in shapes_of(settings).items()
    }
    write_folder(tmp_path, choose_family(settings), arrays, Bytes().open())
    assert compare(tmp_path) < 1e-4
