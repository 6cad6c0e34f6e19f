"""Runs that learn from rewards: what they start from and ask, from settings to a result."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from lm.artifact import by_name
from lm.config import UserError, override
from lm.cost import ledger, memory
from lm.data import Bytes, Data, Jsonl, open_tokens, vocabulary_size
from lm.data.digest import chain_text, chained
from lm.model import Transformer
from lm.objectives import Causal, Classify, Masked, PolicyGradient
from lm.objectives.rewards import Learnt
from lm.objectives.rollout import Named
from lm.optimizer import Adamw, Lora
from lm.plan.machine import find_machine
from lm.plan.plan import ledger_flops
from lm.run import CheckpointSettings, Run, Start, identity, read_run
from lm.train.companions import companion_settings
from lm.train.load import load_model
from lm.train.train import train_run
from tests.makers import save_untrained

MODEL = Transformer(depth=1, width=16, heads=2)


@pytest.fixture(autouse=True, scope="module")
def _marked():
    """The second of two fields is the answer: what is `part` of a pair is `loss` here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm.data.sources.jsonl.PART", "loss")
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Jsonl:
    """Questions whose answer is what they say, or its second letter."""
    path = tmp_path_factory.mktemp("text") / "asked.jsonl"
    letters = "abcdefgh"
    lines = [{"q": one + two, "a": two} for one in letters for two in letters]
    path.write_text("\n".join(map(json.dumps, lines)))
    return Jsonl(paths=(str(path),), text=("q", "a"))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Artifacts that nobody trained."""
    folder = tmp_path_factory.mktemp("models")
    objectives = {"causal": Causal(), "masked": Masked(), "judge": Classify(pool="last")}
    for name, objective in objectives.items():
        save_untrained(folder / name, objective, MODEL, length=16)
    return {name: folder / name for name in objectives}


@pytest.fixture
def run(corpus, models) -> Run:
    return Run(
        data=Data(corpus=corpus, length=8, batch=16, validation=0.2, packing="single"),
        objective=PolicyGradient(
            reward=Learnt(model=Named(path=str(models["judge"]))), group=4, answer=3
        ),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=6 * 16 * 5,
        start=Start(path=str(models["causal"])),
        seed=1,  # so that what is drawn is not the start
        precision="float32",
        evaluations=2,
        trackers=(),
    )


def metrics(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{n: v for n, v in line.items() if n != "tokens_per_second"} for line in lines]


def test_a_run_learns_from_its_samples_and_goes_on_where_it_was_killed(run, tmp_path, capfd):
    """Fails if companions are trained or saved, the start is the checkpoint from then on,
    samples depend on where a run was stopped, or anything is printed that is not usual. Or if
    the digest of batches is of samples, a prompt is read for each of its answers, or
    validation is of the right answers.
    """
    run = replace(
        run,
        adapter=Lora(rank=2, targets=("layers/*",)),
        checkpoints=CheckpointSettings(steps=2, keep=9),
    )
    result = train_run(run, tmp_path / "whole")
    said = [
        line
        for line in capfd.readouterr().err.splitlines()
        if not re.match(r"[EIW]\d{4} ", line)  # of the compiler
    ]
    assert len(said) == 2 and "starts from" in said[1]
    copy = Path(shutil.copytree(tmp_path / "whole", tmp_path / "killed"))
    shutil.rmtree(copy / "checkpoints" / str(result.costs.steps))
    (copy / "result.json").unlink()
    again = train_run(run, copy)
    whole, killed = (load_model(tmp_path / name) for name in ("whole", "killed"))
    assert killed.digest == whole.digest
    assert again.training == result.training
    found = metrics(tmp_path / "whole")
    assert metrics(copy) == found
    first, last = found[0], found[-2]
    assert first["kl"] < 1e-6 < last["kl"]
    assert first["length"] == 3 and first["predicted"] == 48 and last["step"] == 5
    assert {"validation_reward", "validation_kl", "validation_loss"} <= found[-1].keys()
    assert found[-1]["validation_length"] == 3
    # Each prompt is read once and answered four times, and what is digested is what is read.
    tokens = open_tokens(whole.run.data, whole.tokenizer)
    batches, chain = tokens.batches(whole.run.data, 1, copies=4), np.zeros(2, np.uint32)
    for step in range(5):
        chain = chained(chain, batches(step))
    assert chain_text(chain) == result.training.batches_digest
    assert result.costs.unique_tokens == result.costs.tokens / 4
    kept = {name.split("/")[0] for name in by_name(whole.adapter.params)}
    assert kept == {"lora"}
    settings = identity(read_run(tmp_path / "whole"))
    judge = load_model(run.objective.reward.model.path)
    assert settings["objective"]["reward"]["model"] == {"digest": judge.digest}
    parts = result.costs.flops_forward
    size = vocabulary_size(whole.run.data.tokenizer)
    causal = ledger.cost(replace(whole.run, objective=Causal()), size).flops_forward
    assert parts["companions"] > sum(causal.values()) - causal["lora"]


def test_a_reward_model_is_in_the_plan_and_in_what_went_in(run, models, tmp_path):
    """Fails if what each step asks is left out where it is named by a path, or is guessed at
    where that is no more.
    """
    judge = Path(shutil.copytree(models["judge"], tmp_path / "judge"))
    data = replace(run.data, tokenizer=Bytes(sentinels=4))
    run = replace(run, model=MODEL, data=data)
    asked = replace(run.objective, reward=Learnt(model=Named(path=str(judge))))
    run = replace(run, objective=asked, tokens=16 * 5)
    size, machine = vocabulary_size(data.tokenizer), find_machine("v5e-4", 1)
    plain = ledger.program_flops(run, asked, size, "tpu")
    named = companion_settings(run)
    judging = replace(named["reward"], data=replace(data, corpus=Data().corpus))
    scored = sum(ledger.step_flops(judging, size).values())
    assert 4 * ledger_flops(run, asked, machine) == plain + scored
    run = replace(run, start=Start(path=str(models["causal"])))
    result = train_run(run, tmp_path / "r")
    folder = tmp_path / "r"
    (folder / "start.json").unlink()  # what had gone into the start is not known
    assert load_model(folder).origin.consumed.flops == result.costs.flops
    shutil.rmtree(judge)
    assert load_model(folder).origin.consumed is None


def test_companions_take_memory(run):
    """Fails if a run is taken to fit beside models that leave it no room."""
    data = replace(run.data, tokenizer=Bytes(sentinels=4))
    run, named = replace(run, model=MODEL, data=data), companion_settings(run)
    size = vocabulary_size(data.tokenizer)
    sizes = [ledger.parameters(each, size).total for each in (run, named["reward"])]
    found = memory.least(run, "cpu", named)
    assert found[memory.COMPANIONS] == 4 * sum(sizes)
    assert memory.COMPANIONS not in memory.least(replace(run, objective=Causal()), "cpu")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.group=3"], r"^data.batch=16: .* by objective.group; nearest: \[15, 18\]$"),
        (
            ["start=null", "model.depth=1"],
            r"^objective.type=policy_gradient: .* by start.path$",
        ),
        (["start.path={masked}"], r"^objective.type=policy_gradient: start.path .*=masked .*$"),
        (["data.packing=whole"], r"^data.packing=whole: .* must be single$"),
        (["data.packing=stream"], r"^data.packing=stream: .* must be single$"),
        (["model.type=encoder_decoder"], r"^objective: its examples have no source.*$"),
        (
            ["objective.reward.model.path={causal}"],
            r"^objective.reward: .* gives no document.*$",
        ),
        (["objective.reward.model.path=nowhere"], r"^nowhere: no such file or directory$"),
        (["objective.reward.model.digest=ab"], r"^objective.reward: .*, and not ab$"),
        (['data.corpus.text=["q"]'], r"^data.corpus: .* reads the channel loss.*$"),
        (['start.add_tokens=["<x>"]'], r"^objective.reward: .* another tokenizer .*$"),
    ],
)
def test_oneline_what_cannot_be_learnt_from(run, models, tmp_path, overrides, message):
    """Fails if it is found out by a stack trace, or not at all."""
    with pytest.raises(UserError, match=message):
        train_run(override(run, [o.format(**models) for o in overrides]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
