"""The study of architectures: equal sizes, the rates that are reported, and planned steps."""

import json

import msgspec
import pytest

from experiments import transformer_or_recurrent as study
from lm.config import UserError
from lm.plan.found import Found
from lm.plan.machine import Machine
from lm.study.analyses import architectures
from lm.study.grid import StudyRun, parameters, variant_of
from lm.study.groups import groups_of
from tests.experiments.results import result_of


@pytest.mark.parametrize(
    "scale",
    [
        pytest.param(scale, marks=() if scale == "laptop" else pytest.mark.slow)
        for scale in study.SCALES
    ],
)
def test_widths_are_those_that_matching_finds(scale):
    """Fails if a kind has more parameters than another by more than its next width would."""
    runs = study.runs(scale)
    models = {name.split("-")[0]: run.model for name, run in runs.items()}
    assert models.keys() == study.VARIANTS.keys()
    size, step = parameters(models["transformer_causal"]), study.MULTIPLE.get(scale, 2)
    for name in ("lstm_causal", "lstm_masked", "convolution_causal", "recurrence_causal"):
        model = models[name]
        least = max(step, model.width_multiple)
        off = {
            width: abs(parameters(msgspec.structs.replace(model, width=width)) - size)
            for width in (model.width - least, model.width, model.width + least)
        }
        assert min(off, key=lambda width: off[width]) == model.width, name
        assert off[model.width] < (0.07 if scale == "smoke" else 0.04) * size
    assert models["convolution_causal"] == models["convolution_masked"]
    assert models["recurrence_causal"] == models["recurrence_masked"]


def cells_of(scale, directory=None):
    return [StudyRun(name, run, None, directory) for name, run in study.runs(scale).items()]


def test_each_variant_stands_with_its_best_rate(tmp_path):
    """Fails if a variant is reported at another's rate, at its worst, or at several."""
    best = {"transformer_causal": 0.005, "lstm_causal": 0.015}
    cells = []
    for cell in cells_of("laptop", tmp_path):
        if (variant := variant_of(cell)) in best:
            bits = 2.0 + 0.1 * (cell.run.optimizer.learning_rate != best[variant])
            cells.append(cell._replace(result=result_of(cell.run, bits)))
    groups = list(groups_of(cells, study.VARIANTS).values())
    found = architectures.best_rates(groups)
    rates = {variant_of(g.cells[0]): g.run.optimizer.learning_rate for g in found}
    assert rates == best
    table = architectures.rates_table(groups)
    assert [row["0.005"] for row in table.rows] == [2.0, 2.1]


class Fake:
    """A compiler that finds the same of all, but refuses convolutions."""

    def find(self, request):
        found = Found(mesh={"fsdp": 8}, flops=2e12, bytes=4e9)
        if request.run.model.kind == "convolution":
            return msgspec.structs.replace(found, refused="RESOURCE_EXHAUSTED")
        return found


def test_planned_steps_are_floors_and_refusals_are_kept(monkeypatch, tmp_path):
    """Fails if a floor other than the slowest is the time, or a refused step has one."""
    machine = Machine("v5e-8", 1, 8, 8, 1e12, 16e9, 1e9, platform="tpu", decides=True)
    runs = {
        name.split("-")[0]: run
        for name, run in study.runs(study.SLICE).items()
        if name.split("-")[0] in ("lstm_causal", "convolution_causal") and run.seed == 0
    }
    step = architectures.planned_step(runs["lstm_causal"], machine, Fake())
    assert (step["seconds"], step["bound"], step["compute"]) == (4.0, "memory", 2.0)
    assert step["tokens_per_second"] == 1024 * 512 / 4
    refused = architectures.planned_step(runs["convolution_causal"], machine, Fake())
    assert refused == {"refused": "RESOURCE_EXHAUSTED"}

    def none(name, slices):
        raise UserError("no compiler is here")

    monkeypatch.setattr(architectures, "find_machine", none)
    architectures.keep_planned(runs, study.SLICE, tmp_path / "planned.json")
    kept = json.loads((tmp_path / "planned.json").read_text())
    assert kept == {"slice": "v5e-8", "steps": {"why": "no compiler is here"}}
    assert "no compiler is here" in study._planned_text(kept)


def test_the_report_says_who_is_best_and_who_takes_how_long(tmp_path):
    """Fails if objectives are compared with each other, or times with another than the
    transformer's of the same objective.
    """
    cells = []
    for place, cell in enumerate(cells_of("smoke")):
        cell = cell._replace(directory=tmp_path / "smoke" / cell.name)
        cell.directory.mkdir(parents=True)
        losses = [{"step": step, "loss": 5.0 - 0.1 * step} for step in range(1, 9)]
        text = "".join(json.dumps(record) + "\n" for record in losses)
        (cell.directory / "metrics.jsonl").write_text(text)
        bits = 2.0 + 0.1 * place + ("masked" in cell.name)
        seconds = 30.0 if cell.name.startswith("lstm_causal") else 10.0
        result = result_of(cell.run, bits, device_seconds=seconds)
        cells.append(cell._replace(result=result))
    steps = {"lstm_causal": {"seconds": 1.0, "bound": "memory", "tokens_per_second": 5e5}}
    planned = {"slice": "v5e-8", "steps": steps}
    (tmp_path / "smoke" / architectures.PLANNED).write_text(json.dumps(planned))
    report = study.report(cells)
    assert "those of the causal transformer (2.000" in report.answer
    assert "those of the masked transformer (at most 3.4" in report.answer
    assert "3.0 times as long for the causal LSTM, 1.0 times" in report.answer
    assert len(report.table.rows) == 8 and not report.warnings
    tables = [t for s in report.sections for t in s.blocks if hasattr(t, "rows")]
    (row,) = [row for t in tables for row in t.rows if row.get("bound")]
    assert row["variant"] == "LSTM, causal" and row["planned"] == 5e5
    assert study.report([cell._replace(result=None) for cell in cells]).answer
