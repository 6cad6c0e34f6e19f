"""A loaded model writes: texts, ids, samples, beams, spans and what is masked."""

import pytest

from lm.config import UserError
from lm.generate.text import Written
from lm.model import EncoderDecoder, Transformer
from lm.objectives import Causal, Masked, Spans
from lm.train.load import load_model
from tests.makers import save_untrained

SMALL = {"depth": 1, "width": 16, "heads": 2}
MODELS = {
    "gpt": (Causal(), Transformer(**SMALL)),
    "bert": (Masked(), Transformer(**SMALL)),
    "t5": (Spans(stack="encoder_decoder"), EncoderDecoder(**SMALL)),
}
DRAWN = {"count": 24, "seed": 3}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    found, folder = {}, tmp_path_factory.mktemp("generating")
    for name, (objective, model) in MODELS.items():
        save_untrained(folder / name, objective, model, length=32)
        found[name] = load_model(folder / name)
    return found


def test_samples_draw_with_seeds_of_their_own(models):
    """Fails if samples are one, or another prompt's come with a prompt."""
    model = models["gpt"]
    both = model.generate(["ab", "xy"], samples=3, **DRAWN)
    assert [len(each) for each in both] == [3, 3] and len({*both[0], *both[1]}) == 6
    for number, text in enumerate([*both[0], *both[1]]):
        (one,) = model.generate(["xy" if number > 2 else "ab"], count=24, seed=3 + number)
        assert one == text
    assert model.generate(["ab"], temperature=0) == model.generate(["ab"], top_k=1, seed=5)
    with pytest.raises(UserError, match=r"top_p=1\.5: must be <= 1"):
        model.generate(["ab"], top_p=1.5)


def test_a_text_ends_with_a_stop_and_streams(models):
    """Fails if a stop is given, only within a token ends a text, or streamed text differs."""
    model = models["gpt"]
    (whole,) = model.generate(["ab"], **DRAWN)
    stop = whole[5:7]
    (cut,) = model.generate(["ab"], stop=[stop], **DRAWN)
    assert cut == whole[: whole.find(stop)]
    streamed = list(model.stream("ab", stop=[stop], alternatives=2, **DRAWN))
    assert "".join(one.text for one in streamed) == cut
    assert streamed[-1].emitted.reason == "stop"
    assert all(len(one.emitted.alternatives) == 2 for one in streamed)
    written = Written(model.tokenizer)
    ids = [one.emitted.token for one in model.stream("ab", **DRAWN)]
    assert "".join(map(written.take, ids)) + written.flush() == whole
    with pytest.raises(UserError, match="stop: strings end texts"):
        model.generate([[5]], stop=["a"])


def test_beams_are_at_least_as_likely_as_the_likeliest_tokens(models):
    """Fails if beams are scored as another text, or go on from another prompt."""
    model = models["gpt"]
    greedy = list(model.stream("ab", count=6, temperature=0))
    best, *_ = model.beams("ab", count=6, beams=3, length_penalty=0.0)
    # What is drawn from leaves special tokens out: a little more each.
    assert best.score > sum(one.emitted.log_p for one in greedy) - 1e-4
    (one,) = model.beams("ab", count=6, beams=1, length_penalty=0.0)
    assert one.tokens == [one.emitted.token for one in greedy][: len(one.tokens)]


def test_an_encoder_decoder_fills_spans_of_its_source(models):
    """Fails if sentinels are text, spans change places, or a prompt is no source."""
    model = models["t5"]
    vocabulary, read = model.tokenizer.vocabulary, model.tokenizer.encode("ab").tolist()
    (ids,) = model.generate([[vocabulary.bos, *read]], count=8, temperature=0)
    assert model.generate(["ab"], count=8, temperature=0) == [model.tokenizer.decode(ids)]
    assert model.generate([read], count=8, temperature=0) != [ids]
    assert len(model.fill_spans(["a", "b", "c"], count=12, temperature=0)) == 2
    with pytest.raises(UserError, match="5 spans to fill: the tokenizer has 4 sentinels"):
        model.fill_spans(["x"] * 6)
    with pytest.raises(UserError, match="no encoder-decoder"):
        models["gpt"].fill_spans(["a", "b"])
    assert model.beams("a", count=4, beams=2)


def test_masked_tokens_are_filled(models):
    """Fails if another place is filled, or a model that fills none answers."""
    model = models["bert"]
    mask = model.tokenizer.vocabulary.mask_token
    (one,) = model.fill([70, mask, 80], alternatives=3)
    assert one.place == 1 and one.alternatives[0][0] == one.token
    drawn = {model.fill([70, mask], order="diffusion", seed=seed)[0].token for seed in range(9)}
    assert len(drawn) > 3
    with pytest.raises(UserError, match="not trained to predict masked tokens"):
        models["gpt"].fill([70, 80])
