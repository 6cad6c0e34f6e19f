"""Forecasts of a study's runs, as they are kept and as they are held to what came."""

import os
from datetime import datetime

import msgspec
import numpy as np
import pytest

from experiments import isoflop
from lm.cli import main
from lm.config import UserError
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.scaling.laws import parametric_loss
from lm.study import grid, runner
from lm.study.forecasts import foretell, read_forecast, settled
from lm.study.grid import StudyRun

TRUTH = {"E": 1.2, "A": 40.0, "B": 300.0, "alpha": 0.42, "beta": 0.41}


@pytest.fixture(scope="module")
def planned():
    """The GPT's runs of the study, and what each comes to by a known law."""
    random, found = np.random.default_rng(0), []
    for name, run in isoflop.runs("laptop").items():
        if not name.startswith("causal"):
            continue
        cost = ledger.cost(run, vocabulary_size(run.data.tokenizer))
        params = grid.matmul_parameters(run.model, run.data)
        loss = parametric_loss(TRUTH, params, cost.tokens) * np.exp(0.003 * random.normal())
        row = {"bits_per_byte": float(loss), "params_matmul": params}
        found.append((name, run, row | {"tokens": cost.tokens, "flops": float(cost.flops)}))
    return found


def cells(planned, folder, *, below=2e11) -> list[StudyRun]:
    """The runs, finished where their compute is below this, with a file each then."""
    found = []
    for name, run, row in planned:
        done = row["flops"] < below
        if done and not (folder / name).exists():
            (folder / name).mkdir(parents=True)
            (folder / name / "result.json").write_text("{}")
        found.append(StudyRun(name, run, row if done else None, folder / name))
    return found


def made_of(planned, folder):
    return foretell(
        isoflop.LAW, cells(planned, folder), study="isoflop", scale="laptop", bootstrap=60
    )


def test_runs_to_come_are_forecast_and_settled(planned, tmp_path):
    """Fails if a run is forecast at another's place, or a trial is among what is fit."""
    made = made_of(planned, tmp_path)
    to_come = [name for name, _, row in planned if row["flops"] > 2e11 and "-lr" not in name]
    assert [run.name for run in made.runs] == to_come and len(to_come) == 5
    assert len(made.fitted) == 16 and not any("-lr" in name for name in made.fitted)
    assert settled(made, cells(planned, tmp_path)) == []
    found = settled(made, cells(planned, tmp_path, below=np.inf))
    assert [each.forecast.name for each in found] == to_come
    assert max(abs(each.error) for each in found) < 0.03
    assert sum(bool(each.inside) for each in found) >= 4


def test_a_run_that_has_begun_is_not_forecast(planned, tmp_path):
    """Fails if what may be known already is called a forecast."""
    folder = tmp_path / "runs"
    first = made_of(planned, folder).runs[0].name
    (folder / first).mkdir()
    (folder / first / "metrics.jsonl").touch()
    assert first not in [run.name for run in made_of(planned, folder).runs]
    with pytest.raises(UserError, match="no run is still to come"):
        all_done = cells(planned, folder, below=np.inf)
        foretell(isoflop.LAW, all_done, study="isoflop", scale="laptop", bootstrap=60)


def test_a_forecast_that_was_changed_or_came_later_is_refused(
    capsys, monkeypatch, planned, tmp_path
):
    """Fails if a number, or a date, can be written over what was said."""
    folder, path = tmp_path / "runs", tmp_path / "forecast.json"
    monkeypatch.setattr(runner, "cells_of", lambda *_: cells(planned, folder))
    main(["predict", "isoflop/laptop", "--out", str(path), "--bootstrap", "60"])
    assert "5 runs by the parametric law of 16" in " ".join(capsys.readouterr().out.split())
    made = read_forecast(path)
    with pytest.raises(SystemExit):
        main(["predict", "isoflop/laptop", "--out", str(path)])
    assert "a forecast is not written over" in capsys.readouterr().err
    finished = cells(planned, folder, below=np.inf)
    monkeypatch.setattr(runner, "cells_of", lambda *_: finished)
    main(["settle", str(path)])
    assert "of 5 within their 95% intervals" in " ".join(capsys.readouterr().out.split())
    # The same numbers with a later date, and a number that is nearer to what came.
    later = msgspec.structs.replace(made, made="2100-01-01T00:00:00+00:00")
    nearer = msgspec.structs.replace(made.runs[0], loss=1.0)
    for changed in (later, msgspec.structs.replace(made, runs=(nearer, *made.runs[1:]))):
        path.write_bytes(msgspec.json.encode(changed))
        with pytest.raises(UserError, match="its digest does not fit"):
            read_forecast(path)
    with pytest.raises(UserError, match="it existed when its forecast was made"):
        settled(later.sealed(), finished)
    old = datetime.fromisoformat(made.made).timestamp() - 10
    os.utime(folder / made.runs[-1].name / "result.json", (old, old))
    with pytest.raises(UserError, match="it existed when its forecast was made"):
        settled(made, finished)
    other = [cell._replace(run=msgspec.structs.replace(cell.run, seed=7)) for cell in finished]
    with pytest.raises(UserError, match="another run of isoflop/laptop now"):
        settled(made, other)
