"""Training: the step's arithmetic, and what a run directory says and refuses."""

import json
import math
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from lm.config import UserError, parse
from lm.data import n_rows, open_tokens
from lm.objectives import Causal, Curriculum, Masked, Scheduled
from lm.results import read_result
from lm.run import Run
from lm.train import checkpoint, loop
from lm.train.checkpoint import Checkpoints
from lm.train.load import load_run
from lm.train.step import Program
from lm.train.trackers import Trackers
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from tests.train.steps import change, losses_of, program, train

SOME = ("causal", pytest.param("masked", marks=pytest.mark.slow), "any_order")


@pytest.fixture
def curriculum(run):
    """Eight steps of a GPT, then eight of a BERT at 50%."""
    objective = Curriculum(first=Causal(), then=Masked(rate=0.5), switch=0.5)
    return msgspec.structs.replace(run, objective=objective)


def test_a_curriculum_goes_on_from_the_state_that_the_first_objective_left(run, curriculum):
    """Fails if parameters, moments, schedule or data begin anew at the switch, or P stays."""
    made, batches = program(curriculum)
    state, predicted = made.init(), []
    for step in range(10):
        if step == 8:
            kept = jax.tree.map(np.asarray, state)
        objective = curriculum.objective.at(step, 16, curriculum.seed)
        state, metrics = made.step(state, made.place(batches(step)), objective)
        predicted.append(float(metrics["predicted"]))
    _, causal = train(run, 8)
    jax.tree.map(np.testing.assert_array_equal, kept, jax.tree.map(np.asarray, causal))
    then, _ = program(change(run, "objective.type=masked", "objective.rate=0.5"))
    for step in (8, 9):
        causal, _ = then.step(causal, then.place(batches(step)))
    jax.tree.map(np.testing.assert_array_equal, state, causal)
    assert min(predicted[:8]) > 1.8 * max(predicted[8:])


@pytest.mark.slow
def test_a_curriculum_stopped_at_its_switch_equals_an_uninterrupted_one(curriculum, tmp_path):
    """Fails if a restart counts the switch from where it starts."""
    whole = train_run(curriculum, tmp_path / "whole")
    directory = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", directory)
    (directory / "result.json").unlink()
    shutil.rmtree(directory / "checkpoints")
    interrupted = change(curriculum, "checkpoints.steps=8")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Checkpoints, "save", _once(Checkpoints.save))
        train_run(interrupted, directory)
    again = train_run(interrupted, directory)
    same = (
        "validation_loss",
        "predicted_targets",
        "batches_digest",
        "target_positions",
        "flops",
    )
    assert {n: again[n] for n in same} == {n: whole[n] for n in same}
    assert losses_of(directory) == losses_of(tmp_path / "whole")


def _once(save):
    """Saves, waits until it is on disk, and fails, as a machine may."""

    def saved(self, *arguments):
        save(self, *arguments)
        self.wait()
        raise RuntimeError

    return saved


@pytest.mark.parametrize("name", SOME)
def test_accumulation_equals_the_full_batch(run, name):
    """Fails if parts are averaged with equal weight: their predicted counts differ."""
    whole = change(run, f"objective.type={name}")
    losses, state = train(change(whole, "microbatches=4"), 4)
    expected, full = train(whole, 4)
    assert losses == pytest.approx(expected, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), state.params, full.params
    )


def test_the_loss_is_the_sum_over_the_count(run):
    """Fails if the loss is divided by target positions, or by rows."""
    made, batches = program(change(run, "objective.type=masked"))
    _, metrics = made.step(made.init(), made.place(batches(0)))
    segments = batches(0).segments_BL
    content = (segments > 0).sum(1) - np.array([len(set(r) - {0}) for r in segments])
    assert float(metrics["predicted"]) == np.floor(np.float32(0.15) * content + 0.5).sum()


