"""Evaluators that are asked while a model is trained."""

import json

import jax
import numpy as np
import pytest

from lm.config import UserError, override
from lm.evaluate.effort import Effort
from lm.evaluate.evaluators import EVALUATORS, check_evaluators, evaluate_during
from lm.evaluate.scoring import score_by, valid
from lm.evaluate.tasks import open_sheet
from lm.evaluate.tasks.base import Conditions
from lm.evaluate.tasks.candidate import ModelCandidate
from lm.evaluate.tasks.sitting import sit
from lm.run import Run
from lm.train.load import load_model, load_run
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run

NAMES = {"causal": "chain_rule", "masked": "any_order"}


@pytest.fixture
def run(run) -> Run:
    """A run that is validated on few rows."""
    return override(run, ["evaluation_rows=8"])


def records_of(directory) -> list[dict]:
    """Metrics, without what the clock decides."""
    clocks = ("tokens_per_second", "evaluation_seconds")
    records = read_metrics(directory)
    return [{n: v for n, v in record.items() if n not in clocks} for record in records]


@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_bits_per_byte_is_a_curve_beside_the_loss(run, tmp_path, objective):
    """Fails if the curve is not the first valid scorer's on the last parameters and the windows
    that were asked for, if its cost is not said, or if being asked changes training."""
    run = override(run, [f"objective.type={objective}", "evaluation_windows=5"])
    train_run(run, tmp_path / "asked", evaluate_during=evaluate_during)
    plain = override(run, ["evaluation_windows=0"])
    train_run(plain, tmp_path / "plain", evaluate_during=evaluate_during)
    asked, quiet = (records_of(tmp_path / name) for name in ("asked", "plain"))
    curve = {r["step"]: r.pop("bits_per_byte") for r in asked if "bits_per_byte" in r}
    scorers = [r.pop("scorer") for r in asked if "scorer" in r]
    assert list(curve) == [8, 16] and scorers == [NAMES[objective]] * 2
    assert asked == quiet
    costs = [r for r in read_metrics(tmp_path / "asked") if "evaluation_seconds" in r]
    assert [r["step"] for r in costs] == [8, 16]
    trained = load_run(tmp_path / "asked")
    np.testing.assert_array_equal(
        *(jax.tree.leaves(load_run(tmp_path / name).params)[0] for name in ("asked", "plain"))
    )
    effort = Effort(rows=5, replicates=1)
    scorer = next(iter(valid(run, effort).values()))
    score = score_by(trained, scorer, effort)
    assert curve[16] == pytest.approx(score.bits_per_byte, rel=1e-5)
    assert curve[16] < curve[8]
    events = next((tmp_path / "asked" / "tensorboard").iterdir()).read_bytes()
    assert b"bits_per_byte" in events


def test_a_model_that_no_scorer_is_valid_for_is_asked_nothing(run, tmp_path, monkeypatch):
    """Fails if it ends the run."""
    monkeypatch.setattr("lm.evaluate.evaluators.bits_per_byte.valid", lambda *_: {})
    train_run(
        override(run, ["evaluation_windows=5"]), tmp_path, evaluate_during=evaluate_during
    )
    assert not any("evaluation_seconds" in record for record in read_metrics(tmp_path))


def test_all_evaluators_are_asked(run, tmp_path, monkeypatch):
    """Fails if a new evaluator in the list is not asked, or its numbers do not get there."""
    monkeypatch.setattr(
        "lm.evaluate.evaluators.EVALUATORS", (*EVALUATORS, lambda trained: {"width": 16.0})
    )
    train_run(run, tmp_path, evaluate_during=evaluate_during)
    assert [r["width"] for r in read_metrics(tmp_path) if "width" in r] == [16.0, 16.0]


def test_tasks_are_curves_beside_the_loss(run, tmp_path):
    """Fails if a task is not asked of the parameters of its step, by the model's own scorer,
    or of the items that were asked for.
    """
    lines = [
        {"better": "def f ( x ) :", "worse": ": ) x ( f def"},
        {"better": "return self", "worse": "self return"},
        {"better": "import os", "worse": "os import"},
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "pairs.jsonl").write_text(data)
    task = tmp_path / "pairs.json"
    task.write_text(json.dumps({"type": "pairs", "files": ["pairs.jsonl"]}))
    asked = [f'evaluation_tasks=["{task}"]', "evaluation_items=2"]
    run = override(run, asked)
    check_evaluators(run)
    train_run(run, tmp_path / "run", evaluate_during=evaluate_during)
    records = read_metrics(tmp_path / "run")
    curve = {r["step"]: r["pairs_accuracy"] for r in records if "pairs_accuracy" in r}
    assert list(curve) == [8, 16]
    assert {r["pairs_scorer"] for r in records if "pairs_scorer" in r} == {"chain rule"}
    model = load_model(tmp_path / "run")
    sheet = open_sheet(str(task), None, Conditions(items=2))
    found = sit(ModelCandidate.of(model, "chain_rule"), sheet)
    assert found.asked == 2 and found.value == curve[16]


def test_a_task_that_cannot_be_asked_is_refused_before_training(run, tmp_path):
    """Fails if a wrong name is found at the first validation, after hours."""
    with pytest.raises(UserError, match="no such task"):
        check_evaluators(override(run, ['evaluation_tasks=["blimpp"]']))
