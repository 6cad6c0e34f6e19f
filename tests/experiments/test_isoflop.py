"""isoflop: what its report says of results whose law is known."""

import dataclasses
import re

import msgspec
import pytest

from experiments import isoflop
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.scaling.fit import Fit
from lm.scaling.isoflop import METHODS
from lm.scaling.laws import parametric_loss
from lm.study.analyses import isoflops
from lm.study.grid import StudyRun
from tests.experiments.results import cell

LAW = {"E": 0.0, "A": 22.0, "B": 72.0, "alpha": 0.3, "beta": 0.3}
"""N* ~ C^0.5, with minima inside the laptop's sizes."""
HANDICAP = 3.0
"""How many times the compute the BERT is given for the same loss."""


def _cells(directory) -> list[StudyRun]:
    found = []
    for name, run in isoflop.runs("laptop").items():
        masked = name.startswith("masked")
        flops = ledger.cost(run, vocabulary_size(run.data.tokenizer)).flops

        def law(params: float, tokens: float, flops=flops, masked=masked) -> float:
            # By exact FLOPs, so that the minima are where the law has them.
            return parametric_loss(
                LAW, params, flops / (HANDICAP if masked else 1) / 6 / params
            )

        found.append(cell(name, run, law, directory))
    return found


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> list[StudyRun]:
    return _cells(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def report(cells):
    return isoflop.report(cells)


def test_the_answer_has_the_exponents_and_the_multiplier_of_the_law(report):
    """Fails if variants, N and D, or the sides of the comparison are mixed up.

    D grows faster than C^(1 - a), as attention's fraction of a token's FLOPs falls with width.
    """
    grows, needs = report.answer.split("For the GPT's loss")
    exponents = [float(text) for text in re.findall(r"C\^(\d\.\d\d)", grows)]
    assert exponents[::2] == pytest.approx([0.5, 0.5], abs=0.02)
    assert exponents[1::2] == pytest.approx([0.57, 0.57], abs=0.02)
    times = [float(text) for text in re.findall(r"([\d.]+) times", needs)]
    assert times == pytest.approx([HANDICAP, HANDICAP], rel=0.1)
    assert "no difference of the exponents is shown" in grows


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ([(0.7, 0.9), (0.7, 0.9), (0.7, 0.9)], "The intervals do not overlap."),
        ([(0.1, 0.2), (0.1, 0.2), None], "The intervals do not overlap."),
        (
            [(0.7, 0.9), (0.55, 0.9), (0.6, 0.9)],
            "by local and akima minima do, so that whether",
        ),
        ([(0.55, 0.9), (0.7, 0.9), (0.7, 0.9)], "The intervals overlap, so that no difference"),
        ([None, (0.7, 0.9), (0.7, 0.9)], ""),
    ],
)
def test_exponents_differ_if_every_way_to_find_minima_says_so(cells, ends, said):
    """Fails if one way's intervals decide, or a way without an interval speaks."""
    valleys = isoflops.Valleys.of(cells, isoflop.VARIANTS)

    def having(fit: Fit, interval: tuple[float, float] | None) -> Fit:
        made = dataclasses.replace(fit)
        vars(made)["ci95"] = {"a": interval} if interval else {}
        return made

    fits = {
        "causal": {way: having(valleys.fits["causal"][way], (0.4, 0.6)) for way in METHODS},
        "masked": {
            way: having(valleys.fits["masked"][way], interval)
            for way, interval in zip(METHODS, ends, strict=True)
        },
    }
    found = isoflops.apart_text(valleys._replace(fits=fits))
    assert said in found and bool(said) == bool(found)


def test_the_report_shows_every_law_and_figure(report):
    """Fails if a method is left out of the table, or a figure of the report."""
    (table,) = (
        block
        for section in report.sections
        if section.heading == "How the best size and data grow"
        for block in section.blocks
        if not isinstance(block, str)
    )
    assert [row["what"] for row in table.rows] == [
        f"{variant}, {law}"
        for variant in ("GPT", "BERT, all rates")
        for law in ("parabola", "local", "akima", "parametric")
    ]
    assert [plot.name for plot in report.plots] == [
        "isoflop_causal", "isoflop_masked", "surface_causal", "surface_masked",
        "compute_multiplier",
    ]  # fmt: skip


def test_a_rate_that_trials_do_not_bear_out_is_a_warning(cells):
    """Fails if the report keeps still where another rate than the file's was best."""
    trial = next(c for c in cells if c.name.startswith("causal") and "-lr" in c.name)
    better = trial._replace(result=trial.result | {"bits_per_byte": 0.5})
    place = trial.run.model, trial.run.tokens
    found = isoflop.report(
        [
            better
            if c is trial
            else c._replace(result=c.result if (c.run.model, c.run.tokens) == place else None)
            for c in cells
        ]
    )
    rate = trial.run.optimizer.learning_rate
    assert any(f"For the GPT {rate:g} is best" in warning for warning in found.warnings)


def test_a_report_of_few_cells_says_that_there_is_no_answer(cells):
    """Fails if a study that was stopped early has no report, or one that claims an exponent."""
    few = [c if i < 3 else c._replace(result=None) for i, c in enumerate(cells)]
    found = isoflop.report(few)
    assert found.answer.startswith("There is no answer yet")
    assert any("Not finished" in warning for warning in found.warnings)


@pytest.mark.parametrize("scale", isoflop.SCALES)
def test_the_variants_have_the_same_budgets_sizes_and_number_of_trials(scale):
    """Fails if one variant is tuned more often, or given other FLOPs at a budget than the
    other.
    """
    runs = isoflop.runs(scale)
    variants = {
        variant: {
            name.partition("-")[2]: run
            for name, run in runs.items()
            if name.startswith(variant)
        }
        for variant in isoflop.VARIANTS
    }
    grids = {
        variant: {n: r for n, r in found.items() if "-lr" not in n}
        for variant, found in variants.items()
    }
    assert grids["causal"].keys() == grids["masked"].keys()
    assert len(variants["causal"]) == len(variants["masked"])
    for name, ours in grids["causal"].items():
        theirs = grids["masked"][name]
        assert ours.data == theirs.data
        flops = [
            ledger.cost(run, vocabulary_size(run.data.tokenizer)).flops
            for run in (ours, theirs)
        ]
        assert flops[0] == pytest.approx(flops[1], rel=0.1 if scale == "smoke" else 0.01)
    for variant, found in variants.items():
        tried = [run for name, run in found.items() if "-lr" in name]
        (own,) = {
            run
            for run in grids[variant].values()
            if (run.model, run.tokens, run.seed)
            == (tried[0].model, tried[0].tokens, tried[0].seed)
        }
        rates = {run.optimizer.learning_rate for run in [*tried, own]}
        assert len(rates) == len(tried) + 1
        for run in tried:
            optimizer = msgspec.structs.replace(
                run.optimizer, learning_rate=own.optimizer.learning_rate
            )
            assert msgspec.structs.replace(run, optimizer=optimizer) == own
