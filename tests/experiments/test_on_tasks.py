"""grammar and shots: what their reports say of tasks that were not sat."""

import msgspec
import numpy as np
import pytest

from experiments import grammar, shots
from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.metrics import Estimate
from lm.evaluate.tasks.result import GroupResult, TaskResult
from lm.study.analyses.on_tasks import TASKS, Sitting
from lm.study.grid import StudyRun, variant_of
from tests.experiments.results import result_of


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 40)


def sat(task, right, kind="exact"):
    """A result of 20 items, of which so many are right, the first ones in one part."""
    columns = np.zeros((1, 20, 7))
    columns[0, :right, 0] = 1
    value = right / 20
    parts = {"agreement": columns[0, :10, 0].mean(), "islands": columns[0, 10:, 0].mean()}
    return TaskResult(
        task=task,
        model="",
        metric="accuracy",
        value=value,
        low=value,
        high=value,
        metrics={"accuracy": Estimate(value=value, low=value, high=value)},
        by_seed={},
        groups={name: GroupResult(value=float(of), asked=10) for name, of in parts.items()},
        baselines={"chance": 0.5},
        scorer="",
        kind=kind,
        around="",
        prompt="",
        shots=0,
        seeds=(0,),
        calibration=None,
        asked=20,
        cut=0,
        cut_tokens=0,
        places="",
        columns=tuple(tuple(map(tuple, of.tolist())) for of in columns),
    )


def cells_of(study, folder, scale="smoke"):
    return [
        StudyRun(name, run, result_of(run, 2.0), folder / name)
        for name, run in study.runs(scale).items()
    ]


def keep(folder, answers):
    (folder / TASKS).write_bytes(msgspec.json.encode(answers))


def test_grammar_says_who_is_right_and_by_which_scorer(tmp_path):
    """Fails if a scorer's number is another's, a kind is lost, or the n-gram is left out."""
    cells = cells_of(grammar, tmp_path)
    right = {"left_to_right": 11, "any_order": 9, "pseudo_all": 17}
    answers = []
    for cell in cells:
        if variant_of(cell) == "causal":
            answers.append(Sitting(cell.name, "lines", "chain_rule", sat("lines", 14)))
            continue
        for scorer, count in right.items():
            kind = {"any_order": "bound", "pseudo_all": "no likelihood"}.get(scorer, "exact")
            answers.append(Sitting(cell.name, "lines", scorer, sat("lines", count, kind)))
    counted = Sitting("5-gram, 8.2k tokens", "lines", "5-gram", sat("lines", 10), trained=False)
    keep(tmp_path, [*answers, counted])
    report = grammar.report(cells)
    assert "of 20 pairs: by the GPT 70.0%, the BERT trained at 15% 85.0% by pseudo all and" in (
        report.answer
    )
    assert "45.0% by any order" in report.answer
    assert report.answer.endswith("a 5-gram model of the same rows 50.0%.")
    kinds = {(row["who"], row.get("scorer")): row.get("kind") for row in report.table.rows}
    assert kinds["BERT, 15%", "any order"] == "bound"
    assert kinds["BERT, 15%", "pseudo all"] == "no likelihood"
    assert ("chance", None) in kinds
    rows = {row["run"]: row for row in report.rows}
    assert rows[cells[0].name]["lines_chain_rule"] == 0.7
    assert [plot.name for plot in report.plots] == ["accuracy", "phenomena"]


def test_shots_stand_beside_the_best_reader(tmp_path):
    """Fails if a number of examples is another's, or the best reader is of another source."""
    cells = cells_of(shots, tmp_path)
    answers = [
        Sitting(cell.name, f"shots{n}", scorer, sat(f"shots{n}", min(20, 8 + n)))
        for cell in cells
        for scorer in ("chain_rule" if variant_of(cell) == "causal" else "left_to_right",)
        for n in shots.SHOTS
    ]
    keep(tmp_path, answers)
    report = shots.report(cells)
    source = cells[0].run.data.corpus
    assert f"names {source.best_accuracy(16):.0%} of the labels, and 50% after none" in (
        report.answer
    )
    best, first, *_ = report.table.rows
    assert best["variant"] == "the best reader" and best["0"] == "50%"
    assert first["0"].startswith("40% ") and first["4"].startswith("60% ")
    assert [plot.name for plot in report.plots] == ["shots"]


@pytest.mark.parametrize("study", [grammar, shots])
def test_without_answers_there_is_none(study, tmp_path):
    """Fails if runs that nobody has asked yet are a traceback."""
    report = study.report(cells_of(study, tmp_path))
    assert report.answer.startswith("There is no answer yet") and not report.plots
