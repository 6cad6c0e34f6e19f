"""A run directory is of one run, of one text and of one process, and says so (R1 to R5)."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from msgspec.structs import replace

from lm.config import UserError, dump, override
from lm.data import Data, Tokenizer, Tokens, open_tokens
from lm.distributed import hosts, mesh
from lm.distributed.signals import Stopped
from lm.results import Evaluation, read_result
from lm.run import Run, decided_by, differing, steps
from lm.study.runner import results
from lm.train.bookkeeping import Diverged
from lm.train.checkpoint import Checkpoints
from lm.train.directory import checkpoints_of, commit, environments
from lm.train.load import load_run
from lm.train.lock import NAME, only_writer
from lm.train.step import prepare
from lm.train.trackers import Trackers
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run
from tests import makers


@pytest.fixture
def finished(finished_run, tmp_path) -> Path:
    """A finished run, to be spoilt."""
    return Path(shutil.copytree(finished_run, tmp_path / "finished"))


def change(run: Run, *overrides: str) -> Run:
    return override(run, overrides)


def result_of(directory: Path) -> dict:
    return json.loads((directory / "result.json").read_text())


def losses_of(directory: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(directory) if "loss" in r]


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != NAME
    }


# R1: one run


def test_every_host_has_the_result_of_a_finished_run(run, finished, patch):
    """Fails if the first host finds what is no JSON, as which it is told to the others."""
    patch.setattr(hosts, "broadcast_from_first", lambda find: json.loads(json.dumps(find())))
    assert train_run(run, finished) == read_result(finished / "result.json")


def test_r1_a_result_says_itself_which_run_it_is_of(run, finished):
    """Fails if config.json alone is asked: it may be gone, or another's."""
    other = change(run, "seed=5", "model.width=32")
    (finished / "config.json").unlink()
    before = files_of(finished)
    with pytest.raises(UserError, match="holds another run: model, seed differ"):
        train_run(other, finished)
    assert files_of(finished) == before
    assert train_run(run, finished) == read_result(finished / "result.json")
    (finished / "config.json").write_text(dump(other))
    with pytest.raises(UserError, match="holds another run: model, seed differ"):
        train_run(other, finished)


@pytest.mark.parametrize("changed", ["seed=5", "model.width=32"])
def test_r1_checkpoints_say_themselves_which_run_they_are_of(run, finished, changed):
    """Fails if a run goes on from, or is used with, or describes, another's parameters."""
    other = change(run, changed)
    (finished / "result.json").unlink()
    (finished / "config.json").unlink()
    before = files_of(finished)
    with pytest.raises(UserError, match=r"checkpoint 16 .* of another .*run"):
        train_run(other, finished)
    assert files_of(finished) == before
    (finished / "config.json").write_text(dump(other))
    with pytest.raises(UserError, match=r"checkpoint 16 .* of another .*run"):
        load_run(finished)


def test_r1_what_is_left_of_a_run_goes_on_by_its_own_command(run, finished):
    """Fails if whatever has lost its config.json is refused."""
    expected = result_of(finished)
    for name in ("result.json", "config.json", "metrics.jsonl"):
        (finished / name).unlink()
    assert train_run(run, finished)["validation_loss"] == expected["validation_loss"]


def test_r1_what_an_older_version_wrote_is_believed_beside_its_config_alone(
    run, finished, tmp_path
):
    """Fails if first-edition runs are lost, or what says nothing passes for any run's."""
    result = result_of(finished)
    del result["decided_by"]
    (finished / "result.json").write_text(json.dumps(result))
    assert train_run(run, finished).training.decided_by is None
    (finished / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"nothing says which settings its result.json is of"):
        train_run(run, finished)

    (finished / "result.json").unlink()
    program = prepare(run, open_tokens(run.data).tokenizer.vocabulary, mesh.make(run.mesh))
    place = finished / "checkpoints"
    with Checkpoints(str(place), keep=1) as checkpoints:
        found = checkpoints.restore_newest(program.abstract)
    shutil.rmtree(place)
    del found.extra["decided_by"]
    with Checkpoints(str(place), keep=1) as checkpoints:
        checkpoints.save(found.step, found.state, found.extra)
    with pytest.raises(UserError, match=r"checkpoint 16 does not say of which run it is"):
        train_run(run, finished)
    (tmp_path / "config.json").rename(finished / "config.json")
    assert train_run(run, finished)["batches_digest"] == result["batches_digest"]


