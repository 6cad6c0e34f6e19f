"""Members of a group are their own runs, one beside the other."""

import re

import jax
import numpy as np
import pytest
from msgspec.structs import replace

from lm.data import open_tokens
from lm.data.digest import chain_text
from lm.run import Run
from lm.train.members import MembersProgram, prepare_members
from tests.train.steps import change, train

pytestmark = pytest.mark.eight_devices


def with_values(run: Run, seed: int, rate: float = 1e-2, decay: float = 0.1) -> Run:
    optimizer = replace(run.optimizer, learning_rate=rate, weight_decay=decay)
    return replace(run, seed=seed, optimizer=optimizer)


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
