"""Studies of fewer bits and of students: what they train, ask and say."""

import math
from pathlib import Path

import msgspec
import pytest

from experiments import bits, distil
from lm.config import UserError, override
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.evaluate import bits as scores
from lm.evaluate.effort import Effort
from lm.objectives import Causal, Distil
from lm.run import Run, steps, validate
from lm.study import jobs, runner
from lm.study.analyses import bits as few_bits
from lm.study.analyses import parts
from lm.study.grid import StudyRun
from lm.study.report import write as report
from lm.study.report.figures import svg_of
from tests import makers
from tests.experiments.results import BYTES, HARD, result_of


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 40)


def flops(run: Run, named: dict[str, Run]) -> int:
    return ledger.cost(run, vocabulary_size(run.data.tokenizer), named).flops


@pytest.mark.parametrize("scale", distil.SCALES)
def test_students_have_equal_tokens_or_flops(scale):
    """Fails if the teacher's pass is not counted, or a student differs in more than it learns
    from.
    """
    runs = distil.runs(scale)
    for kind in distil.KINDS:
        mine = {name.split("_")[0]: run for name, run in runs.items() if f"_{kind}-" in name}
        teacher, alone, longer = (mine[way] for way in ("teacher", "alone", "longer"))
        for way in distil.TEACHING:
            taught = mine[way]
            assert isinstance(taught.objective, Distil)
            validate(taught)
            same = {"objective": alone.objective}
            assert msgspec.structs.replace(taught, **same) == alone
            assert taught.objective.of == alone.objective == teacher.objective
            spent = flops(taught, {"teacher": teacher})
            assert spent > 1.5 * flops(alone, {})
            assert abs(flops(longer, {}) - spent) <= flops(longer, {}) / steps(longer)
        assert msgspec.structs.replace(longer, tokens=alone.tokens) == alone


def test_a_teacher_is_trained_first_and_counted(tmp_path, capsys):
    """Fails if a student is trained without its teacher, or costs as much as one alone."""
    runs = distil.runs("smoke")
    here = {name: run for name, run in runs.items() if "_causal-" in name}
    names = list(here)
    assert names[0].startswith("teacher") and len(names) == 9
    text = makers.text(tmp_path)
    words = ["data.corpus.type=text", f'data.corpus.paths=["{text.paths[0]}"]']
    placed = {name: override(run, words) for name, run in here.items()}
    placed = runner.at_hand(placed, tmp_path)
    taught = next(name for name in names if name.startswith("taught"))
    with pytest.raises(UserError, match=rf"--run {taught}: it asks {names[0]}, which is to be"):
        jobs.train(placed, [taught], tmp_path, Effort())
    alone, both = (
        runner.cost({n: placed[n] for n in asked}, "v5e-1")
        for asked in ([names[0]], [names[0], taught])
    )
    assert alone != both
    effort = distil.EFFORT["smoke"]
    with makers.one_device():
        assert jobs.train(placed, [names[0], taught], tmp_path, effort) == []
    cells = runner.results(placed, tmp_path)
    assert [cell.name for cell in cells if cell.result] == [names[0], taught]
    drawn = distil.report(cells)
    assert "There is no answer yet" in drawn.answer
    assert all(svg_of(plot.figure) for plot in drawn.plots)


def finished(runs: dict[str, Run], folder: Path, needs: dict[str, float]) -> list[StudyRun]:
    cells = []
    for number, (name, run) in enumerate(runs.items()):
        found = next((of for begin, of in needs.items() if name.startswith(begin)), 2.5)
        found += 0.001 * (number % 3) + 0.05 * run.seed
        result = result_of(run, found, flops_forward={"mlp": 3, "head": 1})
        cells.append(StudyRun(name, run, result, folder / "laptop" / name))
    return cells


def test_the_report_on_students_says_what_is_gained_and_at_what(tmp_path):
    """Fails if a gain is that over another student, or equal tokens pass for equal FLOPs."""
    needs = {"taught_causal": 2.3, "longer_causal": 2.1, "longer_masked": 2.5}
    cells = finished(distil.runs("laptop"), tmp_path, needs)
    drawn = distil.report(cells)
    assert "GPTs, equal tokens: best is taught, and the text, beyond the error." in drawn.answer
    assert "GPTs, equal FLOPs: best is alone, longer, beyond the error." in drawn.answer
    assert "BERTs, equal tokens: the errors do not tell" in drawn.answer
    assert drawn.warnings == () and len(drawn.plots) == 1
    report.table(drawn)
    assert svg_of(drawn.plots[0].figure)


def rounded(cell: StudyRun, costs: dict[str, float]) -> StudyRun:
    """A finished run with its scores in each way."""
    result = dict(cell.result)
    for key, cost in costs.items():
        value = result["bits_per_byte"] + cost
        nats = [
            size * math.log(2) * (value + hard) for size, hard in zip(BYTES, HARD, strict=True)
        ]
        result |= {key: value, f"{key}_documents": (nats, list(BYTES))}
    return cell._replace(result=result)


def test_the_report_on_bits_says_which_are_enough(tmp_path, monkeypatch):
    """Fails if a way is compared with another, sizes are another's, or one that costs more
    than is said is called enough.
    """
    lost = {8: 0.001, 4: 0.01, 3: 0.1, 2: 1.0}
    ways = bits.WAYS["laptop"]
    costs = {"float32": 0.0}
    for way in ways:
        gained = 0.5 if way.quantization.method == "gptq" else 1.0
        costs[way.key] = gained * lost[way.quantization.bits]
    cells = finished(bits.runs("laptop"), tmp_path, {})
    cells = [rounded(cell, costs) for cell in cells]
    monkeypatch.setattr(parts, "with_scores", lambda cells, name: cells)
    drawn = bits.report(cells)
    assert "GPT: int4, GPTQ (4.5 bits a weight) is the least" in drawn.answer
    assert drawn.warnings == () and svg_of(drawn.plots[0].figure)
    report.table(drawn)
    by_way = {row["what"]: row for row in drawn.table.rows if row["contrast"] == "GPT"}
    assert by_way["int2, to nearest"]["weight"] == 2.5
    assert by_way["int8, GPTQ"]["weight"] == pytest.approx(8 + 16 / 128, rel=0.01)
    assert by_way["int3, GPTQ"]["above"].startswith("+0.050")
    assert by_way["float32"]["parameter"] == 32


def test_every_way_is_asked_of_a_trained_run(tmp_path):
    """Fails if a score is of another way, or of weights that are not rounded."""
    run = makers.small_run(makers.text(tmp_path))
    ways = few_bits.ways((8, 2), 8)
    name = "causal-3k-d4k-seed0"
    runs = {name: msgspec.structs.replace(run, objective=Causal())}
    effort = bits.EFFORT["smoke"]
    with makers.one_device():
        assert jobs.train(runs, [name], tmp_path / "runs", effort) == []
        cells = runner.results(runs, tmp_path / "runs")
        parts.ask(
            cells,
            few_bits.NAME,
            lambda trained: few_bits.scores(trained, effort=effort, kept=ways),
        )
    (cell,) = parts.with_scores(cells, few_bits.NAME)
    found = cell.result
    assert found["float32"] == pytest.approx(found["bits_per_byte"], abs=1e-6)
    assert abs(found["int8_nearest"] - found["float32"]) < 0.02
    assert found["int2_nearest"] != found["int2_gptq"]
    assert (
        abs(found["int8_gptq"] - found["float32"])
        < 0.02
        < abs(found["int2_nearest"] - found["float32"])
    )
