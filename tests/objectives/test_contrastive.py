"""Contrastive training: its loss by hand, over all devices, and what may be no answer."""

import json
import random
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace as changed

from lm.artifact import by_name
from lm.config import UserError
from lm.cost import ledger
from lm.data import Bytes, Data, Jsonl, open_tokens
from lm.distributed import mesh
from lm.distributed.mesh import Mesh
from lm.evaluate.tasks.candidate import ModelCandidate
from lm.example import Batch, Output, Vocabulary
from lm.model import Transformer
from lm.numerics import Einsum
from lm.objectives import Contrastive
from lm.optimizer import Adamw, Lora
from lm.plan.plan import _changes
from lm.retrieval.embed import load_embedder
from lm.run import Run, Start, changing, check_channels, validate
from lm.train.load import load_model
from lm.train.step import prepare
from lm.train.train import train_run
from tests import makers

VOCABULARY = Vocabulary(
    size=30, pad=0, mask=1, bos=2, eos=3, first_ordinary=4, begins_word=(True,) * 30
)
LENGTH = 24
ROWS = (
    # A row: pairs of texts, and the document of each; below 0 nobody knows it.
    [((5, 6), (7, 8, 9), 1), ((10,), (11, 12), -1)],
    [((13, 14), (15,), 1)],  # of the first one's document
    [((5, 6), (16,), -1), ((17,), (11, 12), 2)],  # whose texts are others', too
    [],
    [((7, 8, 9), (18,), -1), ((), (19,), 3), ((20, 21), (22,), -1)],  # the first's answer; none
    [((9, 8, 7), (23,), 4), ((24,), (24,), -1)],  # other words; one that is its own answer
)


def batch_of(rows=ROWS) -> Batch:
    """The rows as a source makes them, each text between bos and eos."""
    columns = []
    for row in rows:
        of = [
            (token, number, side, document)
            for number, (*texts, document) in enumerate(row, 1)
            for side, text in enumerate(texts)
            for token in (2, *text, 3)
        ]
        columns.append(of + [(0, 0, 0, -1)] * (LENGTH - len(of)))
    tokens, segments, side, document = np.moveaxis(np.array(columns), 2, 0)
    return Batch(tokens, segments, {"side": side, "document": document})


def example_of(objective, batch=None, vocabulary=VOCABULARY):
    call = jax.jit(lambda batch: objective(batch, vocabulary, jax.random.key(0)))
    return call(batch_of() if batch is None else batch)


def by_hand(objective, vectors_BPD, rows=ROWS):
    """The terms of the loss, pair by pair and text by text, in doubles."""
    pairs = [
        (vectors_BPD[r, 2 * n : 2 * n + 2].astype(np.float64), first, second, document)
        for r, row in enumerate(rows)
        for n, (first, second, document) in enumerate(row)
        if first and second
    ]
    found = {"loss": [], "accuracy": [], "candidates": [], "cosine": []}
    for looks in (0, 1) if objective.direction == "both" else (0,):
        for mine in pairs:
            cosines, right = [], None
            for other in pairs:
                alike = (
                    mine[1] == other[1]
                    or mine[2] == other[2]
                    or mine[1 + looks] == other[2 - looks]
                    or (mine[3] >= 0 and mine[3] == other[3])
                )
                if other is not mine and alike:
                    continue
                one, two = mine[0][looks], other[0][1 - looks]
                cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
                cosines.append(cosine)
                right = cosine if other is mine else right
            logits = np.array(cosines) / objective.temperature
            found["loss"].append(np.log(np.exp(logits).sum()) - right / objective.temperature)
            found["accuracy"].append(max(cosines) == right)
            found["candidates"].append(len(cosines))
            found["cosine"].append(right)
    return {name: np.mean(values) for name, values in found.items()}, len(found["loss"])


def terms(objective, example, vectors_BPD):
    output = Output(jnp.asarray(vectors_BPD), jnp.zeros((0, vectors_BPD.shape[2])))
    return jax.jit(lambda o, e: objective.loss(o, e, einsum=Einsum("float32")))(output, example)


