"""Members of a group are their own runs, one beside the other."""

import math
import re
from typing import Any

import jax
import numpy as np
import pytest
from msgspec.structs import replace

from lm.data import open_tokens
from lm.data.digest import chain_text
from lm.run import Run
from lm.train import members_speed
from lm.train.bookkeeping import Bookkeeper
from lm.train.lockstep import train_group, unfinished_groups
from lm.train.members import MembersProgram, prepare_members, program_key
from lm.train.members_speed import speedup
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from tests.makers import one_device
from tests.train.steps import change, losses_of, train

pytestmark = pytest.mark.eight_devices


@pytest.mark.parametrize(
    ("other", "together"),
    [
        *((same, True) for same in ("seed=7", "optimizer.learning_rate=0.1")),
        *((same, True) for same in ("optimizer.weight_decay=0", "checkpoints.keep=1")),
        *((same, True) for same in ("schedule.warmup=0.3", "schedule.decay=0.4")),
        *((new, False) for new in ("data.unique=4096", "data.validation=0.3", "tokens=9000")),
        *((new, False) for new in ("evaluations=4", "evaluation_rows=8", "trackers=[]")),
        *((new, False) for new in ("model.width=64", "faults.policy=skip", "optimizer.clip=2")),
    ],
)
def test_members_differ_in_numbers_alone(run, other, together):
    """Fails if members may differ in what a group has once: a store, its steps, a program."""
    assert (program_key(run) == program_key(change(run, other))) is together


@pytest.mark.parametrize(
    "other",
    [
        *("mesh.fsdp=2", "faults.policy=roll_back", "evaluation_windows=8"),
        *("checkpoints.directory=elsewhere", 'trackers=["wandb"]', "objective.type=curriculum"),
    ],
)
def test_what_a_group_cannot_do_is_trained_alone(run, other):
    """Fails if a run is a member and its settings are not heeded."""
    assert program_key(change(run, other)) is None


def with_values(run: Run, seed: int, rate: float = 1e-2, decay: float = 0.1) -> Run:
    optimizer = replace(run.optimizer, learning_rate=rate, weight_decay=decay)
    schedule = replace(run.schedule, warmup=0.1 * (seed % 4))
    return replace(run, seed=seed, optimizer=optimizer, schedule=schedule)


def group(runs: list[Run], devices: int) -> MembersProgram:
    vocabulary = open_tokens(runs[0].data).tokenizer.vocabulary
    return prepare_members(runs, vocabulary, jax.devices()[:devices])


def lockstep(runs: list[Run], steps: int, devices: int) -> tuple[np.ndarray, list[str]]:
    """Losses of the first steps by member, and each one's digest of batches."""
    made, tokens = group(runs, devices), open_tokens(runs[0].data)
    batches = [tokens.batches(run.data, run.seed) for run in runs]
    state, losses = made.init(), []
    for step in range(steps):
        parts = made.place([each(step) for each in batches])
        state, metrics = made.step(state, parts, [np.inf] * len(runs))
        losses.append(np.asarray(metrics["loss"]))
    return np.stack(losses, 1), [chain_text(each) for each in np.asarray(state.batches)]


@pytest.mark.parametrize(
    ("objective", "optimizer"),
    [("masked", "adamw"), pytest.param("causal", "muon", marks=pytest.mark.slow)],
)
def test_members_are_what_they_are_alone(run, objective, optimizer):
    """Fails if members share rows, masks, weights, a rate, a decay or a norm of gradients."""
    run = change(run, f"objective.type={objective}", f"optimizer.type={optimizer}")
    runs = [with_values(run, 0), with_values(run, 1, 3e-2), with_values(run, 2, decay=10.0)]
    losses, digests = lockstep(runs, 6, devices=1)
    for each, own, digest in zip(runs, losses, digests, strict=True):
        expected, state = train(each, 6)
        assert own == pytest.approx(expected, rel=1e-5)
        assert digest == chain_text(state.batches)


COLLECTIVE = re.compile(r"all-(?:gather|reduce|to-all)|reduce-scatter|collective-permute")


