"""Runs of a study side by side: each as if alone, stopped and killed, and in order."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from msgspec.structs import replace

from lm.config import UserError, dump
from lm.evaluate.scoring import Effort
from lm.run import Run, Start
from lm.study import jobs

TOY = Effort(rows=8, samples=2, replicates=2, curve_rows=8, probe_tokens=500)

COMMAND = """
import sys
from pathlib import Path
from lm.distributed import signals
signals.listen()
from lm.config import parse
from lm.distributed.process import one_line_errors, prepare_machine
from lm.run import Run
from lm.study import jobs
from tests.study.test_jobs import TOY

with one_line_errors():
    prepare_machine()
    folder = Path(sys.argv[1])
    runs = {path.stem: parse(Run, path.read_bytes(), "run") for path in folder.glob("*.json")}
    print(jobs.train(runs, list(runs), folder / "runs", TOY, jobs=2))
"""


def begin(folder: Path, runs: dict[str, Run]) -> subprocess.Popen[str]:
    """A process that trains runs, two at a time."""
    folder.mkdir(exist_ok=True)
    for name, run in runs.items():
        (folder / f"{name}.json").write_text(dump(run))
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has started."""
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(each) for each in path.read_text().split()]


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Whether there is no such process, or nobody has yet asked what came of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def columns(folder: Path, name: str) -> dict[str, object]:
    """What came of a run, but for the time that it took."""
    found = json.loads((folder / "runs" / name / "result.json").read_text())
    return {key: value for key, value in found.items() if "seconds" not in key}


@pytest.mark.skipif(sys.platform != "linux", reason="it asks Linux who is whose child")
def test_runs_side_by_side_are_stopped_killed_and_come_to_what_they_come_to_alone(
    run, tmp_path
):
    """Fails if a process outlives who started it, a stop loses steps, or runs share anything.

    Each has cores of its own where there are two.
    """
    long = replace(run, tokens=1000 * run.tokens, evaluations=1)
    seeds = {f"seed{seed}": replace(run, seed=seed) for seed in range(3)}
    # Who started them is killed, and can tell them nothing.
    process = begin(tmp_path, {"long": long, **seeds})
    until(lambda: len(children(process)) == 2)
    trainers = children(process)
    until(lambda: (tmp_path / "runs" / "long" / "metrics.jsonl").exists())
    if len(cores := os.sched_getaffinity(0)) > 1:
        shares = [os.sched_getaffinity(trainer) for trainer in trainers]
        assert set.union(*shares) == cores and not set.intersection(*shares)
    process.kill()
    until(lambda: all(map(gone, trainers)))
    process.communicate()

    # It is asked to stop, and they save.
    process = begin(tmp_path, {})
    metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
    before = metrics.stat().st_size
    until(lambda: metrics.stat().st_size > before)
    trainers = children(process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "lm: long: stopped and saved at step" in said
    assert "runs are left; the same command goes on from there" in said
    assert all(map(gone, trainers))

    (tmp_path / "long.json").unlink()
    process = begin(tmp_path, {})
    out, said = process.communicate(timeout=120)
    assert out.splitlines() == ["[]"], said
    assert process.returncode == 0 and "stopped" not in said
    alone = tmp_path / "alone"
    assert jobs.train(seeds, list(seeds), alone / "runs", TOY) == []
    for name in seeds:
        assert columns(tmp_path, name) == columns(alone, name)


def test_what_is_wrong_with_a_run_is_said_in_one_line_and_ends_the_others(run, tmp_path):
    """Fails if another process's error is lost, or runs go on that nobody waits for."""
    wrong = replace(run, data=replace(run.data, corpus=replace(run.data.corpus, paths=("x",))))
    process = begin(tmp_path, {"wrong": wrong, "right": replace(run, tokens=1000 * run.tokens)})
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert [line for line in said.splitlines() if line.startswith("lm: ") and "x" in line]
    assert "Traceback" not in said


def test_a_run_waits_for_the_one_that_it_starts_from(run, tmp_path):
    """Fails if it begins too soon, if it is trained from what diverged, or largest are last."""
    start = Start(path=str((tmp_path / "first").absolute()))
    runs = {
        "after": replace(run, start=start),
        "small": replace(run, seed=1),
        "first": replace(run, tokens=2 * run.tokens),
    }
    turns = jobs._Turns(runs, list(runs), tmp_path)
    turns.largest_first()
    assert [turns.take() for _ in range(3)] == ["first", "small", None]
    assert turns.left == 3
    turns.done("small", well=True)
    assert turns.take() is None
    turns.done("first", well=False)
    assert turns.take() is None
    assert turns.failed == ["first", "after"] and turns.left == 0
    turns = jobs._Turns(runs, ["after"], tmp_path)
    with pytest.raises(UserError, match="--run after: it starts from first, which is to be"):
        turns.take()


def test_a_process_goes_on_with_what_it_has_compiled(run, tmp_path):
    """Fails if two processes compile the same programs, or one waits while runs are left."""
    wide = replace(run, data=replace(run.data, batch=2 * run.data.batch), tokens=8 * run.tokens)
    runs = {
        "wide": wide,
        "other wide": replace(wide, seed=1),
        "long": replace(run, tokens=2 * run.tokens),
        "short": run,
        "third": replace(wide, seed=2),
    }
    turns = jobs._Turns(runs, list(runs), tmp_path)
    assert [turns.take(process) for process in "abaaba"] == [
        "wide", "long", "other wide", "third", "short", None,
    ]  # fmt: skip
    turns = jobs._Turns(runs, ["wide", "other wide"], tmp_path)
    assert [turns.take(process) for process in "abc"] == ["wide", "other wide", None]


def test_how_many_run_at_a_time_is_what_the_machine_holds(run, tmp_path, monkeypatch):
    """Fails if accelerators are shared, memory is forgotten, or finished runs count."""
    runs = {f"{seed}": replace(run, seed=seed) for seed in range(6)}

    def usual(asked: int | None = None) -> int:
        return jobs.how_many(asked, runs, list(runs), tmp_path)

    monkeypatch.setattr(jobs, "usable_cores", lambda: list(range(4)))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 8)
        assert usual() == 1
        with pytest.raises(UserError, match="--jobs 2: must be 1 on 1 host, "):
            usual(2)
    assert usual() == 4 and usual(9) == 9
    with pytest.raises(UserError, match="--jobs 0: must be >= 1"):
        usual(0)
    monkeypatch.setattr(jobs.memory, "machine_memory", lambda: int(2.9 * 2**30))
    assert usual() == 2
    for name in list(runs)[:5]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text("{}")
    assert usual() == 1