@pytest.mark.parametrize("direction", ["both", "first"])
def test_the_loss_is_what_is_counted_by_hand(direction):
    """Fails if padding, an empty text, a text of the same document or a text that stands
    elsewhere too is a wrong answer; if a direction is the other; or if a cosine is a product.
    """
    objective = Contrastive(direction=direction, temperature=0.3)
    example = example_of(objective)
    shape = (*example.targets.shape, 5)
    vectors_BPD = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wanted, count = by_hand(objective, vectors_BPD)
    found = terms(objective, example, vectors_BPD)
    assert len(set(wanted.values())) == 4 and 0 < wanted["accuracy"] < 1
    for name, value in wanted.items():
        assert float(found[name].mean) == pytest.approx(value, rel=1e-5), name
        assert float(found[name].count) == count
    without = replace(example, facts={"text": example.facts["text"]})
    more = terms(objective, without, vectors_BPD)["candidates"].mean
    assert float(more) > wanted["candidates"]  # nobody says of which document


def test_states_of_nothing_have_no_derivative_that_is_no_number():
    """Fails if a slot that no text has, whose state is 0, is divided by its length."""
    objective = Contrastive()
    example = example_of(objective)
    there = np.repeat(np.asarray(example.weights)[..., None], 4, 2)
    vectors_BPD = np.random.default_rng(1).normal(size=there.shape).astype(np.float32) * there

    def loss(vectors):
        output = Output(vectors, jnp.zeros((0, 4)))
        return objective.loss(output, example, einsum=Einsum("float32"))["loss"].total

    gradient_BPD = np.asarray(jax.grad(loss)(vectors_BPD))
    assert np.isfinite(gradient_BPD).all() and (gradient_BPD[there > 0] != 0).any()
    assert (gradient_BPD[there == 0] == 0).all()


def test_texts_are_read_as_they_will_be():
    """Fails if an eos token is seen where models are used without, or is not where with it."""
    batch = batch_of(ROWS[:1])
    segments_L = np.asarray(example_of(Contrastive(), batch).segments[0])
    assert segments_L.tolist() == [1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3, 0, 4, 4, 4, *[0] * 9]
    told = replace(VOCABULARY, eos_counts=False)
    segments_L = np.asarray(example_of(Contrastive(), batch, told).segments[0])
    assert segments_L.tolist() == [*[1] * 4, *[2] * 5, *[3] * 3, *[4] * 4, *[0] * 8]


