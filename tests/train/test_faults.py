"""Faults in real runs: losses that are not finite or jump, disks that are full."""

import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from msgspec.structs import replace as replace_field

from lm.config import dump, override
from lm.data import Batches, open_tokens
from lm.distributed import mesh
from lm.objectives import Causal
from lm.run import Run, steps
from lm.train.bookkeeping import Diverged
from lm.train.checkpoint import restore
from lm.train.load import load_run
from lm.train.step import prepare
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from tests import makers

BELL = 4 + 7
"""The token that stands once in the corpus: the batch that holds it goes wrong."""


@pytest.fixture(scope="module")
def run(run, tmp_path_factory) -> Run:
    """Sixteen steps, of which one, not among the first or last, has the bell in its batch."""
    corpus = makers.text(tmp_path_factory.mktemp("corpus"))
    path = Path(corpus.paths[0]).with_name("1.txt")
    path.write_text("\a" + path.read_text())
    run = replace_field(run, data=replace_field(run.data, corpus=corpus))
    seeds = (override(run, [f"seed={seed}"]) for seed in range(100))
    return next(run for run in seeds if 7 <= bell(run) <= 11)


def batches_of(run: Run) -> Batches:
    return open_tokens(run.data).batches(run.data, run.seed)


def bell(run: Run) -> int:
    """After which step the bell has been in a batch; 0 if never."""
    batches = batches_of(run)
    found = [s + 1 for s in range(steps(run)) if (batches(s).tokens_BL == BELL).any()]
    return found[0] if len(found) == 1 else 0


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the batch with the bell `nan`, or a `jump`: all of it is a token never seen."""
    original = Causal.__call__

    def poison(kind: str) -> None:
        def call(self, batch, *rest):
            example = original(self, batch, *rest)
            here = (batch.tokens_BL == BELL).any()
            if kind == "jump":
                return replace(example, targets=jnp.where(here, 250, example.targets))
            return replace(example, weights=jnp.where(here, jnp.nan, example.weights))

        monkeypatch.setattr(Causal, "__call__", call)

    return poison


def losses_of(directory: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_metrics(directory) if "loss" in r}


def chain_of(directory: Path) -> list[str]:
    return [r["batches"] for r in read_metrics(directory) if "batches" in r]


def test_a_skipped_step_changes_counters_alone(run, poisoned):
    """Fails if moments take what is not finite in, or the schedule stands still."""
    poisoned("nan")
    vocabulary = open_tokens(run.data).tokenizer.vocabulary
    skipping = override(run, ["faults.policy=skip"])
    program = prepare(skipping, vocabulary, mesh.make(run.mesh))
    batches, state = batches_of(run), program.init()
    wrong = bell(run) - 1
    for step in (0, wrong):
        before = jax.tree.map(np.array, state)
        state, metrics = program.step(state, program.place(batches(step)))
        assert bool(metrics["skipped"]) == (step == wrong)
    jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
    changed = [
        new.dtype
        for new, old in zip(
            jax.tree.leaves(state.optimizer), jax.tree.leaves(before.optimizer), strict=True
        )
        if not np.array_equal(new, old)
    ]
    assert changed and set(changed) == {np.dtype("int32")}
    assert int(state.step) == 2 and not np.array_equal(state.batches, before.batches)


@pytest.mark.parametrize("kind", ["jump", pytest.param("nan", marks=pytest.mark.slow)])
def test_a_wrong_batch_is_skipped_and_said(run, poisoned, tmp_path, kind):
    """Fails if it is updated on, hidden, or if a jump is measured from itself."""
    poisoned(kind)
    result = train_run(
        override(run, ["faults.policy=skip", "faults.spike=0.3"]), tmp_path / "run"
    )
    marked = [r["step"] for r in read_metrics(tmp_path / "run") if r.get("skipped")]
    assert marked == [bell(run)]
    assert (result["skipped"], result["rolled_back"], result["left_out"]) == (1, 0, 0)
    assert len(chain_of(tmp_path / "run")) == steps(run)
    last = losses_of(tmp_path / "run")[steps(run)]
    assert last < losses_of(tmp_path / "run")[1] - 0.5
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(load_run(tmp_path / "run").params))


def test_a_run_rolls_back_and_leaves_out_what_led_there(run, poisoned, tmp_path, capfd):
    """Fails if the batches come again, the record is lost, or a restart finds another way."""
    poisoned("nan")
    rolling = override(run, ["faults.policy=roll_back", "checkpoints.steps=5"])
    directory = tmp_path / "run"
    result = train_run(rolling, directory)
    wrong = bell(run)
    back = (wrong - 1) // 5 * 5
    assert (result["skipped"], result["rolled_back"]) == (0, 1)
    assert result["left_out"] == wrong - back
    assert f"at step {wrong}: rolled back to step {back}" in capfd.readouterr().err
    left = [r["step"] for r in read_metrics(directory) if r.get("left_out") == wrong - back]
    assert left == list(range(back + 1, steps(run) + 1))
    assert list(losses_of(directory)) == list(range(1, steps(run) + 1))

    # The chain is that of the batches up to the checkpoint, and of those after the wrong one.
    vocabulary = open_tokens(run.data).tokenizer.vocabulary
    program = prepare(run, vocabulary, mesh.make(run.mesh))
    batches, state = batches_of(run), program.init()
    for step in [*range(back), *range(wrong, wrong + steps(run) - back)]:
        state, metrics = program.step(state, program.place(batches(step)))
    digest = "".join(f"{word:08x}" for word in np.asarray(metrics["batches"]))
    assert digest == result["batches_digest"]

    before = (losses_of(directory), chain_of(directory))
    (directory / "result.json").unlink()
    for path in (directory / "checkpoints").glob("[0-9]*"):
        shutil.rmtree(path)
    assert train_run(rolling, directory)["batches_digest"] == digest
    assert (losses_of(directory), chain_of(directory)) == before


def test_a_jump_stops_and_the_run_goes_on_with_another_policy(run, poisoned, tmp_path):
    """Fails if a policy is taken for another run, or what was wrong is saved."""
    poisoned("jump")
    stopping = override(run, ["faults.spike=0.3", "checkpoints.steps=2"])
    with pytest.raises(Diverged, match=rf"loss .* above .* at step {bell(run)}, .*policy=skip"):
        train_run(stopping, tmp_path / "run")
    result = train_run(override(stopping, ["faults.policy=skip"]), tmp_path / "run")
    assert result["skipped"] == 1


@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_faults_without_end_end_the_run(run, tmp_path, policy):
    """Fails if a hopeless run goes on for ever."""
    wild = override(
        run,
        [
            "optimizer.learning_rate=1e30",
            "optimizer.clip=none",
            f"faults.policy={policy}",
            "faults.most=2",
        ],
    )
    with pytest.raises(Diverged, match=r"lower optimizer.learning_rate"):
        train_run(wild, tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_a_full_disk_leaves_the_last_checkpoint_whole(run, tmp_path):
    """Fails if half a checkpoint counts, or no line says what is wrong.

    A limit on the size of files stands for the full disk: both refuse a write in its midst.
    """
    endless = override(run, ["tokens=100000000", "checkpoints.steps=1"])
    settings, directory = tmp_path / "run.json", tmp_path / "run"
    settings.write_text(dump(endless))
    command = [sys.executable, "-c", "from lm.cli import main; main()", "train", str(settings)]
    process = subprocess.Popen(
        [*command, "--dir", str(directory)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any(
        path.name.isdigit() for path in directory.glob("checkpoints/*")
    ):
        time.sleep(0.02)
    limit = (directory / "metrics.jsonl").stat().st_size + 4000
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    # The writes beside the one that failed end first: their threads would speak in its midst.
    (line,) = (line for line in errors.splitlines() if line.startswith("lm: "))
    assert "File too large; what was saved before is whole" in line
    assert "Traceback" not in errors
    vocabulary = open_tokens(run.data).tokenizer.vocabulary
    abstract = prepare(run, vocabulary, mesh.make(run.mesh)).abstract
    damage: list[str] = []
    found = restore(str(directory / "checkpoints"), abstract, report=damage.append)
    assert found.step == int(found.state.step) and damage == []


def test_hang_a_disk_that_is_full_for_tensorboard_alone_ends_the_run(tmp_path):
    """Fails if its records wait for a thread that a full disk has ended: nothing hears SIGTERM
    then."""
    code = f"""
import resource
from pathlib import Path
from lm.run import Run
from lm.train.trackers import Trackers
from lm.train.trackers.base import Session
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
session = Session(Run(), Path({str(tmp_path)!r}), 'run', 0, 100_000, 0.0)
with Trackers(session) as metrics:
    for step in range(1, 100_000):
        metrics.write(step, {{str(n): 1.0 for n in range(20)}})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1 and "File too large" in done.stderr
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.stat().st_size == 30_000