def test_r1_what_decides_a_run_is_said_without_defaults(run):
    """Fails if execution counts, a nested field does not, or a new default would."""
    assert differing(run, decided_by(change(run, "microbatches=2", "checkpoints.keep=7"))) == []
    assert differing(run, decided_by(change(run, "optimizer.b2=0.9"))) == ["optimizer"]
    assert differing(run, decided_by(change(run, "data.unique=512"))) == ["data"]
    assert decided_by(Run()) == {}
    assert list(decided_by(change(Run(), "optimizer.b2=0.9"))) == ["optimizer"]


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_r1_a_directory_that_goes_during_training_is_an_error(run, tmp_path, how):
    """Fails if it ends with exit code 0 and checkpoints that nothing describes."""
    directory = tmp_path / "run"

    def spoil() -> None:
        while not directory.exists() or len(losses_of(directory)) < 3:
            time.sleep(0.01)
        if how == "moved":
            directory.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(directory)

    thread = threading.Thread(target=spoil)
    thread.start()
    with pytest.raises(UserError, match=rf"^{directory}: it was removed or moved"):
        train_run(change(run, "tokens=100000000"), directory)
    thread.join()
    assert not (directory / "result.json").exists()
    assert not list(directory.glob("checkpoints/[0-9]*"))


# R2: one text


def moved(run: Run, folder: Path, *overrides: str) -> Run:
    """The run with a corpus of its own, which can be edited."""
    shutil.copytree(Path(run.data.corpus.paths[0]).parent, folder)
    return change(run, f'data.corpus.paths=["{folder}/*.txt"]', *overrides)


def test_r2_a_finished_run_whose_corpus_was_edited_is_refused(run, tmp_path):
    """Fails if the old result passes for that of the text as it is now."""
    own = moved(run, tmp_path / "corpus")
    result = train_run(own, tmp_path / "run")
    assert train_run(own, tmp_path / "run") == result
    (tmp_path / "corpus" / "more.txt").write_text("eleven twelve")
    before = files_of(tmp_path / "run")
    with pytest.raises(UserError, match=r"has changed: corpus_digest is \w{12}, was \w{12}"):
        train_run(own, tmp_path / "run")
    assert files_of(tmp_path / "run") == before


def test_r2_checkpoints_elsewhere_of_another_text_are_refused(run, tmp_path):
    """Fails if a place that is named by the settings is taken for one of the same text."""
    place = f"checkpoints.directory={tmp_path / 'shared'}"
    own = moved(run, tmp_path / "corpus", place)
    train_run(own, tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "corpus" / "more.txt").write_text("eleven twelve")
    with pytest.raises(UserError, match=r"of another run: corpus_digest differ"):
        train_run(own, tmp_path / "run")


# R3: one process


def test_r3_a_second_process_on_a_directory_is_refused(run, tmp_path):
    """Fails if there is no lock, it does not last until the result, or it stays."""
    directory = tmp_path / "run"
    found = []

    def evaluate(_) -> Evaluation:
        with pytest.raises(UserError) as info:
            train_run(run, directory)
        found.append(str(info.value))
        return makers.evaluation()

    train_run(run, directory, evaluate=evaluate)
    assert found[0].startswith(f"{directory} is being trained in by process {os.getpid()} on ")
    assert "\n" not in found[0]
    with only_writer(directory):
        pass


def test_r3_a_second_writer_of_checkpoints_elsewhere_is_refused(run, tmp_path):
    """Fails if the run directory alone is locked: another machine's has the same name."""
    elsewhere = change(run, f"checkpoints.directory={tmp_path / 'shared'}")
    place = checkpoints_of(elsewhere, tmp_path / "a" / "run")
    with only_writer(place), pytest.raises(UserError, match=rf"^{place} is being trained in"):
        train_run(elsewhere, tmp_path / "a" / "run")


def test_r3_a_run_that_another_process_has_just_finished_is_not_trained_again(
    run, finished, tmp_path, patch
):
    """Fails if the directory is looked at before it is this process's alone."""
    directory = tmp_path / "run"

    def slowly(data: Data, tokenizer: Tokenizer | None) -> Tokens:
        if not directory.exists():
            finished.rename(directory)
            scored = replace(
                read_result(directory / "result.json"), evaluation=makers.evaluation()
            )
            (directory / "result.json").write_text(scored.to_json())
        return open_tokens(data)

    patch.setattr("lm.train.directory.open_tokens", slowly)
    found = train_run(run, directory, evaluate=pytest.fail)
    assert found == read_result(directory / "result.json")


HOLDER = """
import sys, time
from lm.train.lock import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_r3_kill_9_leaves_no_lock(tmp_path):
    """Fails if the lock is the file, and not the kernel's."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(UserError, match=f"by process {holder.pid} on "),
        only_writer(tmp_path / "run"),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with only_writer(tmp_path / "run") as check:
        check()


