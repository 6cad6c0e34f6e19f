"""Studies of a model's parts: what they vary and hold equal, and what their reports say."""

from types import ModuleType
from typing import Any

import msgspec
import pytest

from experiments import (
    encoder_decoder_or_single_stack,
    norms_and_mlps,
    positions,
    tokenizers,
)
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.evaluate import bits as scores
from lm.objectives import Causal
from lm.run import Run, steps, validate
from lm.study.analyses import longer_rows, second_half
from lm.study.grid import StudyRun, parameters
from lm.study.report import write as report
from lm.study.report.figures import svg_of
from tests.experiments.results import result_of

STUDIES = (positions, norms_and_mlps, encoder_decoder_or_single_stack, tokenizers)
EVERY = [(study, scale) for study in STUDIES for scale in study.SCALES]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 40)


def flops(run: Run) -> int:
    return ledger.cost(run, vocabulary_size(run.data.tokenizer)).flops


@pytest.mark.parametrize(("study", "scale"), EVERY)
def test_runs_differ_in_what_is_varied_alone(study, scale):
    """Fails if a variant has a rate, rows or a budget of its own, or a run is refused."""
    rest = set()
    varied = {"seed": 0, "objective": Causal()}
    for run in study.runs(scale).values():
        validate(run)
        same = {name: getattr(Run(), name) for name in study.VARIED}
        rest.add(msgspec.structs.replace(run, **varied | same))
    assert len(rest) == 1


@pytest.mark.parametrize("scale", norms_and_mlps.SCALES)
def test_mlps_have_equal_parameters(scale):
    """Fails if a width is taken of which 8/3 are no whole number."""
    sizes = {
        name.partition("_")[0]: parameters(run.model)
        for name, run in norms_and_mlps.runs(scale).items()
    }
    mlps = {size for name, size in sizes.items() if name in ("usual", *norms_and_mlps.MLPS)}
    assert len(mlps) == 1


def test_without_warm_up_nothing_else_is_changed():
    """Fails if warm-up is left out where it is not said, or a rate is another's."""
    runs = norms_and_mlps.runs("laptop")
    cold, warm = (runs[f"{name}_causal-0.44M-d0.4M-seed0"] for name in ("coldafter", "after"))
    assert msgspec.structs.replace(cold, schedule=warm.schedule) == warm
    assert (cold.schedule.warmup, warm.schedule.warmup) == (0.0, 0.05)


def test_two_stacks_are_near_one_in_parameters_or_in_flops():
    """Fails if depths are mixed up."""
    runs = {
        name.split("-")[0]: run
        for name, run in encoder_decoder_or_single_stack.runs("laptop").items()
    }
    for objective in ("spans", "end"):
        single, half, whole = (runs[f"{s}_{objective}"] for s in ("single", "half", "whole"))
        assert parameters(half.model) < 1.2 * parameters(single.model)
        assert parameters(whole.model) > 2 * parameters(single.model)
        assert flops(whole) == pytest.approx(flops(single), rel=0.1)
        assert flops(half) < 0.65 * flops(single)


@pytest.mark.parametrize("scale", tokenizers.SCALES)
def test_tokenizers_read_as_many_bytes_or_take_as_many_flops(scale):
    """Fails if rows, steps or FLOPs are those of tokens, or the overlap of rows is counted."""
    runs, plan = tokenizers.runs(scale), tokenizers.PLANS[scale]
    (budget,) = plan.scale.tokens
    causal = {name: run for name, run in runs.items() if "_causal-" in name}
    first = next(iter(causal.values()))
    for name, run in runs.items():
        _, each = tokenizers.BYTES_A_TOKEN[name.split("_")[0]]
        row = (run.data.length - 1) * each
        assert row == pytest.approx(plan.row_bytes, abs=each / 2)
        if name.split("-")[2][0] == "b":
            assert steps(run) * run.data.batch * plan.row_bytes == pytest.approx(
                budget, rel=0.01
            )
        else:
            assert abs(flops(run) - flops(first)) <= flops(run) / steps(run)


# Reports


def finished(study: ModuleType, tmp_path: Any, bits: dict[str, float]) -> list[StudyRun]:
    """All laptop runs; those whose name begins so need these bits per byte, others 2.5."""
    cells = []
    for number, (name, run) in enumerate(study.runs("laptop").items()):
        found = next((of for begin, of in bits.items() if name.startswith(begin)), 2.5)
        found += 0.001 * (number % 3) + 0.05 * run.seed
        more = {
            "unique_bytes": 250 * (run.tokens // run.data.length),
            "flops_forward": {"mlp": 3, "head": 1},
        }
        result = result_of(run, found, **more)
        cells.append(StudyRun(name, run, result, tmp_path / "laptop" / name))
    return cells


@pytest.mark.parametrize(
    ("study", "bits", "says"),
    [
        (positions, {"alibi_causal": 2.3}, "GPTs: best is ALiBi, beyond"),
        (norms_and_mlps, {"swiglu_causal": 2.3}, "GPTs, MLPs: best is SwiGLU, beyond"),
        (
            encoder_decoder_or_single_stack,
            {"whole_end": 2.3},
            "Own loss on ends of rows: best is two whole stacks on ends of rows, beyond",
        ),
        (tokenizers, {"bpe2048_causal": 2.3}, "GPTs, equal bytes: best is BPE 2,048, beyond"),
    ],
)
def test_a_report_says_who_is_best_and_is_drawn_while_most_is_missing(
    study, bits, says, tmp_path
):
    """Fails if one is not compared, what is varied is warned of, or one run is too few."""
    cells = finished(study, tmp_path, bits)
    drawn = study.report(cells)
    assert says in drawn.answer and drawn.warnings == ()
    assert drawn.sections[-1].heading == "What this does and does not show"
    assert len(drawn.plots) >= 1
    report.table(drawn)
    few = [cell if at < 1 else cell._replace(result=None) for at, cell in enumerate(cells)]
    drawn = study.report(few)
    assert "There is no answer yet" in drawn.answer
    assert all(svg_of(plot.figure) for plot in drawn.plots)


def test_what_is_asked_of_finished_runs_has_the_names_that_reports_read(tmp_path, monkeypatch):
    """Fails if a study asks another question than its report reads, or at another scale."""
    asked = {}

    def ask(cells, name, questions):
        asked[name] = questions.keywords

    monkeypatch.setattr("lm.study.analyses.parts.ask", ask)
    positions.after([], tmp_path / "laptop")
    encoder_decoder_or_single_stack.after([], tmp_path / "smoke-0af3b1")
    assert asked[longer_rows.NAME]["rows"] == positions.LONG["laptop"]
    assert asked[second_half.NAME] == {"rows": 16}
