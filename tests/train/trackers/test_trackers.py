"""Trackers: what each is told, that all are closed, and that they change no training."""

import json
import sys
from pathlib import Path

import pytest

from lm.config import UserError, dump, essence, override
from lm.run import DECISIVE, Run
from lm.train.trackers import RECENT, TRACKERS, Trackers, check
from lm.train.trackers.base import Session, Tracker
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run


@pytest.fixture
def session(tmp_path) -> Session:
    return Session(Run(trackers=()), tmp_path, "run", 0, 10, 0.0)


@pytest.fixture
def told(monkeypatch) -> list:
    """What a tracker called `notes` was told."""
    told = []

    class Notes(Tracker):
        def write(self, step, values):
            told.append((step, dict(values)))

        def update(self, step, loss, tokens, seconds):
            told.append((step, loss))

        def close(self):
            told.append("closed")

    monkeypatch.setitem(TRACKERS, "notes", Notes)
    return told


def test_every_tracker_is_told_and_closed(session, told):
    """Fails if one of the run's is left out, or is left open when training fails."""
    session = session._replace(run=Run(trackers=("notes", "tensorboard")))
    with pytest.raises(ZeroDivisionError), Trackers(session) as trackers:
        trackers.write(1, {"loss": 2.0, "batches": "ab"})
        trackers.update(1, 2.0, 10, 0.5)
        raise ZeroDivisionError
    assert told == [(1, {"loss": 2.0, "batches": "ab"}), (1, 2.0), "closed"]
    assert read_metrics(session.directory) == [{"step": 1, "loss": 2.0, "batches": "ab"}]
    assert list((session.directory / "tensorboard").iterdir())


def test_a_tracker_that_cannot_open_closes_the_others(session, told, monkeypatch):
    """Fails if a file stays open, or a service runs on, behind a run that never began."""

    class Broken(Tracker):
        def __init__(self, session):
            raise OSError("no")

    monkeypatch.setitem(TRACKERS, "broken", Broken)
    with pytest.raises(OSError, match="no"):
        Trackers(session._replace(run=Run(trackers=("notes", "broken"))))
    assert told == ["closed"]


def test_metrics_jsonl_is_always_there_and_json(session):
    """Fails if a run without trackers records nothing, or records what is no number."""
    with Trackers(session) as trackers:
        trackers.write(1, {"loss": float("nan"), "skipped": 1.0})
    assert read_metrics(session.directory) == [{"step": 1, "skipped": 1.0}]
    assert [path.name for path in session.directory.iterdir()] == ["metrics.jsonl"]


def test_the_newest_records_are_at_hand_for_a_checkpoint(session):
    """Fails if those that a checkpoint kept are forgotten, or all are kept in memory."""
    with Trackers(session._replace(step=1), [{"step": 1, "loss": 3.0}]) as trackers:
        for step in range(2, RECENT + 2):
            trackers.write(step, {"loss": 2.0})
        assert len(trackers.recent) == RECENT and trackers.recent[0]["step"] == 2
    assert read_metrics(session.directory)[0] == {"step": 1, "loss": 3.0}


def test_another_host_than_the_first_has_no_tracker(session, told, monkeypatch):
    """Fails if each host of a slice writes, or a checkpoint of theirs forgets its records."""
    monkeypatch.setattr("lm.distributed.hosts.is_first", lambda: False)
    recent = [{"step": 1, "loss": 3.0}]
    with Trackers(session._replace(run=Run(trackers=("notes",))), recent) as trackers:
        trackers.write(2, {"loss": 2.0})
        assert trackers.recent == recent
    assert told == [] and not list(session.directory.iterdir())


def test_oneline_a_tracker_that_is_not_there(monkeypatch):
    """Fails if a misspelt name, or a package that is missing, is a traceback after minutes."""
    check(("tensorboard", "bar"))
    with pytest.raises(UserError, match=r"^trackers=tensorbord: .*did you mean tensorboard\?$"):
        check(("bar", "tensorbord"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^trackers=wandb: .*pip install 'yardstick-lm\[wandb"):
        check(("wandb",))


def test_trackers_are_no_part_of_what_a_run_is():
    """Fails if whoever watches a run makes another of it."""
    run = override(Run(), ['trackers=["wandb"]', "evaluation_windows=4"])
    assert not {"trackers", "evaluation_windows"} & set(DECISIVE)
    assert all(essence(getattr(run, n)) == essence(getattr(Run(), n)) for n in DECISIVE)


def test_wandb_is_told_the_numbers_by_step(session, monkeypatch):
    """Fails if settings do not get there, a restart makes another run, or words are sent."""
    calls = []

    class Made:
        id = "abc"

        def define_metric(self, name, step_metric=None):
            calls.append((name, step_metric))

        def log(self, values):
            calls.append(values)

        def finish(self):
            calls.append("finished")

    class Fake:
        Error = RuntimeError

        @staticmethod
        def init(**options):
            calls.append(options)
            return Made()

        @staticmethod
        def Settings(**options):
            return options

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    for _ in range(2):
        with Trackers(session._replace(run=Run(trackers=("wandb",), seed=3))) as trackers:
            trackers.write(1, {"loss": 2.0, "batches": "ab"})
    first, step, others, logged, finished, again, *_ = calls
    assert first["id"] is None and again["id"] == "abc" and first["resume"] == "allow"
    assert first["config"]["seed"] == 3 and first["dir"] == session.directory
    assert (step, others) == (("step", None), ("*", "step"))
    assert (logged, finished) == ({"step": 1, "loss": 2.0}, "finished")


def test_oneline_wandb_without_an_account(session, monkeypatch):
    """Fails if a machine that never logged in gets a traceback, or leaves a tracker open."""

    class Fake:
        Error, Settings = RuntimeError, dict

        @staticmethod
        def init(**_):
            raise RuntimeError("no API key\n  configured")

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    line = "^trackers=wandb: no API key configured; or set WANDB_MODE=offline$"
    with pytest.raises(UserError, match=line):
        Trackers(session._replace(run=Run(trackers=("wandb",))))


def test_wandb_writes_offline(run, tmp_path, monkeypatch):
    """Fails if the real package does not take what it is given: a whole run, and a restart."""
    pytest.importorskip("wandb", reason="pip install 'yardstick-lm[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = override(run, ['trackers=["wandb"]'])
    train_run(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    train_run(run, tmp_path / "run")
    id_ = (tmp_path / "run" / "wandb_id.txt").read_text()
    files = list(Path(tmp_path, "run", "wandb").glob(f"offline-run-*/run-{id_}.wandb"))
    assert len(files) == 2 and b"validation_loss" in min(files).read_bytes()
    assert json.loads(dump(run))["trackers"] == ["wandb"]