def test_r3_some_may_share_a_place_that_others_want_alone(tmp_path):
    """Fails if cells of a study cannot be trained side by side, or a study beside them."""
    with only_writer(tmp_path, shared=True):
        with only_writer(tmp_path, shared=True):
            pass
        with pytest.raises(UserError, match="is being trained in"), only_writer(tmp_path):
            pass
    with (
        only_writer(tmp_path),
        pytest.raises(UserError, match="is being trained in"),
        only_writer(tmp_path, shared=True),
    ):
        pass


def test_r3_a_file_where_a_lock_should_be_is_one_line(tmp_path):
    """Fails if it is a traceback."""
    (tmp_path / "smoke").touch()
    with (
        pytest.raises(UserError, match="smoke: there is a file of this name"),
        only_writer(tmp_path / "smoke"),
    ):
        pass


# R4: what diverged is no result


@pytest.mark.parametrize("policy", ["stop", "skip", "roll_back"])
def test_r4_a_ruined_last_update_is_no_success(run, tmp_path, policy):
    """Fails if losses before updates are all that is checked, or the ruin is saved."""
    wild = change(
        run,
        *("optimizer.learning_rate=1e15", "optimizer.clip=none", "tokens=256"),
        *(f"faults.policy={policy}", "faults.most=2"),
    )
    assert steps(wild) == 1
    with pytest.raises(Diverged, match=r"validation_loss \w+ at step 1, .* lower optimizer"):
        train_run(wild, tmp_path / "run")
    assert not (tmp_path / "run" / "result.json").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_r4_parameters_that_are_not_finite_are_neither_saved_nor_used(run, tmp_path):
    """Fails if losses alone tell: the row of a token that no text holds may be ruined."""
    unused = change(run, "model.embedding=untied", "optimizer.weight_decay=0", "tokens=256")
    program = prepare(unused, open_tokens(run.data).tokenizer.vocabulary, mesh.make(run.mesh))
    state = program.init()
    params = dict(state.params)
    params["embedding"] = params["embedding"].at[255, 0].set(jnp.nan)
    directory = tmp_path / "run"
    with Checkpoints(str(directory / "checkpoints"), keep=1) as checkpoints:
        shardings = jax.tree.map(lambda x: x.sharding, program.abstract)
        checkpoints.save(0, jax.device_put(state._replace(params=params), shardings), {})
    (directory / "config.json").write_text(dump(unused))
    with pytest.raises(UserError, match="checkpoint 0 are not finite: the run diverged"):
        load_run(directory)
    with pytest.raises(Diverged, match="update_norm nan at step 1"):
        train_run(unused, directory)
    assert [path.name for path in (directory / "checkpoints").glob("[0-9]*")] == ["0"]


def test_r4_a_result_is_json_whatever_was_found(run, tmp_path):
    """Fails if what is no number is written as NaN, which is no JSON."""
    found = makers.evaluation(text_se=math.nan, scores={"a": makers.score(mc_se=math.inf)})
    train_run(run, tmp_path / "run", evaluate=lambda _: found)

    def no_json(name: str) -> None:
        raise AssertionError(name)

    text = (tmp_path / "run" / "result.json").read_text()
    result = json.loads(text, parse_constant=no_json)
    assert result["text_se"] is result["scores"]["a"]["mc_se"] is None
    assert train_run(run, tmp_path / "run")["text_se"] is None


# R5: who made it


def interrupted(run: Run, directory: Path, records: int) -> None:
    """Trains until so many records are written, as a machine may that is taken away."""

    class Interrupt(BaseException):
        pass

    original, calls = Trackers.write, []

    def write(self, step, values):
        original(self, step, values)
        calls.append(step)
        if len(calls) == records:
            raise Interrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(Trackers, "write", write)
        train_run(run, directory)


def test_r5_each_environment_of_a_run_is_kept(run, tmp_path, patch):
    """Fails if a resume overwrites who began, or one that came to nothing is kept."""
    saving = change(run, "checkpoints.steps=2")
    patch.setattr("lm.train.directory.commit", lambda: "first")
    interrupted(saving, tmp_path / "run", 5)
    patch.setattr("lm.train.directory.commit", lambda: "came to nothing")
    interrupted(saving, tmp_path / "run", 1)
    patch.setattr("lm.train.directory.commit", lambda: "second")
    train_run(saving, tmp_path / "run")
    found = environments(tmp_path / "run")
    assert [(each["step"], each["commit"]) for each in found] == [(0, "first"), (4, "second")]
    newest = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert newest["commit"] == "second" and newest["earlier"] == found[:1]


