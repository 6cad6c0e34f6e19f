"""What a trained model is asked, held to sums done by hand on the same parameters."""

import json
import math
import random
from dataclasses import replace

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from lm.config import UserError, override
from lm.data import Bytes, Data, Text, n_rows, open_tokens
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.evaluate.evaluate import evaluate, training_text
from lm.evaluate.passage import says
from lm.evaluate.probe.labels import probe_of
from lm.evaluate.scorers.any_order import AnyOrderBound
from lm.evaluate.scorers.chain_rule import ChainRule
from lm.evaluate.scorers.fixed_order import FixedOrder
from lm.evaluate.scoring import FRACTIONS, Effort, score_of, sees, valid
from lm.evaluate.windows import Windows, place_of
from lm.example import BidirectionalMask, CausalMask, Example
from lm.model import Transformer
from lm.objectives import (
    AnyOrder as AnyOrderObjective,
)
from lm.objectives import (
    Causal,
    Curriculum,
    Diffusion,
    Masked,
    Mixture,
    Prefix,
    Shifted,
    Spans,
)
from lm.optimizer import Adamw
from lm.run import Run
from lm.train.load import ModelWithText, load_run
from lm.train.step import prepare
from lm.train.train import train_run

EFFORT = Effort(curve_rows=5, probe_tokens=1100)
NAMES = ("alpha", "beta", "gamma", "delta", "total", "number", "names", "text", "value")


