"""A loaded model is asked for logits, states and text, whatever it was trained to predict."""

import dataclasses

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from lm.config import UserError
from lm.example import Batch
from lm.generate.question import possible
from lm.loss import logits
from lm.model import EncoderDecoder, Transformer
from lm.model.ends import Transform
from lm.model.layers import LayerNorm
from lm.model.positions import Learned
from lm.objectives import Causal, Classify, Masked, Spans
from lm.train.generating import generate_text
from lm.train.load import load_model
from lm.train.step import prepare
from tests.makers import save_untrained

LENGTH = 12
SMALL = {"depth": 2, "width": 16, "heads": 2}
BERT = Transformer(
    **SMALL,
    norm=LayerNorm(epsilon=1e-12),
    norm_placement="after",
    positions=Learned(length=LENGTH),
    embedding_norm="norm",
    token_types=2,
    transform=Transform(),
    output_bias="bias",
)
MODELS = {
    "gpt": (Causal(), Transformer(**SMALL)),
    "bert": (Masked(), BERT),
    "classifier": (Classify(classes=2), Transformer(**SMALL)),
    "t5": (
        Spans(stack="encoder_decoder"),
        EncoderDecoder(**SMALL, encoder_depth=1),
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Models that nobody trained, from artifacts."""
    found, folder = {}, tmp_path_factory.mktemp("use")
    for name, (objective, model) in MODELS.items():
        save_untrained(folder / name, objective, model, length=LENGTH, precision="bfloat16")
        found[name] = load_model(folder / name)
    return found


ROWS = np.array([[2, 70, 80, 90, 3], [2, 71, 3, 0, 0]])
SEGMENTS = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def with_precision(model, precision):
    """The same model with its matrix products in another precision."""
    run = msgspec.structs.replace(model.run, precision=precision)
    program = prepare(run, model.tokenizer.vocabulary, model.program.mesh)
    return dataclasses.replace(model, run=run, program=program)


def test_logits_are_what_is_trained(models):
    """Fails if the mask, the positions or the precision is another than in training."""
    for name in ("gpt", "bert"):
        model = models[name]
        found = model.logits(ROWS)
        assert found.dtype == np.float32 and found.shape == (2, 5, 264)
        changed = ROWS.copy()
        changed[:, 3] = 100
        moved = np.abs(model.logits(jnp.array(changed)) - found).max(axis=(0, 2)) > 1e-6
        causal = name == "gpt"
        assert moved.tolist() == [not causal, not causal, not causal, True, True]
    model = with_precision(models["gpt"], "float32")
    batch = Batch(np.resize(ROWS, (8, 5)), np.ones((8, 5), np.int32))
    example = Causal()(batch, model.tokenizer.vocabulary, jax.random.key(0))
    output = jax.jit(model.program.module.apply)({"params": model.params}, example)
    trained = logits(output, einsum=model.program.module.einsum)[:2]
    np.testing.assert_allclose(models["gpt"].logits(ROWS), trained, atol=1e-5)
    rounded = models["gpt"].logits(ROWS, precision="bfloat16")
    assert 1e-4 < np.abs(rounded - trained).max() < 0.1


def test_padding_changes_nothing(models):
    """Fails if a token sees padding, or a segment of 0 counts as a document."""
    for model in (models["gpt"], models["bert"]):
        for answer in (model.logits, model.hidden):
            alone, padded = answer(ROWS[1:, :3]), answer(ROWS, SEGMENTS)
            np.testing.assert_allclose(padded[1, :3], alone[0], atol=1e-5)


def test_states_are_those_before_the_head(models):
    """Fails if the head's transform is in the states, or the last norm is not."""
    gpt, bert = models["gpt"], models["bert"]
    np.testing.assert_allclose(
        gpt.hidden(ROWS) @ np.asarray(gpt.params["embedding"]).T, gpt.logits(ROWS), atol=1e-5
    )
    # After its last block's norm, whose scale nobody trained, each state has mean 0.
    states = bert.hidden(ROWS)
    assert states.shape == (2, 5, 16)
    assert np.abs(states.mean(-1)).max() < 1e-5 and np.abs(states.std(-1) - 1).max() < 1e-3
    table = np.asarray(bert.params["embedding"])
    assert np.abs(states @ table.T - bert.logits(ROWS)).max() > 0.01
    assert models["classifier"].hidden(ROWS).shape == (2, 5, 16)


def test_types_are_read(models):
    """Fails if types_BL goes unread."""
    types = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]])
    plain, typed = models["bert"].hidden(ROWS), models["bert"].hidden(ROWS, types_BL=types)
    assert np.abs(plain - typed)[0].max() > 1e-3
    np.testing.assert_array_equal(plain[1], typed[1])


