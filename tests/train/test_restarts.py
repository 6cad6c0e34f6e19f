"""A run that is stopped, killed or damaged goes on as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from lm.config import dump
from lm.distributed import signals
from lm.results import read_result
from lm.run import Run
from lm.train.checkpoint import Checkpoints
from lm.train.load import load_run
from lm.train.trackers import Trackers
from lm.train.train import Stopped, train_run
from tests.train.steps import change, losses_of


@pytest.fixture(scope="module")
def finished(finished_run):
    """An uninterrupted run: its directory and result."""
    return finished_run, read_result(finished_run / "result.json")


def test_an_interrupted_run_equals_an_uninterrupted_one_bitwise(run, finished, tmp_path):
    """Fails if the optimizer's state, the step, or the place in the data is not restored."""
    directory, result = finished
    interrupted = change(run, "checkpoints.steps=3")

    class Interrupt(BaseException):
        pass

    original, calls = Trackers.write, []

    def write(self, step, values):
        original(self, step, values)
        calls.append(step)
        if len(calls) == 8:
            raise Interrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(Trackers, "write", write)
        train_run(interrupted, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    again = train_run(interrupted, tmp_path / "run")
    assert losses_of(tmp_path / "run") == losses_of(directory)
    same = ("batches_digest", "validation_loss", "predicted_targets")
    assert {n: again[n] for n in same} == {n: result[n] for n in same}
    jax.tree.map(
        np.testing.assert_array_equal,
        load_run(tmp_path / "run").params,
        load_run(directory).params,
    )


def child(directory: Path, run: Run) -> subprocess.Popen[bytes]:
    """`lm train` in a process of its own."""
    settings = directory.with_suffix(".json")
    settings.write_text(dump(run))
    command = [sys.executable, "-c", "from lm.cli import main; main()", "train", str(settings)]
    return subprocess.Popen(
        [*command, "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


def killed_at_random(run, finished, directory, times, seed):
    """Kills the run at random moments until it ends by itself; it must have lost nothing."""
    reference, result = finished
    moments = random.Random(seed)
    run = change(run, "checkpoints.steps=1")
    for _ in range(times):
        process = child(directory, run)
        begun = len(losses_of(directory))
        while process.poll() is None and len(losses_of(directory)) <= begun:
            time.sleep(0.01)
        time.sleep(moments.random() * 0.3)
        process.kill()
        process.communicate()
        if (directory / "result.json").exists():
            break
    process = child(directory, run)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert losses_of(directory) == losses_of(reference)
    final = json.loads((directory / "result.json").read_text())
    assert final["batches_digest"] == result["batches_digest"]
    jax.tree.map(
        np.testing.assert_array_equal,
        load_run(directory).params,
        load_run(reference).params,
    )


def test_kill_9_at_random_moments_loses_nothing(run, finished, tmp_path):
    """Fails if metrics are not rewound, or a half-written checkpoint is taken."""
    killed_at_random(run, finished, tmp_path / "killed", times=1, seed=time.time_ns())


@pytest.mark.slow
def test_a_hundred_kills_lose_nothing(run, finished, tmp_path):
    """The same, a hundred times over."""
    for number in range(25):
        killed_at_random(run, finished, tmp_path / f"killed{number}", times=4, seed=number)


def test_sigterm_saves_and_says_run_me_again(run, tmp_path):
    """Fails if the handler is not installed, or nothing is saved before the exit."""
    long = change(run, "tokens=2560000")
    process = child(tmp_path / "run", long)
    while process.poll() is None and len(losses_of(tmp_path / "run")) < 3:
        time.sleep(0.02)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors.decode()
    line = errors.decode().strip().splitlines()[-1]
    assert "stopped and saved at step" in line
    step = int(line.split("saved at step ")[1].split()[0])
    assert (tmp_path / "run" / "checkpoints" / str(step)).is_dir()


def test_oneline_a_request_while_the_end_is_saved_is_heard(run, tmp_path, patch):
    """Fails if it is dropped, or cuts the save in two."""
    save = Checkpoints.save

    def interrupted(checkpoints, step, state, extra):
        assert signals._needed  # so a slow save is not ended after a second
        save(checkpoints, step, state, extra)
        os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(Stopped, match="stopped and saved at step 16 of 16"):
        train_run(run, tmp_path / "run", evaluate=pytest.fail)
    assert not signals._needed
    assert (tmp_path / "run" / "checkpoints" / "16").is_dir()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_taken(
    run, finished, tmp_path, capfd
):
    """Fails if digests are not compared: orbax itself does not notice a flipped bit."""
    directory = tmp_path / "run"
    short = change(run, "checkpoints.steps=4")
    train_run(short, directory)
    (directory / "result.json").unlink()
    for path in (directory / "checkpoints" / "16" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    capfd.readouterr()
    train_run(short, directory)
    assert "checkpoint 16 is damaged" in capfd.readouterr().err
    assert losses_of(directory) == losses_of(finished[0])