def source(random_: random.Random) -> str:
    """A Python file of a few functions."""
    parts = []
    for _ in range(random_.randint(3, 6)):
        f, a, b, c = random_.sample(NAMES, 4)
        n = random_.randint(2, 99)
        parts.append(
            f'def {f}({a}, {b}={n}):\n    """Gives {c}."""\n    {c} = {a}.{b}({n})\n'
            f"    for {b} in {c}:  # {f}\n        {c} += {b} * {n}\n    return {c}\n"
        )
    return "\n\n".join(parts)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run of a second on made-up Python; test_trained compiles the same program."""
    random_ = random.Random(0)
    folder = tmp_path_factory.mktemp("python")
    for number in range(24):
        (folder / f"{number}.py").write_text(source(random_))
    return Run(
        data=Data(
            corpus=Text(paths=(f"{folder}/*.py",)),
            tokenizer=Bytes(),
            length=64,
            batch=32,
            validation=0.25,
        ),
        model=Transformer(depth=1, width=32, heads=2),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=8 * 32 * 64,
        precision="float32",
        evaluations=1,
    )


@pytest.fixture(scope="module")
def causal(run, tmp_path_factory) -> ModelWithText:
    directory = tmp_path_factory.mktemp("runs") / "causal"
    train_run(run, directory)
    return load_run(directory)


@pytest.fixture(scope="module")
def masked(run, tmp_path_factory) -> ModelWithText:
    directory = tmp_path_factory.mktemp("runs") / "masked"
    train_run(override(run, ["objective.type=masked"]), directory)
    return load_run(directory)


@pytest.fixture(scope="module")
def causal_found(causal):
    return evaluate(causal, EFFORT)


@pytest.fixture(scope="module")
def masked_found(masked):
    return evaluate(masked, EFFORT)


def test_the_chain_rule_is_the_sum_over_the_stream_done_by_hand(causal, causal_found):
    """Fails if a token is left out or counted twice, the end is free, or bytes are tokens."""
    split, length = causal.tokens.validation, causal.run.data.length
    stream = split.read([0], split.size)[0]
    offsets = set(split.offsets.tolist())
    bits = tokens = 0.0
    rows = []
    for start in range(0, split.size - 1, length - 1):
        row = [2, *stream[start + 1 : start + length].tolist()]
        segment, segments = 1, [1]
        for place in range(start + 1, start + len(row)):
            segment += place in offsets
            segments.append(segment)
        missing = [0] * (length - len(row))
        rows.append((row + missing, segments + missing))
    inputs_BL, segments_BL = (jnp.array(part) for part in zip(*rows, strict=True))
    positions = [
        [segments[:at].count(here) for at, here in enumerate(segments)] for _, segments in rows
    ]
    example = Example(
        inputs=inputs_BL,
        target_positions=None,
        targets=inputs_BL,
        weights=jnp.ones(inputs_BL.shape),
        segments=segments_BL,
        positions=jnp.array(positions),
        attention_mask=CausalMask(),
    )
    alone = causal.program.module.clone(mesh=mesh.make(Mesh(), jax.devices()[:1]))
    params = jax.device_get(causal.params)
    hidden_BLD, table_VD, *_ = jax.jit(alone.apply)({"params": params}, example)
    logits_BLV = np.asarray(hidden_BLD, np.float64) @ np.asarray(table_VD, np.float64).T
    logits_BLV -= logits_BLV.max(-1, keepdims=True)
    log_BLV = logits_BLV - np.log(np.exp(logits_BLV).sum(-1, keepdims=True))
    for b, (row, segments) in enumerate(rows):
        for at in range(1, length):
            if segments[at] and row[at] != 2:
                bits -= log_BLV[b, at - 1, row[at]] / math.log(2)
                tokens += 1
    score = causal_found["scores"]["chain_rule"]
    assert score["tokens"] == tokens == split.bytes.sum() + len(split.ids)
    assert score["bytes"] == split.bytes.sum()
    assert causal_found["bits_per_byte"] == pytest.approx(bits / split.bytes.sum(), rel=1e-5)
    assert (causal_found["kind"], causal_found["mc_se"]) == ("exact", 0)
    assert causal_found["layout_bits"] == 0


def test_all_windows_hold_each_byte_once_and_few_are_spread(causal):
    """Fails if windows overlap, the last is left out, or `rows` takes the first ones."""
    split = causal.tokens.validation
    windows = Windows.of(causal, split, None)
    assert windows.text.bytes_RL.sum() == split.bytes.sum()
    by_document = np.bincount(
        windows.text.documents_RL[windows.text.documents_RL >= 0],
        windows.text.bytes_RL[windows.text.documents_RL >= 0],
    )
    np.testing.assert_array_equal(by_document, split.bytes)
    stream = split.read([0], split.size)[0]
    content = windows.tokens_RL[windows.text.documents_RL >= 0]
    np.testing.assert_array_equal(content, stream[stream != 2])
    few = Windows.of(causal, split, 3)
    assert few.index_R.tolist() == [0, (len(windows.index_R) - 1) // 2, windows.index_R[-1]]
    assert len(Windows.of(causal, split, 10**6).index_R) == len(windows.index_R)


def test_a_masked_model_is_asked_for_bounds_and_says_that_they_are(masked, masked_found):
    """Fails if the pseudo-likelihood is the headline, or a fraction of the curve is missing."""
    assert list(masked_found["scores"]) == ["any_order", "pseudo"]
    assert masked_found["scorer"] == "any_order"
    assert masked_found["kind"] == "bound"
    assert masked_found["scores"]["pseudo"]["kind"] == "no likelihood"
    assert masked_found["bits_per_byte"] == masked_found["scores"]["any_order"]["bits_per_byte"]
    assert masked_found["mc_se"] > 0
    for score in masked_found["scores"].values():
        assert score["layout_bits"] > 0
    assert list(masked_found["error_by_fraction"]) == list(map(str, FRACTIONS))
    for score in masked_found["error_by_fraction"].values():
        assert score["kind"] == "no likelihood"
        assert 0 < score["bits_per_byte"] < 9


FILLS = [
    *("any_order", "pseudo", "left_to_right", "random_order", "confident_first"),
    *("pseudo_all", "pseudo_words"),
]


@pytest.mark.parametrize(
    ("objective", "names", "attention_mask"),
    [
        (Causal(), ["chain_rule"], CausalMask()),
        (Prefix(), ["chain_rule"], BidirectionalMask()),
        (Masked(), FILLS, BidirectionalMask()),
        (AnyOrderObjective(), FILLS, BidirectionalMask()),
        (Diffusion(), FILLS, BidirectionalMask()),
        (Shifted(), FILLS, BidirectionalMask()),
        (Spans(), ["spans"], BidirectionalMask()),
        (Mixture(), ["chain_rule", *FILLS], BidirectionalMask()),
        (Curriculum(), FILLS, BidirectionalMask()),
        (Curriculum(switch=1), ["chain_rule"], CausalMask()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_is_asked_what_it_was_trained_to_predict(objective, names, attention_mask):
    """Fails if a scorer is missing, is not valid, or a shifted model is asked at the place."""
    trained = ModelWithText(Run(objective=objective), None, None, None)
    there = valid(trained.run)
    assert list(there) == names
    assert {scorer.prediction for scorer in there.values()} <= objective.predictions
    assert sees(trained) == attention_mask
    for scorer in there.values():
        shown = {"next": "nothing", "spans": "number of documents"}
        assert scorer.layout_given == shown.get(scorer.prediction, "ends of documents")


SPANS = ["objective.type=spans", "data.tokenizer.sentinels=8"]


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    ("changes", "headline", "names"),
    [
        (
            [*SPANS, "objective.stack=encoder_decoder", "model.type=encoder_decoder"],
            "spans",
            ["spans"],
        ),
        pytest.param(SPANS, "spans", ["spans"], marks=pytest.mark.slow),
        pytest.param(
            ["objective.type=mixture"],
            "chain_rule",
            ["chain_rule", *FILLS],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_model_of_another_kind_is_evaluated_whole(run, changes, headline, names):
    """Fails if a kind of model is taken for causal or masked, or a value is not JSON."""
    run = override(run, changes)
    tokens = open_tokens(run.data)
    program = prepare(run, tokens.tokenizer.vocabulary, mesh.make(Mesh()))
    trained = ModelWithText(run, tokens, program, program.init().params)
    found = evaluate(trained, Effort(rows=9, curve_rows=3, orders=2, probe_tokens=60))
    json.dumps(msgspec.to_builtins(found), allow_nan=False)
    assert list(found["scores"]) == names
    assert (found["scorer"], found["kind"]) == (headline, "exact")
    assert found["bits_per_byte"] == found["scores"][headline]["bits_per_byte"]
    # A model that was not trained says each of its tokens with about the same probability.
    a_byte = found["scores"][headline]["tokens"] / found["scores"][headline]["bytes"]
    uniform = math.log2(tokens.tokenizer.vocabulary.size) * a_byte
    layout = found["scores"][headline]["layout_bits"]
    assert found["bits_per_byte"] - layout == pytest.approx(uniform, rel=0.05)
    assert (layout > 0) == (headline == "spans")
    fills = "any_order" in names
    assert bool(found["error_by_fraction"]) == fills
    assert bool(found["says"]["tokens"]) == ("chain_rule" in names)
    if fills:
        orders = [found["scores"][name] for name in FILLS[2:]]
        assert [(score["kind"], score["block"]) for score in orders] == [("exact", 2)] * 3
        assert len({score["tokens"] for score in orders}) == 1
    else:
        assert found["says"]["after"] == found["says"]["passage"]


def test_masks_are_drawn_until_their_error_is_small_enough(causal, masked):
    """Fails if replicates repeat the first ones, too few are added, or there is no end."""
    windows = Windows.of(masked, masked.tokens.validation, None)
    scorer = AnyOrderBound(samples=4)
    few = score_of(masked, scorer, windows, replicates=2)
    asked = few.mc_se / 2
    more = score_of(masked, scorer, windows, replicates=2, mc_se=asked)
    assert asked / 2 < more.mc_se <= asked
    assert abs(more.bits_per_byte - few.bits_per_byte) < 5 * few.mc_se
    assert more.bits_per_byte != few.bits_per_byte
    with pytest.raises(UserError, match=r"would take some [\d,]+ replicates, and 128 are"):
        score_of(masked, scorer, windows, replicates=2, mc_se=few.mc_se / 50)
    assert score_of(causal, ChainRule(), windows, replicates=2, mc_se=1e-9).mc_se == 0


def test_windows_of_another_text_are_told_apart(run, causal, masked):
    """Fails if windows of other lengths or numbers would be paired by their documents."""
    windows = Windows.of(causal, causal.tokens.validation, None)
    assert windows.same_as(Windows.of(masked, masked.tokens.validation, None))
    assert not windows.same_as(Windows.of(causal, causal.tokens.validation, 9))
    longer = replace(causal, run=override(run, ["data.length=80"]))
    of_longer = Windows.of(longer, causal.tokens.validation, None)
    assert of_longer.text.bytes_RL.sum() == windows.text.bytes_RL.sum()
    assert not windows.same_as(of_longer)
    more = override(run, ["data.tokenizer.sentinels=8"])
    other_ids = replace(causal, run=more, tokens=open_tokens(more.data))
    assert windows.same_as(Windows.of(other_ids, other_ids.tokens.validation, None))


def test_errors_can_be_paired_by_document(causal, causal_found, masked_found):
    """Fails if the variants' documents differ, or nats by document do not add up to the
    score.
    """
    assert causal_found["document_bytes"] == masked_found["document_bytes"]
    assert causal_found["document_bytes"] == tuple(causal.tokens.validation.bytes.tolist())
    for found in (causal_found, masked_found):
        bits = sum(found["document_nats"]) / math.log(2)
        assert found["bits_per_byte"] == pytest.approx(bits / sum(found["document_bytes"]))


def test_baselines_are_there_and_of_the_same_text(causal_found, masked_found):
    """Fails if one is missing, or depends on the variant."""
    baselines = causal_found["baselines"]
    assert baselines == masked_found["baselines"]
    assert {f"{c}, {cut}" for c in ("gzip", "xz") for cut in CUTS} < set(baselines)
    ends = 1 + len(causal_found["document_bytes"]) / sum(causal_found["document_bytes"])
    assert baselines["uniform"] == pytest.approx(math.log2(257) * ends)
    assert baselines["unigram"] < baselines["uniform"]


CUTS = ("whole text", "by document", "by window")


def test_what_ppm_has_read_is_what_the_run_has_read_once(causal):
    """Fails if rows are of another seed or order, read again, left out, or of held-out text."""
    run, tokens = causal.run, causal.tokens

    def of(*settings):
        return training_text(replace(causal, run=override(run, list(settings))))

    texts = [tokens.train.text(document) for document in range(len(tokens.train.ids))]
    whole = of(f"tokens={3 * n_rows(tokens.train, 64) * 64}")
    assert sorted(whole) == sorted("".join(texts).encode())
    some, other, few = of("tokens=8192"), of("tokens=8192", "seed=1"), of("data.unique=640")
    assert whole.startswith(some) and not whole.startswith(other)
    assert 100 * 63 < len(some) <= 128 * 63
    assert some.startswith(few) and 8 * 63 < len(few) <= 10 * 63


def test_the_probe_reads_roles_in_python_and_is_silent_elsewhere(
    run, causal_found, masked_found, tmp_path
):
    """Fails if made-up labels are probed in prose, or variants are asked for different
    tokens.
    """
    probes = [causal_found["probe"], masked_found["probe"]]
    assert all(probe["accuracy"] > probe["majority_accuracy"] for probe in probes)
    assert causal_found["probe_accuracy"] == probes[0]["accuracy"]
    for name in ("majority_accuracy", "token_accuracy", "training_tokens", "test_tokens"):
        assert probes[0][name] == probes[1][name]
    random_ = random.Random(0)
    for number in range(20):
        text = " ".join(random_.choices(NAMES, k=40))
        (tmp_path / f"{number}.txt").write_text(text)
    prose = override(run, [f'data.corpus.paths=["{tmp_path}/*.txt"]'])
    tokens = open_tokens(prose.data)
    program = prepare(prose, tokens.tokenizer.vocabulary, mesh.make(Mesh()))
    assert probe_of(ModelWithText(prose, tokens, program, program.init().params), 2000) is None


@pytest.mark.parametrize("variant", ["causal", "masked"])
def test_what_a_model_says_is_about_the_passage(variant, request):
    """Fails if a place is off by one, or a masked model is shown what it is asked for."""
    trained = request.getfixturevalue(variant)
    said = says(trained, context=40, places=4)
    tokens = said["tokens"]
    assert "".join(p["before"] + p["truth"] for p in tokens) + said["after"] == said["passage"]
    split = trained.tokens.validation
    assert split.text(split.ids.index(said["document"])).startswith(said["passage"])
    assert len(said["passage"]) == 40
    assert len(tokens) == 4
    for token in tokens:
        assert token["masked"] == (variant == "masked")
        assert len(token["truth"]) == 1
        fractions = [fraction for _, fraction in token["likeliest"]]
        assert len(fractions) == 5
        assert fractions == sorted(fractions, reverse=True)
        assert 0 < sum(fractions) <= 1
    if variant == "masked":
        assert_masked(trained, said)


def assert_masked(trained: ModelWithText, said) -> None:
    """The same is said where other tokens stand at the places."""
    split = trained.tokens.validation
    document = split.ids.index(said["document"])
    places, at = [], 0
    for token in said["tokens"]:
        at += len(token["before"])
        places.append(int(split.offsets[document]) + 1 + at)
        at += 1

    class Changed:
        ids, bytes, offsets = split.ids, split.bytes, split.offsets

        @staticmethod
        def read(starts, length):
            found = split.read(starts, length)
            for place in places:
                if 0 <= place - starts[0] < length:
                    found[0, place - starts[0]] = 4 + ord("Z")
            return found

    other = replace(trained, tokens=replace(trained.tokens, validation=Changed))
    again = says(other, context=40, places=4)
    assert [p["truth"] for p in again["tokens"]] == ["Z"] * 4
    assert [p["likeliest"] for p in again["tokens"]] == [p["likeliest"] for p in said["tokens"]]


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    ("variant", "scorer"),
    [
        ("causal", ChainRule()),
        ("masked", AnyOrderBound(4)),
        pytest.param("masked", FixedOrder("random", block=16), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_score_as_one_does(variant, scorer, request):
    """Fails if masks depend on the device, or rows are lost where 8 does not divide them."""
    trained = request.getfixturevalue(variant)
    run, tokens, params = trained.run, trained.tokens, jax.device_get(trained.params)
    alone, eight = (
        ModelWithText(run, tokens, prepare(run, tokens.tokenizer.vocabulary, where), params)
        for where in (mesh.make(Mesh(), jax.devices()[:1]), mesh.make(Mesh()))
    )
    windows = Windows.of(trained, tokens.validation, 13)
    here, there = (score_of(t, scorer, windows, replicates=2) for t in (eight, alone))
    assert here.bits_per_byte == pytest.approx(there.bits_per_byte, rel=1e-4)
    assert here.document_nats == pytest.approx(there.document_nats, rel=1e-4)
    assert place_of(eight)(np.ones((13, 64), np.int32)).shape == (16, 64)