def test_r5_changes_that_no_commit_holds_are_told_apart(tmp_path, monkeypatch):
    """Fails if one commit with two changes passes for the same code."""
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    (tmp_path / "code.py").write_text("1\n")
    for command in (("init",), ("add", "code.py"), (*who, "commit", "--message", "a")):
        subprocess.run(["git", *command], check=True, capture_output=True)
    found = [commit()]
    for text in ("2\n", "3\n"):
        (tmp_path / "code.py").write_text(text)
        found.append(commit())
    assert len(set(found)) == 3
    assert all(each.startswith(f"{found[0]}+") for each in found[1:])


# Records that are lost


def test_records_that_a_pod_lost_come_back_from_the_checkpoint(run, tmp_path, capsys):
    """Fails if a checkpoint in a bucket, minutes before the records, leaves a gap in them."""
    elsewhere = change(
        run, "checkpoints.steps=4", f"checkpoints.directory={tmp_path / 'shared'}"
    )
    train_run(elsewhere, tmp_path / "whole")
    lossy = tmp_path / "lossy"
    interrupted(elsewhere, lossy, 6)
    path = lossy / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]))
    train_run(elsewhere, lossy)
    assert losses_of(lossy) == losses_of(tmp_path / "whole")
    assert "are lost" not in capsys.readouterr().err


def test_records_that_are_lost_are_said(run, finished, capsys):
    """Fails if a run goes on with a gap in its records and does not say so."""
    (finished / "result.json").unlink()
    path = finished / "metrics.jsonl"
    kept = [r for r in read_metrics(finished) if r["step"] not in (3, 4, 7)]
    path.write_text("".join(json.dumps(record) + "\n" for record in kept))
    train_run(run, finished)
    assert "the records of steps 3 to 4, 7 are lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["[]", "null", "{}", '{"decided_by": 5}', '{"flops": "many"}', '{"flop": 5}']
)
def test_oneline_a_result_that_is_none_is_no_result(run, tmp_path, content):
    """Fails if it is a traceback, or if nothing at all counts as finished."""
    (tmp_path / "config.json").write_text(dump(run))
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json: damaged"):
        train_run(run, tmp_path)


@pytest.mark.parametrize("ignored", [True, False])
def test_h13_a_signal_that_is_ignored_already_stays_so(run, tmp_path, patch, ignored):
    """Fails if Ctrl-C on a script stops what it has put in the background, once it trains.

    The shell has such processes ignore SIGINT, and before its first step a run does.
    """
    original = Trackers.write

    def write(self, step, values):
        original(self, step, values)
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    patch.setattr(Trackers, "write", write)
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        if ignored:
            assert train_run(run, tmp_path / "run")["steps"] == steps(run)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        else:
            with pytest.raises(Stopped):
                train_run(run, tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "content", ['{"earlier": 5}', '{"earlier": [5]}', '{"step": null}', '{"step": "3"}']
)
def test_h13_an_environment_of_another_form_is_damaged(tmp_path, content):
    """Fails if it is a traceback where the run goes on, or where it is reported on."""
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(UserError, match=r"environment\.json: damaged: .* is no environment"):
        environments(tmp_path)


@pytest.mark.parametrize("step", ["1e400", "true", '"3"', "3.5", "null"])
def test_h13_a_record_whose_step_is_no_number_is_damaged(tmp_path, step):
    """Fails if it is a traceback, as of what no integer is, or counts as step 1."""
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{{"step": {step}}}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged"):
        read_metrics(tmp_path)


def test_oneline_an_environment_that_is_no_object(tmp_path):
    """Fails if it is a traceback."""
    (tmp_path / "environment.json").write_text("[]")
    with pytest.raises(UserError, match=r"environment\.json: damaged"):
        environments(tmp_path)


def test_r1_a_result_without_scores_is_no_result_of_a_study(run, tmp_path, capsys):
    """Fails if a cell that `lm train` has trained counts as scored: its numbers never come."""
    trained = train_run(run, tmp_path)
    assert results({"cell": run}, tmp_path.parent / "no")[0].result is None
    assert results({tmp_path.name: run}, tmp_path.parent)[0].result is None
    assert "trained and not scored" in capsys.readouterr().err
    scored = train_run(run, tmp_path, evaluate=lambda _: makers.evaluation())
    assert scored == replace(trained, evaluation=makers.evaluation())
    assert results({tmp_path.name: run}, tmp_path.parent)[0].result == scored
    assert train_run(run, tmp_path) == scored


def test_r1_a_model_that_is_not_trained_to_its_end_says_so(run, tmp_path, capsys):
    """Fails if the score of half a run passes for that of the run."""
    train_run(override(run, ["checkpoints.steps=8"]), tmp_path)
    capsys.readouterr()
    load_run(tmp_path)
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "checkpoints" / str(steps(run)))
    load_run(tmp_path)
    assert (
        f"not trained to its end: this is step {steps(run) - 8} of" in capsys.readouterr().err
    )
