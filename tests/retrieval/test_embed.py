"""Texts as vectors: pooled over what a text is, whatever stands beside it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lm.config import UserError
from lm.retrieval.embed import Embedder, load_embedder
from tests.makers import one_device
from tests.retrieval.conftest import LENGTH

TEXTS = ["", "a ship", "a keel keeps a ship", "x" * 12, "wind"]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_vector_is_pooled_over_its_text_alone(models, pooling):
    """Fails if padding counts, or a row's last state is taken for the text's."""
    embedder = load_embedder(models / "bert", pooling=pooling)
    before, behind = embedder.around
    wanted = []
    for text in TEXTS:
        row = [*before, *embedder.model.tokenizer.encode(text).tolist(), *behind]
        states_LD = embedder.model.hidden(np.array([row]))[0]
        of = {"mean": states_LD.mean(axis=0), "first": states_LD[0], "last": states_LD[-1]}
        wanted.append(of[pooling] / np.linalg.norm(of[pooling]))
    assert np.allclose(embedder(TEXTS), wanted, atol=2e-6)


def test_a_text_that_does_not_fit_is_cut_and_counted(embedder):
    """Fails if what ends a text is cut off with it, or nobody hears of it."""
    last = Embedder(embedder.model, "last", LENGTH)
    vocabulary = embedder.model.tokenizer.vocabulary
    last.around = [vocabulary.bos], [vocabulary.eos]
    assert last.room == LENGTH - 2
    long, cut, longer = last(["y" * (LENGTH + 7), "y" * (LENGTH - 2), "y" * LENGTH])
    assert last.truncated == 2
    assert np.array_equal(long, cut) and np.array_equal(longer, cut)
    row = [vocabulary.bos, *embedder.model.tokenizer.encode("y" * (LENGTH - 2)), vocabulary.eos]
    assert np.allclose(last.vectors([row])[0], cut, atol=2e-6)


def test_several_devices_give_what_one_gives(models, embedder):
    """Fails if rows that fill up the devices are taken for texts."""
    import jax

    assert embedder.model.program.mesh.size == 1
    several = _on_all_devices(models / "bert")
    if several.model.program.mesh.size == 1:
        pytest.skip(f"there are no several devices: {jax.local_device_count()}")
    assert np.allclose(several(TEXTS[:3]), embedder(TEXTS[:3]), atol=2e-6)


def _on_all_devices(path: Path):
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", jax.local_devices)
        patch.setattr(jax, "device_count", jax.local_device_count)
        return load_embedder(path)


def test_pooling_is_what_the_model_says_of_itself(models, tmp_path):
    """Fails if sentence-transformers' file is not read, or what it asks is guessed."""
    assert load_embedder(models / "bert").pooling == "mean"
    assert load_embedder(models / "gpt").pooling == "last"
    said = tmp_path / "said"
    shutil.copytree(models / "bert", said)
    (said / "1_Pooling").mkdir()
    modes = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True}
    (said / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (said / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    found = load_embedder(said)
    assert (found.pooling, found.length) == ("first", 20)
    modes["pooling_mode_max_tokens"] = True
    (said / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    with pytest.raises(UserError, match="pooling_mode_max_tokens: give a pooling"):
        load_embedder(said)
    assert load_embedder(said, pooling="last").pooling == "last"


@pytest.mark.parametrize("length", [1, LENGTH + 1])
def test_a_length_that_the_model_does_not_have_is_refused(models, length):
    """Fails if a row is longer than the model's positions, or has no room for text."""
    with pytest.raises(UserError, match=f"length {length}: .* sees {LENGTH} tokens"):
        load_embedder(models / "bert", length=length)


ASSETS = os.environ.get("YARDSTICK_ASSETS")


@pytest.mark.skipif(not ASSETS, reason="YARDSTICK_ASSETS names no folder of models")
def test_minilm_gives_the_cosines_that_are_known():
    """Fails if it is pooled, framed or padded another way than where it was published."""
    with one_device():
        minilm = load_embedder(Path(str(ASSETS)) / "minilm")
    assert (minilm.pooling, minilm.length, minilm.width) == ("mean", 256, 384)
    sentences = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ]
    for vectors in (minilm(sentences), np.concatenate([minilm([s]) for s in sentences])):
        cosines = vectors @ vectors.T
        known = [0.6660, 0.1046, 0.1411]
        assert np.allclose([cosines[0, 1], cosines[0, 2], cosines[1, 2]], known, atol=1e-4)
        assert np.allclose(vectors[0, :3], [0.019196, 0.120085, 0.159598], atol=1e-5)
