"""who_retrieves: what its report says of who was asked, and what it asks for."""

import json

import msgspec
import numpy as np
import pytest

from experiments import who_retrieves
from lm.evaluate.tasks import metrics
from lm.evaluate.tasks.retrieval import MEASURES
from lm.evaluate.tasks.sitting import sheet_of, sit
from lm.retrieval.measures import bm25
from lm.study import made_up
from lm.study.analyses.on_tasks import TASKS, Sitting
from lm.study.grid import StudyRun, placed, variant_of
from tests.evaluate.tasks.test_retrieval import NONE
from tests.experiments.results import result_of
from tests.experiments.test_on_tasks import sat

FOUND = {"BM25": 8, "causal": 2, "causal_titles": 5, "masked15": 3, "masked15_titles": 3}
"""Of 20 queries, how many find what they look for at once; the others never."""


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 40)


def ranked(right: int):
    """A result in which so many queries have every measure at 1, and the others at 0."""
    columns = np.zeros((1, 20, len(MEASURES)))
    columns[0, :right] = 1
    columns = tuple(tuple(map(tuple, of.tolist())) for of in columns)
    return msgspec.structs.replace(sat("lines", right), metric="ndcg_10", columns=columns)


def cells_of(directory) -> list[StudyRun]:
    return [
        StudyRun(name, run, result_of(run, 2.0, start=None), directory / name)
        for name, run in who_retrieves.runs("smoke").items()
    ]


def test_who_gains_is_told_against_its_own_start(tmp_path):
    """Fails if a gain is another's, is not paired, or BM25 is left out."""
    directory = tmp_path / "smoke"
    directory.mkdir()
    cells = cells_of(directory)
    answers = [
        Sitting(cell.name, "lines", "states", ranked(FOUND[variant_of(cell)])) for cell in cells
    ]
    answers.append(Sitting("BM25", "lines", "bm25", ranked(8), trained=False))
    (directory / TASKS).write_bytes(msgspec.json.encode(answers))
    report = who_retrieves.report(cells)
    assert "BM25 40.0 (" in report.answer and "the GPT 10.0 (" in report.answer
    assert ", +15.0 (" in report.answer and "The most has BM25." in report.answer
    rows = {row["who"]: row for row in report.table.rows}
    assert list(rows) == ["BM25", "GPT", "GPT, titles", "BERT, 15%", "BERT, titles"]
    assert rows["GPT, titles"]["start"].startswith("+15.0 (")
    assert rows["BERT, titles"]["start"] == "+0.0 (+0.0 to +0.0)"
    assert rows["GPT, titles"]["words"].startswith("−15.0 (") and "start" not in rows["GPT"]
    assert rows["GPT"]["mrr"].startswith("10.0 (")
    assert [plot.name for plot in report.plots] == ["retrieval"]
    assert report.sections[-1].heading == "What this does and does not show"
    unasked = [cell._replace(result=None) for cell in cells_of(tmp_path / "x" / "smoke")]
    bare = who_retrieves.report(unasked)
    assert bare.answer.startswith("There is no answer yet") and not bare.plots


def test_lines_that_are_made_up_can_be_found(tmp_path):
    """Fails if a pair of the training is asked for, or a row has no room for one."""
    lines = who_retrieves.before("smoke", tmp_path)
    assert lines == [f"{made_up.SCORED} queries, {made_up.SCORED} documents"]
    folder = tmp_path / made_up.FOLDER
    task = made_up.LOOKED_FOR
    assert sit(bm25(), sheet_of("lines", task, folder, NONE)).metrics["recall_10"].value > 0.7
    lines = (folder / "queries.jsonl").read_text().splitlines()
    asked = [json.loads(line)["text"] for line in lines]
    pairs = list(placed(made_up.SIDES, tmp_path).read())
    assert not {document.parts[0].text for document in pairs} & set(asked)
    assert max(len(d.text) + 4 for d in pairs) <= 64


def test_all_scales_start_from_what_stands_before(tmp_path):
    """Fails if a run of pairs has a model, a tokenizer or a seed that its start has not."""
    for scale in who_retrieves.SCALES:
        runs = who_retrieves.runs(scale)
        seen = []
        for name, run in runs.items():
            if run.start is not None and run.start.path.startswith("$STUDY/"):
                start = runs[run.start.path.removeprefix("$STUDY/")]
                assert run.start.path.removeprefix("$STUDY/") in seen
                assert (run.model, run.seed) == (start.model, start.seed)
                assert run.data.tokenizer == start.data.tokenizer
                kind = type(start.objective).__name__
                assert (run.objective.attention == "causal") == (kind == "Causal")
            seen.append(name)
        assert {variant_of(StudyRun(n, r, None, tmp_path)) for n, r in runs.items()} <= set(
            who_retrieves.VARIANTS
        )