def test_a_source_is_read(models):
    """Fails if a decoder sees no source, padding of it, or what comes after."""
    model, source = models["t5"], np.array([[80, 81, 82], [80, 81, 0]])
    real = np.array([[1, 1, 1], [1, 1, 0]])
    found = model.logits(ROWS, source_BM=source, source_segments_BM=real)
    other = model.logits(ROWS, source_BM=np.add(source, [[0, 0, 5]]), source_segments_BM=real)
    assert np.abs(found - other)[0].max() > 1e-5
    np.testing.assert_allclose(found[1], other[1], atol=1e-6)
    changed = ROWS.copy()
    changed[:, 3] = 100
    later = model.logits(changed, source_BM=source, source_segments_BM=real)
    np.testing.assert_allclose(later[:, :3], found[:, :3], atol=1e-6)


def test_what_a_model_cannot_answer_is_one_line(models):
    gpt, bert, t5 = models["gpt"], models["bert"], models["t5"]
    assert gpt.predicts == {"next"} and not models["classifier"].predicts
    for ask, why in (
        (lambda: models["classifier"].logits(ROWS), "no head over the vocabulary"),
        (lambda: gpt.logits(ROWS + 200), "tokens_BL: 200 to 290; must be from 0 to 263"),
        (lambda: gpt.logits(ROWS[0]), r"tokens_BL: int64\[5\]; must be ids of rows"),
        (lambda: gpt.logits(ROWS * 1.0), "tokens_BL: float64"),
        (lambda: gpt.logits(ROWS, SEGMENTS[:1]), r"segments_BL: \[1, 5\]; must be \[2, 5\]"),
        (lambda: gpt.logits(ROWS, types_BL=SEGMENTS), "types_BL: 0 to 1; must be from 0 to 0"),
        (lambda: bert.logits(np.full((1, 13), 70)), "13 positions, .* places for 12"),
        (lambda: t5.logits(ROWS), "source_BM: the model reads a source"),
        (lambda: gpt.logits(ROWS, source_BM=ROWS), "source_BM: the model reads no source"),
        (lambda: t5.logits(ROWS, source_BM=ROWS[:1]), "source_BM: 1 rows"),
        (lambda: bert.generate(["a"]), "not trained to predict the next token"),
        (lambda: gpt.generate([[]]), "a prompt of no ids"),
    ):
        with pytest.raises(UserError, match=why):
            ask()


def test_a_model_generates_from_texts_and_from_ids(models):
    """Fails if ids get a further bos token, or a text none."""
    model = models["gpt"]
    likeliest = {"count": 4, "temperature": 0}
    row = [2, 70, 80]
    for _ in range(4):
        scores = np.where(
            possible(model.tokenizer.vocabulary), model.logits(np.array([row]))[0, -1], -np.inf
        )
        row.append(int(scores.argmax()))
    model = with_precision(model, "float32")
    (ids,) = model.generate([[2, 70, 80]], **likeliest)
    assert ids == row[3:]
    text = model.tokenizer.decode([70, 80])
    assert model.generate([text], **likeliest) == [model.tokenizer.decode(ids)]
    assert generate_text(model, text, **likeliest) == model.tokenizer.decode(ids)
    (bare,) = model.generate([np.array([70, 80])], **likeliest)
    assert bare != ids