def test_devices_have_members_and_tell_each_other_nothing(run):
    """Fails if a member is spread over devices, or waits for what another one has."""
    runs = [with_values(run, seed, 1e-2 + 1e-3 * seed) for seed in range(8)]
    made = group(runs, devices=8)
    state = made.init()
    devices = {shard.device for shard in state.step.addressable_shards}
    assert len(devices) == 8
    batches = open_tokens(run.data).batches(run.data, 0)
    parts = made.place([batches(0)] * 8)
    compiled = made.update.lower(state, parts, *made.shapes()).compile()
    assert not COLLECTIVE.findall(compiled.as_text())
    losses, _ = lockstep(runs, 3, devices=8)
    alone, _ = lockstep(runs[3:5], 3, devices=1)
    assert losses[3:5] == pytest.approx(alone, rel=1e-5)


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """One that diverges, and two runs, a device each; they were killed once, and went on."""
    run = change(run, "checkpoints.steps=4", "trackers=[]")
    runs = {"wild": with_values(run, 2, 1e30)}
    runs |= {"slow": with_values(run, 0), "fast": with_values(run, 1, 2e-2)}
    directory, step, left = tmp_path_factory.mktemp("group"), MembersProgram.step, [10]

    def killed(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MembersProgram, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_group(runs, directory)
        assert unfinished_groups(runs, directory) == [[*runs]]
        assert not unfinished_groups(runs | {"wild": with_values(run, 3)}, directory)
        left[0] = 8  # steps that are left of 16, where it goes on from the eighth
        failed = train_group(runs, directory)
    assert left == [0]
    return runs, directory, failed


def test_a_group_is_its_runs(trained):
    """Fails if a member's metrics, checkpoint, costs or result are another's, or of all.

    Or if one that is killed loses what it saved, or is not what it is uninterrupted.
    """
    runs, directory, _ = trained
    assert not unfinished_groups(runs, directory)
    losses, _ = lockstep([*runs.values()], 16, devices=3)
    for number, name in enumerate(("slow", "fast"), 1):
        found = train_run(runs[name], directory / name)
        with one_device():
            expected = train_run(runs[name], directory / f"{name}-alone")
        assert losses_of(directory / name) == list(enumerate(losses[number].tolist(), 1))
        alone = [loss for _, loss in losses_of(directory / f"{name}-alone")]
        assert losses[number].tolist() == pytest.approx(alone, rel=1e-5)
        of, then = found.training, expected.training
        assert (of.batches_digest, of.seed) == (then.batches_digest, then.seed)
        assert of.validation_loss == pytest.approx(then.validation_loss, rel=1e-5)
        costs = replace(found.costs, device_seconds=expected.costs.device_seconds)
        assert costs == expected.costs


def test_a_member_that_diverges_is_left_and_harms_no_other(trained):
    """Fails if it ends the others, is taken for trained, or is scored with the rest."""
    _, directory, failed = trained
    assert list(failed) == ["wild"]
    assert failed["wild"].startswith("wild: ") and "learning_rate (1e+30)" in failed["wild"]
    assert len(losses_of(directory / "wild")) < 4
    assert not (directory / "wild" / "checkpoints").exists()


def test_a_members_step_is_left_out_by_its_own_limit(run, tmp_path, monkeypatch):
    """Fails if a group leaves no step out, or a member's by the limit of another."""
    run = change(run, "faults.policy=skip", "tokens=1024", "trackers=[]")
    runs = {name: with_values(run, seed) for seed, name in enumerate("abc")}

    def limit(books: Bookkeeper, step: int) -> float:
        return 0.0 if (books._label, step) == ("b", 3) else math.inf

    monkeypatch.setattr(Bookkeeper, "limit", limit)
    train_group(runs, tmp_path)
    left_out = [
        (name, record["step"])
        for name in runs
        for record in read_metrics(tmp_path / name)
        if record.get("skipped")
    ]
    assert left_out == [("b", 3)]


def test_a_group_is_measured_against_its_runs(run, monkeypatch):
    """Fails if a slower group is chosen, or a run that does not divide is left alone."""
    odd = change(run, "data.batch=7", "data.length=31")
    assert speedup([with_values(odd, seed) for seed in range(8)]) == math.inf
    with one_device():
        taken = iter([0.3, 0.2])  # seconds of a step: of one run, and of the group
        monkeypatch.setattr(members_speed, "_step_seconds", lambda *_: next(taken))
        assert speedup([run, run]) == pytest.approx(3)
