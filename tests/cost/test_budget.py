"""Planning: from a budget and a law to runs that spend it."""

import contextlib
import io
import itertools
import json
import math
import os
import threading

import msgspec
import numpy as np
import pytest

from lm import cli
from lm.config import UserError, parse
from lm.cost import budget, ledger
from lm.cost.chips import parse_slice
from lm.model import Transformer
from lm.objectives import Masked
from lm.output.numbers import ends, short
from lm.run import Run
from lm.scaling.data_constrained import DataConstrained
from lm.scaling.fit import Fit
from lm.scaling.isoflop import Isoflop
from lm.scaling.laws import BESIROGLU, MUENNIGHOFF, parametric_loss
from lm.scaling.saved import read_law
from lm.scaling.table import DataError

PIECES = 32_768
LINES = Fit(Isoflop(), {"k_N": 0.1, "a": 0.5, "k_L": 20.0, "x": 0.05}, 0.0, 9, 7)
REPEATED = Fit(DataConstrained(), MUENNIGHOFF, 0.0, 182, 175)


def test_the_best_split_is_the_published_one():
    """Fails if N and D are exchanged, the 6 is lost, or Hoffmann's constants are taken."""
    found = budget.optimum(budget.DEFAULT, 5.76e23)
    assert found["params"] == pytest.approx(7.225e10, rel=1e-3)
    assert found["tokens"] == pytest.approx(1.329e12, rel=1e-3)
    assert "ci95" not in found


@pytest.mark.parametrize(
    ("fit", "unique"), [(budget.DEFAULT, None), (LINES, None), (REPEATED, 1e9)]
)
def test_the_best_tokens_of_a_size_are_those_of_its_budget(fit, unique):
    """Fails if D* is C / 6N at the budget that is asked for and not at the size's own."""
    for flops in (1e17, 1e19, 1e22):
        best = budget.optimum(fit, flops, unique)
        assert 6 * best["params"] * best["tokens"] == pytest.approx(flops)
        found = budget.best_tokens(fit, best["params"], unique)
        assert found == pytest.approx(best["tokens"], rel=1e-3)
    assert budget.best_tokens(fit, 1e60, unique) is None


@pytest.mark.parametrize("convention", ["total", "non_embedding", "matmul"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": Transformer(mlp="swiglu", kv_heads=1, embedding="untied")},
        {"objective": Masked()},
    ],
    ids=["causal", "swiglu", "masked"],
)
def test_a_ladder_is_legal_rises_and_spends_its_budgets(convention, changes):
    """Fails if a shape is not the nearest to N*, or tokens are cut off or spent as 6ND.

    Or if N* is compared with another convention's count than the one that was named.
    """
    base = msgspec.structs.replace(budget.PLANNED, **changes)
    rungs = budget.ladder(base, budget.DEFAULT, 2e19, rungs=4, convention=convention)
    assert [rung.budget for rung in rungs] == [2e19 / 4**k for k in (3, 2, 1, 0)]
    for rung in rungs:
        model = rung.run.model
        assert model.check() is None and model.head_size == 64
        assert model.width == 64 * model.depth and model.mlp == base.model.mlp
        assert rung.run.data.batch.bit_count() == 1
        step = rung.cost.flops / rung.cost.steps
        assert abs(rung.cost.flops - rung.budget) < step
        best = budget.optimum(budget.DEFAULT, rung.budget)["params"]

        def off(depth: int, model=model, best=best) -> float:
            run = Run(model=model.at_depth(depth))
            return abs(math.log(getattr(ledger.parameters(run, PIECES), convention) / best))

        assert off(model.depth) == min(off(model.depth + by) for by in (-1, 0, 1))
    for below, above in itertools.pairwise(rungs):
        assert below.run.model.depth < above.run.model.depth
        assert below.tokens_best < above.tokens_best and below.batch <= above.batch
        rates = [rung.run.optimizer.learning_rate for rung in (below, above)]
        assert rates[0] > rates[1]


def test_hours_are_flops_over_what_the_slice_does():
    """Fails if cores are taken for chips, minutes for hours, or utilization is left out."""
    (rung,) = budget.ladder(budget.PLANNED, budget.DEFAULT, 1e19, rungs=1)
    hours = rung.cost.flops / (8 * 459e12 * 0.5) / 3600
    assert parse_slice("v5p-16").hours(rung.cost.flops, 0.5) == pytest.approx(hours)
    # What is computed again is not in the utilization, nor in the budget.
    again = msgspec.structs.replace(budget.PLANNED, remat="block")
    (other,) = budget.ladder(again, budget.DEFAULT, 1e19, rungs=1)
    assert other.cost.flops == rung.cost.flops and other.cost.flops_rematerialized > 0


