"""Equal trials: as many for each, a choice that never saw the dev file, and going on."""

import json
import random
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from lm.config import UserError, dump
from lm.data import Tabular
from lm.evaluate.effort import Effort
from lm.evaluate.glue import LabelledSet
from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.metrics import Estimate
from lm.model import Transformer
from lm.objectives import Causal, Classify, Regress
from lm.run import Start, validate
from lm.study import jobs, runner
from lm.study.analyses import tuning
from lm.study.grid import ANY_ORDER, GPT, STUDY, StudyRun
from lm.study.trials import Attempt, EqualTrials, Tuned, TunedTask, Way, choices, compared_rows
from lm.train import bookkeeping, loop
from lm.train.train import train_run
from tests.makers import evaluation, result, save_untrained


@pytest.fixture
def equal(run, tmp_path) -> EqualTrials:
    """Two variants on one made-up task, in two ways."""
    for part, number in (("train", 60), ("dev", 10)):
        lines = [
            {"text": " ".join(["one", "two"][n % 2 :] * (1 + n % 3)), "label": str(n % 2)}
            for n in range(number)
        ]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    train, scored = (
        Tabular(paths=(f"{tmp_path}/{part}.jsonl",), label="label", classes=("0", "1"))
        for part in ("train", "dev")
    )
    task = TunedTask("made up", LabelledSet(train, scored, Classify(), "accuracy"), 512, 0.7)
    return EqualTrials(
        {
            "causal": Tuned(GPT, (f"{STUDY}/causal-1",), run),
            "any_order": Tuned(ANY_ORDER, (f"{STUDY}/any_order-1",), run),
        },
        {"made_up": task},
        {
            "head": Way("head alone", (1e-2,), trainable=("head_*",)),
            "whole": Way("whole", (1e-3, 1e-2)),
        },
        seeds=2,
        data=replace(run.data, batch=8),
        settings={"precision": "float32", "trackers": ()},
    )


def finished(equal, directory, losses) -> list[StudyRun]:
    """Trials with the validation losses of their rates, and what dev files would say."""
    cells = []
    for trial in equal.trials():
        loss = losses[trial.rate] + 0.1 * trial.seed
        cell = StudyRun(
            trial.name, equal.run(trial), result(validation_loss=loss), directory / trial.name
        )
        (cell.directory / "checkpoints").mkdir(parents=True)
        cells.append(cell)
    return cells


def test_every_variant_has_the_same_trials(equal):
    """Fails if a variant has a rate, a seed or a token more, or sees its own text otherwise."""
    runs = equal.runs()
    assert len(runs) == 2 * (1 + 2) * 2
    by_variant = {
        variant: {
            trial[1:]: equal.run(trial) for trial in equal.trials() if trial[0] == variant
        }
        for variant in equal.tuned
    }
    first, second = by_variant.values()
    assert first.keys() == second.keys()
    for key, one in first.items():
        other = second[key]
        assert (one.tokens, one.seed, one.optimizer) == (512, key[-1], other.optimizer)
        changed = replace(other, start=one.start, objective=one.objective)
        assert changed == one and validate(one) == one
        assert one.objective.attention == "causal"
        assert other.objective.attention == "bidirectional"
        assert other.start.path == f"{STUDY}/any_order-1"


def test_no_trial_reads_what_is_scored(equal):
    """Fails if the dev file is a part of what is trained on, or held out of it."""
    for run in equal.runs().values():
        assert "dev.jsonl" not in dump(run) and "train.jsonl" in dump(run)
        assert run.data.validation == equal.data.validation


def test_seeds_start_from_models_in_turn(equal):
    """Fails if all seeds start from the first of several models."""
    tuned = equal.tuned["causal"]._replace(starts=("a", "b"))
    equal = equal._replace(tuned={"causal": tuned}, seeds=3)
    starts = {run.seed: run.start.path for run in equal.runs().values()}
    assert starts == {0: "a", 1: "b", 2: "a"}