@pytest.mark.parametrize(
    "name",
    ["causal", *(pytest.param(n, marks=pytest.mark.slow) for n in ("masked", "any_order"))],
)
def test_one_batch_overfits(run, name):
    """Fails if targets are shifted twice, or gradients do not reach the weights."""
    changed = change(
        run, f"objective.type={name}", "tokens=300000", "optimizer.type=muon", "data.batch=2",
        "objective.rate=0.3" if name == "masked" else "seed=0",
    )  # fmt: skip
    made, batches = program(changed)
    state, losses = made.init(), []
    rows = made.place(batches(0))
    for _ in range(300):
        state, metrics = made.step(state, rows)
        losses.append(float(metrics["loss"]))
    # Masks change from step to step, so the last losses are averaged; how far they fall differs
    # between processors, as products are rounded otherwise.
    assert np.mean(losses[-20:]) < (0.1 if name == "causal" else 2.0)
    assert losses[0] == pytest.approx(np.log(260), abs=0.15)


def test_each_step_has_its_own_masks_and_a_replayed_one_the_same(run):
    """Fails if the key does not depend on the step, or on anything but seed and step."""
    made, batches = program(change(run, "objective.type=any_order"))
    rows = batches(0)
    losses = []
    for step in (0, 1, 0):
        state = made.init()._replace(step=jnp.int32(step))
        _, metrics = made.step(state, made.place(rows))
        losses.append(float(metrics["loss"]))
    assert losses[0] == losses[2] != losses[1]


def test_the_chain_of_batches_tells_order_and_content(run):
    """Fails if the chain forgets the state before, or adds digests up."""
    made, batches = program(run)

    def chain(*steps):
        state = made.init()
        for step in steps:
            state, _ = made.step(state, made.place(batches(step)))
        return np.asarray(state.batches).tolist()

    assert chain(0, 1) != chain(1, 0)
    assert chain(0, 1) != chain(2, 1)
    assert chain(0) != chain(1)
    assert chain(0, 1) == chain(0, 1)


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        *((same, True) for same in ("seed=7", "data.validation=0.3", "evaluations=4")),
        *((same, True) for same in ("tokens=9000", "optimizer.learning_rate=0.1")),
        *((same, True) for same in ("checkpoints.keep=1", "trackers=[]", "data.unique=4096")),
        *((same, True) for same in ("schedule.warmup=0.3", "schedule.decay=0.4")),
        *((new, False) for new in ("data.length=16", "data.batch=4", "precision=bfloat16")),
        *((new, False) for new in ("microbatches=2", "attention=xla", 'trainable=["*"]')),
        *((new, False) for new in ("faults.policy=skip", "schedule.final=0.5")),
        *((new, False) for new in ("schedule.shape=linear", "schedule.type=cosine")),
    ],
)
def test_runs_of_one_program_share_it_and_others_do_not(run, other, shared):
    """Fails if a seed's program is traced anew, or one that is another is taken for it."""
    changed = change(run, other)
    (first, _), (second, _) = program(run), program(changed)
    assert (first.update is second.update, second.run) == (shared, changed)


