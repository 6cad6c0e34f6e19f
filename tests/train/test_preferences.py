"""Runs on pairs of answers: what they begin with and learn, and what is computed once."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace as changed

from lm.artifact import as_tree, by_name, load_artifact, save_artifact
from lm.config import UserError, dump, override
from lm.cost import ledger
from lm.data import Bytes, Chat, Data, derived, fraction_of, n_rows, open_tokens, places, rows
from lm.data.derived import REFERENCE
from lm.data.digest import chained
from lm.distributed import hosts, mesh
from lm.distributed.mesh import Mesh
from lm.example import CausalMask, unanswered
from lm.loss import logits
from lm.model import Transformer
from lm.objectives import Causal, Ipo, Masked, Orpo, Preference, Reward
from lm.objectives.rollout import Named
from lm.optimizer import Adamw
from lm.plan.machine import find_machine
from lm.plan.plan import derived_flops
from lm.run import Run, Start, check_channels, identity, same_result, validate
from lm.train import reference
from lm.train.companions import FrozenModels, companion_settings
from lm.train.load import load_model
from lm.train.reference import with_reference
from lm.train.start import begin
from lm.train.step import prepare
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from tests import makers
from tests.distributed.processes import TRAIN, Hosts, told

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '?' }}{% endfor %}"
)
TOKENIZER = Bytes(chat_template=TEMPLATE)


def corpus_of(path: Path, pairs) -> Chat:
    """A file of pairs: a prompt, the answer that was chosen, and the other."""
    names = "prompt", "chosen", "rejected"
    path.write_text("".join(json.dumps(dict(zip(names, p, strict=True))) + "\n" for p in pairs))
    return Chat(paths=(str(path),), use="pair")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Chat:
    """Answers of one letter, more often the chosen ones', and of any length."""
    draw = random.Random(0)

    def answer(letter: str) -> str:
        return "".join(draw.choices(f"{letter}z", k=draw.randint(1, 6)))

    found = [
        ("".join(draw.choices("abc", k=draw.randint(1, 5))), answer("x"), answer("y"))
        for _ in range(120)
    ]
    return corpus_of(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", found)


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Path:
    """A model of random parameters, far from flat, to start from."""
    return drawn_model(
        tmp_path_factory.mktemp("started"), Transformer(depth=1, width=16, heads=2)
    )


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Another one, of another shape."""
    return drawn_model(tmp_path_factory.mktemp("other"), Transformer(depth=2, width=8, heads=1))


def drawn_model(folder: Path, model: Transformer) -> Path:
    """Writes a causal model of random parameters into a folder."""
    makers.save_untrained(folder / "drawn", Causal(), model, length=48)
    drawn = load_artifact(folder / "drawn")
    random_ = np.random.default_rng(0)
    params = {
        name: array + random_.normal(scale=0.3, size=array.shape).astype(np.float32)
        for name, array in by_name(drawn.params).items()
    }
    tokenizer = TOKENIZER.open()
    card = changed(drawn.card, tokenizer=TOKENIZER)
    params["embedding"] = params["embedding"][: tokenizer.vocabulary.size]
    save_artifact(
        drawn._replace(card=card, tokenizer=tokenizer, params=as_tree(params)), folder / "m"
    )
    return folder / "m"


@pytest.fixture
def run(pairs, started) -> Run:
    """A run of eight steps or so."""
    return Run(
        data=Data(
            corpus=pairs,
            tokenizer=TOKENIZER,
            length=48,
            batch=8,
            validation=0.2,
            packing="whole",
        ),
        objective=Preference(),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=8 * 8 * 40,
        start=Start(path=str(started)),
        precision="float32",
        evaluations=1,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_dpo_begins_at_ln_2_with_no_margin(run, tmp_path, precision) -> None:
    """Fails if the reference is of other tokens, segments or numbers than the policy."""
    result = train_run(changed(run, precision=precision), tmp_path / "run")
    first, *_, last = [r for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    for name in ("margin", "chosen_reward", "rejected_reward"):
        assert first[name] == pytest.approx(0, abs=1e-5)
    assert last["loss"] < 0.5 and last["margin"] > 0.3
    assert result["validation_terms"]["validation_accuracy"] > 0.9


@pytest.mark.slow  # whose losses are held to their papers in tests/objectives
@pytest.mark.parametrize("method", [Ipo(), Orpo()], ids=["ipo", "orpo"])
def test_the_other_methods_train_too(run, tmp_path, method) -> None:
    """Fails if the loss of a method does not fall, or leads away from what was chosen."""
    run = changed(run, objective=Preference(method=method))
    result = train_run(changed(run, optimizer=Adamw(learning_rate=2e-3)), tmp_path / "run")
    records = [r for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["margin"] > records[0]["margin"]
    assert result["validation_terms"]["validation_accuracy"] > 0.8


def opened(run: Run):
    """The run's tokens with the reference, and the program that it is of."""
    frozen = FrozenModels(begin(run))
    begun = frozen.begun
    tokens = open_tokens(begun.run.data, begun.tokenizer)
    where = mesh.make(Mesh(), jax.devices()[:1])
    program = prepare(begun.run, tokens.tokenizer.vocabulary, where)
    named = frozen.artifact("reference")
    return with_reference(begun.run, tokens, program, begun, named), begun, program


def referring(run: Run, path: Path, **more) -> Run:
    """The run with a reference that is not what it starts from."""
    return changed(run, objective=Preference(reference=Named(path=str(path), **more)))


@pytest.mark.parametrize("by", ["start", "name"])
def test_the_reference_is_log_p_of_each_side_by_itself(run, started, other, by) -> None:
    """Fails if a side sees the other, a row's other pairs, or its log p stands elsewhere.

    Or if a named reference is the start all the same.
    """
    tokens, _, _ = opened(run if by == "start" else referring(run, other))
    model = load_model(started if by == "start" else other, precision="float32")
    pad = tokens.tokenizer.vocabulary.pad
    for split in (tokens.train, tokens.validation):
        documents = np.arange(min(6, len(split.ids)))
        starts, ends = split.offsets[documents], split.offsets[documents + 1]
        longest = 48
        ids, told = split.read(starts, longest), split.read_channels(starts, longest)
        sides = [
            (d, np.flatnonzero((told["choice"][d, : ends[d] - starts[d]]) == choice))
            for d in documents
            for choice in (0, 1)
        ]
        row = np.full((len(sides), longest), pad)
        for number, (d, at) in enumerate(sides):
            row[number, : len(at)] = ids[d, at]
        logits = model.logits(row, (row != pad).astype(int))
        log_p = np.asarray(jax.nn.log_softmax(logits))
        for number, (d, at) in enumerate(sides):
            alone = log_p[number, np.arange(len(at) - 1), ids[d, at[1:]]]
            assert alone.std() > 0.3  # it is no flat model
            np.testing.assert_allclose(told["reference"][d, at[1:]], alone, atol=2e-5)
            assert told["reference"][d, at[0]] == 0


def test_the_reference_is_computed_once(run, started, tmp_path, monkeypatch) -> None:
    """Fails if a second run computes it, another model's is taken for it, or half of one."""
    calls = []
    real = reference.started_params

    def counted(*given):
        calls.append(1)
        return real(*given)

    monkeypatch.setattr(reference, "started_params", counted)
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(derived, "write_array", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(run)
    first, _, _ = opened(run)
    again, *_ = opened(changed(run, seed=3, objective=Preference(method=Ipo())))
    assert len(calls) == 2  # of which the first was cut off
    for a, b in ((first.train, again.train), (first.validation, again.validation)):
        np.testing.assert_array_equal(*(x.channels[REFERENCE].read().result() for x in (a, b)))
    other = load_artifact(started)
    params = {name: 2 * array for name, array in by_name(other.params).items()}
    save_artifact(other._replace(params=as_tree(params)), tmp_path / "other")
    opened(changed(run, start=Start(path=str(tmp_path / "other"))))
    assert len(calls) == 3
    opened(run)
    assert len(calls) == 3


def test_a_named_reference_is_what_decides_and_what_is_counted(run, started, other, tmp_path):
    """Fails if its path is a run's identity, or its digest is not; if training begins at no
    margin all the same; if its pass is not counted, or in a budget; or if the start's is not.
    """
    copy = shutil.copytree(other, tmp_path / "copy")
    first, same, else_ = (
        FrozenModels(begin(referring(run, path))).begun.run for path in (other, copy, started)
    )
    digest = load_artifact(other).digest
    assert identity(first)["objective"]["reference"] == {"digest": digest}
    assert same_result(first, same) == [] and same_result(first, else_) == ["objective"]
    result = train_run(changed(first, tokens=8 * 8 * 5), tmp_path / "run")
    began = next(r for r in read_metrics(tmp_path / "run") if "loss" in r)
    assert abs(began["chosen_reward"]) > 0.1
    tokens, begun, _ = opened(run)
    size = tokens.tokenizer.vocabulary.size
    batches = sum(
        -(-n_rows(split, 48, "whole") // 8) for split in (tokens.train, tokens.validation)
    )

    def forward(model) -> int:
        asked = changed(begun.run, model=model, objective=Causal())
        return sum(ledger.step_flops(asked, size).values())

    model = load_artifact(other).card.model
    assert result["flops_derived"] == batches * forward(model)
    assert ledger.derived_flops(begun.run, size) == forward(begun.run.model)
    assert derived_flops(first, find_machine("v5e-4", 1)) == forward(model) / 4
    named = companion_settings(first)
    costs = [ledger.cost(each, size, named).flops for each in (first, begun.run)]
    assert costs[0] == costs[1]


def test_oneline_a_reference_says_what_each_token_is_worth(run, other, tmp_path) -> None:
    """Fails if a reference that cannot be compared with is found out by a trace, or never."""
    for name, objective in (("masked", Masked()), ("foreign", Causal())):
        model = Transformer(depth=1, width=16, heads=2)
        makers.save_untrained(tmp_path / name, objective, model, length=48)
    for each, why in [
        (referring(run, tmp_path / "masked"), "reference: .* takes? a causal model"),
        (referring(run, tmp_path / "foreign"), "reference: .* another tokenizer"),
        (referring(run, tmp_path / "nobody"), "nobody: no such file"),
        (referring(run, other, digest="ab"), "reference: .* and not ab"),
    ]:
        with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
            opened(each)
    alone = changed(referring(run, other).objective, method=Orpo())
    with pytest.raises(UserError, match=r"^objective.reference: method.type=orpo [^\n]*$"):
        validate(changed(run, objective=alone))


def test_places_are_where_rows_are_read(run) -> None:
    """Fails if a row's documents are taken in another order, or cut elsewhere."""
    split = open_tokens(run.data, TOKENIZER.open()).train
    count = n_rows(split, 48, "whole")
    there = rows(split, np.arange(count), 48, split.tokenizer.vocabulary, "whole")
    places_BL = places(split, np.arange(count), 48)
    stream = split.read([0], split.size)[0]
    held_BL = places_BL >= 0
    np.testing.assert_array_equal(held_BL, there.segments_BL > 0)
    np.testing.assert_array_equal(stream[places_BL[held_BL]], there.tokens_BL[held_BL])
    assert sorted(places_BL[held_BL]) == list(range(split.size))


@pytest.mark.eight_devices
@pytest.mark.parametrize(
    "objective",
    [Preference(), pytest.param(Reward(), marks=pytest.mark.slow)],
    ids=["preference", "reward"],
)
def test_devices_and_microbatches_find_the_same(run, objective) -> None:
    """Fails if a mean is of parts, or a side's tokens on several devices are not added."""
    run = changed(run, objective=objective)
    tokens, begun, alone = opened(run)
    found = []
    eight = mesh.make(Mesh(fsdp=2, tensor=2, context=2), jax.devices())
    parts = changed(begun.run, microbatches=2)
    for program in (alone, prepare(parts, tokens.tokenizer.vocabulary, eight)):
        part = tokens.batches(run.data, 0)(0, program.rows)
        part.segments_BL[0] = 0  # so that the microbatches have unequal numbers of pairs
        batch = program.place(part)
        # Drawn parameters, so that the reference is another's.
        _, metrics = program.step(program.init(), batch)
        found.append({name: float(value) for name, value in metrics.items() if value.ndim == 0})
    assert abs(found[0]["margin"]) > 1e-3
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_a_derived_channel_is_in_no_digest_of_batches(run) -> None:
    """Fails if rounding on another machine makes other batches, or a choice makes none."""
    tokens, _, _ = opened(run)
    batch = tokens.batches(run.data, 0)(0)
    zeros = np.zeros(2, np.uint32)

    def digest(**channels):
        return chained(zeros, replace(batch, channels={**batch.channels, **channels})).tolist()

    assert digest(reference=batch.channels["reference"] + 1) == digest()
    assert digest(choice=1 - batch.channels["choice"]) != digest()


def test_oneline_a_reference_is_what_the_run_starts_from(run) -> None:
    """Fails if a run begins that has no model to compare with, no pairs, or cuts them."""
    check_channels(run)
    check_channels(changed(run, start=None, objective=Preference(method=Orpo())))
    check_channels(changed(referring(run, Path("there")), start=None))
    for each, why in [
        (changed(run, start=None), r"start: .* channel reference.* start\.path"),
        (changed(run, data=changed(run.data, packing="stream")), "must be whole"),
        (override(run, ["data.corpus.use=conversation"]), "channel choice"),
    ]:
        with pytest.raises(UserError, match=rf"^[^\n]*{why}[^\n]*$"):
            check_channels(each)


def test_hosts_agree_that_all_have_it(monkeypatch) -> None:
    """Fails if one host's disk speaks for all."""
    told = {}

    class Client:
        def key_value_set(self, key, value):
            told[key] = value

        def blocking_key_value_get(self, key, _):
            return told.get(key, "false" if key.endswith("1") else None)

    monkeypatch.setattr(hosts, "is_multihost", lambda: True)
    monkeypatch.setattr(hosts, "_client", Client)
    for count, agree in ((1, True), (2, False)):
        monkeypatch.setattr(jax, "process_count", lambda count=count: count)
        assert hosts.everywhere(lambda: True) is agree
        assert hosts.everywhere(lambda: False) is False


@pytest.mark.slow
def test_hosts_compute_the_reference_together(run, tmp_path, monkeypatch) -> None:
    """Fails if each host asks its own cache alone, or keeps its own rows alone."""
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache0"))
    opened(run)  # the first host has it, and the other has nothing
    (tmp_path / "run.json").write_text(dump(run))

    def environment(host: int, number: int, port: int) -> dict[str, str]:
        return told(host, number, port) | {"LM_CACHE": str(tmp_path / f"cache{host}")}

    directory = tmp_path / "run"
    together = Hosts(
        *(2, tmp_path, TRAIN, "train", str(tmp_path / "run.json"), "--dir", str(directory)),
        environment=environment,
    )
    codes, _ = together.end()
    assert codes == [0, 0], together.said(0) + together.said(1)
    first = next(r for r in read_metrics(directory) if "loss" in r)
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    found = []
    for host in range(2):
        monkeypatch.setenv("LM_CACHE", str(tmp_path / f"cache{host}"))
        monkeypatch.setattr(reference, "started_params", None)  # nothing is computed any more
        tokens, *_ = opened(run)
        found.append(tokens.train.channels[REFERENCE].read().result())
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


STRENGTHS = {"A": 0.0, "B": 0.6, "C": 1.2, "D": 2.0}


def test_strengths_are_recovered_from_comparisons(tmp_path) -> None:
    """Fails if the two sides are swapped, scaled or mixed up, or the score is no log odds.

    What is learnt lies within a standard error of what comparisons were drawn by. All have
    one prompt, and those that are held out another, as whole prompts are held out.
    """
    held_out, trained = (
        next(letter for letter in "abcdefgh" if (fraction_of(letter.encode()) < 0.2) is held)
        for held in (True, False)
    )
    draw, drawn = random.Random(0), []
    for _ in range(1600):
        one, two = draw.sample(sorted(STRENGTHS), 2)
        wins = draw.random() < 1 / (1 + np.exp(STRENGTHS[two] - STRENGTHS[one]))
        prompt = held_out if draw.random() < 0.2 else trained
        drawn.append((prompt, *((one, two) if wins else (two, one))))
    run = Run(
        data=Data(
            corpus=corpus_of(tmp_path / "pairs.jsonl", drawn),
            tokenizer=TOKENIZER,
            length=40,
            batch=32,
            validation=0.2,
            packing="whole",
        ),
        objective=Reward(),
        model=Transformer(depth=1, width=16, heads=2),
        optimizer=Adamw(learning_rate=1e-2, weight_decay=0),
        tokens=60 * 32 * 40,
        precision="float32",
        evaluations=1,
    )
    result = train_run(run, tmp_path / "run")
    learnt = rewards(tmp_path / "run", [f"{trained}?{answer}" for answer in STRENGTHS])
    wrong = learnt - learnt[0] - np.array(list(STRENGTHS.values()))
    error = errors([pair for pair in drawn if pair[0] == trained])
    assert (abs(wrong[1:]) < error).all()
    # It is as sure as it is right, as the comparisons were drawn.
    terms = result["validation_terms"]
    assert terms["validation_accuracy"] == pytest.approx(
        terms["validation_confidence"], abs=0.05
    )


def rewards(directory: Path, texts: list[str]) -> np.ndarray:
    """The scores of texts of as many letters each."""
    model = load_model(directory)
    special = model.tokenizer.vocabulary
    inputs = jnp.array(
        [[special.bos, *model.tokenizer.encode(text), special.eos] for text in texts]
    )
    asked = unanswered(inputs, jnp.ones_like(inputs), CausalMask())
    one = jnp.zeros((len(inputs), 1), jnp.int32)
    example = replace(asked, head=Reward().head, targets=one, weights=one)
    module = model.program.module
    output = jax.jit(module.apply)({"params": model.params}, example)
    return np.asarray(logits(output, einsum=module.einsum)[:, 0, 0])


def errors(drawn: list[tuple[str, str, str]]) -> np.ndarray:
    """Standard errors of the strengths above the first one, by Fisher's information."""
    names = list(STRENGTHS)
    information = np.zeros((len(names), len(names)))
    for _, one, two in drawn:
        apart = np.array([(name == one) - (name == two) for name in names])
        p = 1 / (1 + np.exp(STRENGTHS[two] - STRENGTHS[one]))
        information += p * (1 - p) * np.outer(apart, apart)
    return np.sqrt(np.diag(np.linalg.inv(information[1:, 1:])))
