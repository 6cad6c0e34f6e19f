"""What a law says of rows that it has not seen."""

import json

import numpy as np
import pytest

from lm.cli import main
from lm.scaling.forecast import LawForecast, forecasts_of
from lm.scaling.isoflop import Isoflop
from lm.scaling.laws import BESIROGLU, parametric_loss, parametric_optimum
from lm.scaling.parametric import Parametric
from lm.scaling.power import Power
from lm.scaling.table import Runs

DRAWS = {"bootstrap": 60, "seed": 0}


def grid(budgets=5, *, noise=0.002, seed=0) -> Runs:
    """Budgets of seven sizes about the best, of a known law."""
    axes = np.meshgrid(10.0 ** np.arange(18, 18 + budgets), np.arange(-3, 4))
    C, away = (axis.ravel() for axis in axes)
    N = parametric_optimum(BESIROGLU, C)[0] * 1.5**away
    loss = parametric_loss(BESIROGLU, N, C / 6 / N)
    loss *= np.exp(noise * np.random.default_rng(seed).normal(size=len(C)))
    return Runs(loss, params_R=N, flops_R=C).completed()


def only(law, runs, **options) -> LawForecast:
    (found,) = forecasts_of(law, law.fit(runs, **DRAWS), runs, **DRAWS, **options)
    return found


def test_the_largest_budget_is_forecast_by_the_others():
    """Fails if what is left out is fit, or the error's sign or its logarithm is lost."""
    runs = grid()
    found = only(Parametric(), runs)
    assert found.left_out == "the largest budget, 1e+22 flops" and found.beyond == 10
    assert (found.rows_used, found.rows_left_out) == (28, 7)
    (miss,) = found.misses
    assert miss.quantity == "loss" and abs(miss.bias) < 0.01 and miss.inside >= 6
    # A jump of the unseen budget alone is all error, and lies in no interval.
    jump = np.where(runs.flops_R > 3e21, 1.2, 1.0)
    moved = Runs(runs.loss_R * jump, runs.params_R, runs.tokens_R, runs.flops_R)
    (wrong,) = only(Parametric(), moved).misses
    assert wrong.bias - miss.bias == pytest.approx(-np.log(1.2)) and wrong.inside == 0


def test_intervals_are_of_one_more_run():
    """Fails if the noise of rows is left out: the law's own interval holds few of them."""
    inside, law_alone, count = 0, 0, 0
    for seed in range(2):
        runs = grid(noise=0.01, seed=seed)
        (miss,) = only(Parametric(), runs).misses
        inside, count = inside + miss.inside, count + len(miss.places)
        narrow = Parametric().fit(runs.take(runs.flops_R < 3e21), **DRAWS)
        for place in miss.places:
            draws_B = parametric_loss(narrow.draws, place["params"], place["tokens"])
            low, high = np.quantile(draws_B, [0.025, 0.975])
            law_alone += low <= place["measured"] <= high
    assert inside / count > 0.85 > law_alone / count


def test_minima_are_held_to_minima():
    """Fails if an isoFLOP law is held to runs of other sizes, or its size is not forecast."""
    loss, size = only(Isoflop(), grid(noise=0.0)).misses
    assert (loss.quantity, size.quantity) == ("loss", "params")
    assert len(loss.places) == len(size.places) == 1
    best = parametric_optimum(BESIROGLU, 1e22)[0]
    assert size.places[0]["measured"] == pytest.approx(best, rel=0.02)
    assert size.places[0]["predicted"] == pytest.approx(best, rel=0.1)
    # A power law falls on where a floor holds the truth up.
    assert loss.bias < -0.01


def test_each_budget_in_turn():
    """Fails if one budget stays in, or the order leads from the smallest."""
    runs = grid(4)
    full = Parametric().fit(runs, **DRAWS)
    found = list(forecasts_of(full.law, full, runs, **DRAWS, each=True))
    assert [one.left_out for one in found] == [
        "the largest budget, 1e+21 flops",
        *(f"the budget of 1e+{power} flops" for power in (20, 19, 18)),
    ]
    assert [one.beyond for one in found] == [10, 1, 1, 10]
    assert all(one.rows_left_out == 7 for one in found)


def test_without_budgets_the_top_decade(make_runs):
    """Fails if scattered rows are called budgets, or too few rows are fit in silence."""
    runs = make_runs().completed()
    found = only(Parametric(), runs)
    assert found.left_out.startswith("the top decade of flops, from ")
    assert found.rows_left_out == (runs.flops_R >= runs.flops_R.max() / 10).sum()
    C = 10.0 ** np.linspace(18, 18.9, 30)
    near = Runs(20 * C**-0.05, flops_R=C)
    assert only(Power(), near) == "no forecast: all rows lie within a decade of flops"
    C = 10.0 ** np.arange(18, 21)
    few = Runs(20 * C**-0.05, flops_R=C)
    assert "cannot fit a power law" in only(Power(), few)
    two = grid(2)
    assert "no forecast: 2 budgets" in only(Parametric(), two)


def test_the_command_line_forecasts(capsys, tmp_path):
    """Fails when forecasts are left out of the JSON, or are made without a bootstrap."""
    runs, path = grid(4), tmp_path / "runs.csv"
    rows = zip(*runs.known("params", "flops", "loss"), strict=True)
    path.write_text("\n".join(["params,flops,loss", *(f"{N},{C},{L}" for N, C, L in rows)]))
    options = ["fit", str(path), "--law", "isoflop", "--bootstrap", "40"]
    main([*options, "--json"])
    (one,) = json.loads(capsys.readouterr().out)["forecasts"]
    assert one["left_out"] == "the largest budget, 1e+21 flops"
    assert [miss["quantity"] for miss in one["misses"]] == ["loss", "params"]
    assert one["misses"][0]["inside"] in (0, 1) and "ci95" in one["misses"][0]["places"][0]
    main([*options, "--json", "--leave-out"])
    assert len(json.loads(capsys.readouterr().out)["forecasts"]) == 4
    main(options)
    assert "forecast without" in capsys.readouterr().out
    main([*options[:-1], "0", "--json"])
    assert "forecasts" not in json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main([*options[:-1], "0", "--leave-out"])
    said = capsys.readouterr().err
    assert "--leave-out: forecasts need intervals; not with --bootstrap 0" in said
