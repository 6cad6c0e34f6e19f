"""Published models, where they are at hand: the numbers that others have measured."""

import os
from pathlib import Path

import numpy as np
import pytest

from lm.data import Conversation
from lm.data.conversations import render_conversation
from lm.hub.parity import answers
from lm.train.load import load_model

ASSETS = os.environ.get("YARDSTICK_ASSETS")
pytestmark = pytest.mark.skipif(not ASSETS, reason="YARDSTICK_ASSETS names no folder of models")


def at_hand(name):
    folder = Path(ASSETS or "") / name
    if not folder.exists():
        pytest.skip(f"{folder}: not there")
    return load_model(folder)


def test_minilm_gives_the_known_cosines():
    """Fails if epsilon, GELU, token types, positions or a matrix of BERT's is another."""
    model = at_hand("minilm")
    sentences = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ]
    vocabulary = model.tokenizer.vocabulary
    ids = [
        [vocabulary.bos, *model.tokenizer.encode(text).tolist(), vocabulary.eos]
        for text in sentences
    ]
    assert ids[0] == [101, 1996, 4633, 2003, 8403, 2651, 1012, 102]
    longest = max(map(len, ids))
    rows = {
        "input_ids": np.array([row + [0] * (longest - len(row)) for row in ids]),
        "attention_mask": np.array([[1] * len(r) + [0] * (longest - len(r)) for r in ids]),
    }
    states_BLD = answers(model.program.module, model.params, model.run.objective, rows)
    weights_BL1 = rows["attention_mask"][:, :, None]
    vectors = (states_BLD * weights_BL1).sum(1) / weights_BL1.sum(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    found = [cosines[0, 1], cosines[0, 2], cosines[1, 2]]
    assert found == pytest.approx([0.6660, 0.1046, 0.1411], abs=1e-4)
    assert vectors[0, :3] == pytest.approx([0.019196, 0.120085, 0.159598], abs=1e-5)


def test_smollm2_gives_the_known_probabilities():
    """Fails if the rotary base, grouped heads or the tied head of Llama's is another."""
    model = at_hand("smollm2-135m-instruct")
    ids = model.tokenizer.encode("The capital of France is")
    assert ids.tolist() == [504, 3575, 282, 4649, 314]
    rows = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int32)}
    found = answers(model.program.module, model.params, model.run.objective, rows)
    logits_LV = found[0].astype(np.float64)
    logp_LV = logits_LV - np.log(np.exp(logits_LV).sum(1, keepdims=True))
    assert logp_LV[-1, 7042] == pytest.approx(-0.2581, abs=2e-4)
    nats = -logp_LV[np.arange(4), ids[1:]].sum()
    assert nats == pytest.approx(14.7665, abs=1e-3)


def test_smollm2_goes_on_and_answers_as_known():
    """Fails if the cache, the chat template or the end of an answer is another's."""
    model = at_hand("smollm2-135m-instruct")
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    chat = model.tokenizer.chat(asked, add_generation_prompt=True)
    assert len(chat) == 37
    said = {"role": "assistant", "content": "The capital of France is Paris."}
    ids, loss, _ = render_conversation(model.tokenizer, Conversation((*asked, said)))
    assert ids[loss == 1].tolist() == [504, 3575, 282, 4649, 314, 7042, 30, 2]
    assert model.chat(asked, count=26, temperature=0) == said["content"]
    begun = model.tokenizer.encode("Once upon a time")
    answer, story = model.generate([chat, begun], count=26, temperature=0)
    assert answer == [504, 3575, 282, 4649, 314, 7042, 30]
    assert model.tokenizer.decode(story).startswith(
        ", the city of Nova Haven was a thriving metropolis, with towering skyscrapers and"
        " bustling streets."
    )
