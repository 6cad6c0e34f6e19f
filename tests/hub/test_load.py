"""Other people's folders through the one way in: `lm.load_model`, and what it gives can do."""

import numpy as np
import pytest

import lm
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