def test_the_choice_is_made_on_validation_and_the_rest_is_never_scored(
    equal, tmp_path, monkeypatch
):
    """Fails if a rate is chosen by the dev file, or one that was not chosen is scored on it."""
    losses = {1e-3: 0.9, 1e-2: 0.4}
    cells = finished(equal, tmp_path, losses)
    asked = []

    def scores(directory, corpus):
        asked.append(directory.name)
        assert corpus == equal.tasks["made_up"].labelled.scored
        # By the dev file the rate with the greater loss would be the better.
        right = np.arange(10) < (9 if "-0.001-" in directory.name else 6)
        return SimpleNamespace(columns=np.stack([np.ones(10), right, right], axis=1))

    monkeypatch.setattr(tuning, "load_model", lambda directory: directory)
    monkeypatch.setattr(tuning, "label_scores", scores)
    monkeypatch.setattr(metrics, "RESAMPLES", 40)
    tuning.score_choices(equal, cells)
    assert {choice.rate for choice in choices(equal, cells)} == {1e-2}
    assert len(asked) == 2 * 2 * 2 and not any("-0.001-" in name for name in asked)
    found = tuning.outcomes(equal, cells, tmp_path)
    assert [each.estimate.value for each in found] == [0.6] * 4
    # Of the others no checkpoint is needed any more; what was kept is not asked again.
    there = [cell.name for cell in cells if (cell.directory / "checkpoints").exists()]
    assert sorted(there) == sorted(asked)
    tuning.score_choices(equal, cells)
    assert len(asked) == 8


def test_there_is_no_choice_while_a_trial_is_missing(equal, tmp_path):
    """Fails if a variant is chosen from fewer trials than another."""
    cells = finished(equal, tmp_path, {1e-3: 0.9, 1e-2: 0.4})
    missing = Attempt("causal", "made_up", "whole", 1e-3, 1).name
    cells = [cell._replace(result=None) if cell.name == missing else cell for cell in cells]
    made = {(choice.variant, choice.way) for choice in choices(equal, cells)}
    assert made == {("causal", "head"), ("any_order", "head"), ("any_order", "whole")}


def test_rows_that_are_compared_differ_in_the_variant_alone(equal, tmp_path):
    """Fails if trials at different rates or seeds stand in one row."""
    rows = compared_rows(equal, finished(equal, tmp_path, {1e-3: 0.9, 1e-2: 0.4}))
    assert len(rows) == 6 and all(set(row) == set(equal.tuned) for row in rows.values())
    for row in rows.values():
        one, other = (cell.run for cell in row.values())
        assert (one.seed, one.optimizer, one.trainable) == (
            other.seed, other.optimizer, other.trainable,
        )  # fmt: skip


def test_differences_are_paired_by_item_and_seed(equal, monkeypatch):
    """Fails if what makes an item hard for both widens the interval of a difference."""
    monkeypatch.setattr(metrics, "RESAMPLES", 100)
    random_ = np.random.default_rng(0)
    hard = random_.random((2, 200)) < 0.5
    columns = np.stack([np.ones((2, 200)), hard, hard], axis=2).astype(float)
    better = columns.copy()
    better[:, :10, 1:] = 1
    task = equal.tasks["made_up"]
    mine, theirs = (
        tuning.Outcome(variant, task, "whole", each)
        for variant, each in ((ANY_ORDER, better), (GPT, columns))
    )
    ((outcome, gap),) = tuning.gaps_to([mine, theirs], GPT)
    assert outcome is mine and gap.value == pytest.approx((better - columns)[..., 2].mean())
    own = mine.estimate
    assert gap.high - gap.low < 0.6 * (own.high - own.low)
    assert tuning.beyond(gap) and not tuning.beyond(Estimate(value=0.1, low=-0.1, high=0.3))


class Killed(BaseException):
    """What no code answers to, as SIGKILL."""


@pytest.fixture
def study(equal, run, tmp_path) -> SimpleNamespace:
    """A study of two trials, which start from one model: each compiles a step of its own."""
    tuned = {"causal": equal.tuned["causal"]}
    ways = {"head": Way("head alone", (1e-3, 1e-2), trainable=("head_*",))}
    few = equal._replace(tuned=tuned, ways=ways, seeds=1)
    return SimpleNamespace(
        __file__=f"{tmp_path}/made_up.py",
        __doc__="Which is better?",
        SCALES=("smoke",),
        EFFORT={},
        few=few,
        runs=lambda scale: {"causal-1": run} | few.runs(),
        before=lambda scale, directory: tuning.announce(few, directory),
        after=lambda cells, directory: tuning.score_choices(few, cells),
    )