def test_small_budgets_have_fewer_rungs():
    """Fails if a rung far above its N* is kept, or of two with one shape the smaller one is."""
    rungs = budget.ladder(budget.PLANNED, budget.DEFAULT, 2e16, rungs=40)
    depths = [rung.run.model.depth for rung in rungs]
    assert 1 < len(depths) == len(set(depths)) < 6
    largest = {}
    for spent in (2e16 / 4**k for k in range(8, -1, -1)):
        params = budget.optimum(budget.DEFAULT, spent)["params"]
        depth = budget.nearest_depth(budget.PLANNED.model, PIECES, params, "total")
        largest[depth] = spent
    assert [rung.budget for rung in rungs] == [largest[depth] for depth in depths]
    with pytest.raises(UserError, match="smallest shape"):
        budget.ladder(budget.PLANNED, budget.DEFAULT, 1e9, rungs=3)


@pytest.fixture
def law(tmp_path):
    """What `lm fit --json` writes for runs of a known law."""
    noise = np.random.default_rng(0).normal(0, 2e-3, 24)
    rows = [
        (
            params,
            tokens,
            parametric_loss(BESIROGLU, params, tokens) * math.exp(noise[4 * i + j]),
        )
        for i, params in enumerate(np.geomspace(1e7, 1e10, 6))
        for j, tokens in enumerate(np.geomspace(1e9, 1e12, 4))
    ]
    table, out = tmp_path / "runs.csv", tmp_path / "law.json"
    lines = ["params,tokens,loss", *(",".join(map(str, row)) for row in rows)]
    table.write_text("\n".join(lines))
    options = ["--bootstrap", "50", "--predict", "flops=1e20", "--json"]
    with out.open("w") as file, contextlib.redirect_stdout(file):
        cli.main(["fit", str(table), *options])
    return out


def numbers(*arguments):
    """What `lm budget --json` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        cli.main(["budget", *arguments, "--json"])
    return json.loads(out.getvalue())


def test_intervals_are_those_of_the_fit(capsys, tmp_path, law):
    """Fails if draws are not written, are read in another order, or are rounded away."""
    options = ["--law", str(law), "--slice", "v5e-16", "--rungs", "3"]
    given = ["--flops", "1e20", *options, "objective.type=masked"]
    cli.main(["budget", *given])
    printed, found = capsys.readouterr().out, numbers(*given)
    (expected,) = json.loads(law.read_text())["predictions"]
    assert len(law.read_text().splitlines()) < 100  # draws are a line each
    for name in ("params", "tokens"):
        assert found["optimum"][name] == pytest.approx(expected[name])
        assert found["optimum"]["ci95"][name] == pytest.approx(expected["ci95"][name], rel=1e-6)
        assert ends(expected["ci95"][name], short) in printed
    assert "masked" in printed and "assume 40% of peak" in printed
    assert "starting points from other data" in printed
    for rung in found["rungs"]:
        run = parse(Run, json.dumps(rung["run"]), "rung")
        assert ledger.cost(run, PIECES).flops == rung["flops"] and run.objective == Masked()
        assert f"{rung['steps']:,}" in printed


def test_what_the_law_doubts_is_repeated(capsys, tmp_path, law):
    """Fails if a law's warnings end with its file, or a single law's intervals are invented."""
    saved = json.loads(law.read_text()) | {"warnings": ["one ratio of N to D"], "draws": {}}
    law.write_text(json.dumps(saved))
    cli.main(["budget", "--flops", "1e20", "--law", str(law), "--rungs", "1"])
    printed = capsys.readouterr().out
    assert "warning: one ratio of N to D" in printed and "no intervals" in printed
    cli.main(["budget", "--flops", "1e20", "--rungs", "1"])
    assert "2404.10102" in capsys.readouterr().out


def test_f5_a_budget_beyond_the_runs_is_said(capsys, tmp_path, law):
    """Fails when a law drawn on far beyond its rows looks like one that is not."""
    for options in (["--law", str(law)], []):
        for flops, far in (("1e27", True), ("1e20", False)):
            given = ["--flops", flops, "--rungs", "1", *options]
            cli.main(["budget", *given])
            assert ("extrapolated: the law was fit to params" in capsys.readouterr().out) is far
            notes = numbers(*given)["notes"]
            assert any("extrapolated" in note for note in notes) is far
    saved = json.loads(law.read_text())
    assert saved["ranges"]["params"] == [1e7, 1e10]


def test_f3_no_budget_is_split_by_a_law_that_does_not_say_how(capsys, tmp_path, law):
    """Fails when what a fit could not identify is forgotten in its file."""
    law.write_text(json.dumps(json.loads(law.read_text()) | {"unidentified": ["alpha"]}))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["budget", "--flops", "1e20", "--law", str(law)])
    assert stopped.value.code == 2
    assert "do not say alpha, so there is no best split" in capsys.readouterr().err


def _law(**changes):
    lines = {"k_N": 0.1, "a": 0.5}
    return {"law": "power", "parameters": lines, "objective": 0.0, "rows_used": 9} | changes


GROUP = {"parameters": {"k_N": 0.1, "a": 0.5}, "objective": 0.0, "rows_used": 9}


def test_h8_rungs_below_the_runs_are_said(capsys, tmp_path, law):
    """Fails when only the budget at the top is held to the runs, and not the ladder's foot."""
    low, _ = json.loads(law.read_text())["ranges"]["flops"]

    def notes(rungs):
        flops, options = str(10 * low), ["--law", str(law), "--rungs", str(rungs)]
        cli.main(["budget", "--flops", flops, *options])
        return capsys.readouterr().out

    assert "downward" not in notes(2)
    said = notes(3)
    assert f"fit to flops of {low:.3g} and more, and 1 of 3 rungs spend less" in said
    assert f"down to {10 * low / 16:.3g}" in said


