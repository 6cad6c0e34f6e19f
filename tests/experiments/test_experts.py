"""The study of experts: what it holds equal, and that its report follows the numbers."""

import msgspec
import numpy as np
import pytest

from experiments import experts
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.study.grid import StudyRun
from tests.experiments.results import result_of


def runs(scale="laptop"):
    """Those of the first seed, by model, objective and what is equal."""
    return {
        (*name.split("-")[0].split("_"), name.split("-")[2][0]): run
        for name, run in experts.runs(scale).items()
        if run.seed == 0
    }


@pytest.mark.parametrize("scale", experts.SCALES)
def test_what_is_equal_is_equal(scale):
    """Fails if experts are wider than their share of the FLOPs, or the wide model is not."""
    found = runs(scale)
    for how in experts.OBJECTIVES:
        dense, mixture, wide, short = (
            found[name, how, budget]
            for name, budget in (("dense", "d"), ("mixture", "d"), ("wide", "d"), ("wide", "f"))
        )
        size = vocabulary_size(dense.data.tokenizer)
        counts = {run: ledger.parameters(run, size) for run in (dense, mixture, wide)}
        flops = [ledger.cost(run, size).flops for run in (dense, mixture, short)]
        router = dense.model.depth * dense.model.width * experts.EXPERTS.count
        assert counts[mixture].total == counts[wide].total + router
        assert counts[mixture].active == counts[dense].total + router
        assert flops[1] == pytest.approx(flops[0], rel=0.02)
        assert flops[2] == pytest.approx(flops[0], rel=0.02)
        same = msgspec.structs.replace(mixture, model=dense.model)
        assert same == dense


@pytest.mark.parametrize(
    ("gain", "says"),
    [(0.3, "−0.300 ± "), (0.0, "not beyond the error, against the one of as many FLOPs")],
)
def test_the_report_says_what_a_mixture_is_worth(gain, says, tmp_path):
    """Fails if the sign is turned, models are mixed up, or errors are not looked at."""
    draw = np.random.default_rng(0)
    bits = {"dense": 3.0, "mixture": 3.0 - gain, "wide": 2.9}
    cells = []
    for name, run in experts.runs("laptop").items():
        model = name.partition("_")[0]
        found = bits[model] + (0.2 if "-f" in name else 0) + 0.001 * draw.normal()
        loads = {"load_max": 1.5, "load_entropy": 0.9, "load_balance": 1.1}
        terms = {f"validation_{key}": x for key, x in loads.items()}
        other = {"validation_terms": terms if model == "mixture" else {}, "params_active": None}
        cells.append(StudyRun(name, run, result_of(run, found, **other), tmp_path / name))
    drawn = experts.report(cells)
    assert says in drawn.answer and drawn.answer.count("As a ") == 2
    assert "against the one of as many parameters and FLOPs" in drawn.answer
    assert drawn.warnings == ()
    rows = {row["what"]: row for row in drawn.table.rows}
    assert len(rows) == 8 and rows["GPT, dense"]["above"] is None
    assert rows["BERT, dense, wide, equal FLOPs"]["above"].startswith("+0.1")
    headings = [section.heading for section in drawn.sections]
    assert "How evenly tokens are routed" in headings