def test_a_grid_that_is_killed_at_random_goes_on_to_the_same_table(
    study, finished_run, tmp_path, patch, capsys
):
    """Fails if a trial is lost, trained twice with another end, or scored before its turn."""
    patch.setattr(runner, "draw", lambda *_: None)
    patch.setattr(jobs, "evaluate", lambda trained, effort: evaluation())
    patch.setattr(metrics, "RESAMPLES", 20)
    for name in ("whole", "killed"):
        shutil.copytree(finished_run, tmp_path / name / "made_up/smoke/causal-1")

    def table(name) -> list[Any]:
        directory = tmp_path / name / "made_up/smoke"
        runs = runner.at_hand(study.runs("smoke"), directory)
        cells = runner.results(runs, directory)
        found = tuning.outcomes(study.few, cells, directory)
        assert len(found) == 1
        return list(tuning.tuned_table(study.few, found).rows)

    runner.main(study, ["--jobs", "1", "--runs", str(tmp_path / "whole")])
    assert "found in 80% of such studies" in capsys.readouterr().out
    random_, kills = random.Random(0), 0

    def deadly(do):
        def do_and_die(*given, **named):
            if kills < 3 and random_.random() < 0.4:
                raise Killed
            found = do(*given, **named)
            if kills < 3 and random_.random() < 0.2:
                raise Killed
            return found

        return do_and_die

    patch.setattr(jobs, "train_run", deadly(train_run))
    patch.setattr(tuning, "label_scores", deadly(tuning.label_scores))
    patch.setattr(loop, "validation", deadly(loop.validation))
    while True:
        try:
            runner.main(study, ["--jobs", "1", "--runs", str(tmp_path / "killed")])
            break
        except Killed:
            kills += 1
    assert kills == 3
    assert table("killed") == table("whole")


def test_what_a_trial_starts_from_comes_first_and_is_named(study, tmp_path, capsys):
    """Fails if a trial begins from what is not trained yet, or from scratch."""
    name = Attempt("causal", "made_up", "head", 1e-3, 0).name
    with pytest.raises(SystemExit, match=r"^2$"):
        runner.main(study, ["--jobs", "1", "--runs", str(tmp_path / "runs"), "--run", name])
    said = capsys.readouterr().err
    assert f"--run {name}: it starts from causal-1, which is to be run first" in said
    runs = runner.at_hand(study.runs("smoke"), tmp_path)
    assert runs[name].start == Start(path=str(tmp_path / "causal-1"))


def test_nothing_is_tuned_of_what_diverged(study, tmp_path, monkeypatch, capsys):
    """Fails if a model that diverged ends the study, or its trials pass for finished."""

    def diverge(run, directory, **_):
        raise bookkeeping.Diverged("the loss is not finite")

    monkeypatch.setattr(jobs, "train_run", diverge)
    runs = runner.at_hand(study.runs("smoke"), tmp_path)
    assert jobs.train(runs, list(runs), tmp_path, Effort()) == list(runs)
    assert "not trained: it starts from causal-1" in capsys.readouterr().err


def test_published_models_are_tuned_where_they_are_at_hand(equal, tmp_path, patch, capsys):
    """Fails if a trial keeps a model of its own, or what is absent is not said."""
    model = Transformer(depth=1, width=24, heads=2)
    (tmp_path / "assets").mkdir()
    save_untrained(tmp_path / "assets" / "theirs", Causal(), model, length=32)
    tuned = Tuned(GPT, ("$SOME_ASSETS/theirs",))
    equal = equal._replace(tuned={"theirs": tuned}, seeds=1)
    patch.delenv("SOME_ASSETS", raising=False)
    assert runner.at_hand(equal.runs(), tmp_path) == {}
    assert "left out: 3 runs (theirs-made_up-head-0.01-seed0 ...)" in capsys.readouterr().err
    patch.setenv("SOME_ASSETS", str(tmp_path / "assets"))
    runs = runner.at_hand(equal.runs(), tmp_path)
    assert len(runs) == 3
    for found in runs.values():
        assert found.model == model and found.data.tokenizer.sentinels == 4
        assert found.start.path == f"{tmp_path}/assets/theirs"
    found = train_run(next(iter(runs.values())), tmp_path / "run")
    assert found.training.start is not None and found.costs.params_trainable == 2 * 25


def test_labels_without_a_value_are_not_counted(equal, tmp_path):
    """Fails if negative numbers are taken for none, or none for a class."""
    lines = [{"text": "a b", "label": label} for label in (-1.5, None, 2)]
    (tmp_path / "numbers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table = Tabular(paths=(f"{tmp_path}/numbers.jsonl",), label="label")
    task = TunedTask("n", LabelledSet(table, table, Regress(), "spearman"), 512, 0.2)
    assert task.labels() == [-1.5, 2]
    with pytest.raises(UserError, match="nothing"):
        task._replace(
            labelled=task.labelled._replace(scored=replace(table, paths=("/nothing",)))
        ).labels()