def test_pairs_of_a_row_beyond_those_that_count_are_left_out():
    """Fails if a pair without a slot counts in another's."""
    objective = Contrastive(pairs=1)
    example = example_of(objective)
    assert example.weights.shape == (6, 2) and objective.target_count(LENGTH) == 2
    assert example.weights[:, 0].tolist() == [1, 1, 1, 0, 1, 1]
    assert objective.compared(6, LENGTH) == 36
    assert Contrastive(pairs=99).target_count(LENGTH) == 2 * 4  # there is no room for more


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Jsonl:
    """Texts that belong together are of the same letter, among others that mean nothing."""
    draw = random.Random(0)

    def text(letter: str) -> str:
        return "".join(draw.sample(f"{letter}{letter}{letter}xyz", 6))

    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"a": text(c), "b": text(c)} for c in draw.choices("abcdefgh", k=400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Jsonl(paths=(str(path),), text=("a", "b"), pair="apart")


@pytest.fixture
def run(corpus) -> Run:
    return Run(
        data=Data(
            corpus=corpus,
            tokenizer=Bytes(),
            length=40,
            batch=8,
            validation=0.2,
            packing="whole",
        ),
        objective=Contrastive(pool="last", attention="causal", temperature=0.2),
        model=Transformer(depth=1, width=16, heads=2),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=60 * 8 * 40,
        precision="float32",
        evaluations=1,
    )


@pytest.mark.eight_devices
def test_negatives_are_of_all_devices(run):
    """Fails if each device looks among its own rows alone, or their sum is a mean of means."""
    tokens = open_tokens(run.data, None)
    found = []
    for devices in (jax.devices()[:1], jax.devices()):
        program = prepare(run, tokens.tokenizer.vocabulary, mesh.make(Mesh(), devices))
        batches = tokens.batches(run.data, run.seed, 1)
        state = program.init()
        for batch in batches.iterate(0, 2, program.rows):
            state, metrics = program.step(state, program.place(batch))
        found.append((jax.device_get(metrics), by_name(jax.device_get(state.params))))
    (one, params), (eight, others) = found
    assert len(jax.devices()) == 8 and one["candidates"] > 8
    for name in ("loss", "accuracy", "candidates", "gradient_norm"):
        assert one[name] == pytest.approx(eight[name], rel=1e-4), name
    for name, array in params.items():
        np.testing.assert_allclose(array, others[name], atol=2e-4, err_msg=name)


def test_what_is_learnt_is_what_is_used(run, tmp_path):
    """Fails if nothing is learnt, there is a head that nobody reads, or a text's vector is made
    otherwise when the model is used: of other states, or with another token around.
    """
    with makers.one_device():
        result = train_run(run, tmp_path / "run")
        assert result["validation_terms"]["validation_accuracy"] > 0.3
        assert result["validation_terms"]["validation_candidates"] > 8
        model = load_model(tmp_path / "run")
        assert not [name for name in by_name(model.params) if name.startswith("head_")]
        assert model.digest and ledger.parameters(run, 260).groups.keys() == {
            *ledger.parameters(changed(run, objective=Run().objective), 260).groups
        }
        candidate, embedder = ModelCandidate.of(model, None), load_embedder(tmp_path / "run")
        assert candidate.pool == embedder.pooling == "last"
        document = next(iter(run.data.corpus.read()))
        texts = [part.text for part in document.parts]
        vocabulary = model.tokenizer.vocabulary
        ids = [[vocabulary.bos, *model.tokenizer.encode(t), vocabulary.eos] for t in texts]
        row = np.zeros((1, 40), np.int32)
        row[0, : len(ids[0] + ids[1])] = ids[0] + ids[1]
        side = (np.arange(40) >= len(ids[0])).astype(np.int32)[None]
        batch = Batch(row, (row != vocabulary.pad).astype(np.int32), {"side": side})
        example = run.objective(batch, vocabulary, jax.random.key(0))
        output = jax.jit(model.program.module.apply)({"params": model.params}, example)
    trained = np.asarray(output.hidden_BPD)[0, :2]
    used = candidate.states(texts).vectors_ND
    np.testing.assert_allclose(trained, used, rtol=1e-4, atol=1e-5)
    unit = trained / np.linalg.norm(trained, axis=1, keepdims=True)
    np.testing.assert_allclose(embedder(texts), unit, rtol=1e-4, atol=1e-5)


def test_parts_of_a_batch_are_refused(run):
    """Fails if microbatches have negatives of their own, or `lm plan` offers them."""
    with pytest.raises(UserError, match=r"microbatches=2: objective\.type=contrastive holds"):
        validate(changed(run, microbatches=2))

    class Machine:
        groups = 1

    sizes = {"replica": 1, "fsdp": 1, "tensor": 1, "context": 1}
    offered = [c for of, _ in _changes(run, sizes, Machine()) for each in of for c in each]
    assert offered and not [change for change in offered if change.startswith("microbatches")]


def test_an_adapter_of_a_model_that_learns_vectors_has_no_head(run):
    """Fails if patterns of parameters that change name a head, which there is none of."""
    adapted = changed(run, adapter=Lora(rank=2), start=Start(path="model"))
    assert changing(adapted) == ("lora/*",)
    assert ledger.parameters(adapted, 260).trainable > 0


def test_texts_without_sides_are_refused_in_one_line(run, corpus):
    """Fails if rows of joined pairs, of which one sees the other, are taken."""
    joined = changed(run, data=changed(run.data, corpus=changed(corpus, pair="joined")))
    with pytest.raises(UserError, match=r"the channel side, and this text has part; .*apart$"):
        check_channels(joined)
    with pytest.raises(UserError, match="pool=first has seen nothing"):
        validate(changed(run, objective=changed(run.objective, pool="first")))