def test_a_step_has_its_own_runs_numbers(run):
    """Fails if runs of one program have one rate, decay, schedule or way through training."""
    rising = Masked(rate=Scheduled(start=0.1, end=0.9))
    run, moved = msgspec.structs.replace(run, objective=rising), []
    for budget, peak, decay, down in (
        (16, 1e-2, 0.0, 0.5), (16, 1e-2, 0.5, 0.5), (64, 3e-2, 0.5, 0.5), (16, 1e-2, 0.5, 0.25)
    ):  # fmt: skip
        numbers = f"optimizer.learning_rate={peak}", f"optimizer.weight_decay={decay}"
        slopes = "schedule.warmup=0.25", f"schedule.decay={down}"
        own = change(run, f"tokens={budget * 8 * 32}", *numbers, *slopes)
        made, batches = program(own)
        state = made.init()._replace(step=jnp.int32(12))
        drawn = np.array(state.params["embedding"])
        state, metrics = made.step(state, made.place(batches(0)))
        moved.append(np.asarray(state.params["embedding"]))
        # After 12 of 16 steps it is half way down, by the square root, or not yet going down;
        # of 64, going up.
        rate = peak * ((1 - 0.5**0.5 if down == 0.5 else 1) if budget == 16 else 13 / 16)
        assert float(metrics["learning_rate"]) == pytest.approx(rate)
        masked = float(metrics["target_fraction"])
        assert masked == pytest.approx(0.1 + 0.8 * 12 / budget, abs=0.03)
    decayed = 1e-2 / 4 * 0.5 * drawn  # at the first rate of four going up
    np.testing.assert_allclose(moved[0] - moved[1], decayed, rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("shortest", [0.0, 1e9])
def test_a_long_step_begins_when_the_one_before_has_freed_its_memory(
    run, tmp_path, patch, shortest
):
    """Fails if two steps' memory is held at once, or short steps wait for each other too."""
    seen = []
    clock = SimpleNamespace(
        monotonic=time.monotonic, sleep=lambda seconds: seen.append(("waits", seconds > 0))
    )
    settled, step = loop._Loop._settle, Program.step
    patch.setattr(loop, "time", clock)
    patch.setattr(loop, "LONG_STEP", shortest)
    patch.setattr(loop._Loop, "_settle", lambda it: (seen.append("read"), settled(it))[1])
    patch.setattr(Program, "step", lambda *a, **k: (seen.append("step"), step(*a, **k))[1])
    train_run(change(run, "evaluations=1"), tmp_path / "run")
    begun = [place for place, what in enumerate(seen) if what == "step"]
    waited = [seen[place - 2 : place] == ["read", ("waits", True)] for place in begun]
    assert len(begun) == 16 and all(waited[:2]) and all(waited[2:]) == (shortest == 0)
    assert any(waited[3:]) == (shortest == 0)


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    """An uninterrupted run: its directory and result."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    return directory, train_run(run, directory)


def test_a_run_directory_describes_itself(run, finished):
    """Fails if a file is left out, or the settings do not read back."""
    directory, result = finished
    assert parse(Run, (directory / "config.json").read_text(), "config") == run
    assert read_result(directory / "result.json") == result
    environment = json.loads((directory / "environment.json").read_text())
    assert environment["mesh"] == {"replica": 1, "fsdp": 1, "tensor": 1, "context": 1}
    assert environment["jax"] == jax.__version__
    data = json.loads((directory / "data.json").read_text())
    tokens = open_tokens(run.data)
    assert data["corpus_digest"] == tokens.corpus_digest == result["corpus_digest"]
    assert data["train"]["tokens"] == tokens.train.size
    assert [step for step, _ in losses_of(directory)] == list(range(1, 17))
    evaluated = [r["step"] for r in read_metrics(directory) if "validation_loss" in r]
    assert evaluated == [8, 16]
    assert list((directory / "tensorboard").iterdir())
    assert result["tokens"] == 16 * 8 * 32
    assert result["predicted_targets"] > 0.9 * result["tokens"]
    rows = n_rows(tokens.train, 32)
    seen = min(16 * 8, rows)
    assert result["unique_tokens"] == 32 * seen
    assert result["unique_bytes"] == round(seen / rows * tokens.train.bytes.sum())


def test_a_run_of_repeated_text_reads_and_counts_it_alone(run, tmp_path):
    """Fails if the setting does not reach the batches, or more is counted than is read."""
    part = train_run(change(run, "data.unique=512", "evaluations=1"), tmp_path / "part")
    whole = train_run(change(run, "tokens=512", "evaluations=1"), tmp_path / "whole")
    assert part["unique_tokens"] == whole["unique_tokens"] == 512
    assert part["unique_bytes"] == whole["unique_bytes"] < 600
    assert part["tokens"] == 16 * 8 * 32
    losses = losses_of(tmp_path / "part")
    assert losses[-1][1] < losses[0][1]
    with pytest.raises(UserError, match=r"data.unique=.* at most that"):
        train_run(change(run, "data.unique=1e9"), tmp_path / "more")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("file", ["metrics.jsonl", "data.json", "result.json"])
def test_a_damaged_file_of_a_run_is_one_line(run, finished, tmp_path, file):
    """Fails if it is a traceback, or is written over."""
    directory = Path(shutil.copytree(finished[0], tmp_path / "run"))
    if file != "result.json":
        (directory / "result.json").unlink()
    (directory / file).write_text('{"st\n')
    with pytest.raises(UserError, match=rf"{file}: .*damaged"):
        train_run(run, directory)
    assert (directory / file).read_text() == '{"st\n'


def test_checkpoints_may_be_kept_elsewhere(run, tmp_path):
    """Fails if two runs of one name share a place, or a model is not found there again."""
    elsewhere = change(run, "tokens=512", f"checkpoints.directory={tmp_path / 'shared'}")
    train_run(elsewhere, tmp_path / "a" / "run")
    train_run(change(elsewhere, "seed=1"), tmp_path / "b" / "run")
    assert len(list((tmp_path / "shared").iterdir())) == 2
    assert not (tmp_path / "a" / "run" / "checkpoints").exists()
    first, second = (load_run(tmp_path / letter / "run").params for letter in "ab")
    assert checkpoint.leaf_digests(first) != checkpoint.leaf_digests(second)


def test_a_long_step_on_a_cpu_begins_when_the_one_before_has_ended(run, tmp_path, patch):
    """Fails if two steps' memory is taken at once, or a short step waits for its record."""
    found = dict[float, list[str]]()
    for long in (0.0, math.inf):
        said = found[long] = []
        patch.setattr(loop, "LONG_STEP", long)
        taken, written = Program.step, Trackers.write

        def take(self, *given, of=taken, to=said, **more):
            to.append("begun")
            return of(self, *given, **more)

        def write(self, step, values, of=written, to=said):
            to.append("written")
            return of(self, step, values)

        with patch.context() as patched:
            patched.setattr(Program, "step", take)
            patched.setattr(Trackers, "write", write)
            train_run(run, tmp_path / str(long))
    assert losses_of(tmp_path / "0.0") == losses_of(tmp_path / "inf")
    # What a step takes is known after the second, and until then a step is held to be long.
    first = ["begun", "written", "begun", "written", "begun"]
    assert found[0.0][:13] == [*first, *["written", "begun"] * 4]
    assert found[math.inf][:13] == [*first, *["begun", "written"] * 4]


def test_a_loss_that_is_not_finite_stops_the_run_in_one_line(run, tmp_path):
    """Fails if NaN trains on, or a checkpoint of it is kept."""
    wild = change(
        run, "optimizer.learning_rate=1e30", "optimizer.clip=none", "checkpoints.steps=1"
    )
    with pytest.raises(UserError, match=r"at step 1, .* lower optimizer.learning_rate") as info:
        train_run(wild, tmp_path / "run")
    assert "\n" not in str(info.value)
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_directory_of_another_run_is_refused_and_left_alone(run, finished):
    """Fails if settings are not compared, or execution settings are compared too."""
    directory, result = finished
    before = (directory / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"holds another run: optimizer"):
        train_run(change(run, "optimizer.learning_rate=0.5"), directory)
    assert (directory / "config.json").read_bytes() == before
    assert train_run(change(run, "checkpoints.keep=5", "microbatches=2"), directory) == result


def test_a_backend_of_another_platform_is_refused_before_anything_is_written(run, tmp_path):
    """Fails if a run is left to the kernel's interpreter, which is for tests."""
    with pytest.raises(
        UserError, match=r"^attention=splash is for the platform tpu, and .* cpu"
    ):
        train_run(change(run, "precision=bfloat16", "attention=splash"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_corpus_is_refused_by_training_and_by_scoring(run, tmp_path):
    """Fails if digests are written down and never compared: ids would mean other tokens."""
    folder = tmp_path / "corpus"
    shutil.copytree(Path(run.data.corpus.paths[0]).parent, folder)
    moved = change(run, f'data.corpus.paths=["{folder}/*.txt"]', "tokens=512")
    train_run(moved, tmp_path / "run")
    (folder / "more.txt").write_text("eleven twelve")
    (tmp_path / "run" / "result.json").unlink()
    before = (tmp_path / "run" / "data.json").read_bytes()
    for use in (
        lambda: train_run(moved, tmp_path / "run"),
        lambda: load_run(tmp_path / "run"),
    ):
        with pytest.raises(
            UserError, match=r"has changed: corpus_digest is \w{12}, was \w{12}"
        ):
            use()
    assert (tmp_path / "run" / "data.json").read_bytes() == before


def test_a_run_directory_may_be_relative(run, tmp_path, patch):
    """Fails if checkpoints are given the path as it came: orbax refuses it when it saves."""
    patch.chdir(tmp_path)
    train_run(change(run, "tokens=512", "checkpoints.steps=1"), Path("runs/here"))
    assert load_run(Path("runs/here")).params
