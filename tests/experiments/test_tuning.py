"""transfer and lora_rank: what their reports say of trials that were not trained."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from experiments import lora_rank, transfer
from lm.artifact import Consumed, Started
from lm.evaluate.tasks import metrics
from lm.study import made_up
from lm.study.analyses.tuning import PROBES, SCORE, ItemScores
from lm.study.grid import StudyRun, placed, variant_of
from lm.study.trials import choices
from tests.experiments.results import result_of

RIGHT = {"causal": 60, "masked15": 85, "any_order": 62, "converted": 40}
"""Of a hundred items, what the variants say rightly."""


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 40)


def cells_of(study, directory: Path) -> list[StudyRun]:
    """All runs, finished; the second rate of a way has the greater loss."""
    study.before("smoke", directory)
    trained, tried, cells = study._trained("smoke"), {}, []
    for trial in study._trials("smoke").trials():
        way = study._trials("smoke").ways[trial.way]
        tried[trial.name] = way.rates.index(trial.rate)
    for name, run in study.runs("smoke").items():
        run = placed(run, directory)
        result = result_of(run, 2.0, start=None, params_trainable=None)
        if name in tried:
            result |= {"validation_loss": 0.5 + tried[name], "batches_digest": f"{run.seed}"}
        elif run.start is not None:
            consumed = Consumed(tokens=4096, targets=4000, flops=10)
            result["start"] = Started(digest="d", consumed=consumed)
        assert (name in trained) != (name in tried)
        cells.append(StudyRun(name, run, result, directory / name))
        cells[-1].directory.mkdir()
    return cells


def said(truth: np.ndarray, right: int, seed: int) -> ItemScores:
    """Of items the first ones are said rightly."""
    guess = np.where(np.roll(np.arange(100) < right, seed), truth, 1 - truth)
    columns = np.stack([truth, guess, truth == guess], axis=1)
    return ItemScores(digest="", columns=tuple(map(tuple, columns.tolist())))


def keep_scores(study, cells, directory: Path) -> None:
    equal = study._trials("smoke").at(directory)
    truths = {name: np.array(task.labels()) for name, task in equal.tasks.items()}
    for choice in choices(equal, cells):
        for cell in choice.cells:
            found = said(truths[choice.task], RIGHT[variant_of(cell)], cell.run.seed)
            (cell.directory / SCORE).write_bytes(msgspec.json.encode(found))
    if study is lora_rank:
        return
    (directory / PROBES).mkdir()
    for variant in equal.tuned:
        for name, truth in truths.items():
            found = said(truth, RIGHT[variant] - 5, 0)
            (directory / PROBES / f"{variant}-{name}.json").write_bytes(
                msgspec.json.encode(found)
            )


def test_transfer_says_who_is_ahead_and_by_how_much(tmp_path):
    """Fails if a score is another's, a way is left out, or a gap is of the wrong sign."""
    directory = tmp_path / "smoke"
    cells = cells_of(transfer, directory)
    keep_scores(transfer, cells, directory)
    report = transfer.report(cells)
    order = {row["variant"]: row for row in report.table.rows if row["task"] == "order"}
    assert {row["metric"] for row in order.values()} == {"matthews"}
    assert order["BERT, 15%"]["whole"].startswith("70.")
    assert order["GPT"]["whole"].startswith("20.")
    assert order["GPT"]["probe"].startswith("10.")
    ways = ["linear probe", "head alone", "whole"]
    # A page has room for seven columns; a row a variant, however many there are.
    assert [column.title for column in report.table.columns[3:]] == ways
    assert len(report.table.rows) == 2 * 4
    assert "the BERT trained at 15% 70." in report.answer
    assert "ahead of it: the BERT trained at 15% (order, linear probe)" in report.answer
    tables = {s.heading: s.blocks for s in report.sections}
    gaps = tables["How far apart"][0].rows
    assert len(gaps) == 3 * 2 * 3
    signs = {(row["variant"], row["task"], row["way"]): row["gap"] for row in gaps}
    assert signs["BERT, 15%", "order", "whole"].startswith("+")
    assert signs["BERT, 15%", "order", "whole"].endswith("*")
    assert signs["GPT, then BERT", "order", "head alone"].startswith("−")
    assert all(row["smallest"] == pytest.approx(2.8016 * row["seen"], rel=1e-3) for row in gaps)
    assert len(tables["What the dev files can show"]) == 2
    tried = [row for row in tables["The trials"][0].rows if row["way"] == "whole"]
    assert {row["trials"] for row in tried} == {4}
    assert {row["losses"] for row in tried} == {"0.001: 0.500*, 0.01: 1.500"}
    before = tables[transfer.sections.EQUAL][0].rows
    (converted,) = [row for row in before if row["variant"] == "GPT, then BERT"]
    assert converted["tokens"] == before[0]["tokens"] == 8192
    equal = {row["what"]: row for row in tables[transfer.sections.EQUAL][1].rows}
    assert equal["all other settings"]["detail"] == "only objective and start differ"
    assert [plot.name for plot in report.plots] == ["transfer"]
    assert not [w for w in report.warnings if "Not equal" in w or "Not finished" in w]


def test_lora_rank_says_how_few_are_enough(tmp_path):
    """Fails if trained parameters are all that there are, or a rank is another's."""
    directory = tmp_path / "smoke"
    cells = cells_of(lora_rank, directory)
    keep_scores(lora_rank, cells, directory)
    report = lora_rank.report(cells)
    rows = {(row["variant"], row["way"]): row for row in report.table.rows}
    one, four, whole = (rows["GPT", way] for way in ("rank 1", "rank 4", "whole"))
    assert len(rows) == 2 * 4 and rows["GPT", "head alone"]["trained"] == 2 * 33
    assert four["trained"] - 66 == 4 * (one["trained"] - 66)
    assert whole["trained"] > 10 * one["trained"] and whole["memory"] > one["memory"]
    assert whole["gap"] is None and one["gap"].startswith("+0.0")
    assert "with 66, the fewest that are not behind it" in report.answer
    assert [plot.name for plot in report.plots] == ["lora_rank"]


@pytest.mark.parametrize("study", [transfer, lora_rank])
def test_without_scores_there_is_no_answer(study, tmp_path):
    """Fails if trials that nobody has scored yet are a traceback."""
    report = study.report(cells_of(study, tmp_path / "smoke"))
    assert report.answer.startswith("There is no answer yet") and not report.plots


def test_what_is_made_up_fits_and_differs(tmp_path):
    """Fails if a line stands in both files, labels are one, or a pair is longer than a row."""
    made_up.write_made_up(tmp_path)
    for labelled in (made_up.order(), made_up.alike()):
        train, scored = (
            list(placed(table, tmp_path).read()) for table in (labelled.train, labelled.scored)
        )
        assert (len(train), len(scored)) == (made_up.TRAIN, made_up.SCORED)
        assert not {d.text for d in train} & {d.text for d in scored}
        assert len({d.parts[0].values["label"] for d in scored}) > 1
        # A bos and an eos token, and another eos token in a pair.
        assert max(len(d.text.encode()) + 1 + len(d.parts) for d in train + scored) <= 64


def test_the_converted_model_has_read_as_much_as_the_others():
    """Fails if what it started from is left out of its budget, or reads the same rows again."""
    for scale in transfer.SCALES:
        trained = {name.split("-")[0]: run for name, run in transfer._trained(scale).items()}
        assert trained["half"].tokens + trained["converted"].tokens == trained["causal"].tokens
        assert trained["half"].seed != trained["converted"].seed
        assert trained["converted"].objective == trained["masked15"].objective
        assert trained["converted"].model == trained["half"].model