def test_h9_hours_say_of_which_products(capsys):
    """Fails when a float32 ladder's hours are those of bfloat16 without a word."""
    command = ["budget", "--flops", "1e20", "--rungs", "1", "--slice", "h100-8"]
    cli.main(command)
    assert "several times as long" not in capsys.readouterr().out
    cli.main([*command, "precision=float32"])
    assert "in bfloat16) assume 40% of peak" in (said := capsys.readouterr().out)
    assert "precision=float32 takes several times as long" in said


def test_oneline_a_pipe_is_no_law(tmp_path):
    """Fails if it is opened, which waits until somebody writes to it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("{}",))
    writer.start()
    try:
        with pytest.raises(DataError, match=r"pipe: not a file$"):
            read_law(pipe, None)
    finally:
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)


@pytest.mark.parametrize(
    ("options", "saved", "says"),
    [
        (["--flops", "-1e18"], None, "--flops"),
        (["--flops", "nan"], None, "--flops nan"),
        (["--flops", "many"], None, "--flops"),
        (["--slice", "v5-16"], None, "v5e-16"),
        (["--slice", "v5e-7"], None, "nearest: v5e-4, v5e-8"),
        (["--slice", ""], None, "no such slice"),
        (["--mfu", "40"], None, "--mfu 40"),
        (["--flops", "1e300"], None, "beyond any model"),
        (["--rungs", "0"], None, "--rungs 0"),
        (["--data-length", "1"], None, "data.length"),
        (["--group", "x"], None, "which --law"),
        (["--law", "nowhere.json"], None, "nowhere.json"),
        (["model.width=512"], None, "the ladder sets model.width"),
        (["optimizer.base_width=64"], None, "a rate for every width"),
        (["model.kv_heads=7"], None, "model.kv_heads"),
        (["objective.type=spans"], None, "objective"),
        ([], "E = 1.8", "no file of lm fit"),
        ([], {"rows": []}, "no file of lm fit"),
        ([], _law(parameters={"k_L": 20.0, "x": 0.05}), "no N*"),
        ([], _law(parameters={"k_N": 0.1, "a": -0.5}), "does not grow"),
        ([], _law(law="cubic"), "no law cubic; one of parametric, power"),
        ([], _law(against="params"), "predicts from params alone"),
        ([], _law(law="parametric", parameters={"E": 1.8, "alpha": 0.3}), "no parameter"),
        ([], _law(law="data-constrained", parameters=dict(MUENNIGHOFF)), "--unique"),
        ([], _law(groups={"bert": GROUP, "gpt": GROUP}), "--group: bert, gpt"),
        (["--group", "t5"], _law(groups={"bert": GROUP, "gpt": GROUP}), "bert, gpt"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, tmp_path, monkeypatch, options, saved, says):
    """Fails if a mistake is a traceback, exits with another code, or leaves a file behind."""
    monkeypatch.chdir(tmp_path)
    if saved is not None:
        text = saved if isinstance(saved, str) else json.dumps(saved)
        (tmp_path / "law.json").write_text(text)
        options = [*options, "--law", "law.json"]
    flops = [] if "--flops" in options else ["--flops", "1e20"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(["budget", *flops, *options])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("lm: ") and said.err.count("\n") == 1
    assert says in said.err
    assert {path.name for path in tmp_path.iterdir()} <= {"law.json"}
