"""golf: what its report says of several numbers of one model."""

import msgspec
import numpy as np
import pytest

from experiments import golf
from lm.evaluate.tasks import metrics
from lm.study.analyses.ways import FILE, ScoredBy
from lm.study.grid import StudyRun, variant_of
from tests.experiments.results import result_of

SIZES = np.array([100, 300, 50, 200, 150, 80])
HARD = np.array([1.0, -0.8, 2.0, 0.5, -1.0, 0.0])
KINDS = {"any_order": "bound", "pseudo_all": "no likelihood"}
AS_PUBLISHED = {
    "any_order": 1.5, "random_order": 1.5, "confident_first": 1.45, "left_to_right": 1.42,
    "pseudo_all": 1.1, "chain_rule": 1.2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 60)


def report_of(directory, bits):
    """The report of runs that every scorer gives these bits per byte, in documents that are
    hard for all alike.
    """
    directory.mkdir(parents=True)
    cells = [
        StudyRun(name, run, result_of(run, 2.0), directory / name)
        for name, run in golf.runs("laptop").items()
    ]
    kept = [
        ScoredBy(
            run=cell.name,
            scorer=scorer,
            kind=KINDS.get(scorer, "exact"),
            bits=tuple((SIZES * (of + HARD)).tolist()),
            bytes=tuple(SIZES.tolist()),
        )
        for cell in cells
        for scorer, of in bits.items()
        if (scorer == "chain_rule") == (variant_of(cell) == "causal")
    ]
    (directory / FILE).write_bytes(msgspec.json.encode(kept))
    return golf.report(cells)


def test_each_step_of_the_published_order_is_told(tmp_path):
    """Fails if differences are not paired (documents differ by more than any step), a step is
    turned, or one is missing.
    """
    report = report_of(tmp_path / "a" / "laptop", AS_PUBLISHED)
    assert "the bound above most confident first is shown, +0.050 (+0.050" in report.answer
    assert "left to right above the GPT is shown, +0.220" in report.answer
    assert report.answer.count(" is shown") == 3
    rows = {row["scorer"]: row for row in report.table.rows}
    assert list(rows) == [name.replace("_", "-") for name in golf.SCORERS]
    assert rows["pseudo-all"]["kind"] == "no likelihood"
    assert (
        rows["pseudo-all"]["above"].startswith("−0.100 (") and rows["any-order"]["seeds"] == 2
    )
    assert rows["chain-rule"].get("above") is None
    assert [plot.name for plot in report.plots] == ["ways"]
    turned = AS_PUBLISHED | {"confident_first": 1.40}
    report = report_of(tmp_path / "b" / "laptop", turned)
    assert "most confident first above left to right is contradicted" in report.answer


def test_without_numbers_there_is_no_answer(tmp_path):
    """Fails if a run that nobody scored is taken for one that needs nothing."""
    report = report_of(tmp_path / "laptop", {})
    assert report.answer.startswith("There is no answer yet") and not report.plots
