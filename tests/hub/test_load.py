"""Other people's folders through the one way in: `lm.load_model`, and what it gives can do."""

import shutil

import numpy as np
import pytest

import lm
from lm.config import override
from lm.train.start import begin
from tests.hub.test_families import GOLDEN, TOLERANCE, reference_of

LOADED = [
    "bert",
    "t5",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("gpt2-odd", "bert-bare", "llama3", "modernbert-decoder", "t5-v1.1")
    ),
]


@pytest.mark.parametrize("name", LOADED)
def test_a_folder_is_loaded_as_any_model_is(name):
    """Fails if the program of a kind cannot be built, or rows reach it otherwise than said."""
    model = lm.load_model(GOLDEN / name)
    rows, wanted = reference_of(GOLDEN / name)
    source, text = {}, ("input_ids", "attention_mask")
    if "decoder_input_ids" in rows:
        source = {"source_BM": rows[text[0]], "source_segments_BM": rows[text[1]]}
        text = "decoder_input_ids", "decoder_attention_mask"
    ask = model.logits if model.predicts else model.hidden
    found = ask(*(rows[key] for key in text), rows.get("token_type_ids"), **source)
    assert found.dtype == np.float32
    for row, answer in enumerate(wanted):
        assert np.abs(found[row, : len(answer)] - answer).max() < TOLERANCE


def test_a_run_starts_from_a_folder_with_its_tokenizer(tmp_path):
    """Fails if only tokenizers of our own kinds are taken from a start."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = shutil.copytree(GOLDEN / "llama", tmp_path / "llama")
    words = tokenizers.models.WordLevel({f"w{id}": id for id in range(64)}, unk_token="w0")
    tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
    run = override(lm.Run(), [f"start.path={folder}", 'start.add_tokens=["<user>"]'])
    begun = begin(run)
    assert begun.tokenizer.added == {"<user>": 64}
    assert begun.tokenizer.encode("w7").tolist() == [7]
