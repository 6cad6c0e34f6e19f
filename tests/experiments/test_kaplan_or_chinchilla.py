"""kaplan_or_chinchilla: what its report says of runs whose law is known."""

import pytest

from experiments import kaplan_or_chinchilla as study
from lm.run import steps
from lm.scaling.laws import parametric_loss
from lm.study.curves import curve_of
from lm.study.grid import StudyRun, matmul_parameters
from tests.experiments.results import cell

LAW = {"E": 2.0, "A": 60.0, "B": 172.0, "alpha": 0.3, "beta": 0.3}
"""N* ~ C^0.5 by 6 N D with the head in N, with minima inside the laptop's sizes."""


def _law(params: float, tokens: float) -> float:
    return float(parametric_loss(LAW, params, tokens))


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> list[StudyRun]:
    directory = tmp_path_factory.mktemp("runs")
    return [cell(name, run, _law, directory) for name, run in study.runs("laptop").items()]


@pytest.fixture(scope="module")
def report(cells):
    return study.report(cells)


def test_each_step_has_the_exponent_of_its_count(report):
    """Fails if a step reads other runs or counts otherwise than it says.

    All runs have one law here, so that the count alone moves the exponent: without the head,
    small models look cheap.
    """
    found = {row["step"][0]: float(row["a"].split()[0]) for row in report.table.rows}
    assert [found[number] for number in "2345"] == pytest.approx([0.5] * 4, abs=0.06)
    assert found["1"] > 0.65
    assert "in Kaplan's setting" in report.answer


def test_losses_are_read_between_validations(cells):
    """Fails if a curve is read at a wrong place: off by a validation, or in steps, not"
    " tokens."""
    curve = next(c for c in cells if "-short-" in c.name)
    track = curve_of(curve, "params_matmul")
    assert track.tokens_T[-1] == curve.result["tokens"]
    middle = 0.6 * curve.result["tokens"]
    expected = parametric_loss(LAW, curve.result["params_matmul"], middle)
    assert track.loss_at(middle) == pytest.approx(expected, rel=1e-3)


def test_trials_that_do_not_bear_out_step_5_are_a_warning(cells):
    """Fails if the report keeps still where another setting than step 5's was best."""
    trial = next(c for c in cells if "-trial-" in c.name)
    better = trial._replace(result=trial.result | {"validation_loss": 1.0})
    found = study.report([better if c is trial else c for c in cells])
    assert any("where step 5 has" in warning for warning in found.warnings)


def test_a_report_without_a_whole_step_says_that_there_is_no_answer(cells):
    """Fails if a study that was stopped early has no report, or one that claims an exponent."""
    few = [c if "-trial-" in c.name else c._replace(result=None) for c in cells]
    found = study.report(few)
    assert found.answer.startswith("There is no answer yet")
    assert not found.plots


@pytest.mark.parametrize("scale", study.SCALES)
def test_warmups_are_what_the_steps_say(scale):
    """Fails if the long warm-up differs by size, or the short one is not a token a"
    " parameter."""
    plan, long = study.PLANS[scale], study.STEPS_OF[scale].warmup
    for name, run in study.runs(scale).items():
        warmup = run.schedule.warmup * run.tokens
        if "-long-" in name:
            assert warmup == pytest.approx(min(long, run.tokens), rel=1e-6)
        else:
            params = matmul_parameters(run.model, plan.data)
            assert warmup == pytest.approx(min(params, run.tokens), rel=1e-6)
        assert steps(run) >= 8
