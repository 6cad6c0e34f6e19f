"""Which runs of a study are trained as one program, and that they come to what they are."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from lm.config import UserError
from lm.cost import memory
from lm.study import jobs, together
from lm.study.together import how_many_members, train_together
from lm.train.trackers.jsonl import read_metrics
from tests.study.test_jobs import TOY
from tests.train.steps import change


@pytest.fixture
def runs(run):
    """Three seeds, one of twice the budget, and one that goes back where it diverges."""
    found = {f"seed{seed}": replace(run, seed=seed) for seed in range(3)}
    longer, back = replace(run, tokens=2 * run.tokens), change(run, "faults.policy=roll_back")
    return found | {"longer": longer, "back": back}


def test_members_of_a_study_are_scored_as_the_others_are(run, tmp_path, patch):
    """Fails if a run is trained twice, not scored, or scored as another of its group; or if
    each is said to have had all of the device's time.
    """
    runs = {f"seed{seed}": replace(run, seed=seed) for seed in range(2)}
    patch.setattr(together, "speedup", lambda _: 2.0)
    assert jobs.train(runs, [*runs], tmp_path / "a", TOY, members=8) == []
    assert jobs.train(runs, ["seed1"], tmp_path / "b", TOY) == []
    found, alone = (
        json.loads((tmp_path / where / "seed1" / "result.json").read_text()) for where in "ab"
    )
    assert found["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=1e-4)
    assert found["seed"] == alone["seed"] and found["decided_by"] == alone["decided_by"]
    assert (tmp_path / "a" / "seed0" / "result.json").exists()
    positions = run.data.batch * run.data.length
    rates = [r.get("tokens_per_second") for r in read_metrics(tmp_path / "a" / "seed1")]
    of_both = sum(positions / rate for rate in rates if rate)
    assert found["device_seconds"] == pytest.approx(of_both / 2)


def test_groups_are_of_runs_that_differ_in_numbers_alone(runs, tmp_path, monkeypatch):
    """Fails if a run is a member that cannot be one, or one that was begun is begun anew."""
    trained: list[list[str]] = []

    def train_group(these: dict, _: Path) -> dict[str, str]:
        trained.append([*these])
        return {"seed2": "it diverged"}

    monkeypatch.setattr(together, "speedup", lambda _: 1.5)
    monkeypatch.setattr(together, "train_group", train_group)
    how = {"names": [*runs], "directory": tmp_path}
    assert train_together(runs, **how, members=1) == []
    assert train_together(runs, **how, members=8, beside=2) == []
    assert trained == []
    assert train_together(runs, **how, members=8) == ["seed2"]
    (tmp_path / "seed1" / "checkpoints").mkdir(parents=True)
    train_together(runs, **how, members=8)
    assert trained == [["seed0", "seed1", "seed2"], ["seed0", "seed2"]]


def test_groups_are_as_large_as_memory_holds(runs, tmp_path, monkeypatch):
    """Fails if a group begins that does not fit, or fewer are members than do."""
    trained: list[list[str]] = []

    def train_group(these: dict, _: Path) -> dict[str, str]:
        trained.append([*these])
        return {}

    monkeypatch.setattr(together, "speedup", lambda _: 2.0)
    monkeypatch.setattr(together, "train_group", train_group)
    one = 2 * sum(memory.least(runs["seed0"], "cpu").values())
    for there in (1.9, 2.9, 3.0):
        monkeypatch.setattr(memory, "device_memory", lambda _, there=there: int(there * one))
        train_together(runs, [*runs], tmp_path, members=8)
    assert trained == [["seed0", "seed1"], ["seed0", "seed1", "seed2"]]


def test_a_member_that_diverges_is_one_of_the_failed(run, tmp_path, monkeypatch):
    """Fails if it is trained again by itself, or its study ends as if all was well."""
    monkeypatch.setattr(jobs, "train_together", lambda *_, **__: ["wild"])
    assert jobs.train({"wild": run}, ["wild"], tmp_path, TOY) == ["wild"]
    assert not (tmp_path / "wild").exists()


def test_members_are_unasked_on_accelerators_alone():
    """Fails if runs on a CPU are grouped by themselves, or a number that means nothing is."""
    assert (how_many_members(None), how_many_members(5)) == (1, 5)
    with pytest.raises(UserError, match="--members 0: must be >= 1"):
        how_many_members(0)
