"""Training: the step's arithmetic, meshes, restarts, and what a run directory says."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lm.config import UserError, dump, override, parse
from lm.data import Bytes, Data, Text, n_rows, open_tokens
from lm.data.digest import chain_text
from lm.distributed import mesh, signals
from lm.distributed.mesh import Mesh
from lm.model import Transformer
from lm.objectives import (
    AnyOrder,
    Causal,
    Curriculum,
    Masked,
    Mixture,
    Part,
    Prefix,
    Spans,
)
from lm.optimizer import Adamw
from lm.results import read_result
from lm.run import Run
from lm.train import checkpoint
from lm.train.checkpoint import Checkpoints
from lm.train.load import load_run
from lm.train.step import prepare
from lm.train.trackers import Trackers
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import Stopped, train_run

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    """A run of a second: 20 steps of 8 rows on made-up sentences."""
    random_ = random.Random(0)
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(60):
        text = " ".join(random_.choices(WORDS, k=random_.randint(20, 80)))
        (folder / f"{number}.txt").write_text(text)
    return Run(
        data=Data(
            corpus=Text(paths=(f"{folder}/*.txt",)),
            tokenizer=Bytes(),
            length=32,
            batch=8,
            validation=0.2,
        ),
        model=Transformer(depth=2, width=32, heads=4),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=20 * 8 * 32,
        precision="float32",
        evaluations=2,
        mesh=Mesh(),
    )


def change(run: Run, *overrides: str) -> Run:
    return override(run, overrides)


def program(run: Run, devices=1, **axes):
    tokens = open_tokens(run.data)
    return prepare(
        run,
        tokens.tokenizer.vocabulary,
        mesh.make(Mesh(**axes), jax.devices()[:devices]),
    ), tokens.batches(run.data, run.seed)


def train(run: Run, steps: int, devices=1, **axes):
    """Losses of the first steps, and the state after them."""
    made, batches = program(run, devices, **axes)
    state, losses = made.init(), []
    for step in range(steps):
        state, metrics = made.step(state, made.place(batches(step)))
        losses.append(float(metrics["loss"]))
    return losses, state


OBJECTIVES = {"causal": Causal(), "masked": Masked(), "any_order": AnyOrder()}
SOME = ("causal", pytest.param("masked", marks=pytest.mark.slow), "any_order")
MESHES = {
    "8": {},
    "2,2,2": {"replica": 2, "fsdp": 2, "tensor": 2},
    "4 tensor": {"fsdp": 2, "tensor": 4},
    "context": {"fsdp": 4, "context": 2},
}


@pytest.fixture(scope="module")
def alone(run):
    """Losses of an objective in a precision on one device, and the state they lead to."""
    return cache(
        lambda name, precision: train(
            change(run, f"objective.type={name}", f"precision={precision}"), 4
        )
    )


@pytest.mark.parametrize(
    ("name", "shape", "precision"),
    [
        ("causal", "2,2,2", "float32"),
        pytest.param("any_order", "8", "float32", marks=pytest.mark.slow),
        ("any_order", "context", "float32"),
        pytest.param("masked", "4 tensor", "bfloat16", marks=pytest.mark.slow),
        pytest.param("any_order", "2,2,2", "bfloat16", marks=pytest.mark.slow),
        pytest.param("causal", "8", "float32", marks=pytest.mark.slow),
        pytest.param("masked", "2,2,2", "float32", marks=pytest.mark.slow),
        pytest.param("masked", "8", "float32", marks=pytest.mark.slow),
    ],
)
def test_the_mesh_changes_no_loss(run, alone, name, shape, precision):
    """Fails if a loss is a mean of device means, or masks depend on the device."""
    changed = change(run, f"objective.type={name}", f"precision={precision}")
    losses, state = train(changed, 4, devices=8, **MESHES[shape])
    expected, state_alone = alone(name, precision)
    assert losses == pytest.approx(expected, rel=1e-4 if precision == "float32" else 5e-3)
    assert (np.asarray(state.batches) == np.asarray(state_alone.batches)).all()


MIXED = {
    "UL2": Mixture(mixed=(Part(objective=Prefix()), Part(objective=Spans(rate=0.4)))),
    "GPT-BERT": Mixture(),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("GPT-BERT", "8"), ("UL2", "2,2,2")])
def test_the_mesh_changes_no_loss_of_a_mixture(run, name, shape):
    """Fails if what a row draws, or what it may see, depends on the device that holds it."""
    changed = change(run, "data.tokenizer.sentinels=8")
    changed = msgspec.structs.replace(changed, objective=MIXED[name])
    losses, _ = train(changed, 3, devices=8, **MESHES[shape])
    assert losses == pytest.approx(train(changed, 3)[0], rel=1e-4)


@pytest.fixture
def curriculum(run):
    """Ten steps of a GPT, then ten of a BERT at 50%."""
    objective = Curriculum(first=Causal(), then=Masked(rate=0.5), switch=0.5)
    return msgspec.structs.replace(run, objective=objective)


def test_a_curriculum_goes_on_from_the_state_that_the_first_objective_left(run, curriculum):
    """Fails if parameters, moments, schedule or data begin anew at the switch, or P stays."""
    made, batches = program(curriculum)
    state, predicted = made.init(), []
    for step in range(12):
        if step == 10:
            kept = jax.tree.map(np.asarray, state)
        objective = curriculum.objective.at(step, 20, curriculum.seed)
        state, metrics = made.step(state, made.place(batches(step)), objective)
        predicted.append(float(metrics["predicted"]))
    _, causal = train(run, 10)
    jax.tree.map(np.testing.assert_array_equal, kept, jax.tree.map(np.asarray, causal))
    then, _ = program(change(run, "objective.type=masked", "objective.rate=0.5"))
    for step in (10, 11):
        causal, _ = then.step(causal, then.place(batches(step)))
    jax.tree.map(np.testing.assert_array_equal, state, causal)
    assert min(predicted[:10]) > 1.8 * max(predicted[10:])


@pytest.mark.slow
def test_a_curriculum_stopped_at_its_switch_equals_an_uninterrupted_one(curriculum, tmp_path):
    """Fails if a restart counts the switch from where it starts."""
    whole = train_run(curriculum, tmp_path / "whole")
    directory = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", directory)
    (directory / "result.json").unlink()
    shutil.rmtree(directory / "checkpoints")
    interrupted = change(curriculum, "checkpoints.steps=10")
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


def test_no_array_is_laid_out_anew_in_full(run, capfd):
    """Fails if embedding tables are looked up while they are split by columns."""
    cache = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # it masks what the compiler says
    compilation_cache.reset_cache()
    try:
        made, batches = program(change(run, "objective.type=masked"), 8, **MESHES["2,2,2"])
        made.update.lower(
            made.abstract, made.place(batches(0)), np.uint32(0), made.run.objective
        ).compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", cache)
        compilation_cache.reset_cache()
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


def test_initial_values_are_those_of_any_mesh_and_objective(run):
    """Fails if the key is split differently on a mesh, or by objective."""
    first, _ = program(run)
    second, _ = program(change(run, "objective.type=masked"), 8, fsdp=2, tensor=4)
    jax.tree.map(np.testing.assert_array_equal, first.init().params, second.init().params)


def test_parameters_and_moments_are_split_over_the_mesh(run):
    """Fails if the optimizer's state is replicated, or a rule of the table is dropped."""
    made, _ = program(run, 8, fsdp=4, tensor=2)
    state = made.init()
    up = state.params["layers"]["up"]
    assert up.addressable_shards[0].data.shape == (2, 32 // 4, 128 // 2)
    sizes = [
        x.addressable_shards[0].data.size / x.size
        for x in jax.tree.leaves(state.optimizer)
        if x.size > 1000
    ]
    assert sizes and max(sizes) <= 0.25


@pytest.mark.parametrize("name", SOME)
def test_accumulation_equals_the_full_batch(run, alone, name):
    """Fails if parts are averaged with equal weight: their predicted counts differ."""
    changed = change(run, f"objective.type={name}", "microbatches=4")
    losses, state = train(changed, 4)
    expected, full = alone(name, "float32")
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
    # Masks change from step to step, so the last losses are averaged.
    assert np.mean(losses[-20:]) < (0.1 if name == "causal" else 1.0)
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


def losses_of(directory: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(directory) if "loss" in r]


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
    assert environment["mesh"] == {"replica": 1, "fsdp": 8, "tensor": 1, "context": 1}
    assert environment["jax"] == jax.__version__
    data = json.loads((directory / "data.json").read_text())
    tokens = open_tokens(run.data)
    assert data["corpus_digest"] == tokens.corpus_digest == result["corpus_digest"]
    assert data["train"]["tokens"] == tokens.train.size
    assert [step for step, _ in losses_of(directory)] == list(range(1, 21))
    evaluated = [r["step"] for r in read_metrics(directory) if "validation_loss" in r]
    assert evaluated == [10, 20]
    assert list((directory / "tensorboard").iterdir())
    assert result["tokens"] == 20 * 8 * 32
    assert result["predicted_targets"] > 0.9 * result["tokens"]
    rows = n_rows(tokens.train, 32)
    seen = min(20 * 8, rows)
    assert result["unique_tokens"] == 32 * seen
    assert result["unique_bytes"] == round(seen / rows * tokens.train.bytes.sum())


def test_a_run_of_repeated_text_reads_and_counts_it_alone(run, tmp_path):
    """Fails if the setting does not reach the batches, or more is counted than is read."""
    part = train_run(change(run, "data.unique=512", "evaluations=1"), tmp_path / "part")
    whole = train_run(change(run, "tokens=512", "evaluations=1"), tmp_path / "whole")
    assert part["unique_tokens"] == whole["unique_tokens"] == 512
    assert part["unique_bytes"] == whole["unique_bytes"] < 600
    assert part["tokens"] == 20 * 8 * 32
    losses = losses_of(tmp_path / "part")
    assert losses[-1][1] < losses[0][1]
    with pytest.raises(UserError, match=r"data.unique=.* at most that"):
        train_run(change(run, "data.unique=1e9"), tmp_path / "more")
    assert not (tmp_path / "more").exists()


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


def test_oneline_a_request_while_the_end_is_saved_is_heard(run, tmp_path, monkeypatch):
    """Fails if it is dropped, or cuts the save in two."""
    save = Checkpoints.save

    def interrupted(checkpoints, step, state, extra):
        assert signals._needed  # so a slow save is not ended after a second
        save(checkpoints, step, state, extra)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(Stopped, match="stopped and saved at step 20 of 20"):
        train_run(run, tmp_path / "run", evaluate=pytest.fail)
    assert not signals._needed
    assert (tmp_path / "run" / "checkpoints" / "20").is_dir()
    assert not (tmp_path / "run" / "result.json").exists()


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


ELASTIC = {
    "1": (1, {}),
    "2,4": (8, {"fsdp": 2, "tensor": 4}),
    "1,8": (8, {"fsdp": 1, "context": 8}),
}


@pytest.mark.parametrize("shape", ELASTIC)
def test_a_run_goes_on_on_any_mesh(run, finished, tmp_path, shape):
    """Fails if a value, the place in the data or the chain depends on what it was saved on."""
    directory, _ = finished
    devices, axes = ELASTIC[shape]
    made, batches = program(run, devices, **axes)
    halfway = train(run, 10, devices=8)[1]
    with Checkpoints(str(tmp_path), keep=1) as checkpoints:
        checkpoints.save(10, halfway, {})
        restored = checkpoints.restore_newest(made.abstract)
    state = restored.state
    assert checkpoint.leaf_digests(state) == checkpoint.leaf_digests(halfway)
    jax.tree.map(lambda x, asked: _same(x.sharding, asked.sharding), state, made.abstract)
    for step in range(10, 14):
        state, metrics = made.step(state, made.place(batches(step)))
    recorded = {r["step"]: r for r in read_metrics(directory) if "loss" in r}[14]
    assert chain_text(metrics["batches"]) == recorded["batches"]
    assert float(metrics["loss"]) == pytest.approx(recorded["loss"], rel=1e-4)


def _same(found, expected):
    assert found == expected


def test_checkpoints_may_be_kept_elsewhere(run, tmp_path):
    """Fails if two runs of one name share a place, or a model is not found there again."""
    elsewhere = change(run, "tokens=512", f"checkpoints.directory={tmp_path / 'shared'}")
    train_run(elsewhere, tmp_path / "a" / "run")
    train_run(change(elsewhere, "seed=1"), tmp_path / "b" / "run")
    assert len(list((tmp_path / "shared").iterdir())) == 2
    assert not (tmp_path / "a" / "run" / "checkpoints").exists()
    first, second = (load_run(tmp_path / letter / "run").params for letter in "ab")
    assert checkpoint.leaf_digests(first) != checkpoint.leaf_digests(second)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_taken(
    run, finished, tmp_path, capfd
):
    """Fails if digests are not compared: orbax itself does not notice a flipped bit."""
    directory = tmp_path / "run"
    short = change(run, "checkpoints.steps=4")
    train_run(short, directory)
    (directory / "result.json").unlink()
    for path in (directory / "checkpoints" / "20" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    capfd.readouterr()
    train_run(short, directory)
    assert "checkpoint 20 is damaged" in capfd.readouterr().err
    assert losses_of(directory) == losses_of(finished[0])


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


def test_a_batch_that_does_not_divide_is_named_before_anything_is_written(run, tmp_path):
    """Fails if the check is left to the compiler."""
    with pytest.raises(UserError, match=r"data.batch=12 .* 8 .*nearest: 8 or 16"):
        train_run(change(run, "data.batch=12", "mesh.fsdp=8"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_backend_of_another_platform_is_refused_before_anything_is_written(run, tmp_path):
    """Fails if a run is left to the kernel's interpreter, which is for tests."""
    with pytest.raises(
        UserError, match=r"^attention=splash is for the platform tpu, and .* cpu"
    ):
        train_run(change(run, "precision=bfloat16", "attention=splash"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["splash", "cudnn"])
@pytest.mark.parametrize("name", ["causal", "any_order"])
def test_the_backend_changes_no_loss(run, alone, name, attention):
    """Fails if a kernel's gradient is lost on its way through layers, or a mesh's axis is."""
    changed = change(run, f"objective.type={name}", f"attention={attention}")
    losses, _ = train(changed, 3, devices=8, fsdp=2, tensor=2, context=2)
    assert losses == pytest.approx(alone(name, "float32")[0][:3], rel=1e-4)


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


def test_a_run_directory_may_be_relative(run, tmp_path, monkeypatch):
    """Fails if checkpoints are given the path as it came: orbax refuses it when it saves."""
    monkeypatch.chdir(tmp_path)
    train_run(change(run, "tokens=512", "checkpoints.steps=1"), Path("runs/here"))
    assert load_run(Path("runs/here")).params


def test_parameters_that_do_not_divide_over_the_mesh_are_named(run):
    """Fails if it is left to the compiler, which answers with a traceback."""
    with pytest.raises(UserError, match=r"mesh.fsdp=8 does not divide the axis 'embed' of 12 "):
        program(change(run, "model.width=12", "model.heads=2"), 8)


def test_a_run_trained_on_a_mesh_is_used_on_any(run, tmp_path):
    """Fails if a model is bound to the mesh, or the platform, that it was trained on."""
    run = change(run, "mesh.fsdp=2", "mesh.tensor=4", "tokens=512", "precision=bfloat16")
    train_run(run, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(dump(change(run, "attention=splash")))
    trained = load_run(tmp_path / "run")
    assert trained.program.module.attention == "auto"
    up = trained.params["layers"]["up"]
    assert up.addressable_shards[0].data.shape == (2, 32 // 8, 128)
