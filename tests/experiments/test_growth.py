"""Studies of size, data and repeats: what they train, and that reports follow the numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from experiments import bigger_learns_faster, data_growth, repeated_data
from lm.objectives import Causal
from lm.run import Run
from lm.scaling.fit import Fit
from lm.scaling.laws import effective_tokens
from lm.study.analyses.growth import gains_of
from lm.study.analyses.races import Race
from lm.study.analyses.repeats import best_so_far, law_of
from lm.study.curves import Curve
from lm.study.grid import GPT, StudyRun
from lm.study.groups import BITS, groups_of
from lm.study.laws import difference_of
from lm.study.report import write as report
from lm.study.report.figures import svg_of
from tests.experiments.results import result_of

Bits = Callable[[str, Run], float]
"""Bits per byte of a variant's run."""


def cells_of(study: Any, tmp_path: Path, bits: Bits, noise: float = 0.001) -> list[StudyRun]:
    """The study's laptop runs, all finished, with noise that is the same every time."""
    draw = np.random.default_rng(0)
    cells = []
    for name, run in study.runs("laptop").items():
        variant = name.split("-")[0]
        measured = bits(variant, run) * (1 + noise * draw.normal())
        result = result_of(run, measured, truth={"bits_per_byte": 2.3})
        cells.append(StudyRun(name, run, result, tmp_path / "laptop" / name))
    return cells


# data_growth


def growth(**betas: float) -> Bits:
    """Variants that fall from 3.2 bits at 26k tokens to a floor of 2.3, as their betas say."""
    return lambda variant, run: 2.3 + 0.9 * (run.tokens / 25_600) ** -betas[variant]


@pytest.mark.parametrize(
    ("causal", "masked", "says"),
    [
        (0.5, 0.9, "flattens earlier"),
        pytest.param(0.9, 0.5, "flattens later", marks=pytest.mark.slow),
        pytest.param(0.7, 0.7, "tell them apart", marks=pytest.mark.slow),
    ],
)
def test_data_growth_says_whose_gain_flattens_earlier(causal, masked, says, tmp_path):
    """Fails if the sign is turned, the interval is not looked at, or variants are mixed up."""
    bits = growth(causal=causal, any_order=masked, masked15=0.6)
    drawn = data_growth.report(cells_of(data_growth, tmp_path, bits))
    assert says in drawn.answer
    assert drawn.warnings == ()
    assert ("fits worse than" in drawn.details[0]) == (causal != masked)
    assert "held at the source" in drawn.details[1]
    assert says in drawn.details[1]
    assert drawn.sections[-1].heading == "What this does and does not show"


def test_what_doublings_gain_does_not_know_the_floor(tmp_path):
    """Fails if a gain is taken from another variant, budget or seed, or counted as a loss."""
    cells = cells_of(
        data_growth, tmp_path, growth(causal=1.0, any_order=0.5, masked15=0.5), noise=0
    )
    groups = list(groups_of(cells, data_growth.VARIANTS).values())
    gains = gains_of(groups, GPT, BITS)
    assert [gain.tokens for gain in gains] == [25_600 * 2**k for k in range(5)]
    assert [gain.gap.value for gain in gains] == pytest.approx([0.45 / 2**k for k in range(5)])


# repeated_data


def repeats(**half_lives: float) -> Bits:
    """Variants whose repeats are worth as the law says."""

    def bits(variant: str, run: Run) -> float:
        unique = float(run.data.unique or 0)
        worth = effective_tokens(half_lives[variant], float(run.tokens), unique)
        return float(2.3 + 0.9 * (worth / 25_600) ** -0.6)

    return bits


@pytest.mark.parametrize(
    ("causal", "masked", "says"),
    [
        (3.0, 100.0, "bears more"),
        pytest.param(100.0, 3.0, "bears fewer", marks=pytest.mark.slow),
        pytest.param(8.0, 8.0, "does not show", marks=pytest.mark.slow),
    ],
)
def test_repeated_data_says_who_bears_more_repeats(causal, masked, says, tmp_path):
    """Fails if the ratio is upside down, or the law is fit to another variant's runs."""
    cells = cells_of(repeated_data, tmp_path, repeats(causal=causal, any_order=masked))
    drawn = repeated_data.report(cells)
    assert says in drawn.answer
    assert drawn.warnings == ()
    groups = list(groups_of(cells, repeated_data.VARIANTS).values())
    fit = law_of(groups, GPT)
    assert fit.parameters["R_D"] == pytest.approx(causal, rel=0.3)
    assert fit.parameters["E"] == 2.3 and "E" in fit.fixed


def test_a_run_that_overfits_counts_as_if_it_had_been_stopped(tmp_path):
    """Fails if the law is told to explain overfitting, or another seed or text stops a run."""
    usual = repeats(causal=5.0, any_order=5.0)

    def bits(variant: str, run: Run) -> float:
        worse = variant == "causal" and run.data.unique == 12_800 and run.tokens > 204_800
        return usual(variant, run) + (1.5 if worse else 0.0)

    cells = cells_of(repeated_data, tmp_path, bits, noise=0)
    groups = groups_of(cells, repeated_data.VARIANTS).values()
    both = best_so_far([g for g in groups if g.name.startswith("causal")])
    stopped = {r["tokens"]: least for r, least in both if r["bits_per_byte"] > least}
    sixteen = next(r for r, _ in both if (r["unique_tokens"], r["tokens"]) == (12_800, 204_800))
    assert stopped == {409_600: sixteen["bits_per_byte"]}
    drawn = repeated_data.report(cells)
    assert "the GPT is best after 16 of 32 epochs (+1.4" in drawn.answer
    assert "2 of 24 of the GPT and 0 of 24" in drawn.details[0]


def test_new_text_is_new_and_repeats_begin_with_it():
    """Fails if a budget of new text is read twice, or epochs are not whole."""
    for scale in repeated_data.SCALES:
        for name, run in repeated_data.runs(scale).items():
            assert run.data.unique is not None
            assert run.tokens % run.data.unique == 0, name
            assert run.data.unique % (run.data.batch * run.data.length) == 0, name
        for budgets in repeated_data.REPEATED[scale].values():
            # Each is held to as many new tokens.
            assert set(budgets) <= set(repeated_data.PLANS[scale].tokens)
    for study in (data_growth, bigger_learns_faster):
        for scale in study.SCALES:
            assert all(run.data.unique == run.tokens for run in study.runs(scale).values())


# bigger_learns_faster


def write_curves(cells: list[StudyRun], exponent: float, stuck: str = "") -> list[StudyRun]:
    """Curves that depend on D N^exponent alone; those of the stuck run stop early."""
    for cell in cells:
        assert cell.result is not None
        cell.directory.mkdir(parents=True)
        each, lines = cell.run.data.batch * cell.run.data.length, []
        for step in range(15, 601, 15):
            reach = step * each * (cell.result["params_non_embedding"] / 1e5) ** exponent
            loss = 1.6 + (reach / 1e4) ** -1.0
            loss = max(loss, 1.95) if cell.name == stuck else loss
            lines.append(json.dumps({"step": step, "validation_loss": loss}))
        (cell.directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return cells


def test_bigger_learns_faster_finds_the_exponent_and_names_who_does_not_get_there(tmp_path):
    """Fails if sizes, tokens or FLOPs are another convention's, or a run is left out unsaid."""
    stuck = "any_order-6k-d0.61M-seed0"
    cells = cells_of(bigger_learns_faster, tmp_path, lambda variant, run: 2.5)
    drawn = bigger_learns_faster.report(write_curves(cells, 0.25, stuck))
    assert drawn.answer.count("with x 0.25 (95%") == 2
    assert drawn.answer.count("so larger models need fewer tokens") == 2
    assert f"not counted: {stuck}." in drawn.details[0]
    assert drawn.warnings == ()
    report.table(drawn)


def test_no_gain_of_size_is_said_to_be_none(tmp_path):
    """Fails if an answer is written down rather than computed."""
    cells = cells_of(bigger_learns_faster, tmp_path, lambda variant, run: 2.5)
    drawn = bigger_learns_faster.report(write_curves(cells, -0.2))
    assert drawn.answer.count("so larger models need more tokens") == 2


def test_levels_are_those_that_every_size_passes_on_its_way():
    """Fails if tokens are counted to a loss that no run of a size reaches, or all begin at."""

    def curve(size: int, *losses: float) -> Curve:
        tokens_T = 1e3 * 2.0 ** np.arange(len(losses))
        return Curve("", size, 6.0 * size, tokens_T, np.array(losses))

    small, large = curve(1, 4, 3, 2.5, 2.4), curve(9, 3.4, 2.2, 2.0, 1.8)
    race = Race.of(GPT, [small, curve(1, 4, 3.9, 3.8, 3.7), large])
    assert race.levels == pytest.approx((3.0, 2.7, 2.5))
    assert [c.params for c, _ in race.to(race.levels[-1])] == [1, 9]
    assert Race.of(GPT, [small]).levels == ()
    assert Race.of(GPT, [small, curve(9, 2.3, 2.2)]).levels == ()


# All


@pytest.mark.parametrize("study", [bigger_learns_faster, data_growth, repeated_data])
def test_a_report_can_be_drawn_while_most_is_missing(study, tmp_path):
    """Fails if a law is wanted from one run, what is missing unnamed, or no gain not drawn."""
    cells = write_curves(cells_of(study, tmp_path, lambda variant, run: 2.5), 0.25)
    few = [cell if at == 2 else cell._replace(result=None) for at, cell in enumerate(cells)]
    drawn = study.report(few)
    assert f"{len(cells) - 1} of {len(cells)} runs" in drawn.warnings[0]
    assert "There is no answer yet" in drawn.answer
    assert all(svg_of(plot.figure) for plot in drawn.plots)


@pytest.mark.parametrize("study", [bigger_learns_faster, data_growth, repeated_data])
def test_variants_of_a_cell_differ_in_the_objective_alone(study):
    """Fails if a variant has a rate, a schedule, text or an order of its own."""
    for scale in study.SCALES:
        rest: dict[str, set[Run]] = {}
        for name, run in study.runs(scale).items():
            same = msgspec.structs.replace(run, objective=Causal())
            rest.setdefault(name.partition("-")[2], set()).add(same)
        assert all(len(runs) == 1 for runs in rest.values())


def test_two_laws_are_compared_with_the_interval_of_their_difference():
    """Fails if draws are not paired, or the first is taken from the second the wrong way."""
    random = np.random.default_rng(0)
    common_B = random.normal(0, 1.0, 4000)

    def fit(value: float, seed: int) -> Fit:
        own_B = np.random.default_rng(seed).normal(0, 0.01, 4000)
        draws = {"beta": value * np.exp(0.1 * common_B + own_B)}
        return Fit("parametric", {"beta": value}, 0.0, 999, 996, draws)

    one, other = fit(1.0, 1), fit(2.0, 2)
    apart, ends = difference_of(one, other, "beta")
    assert apart == 1.0 and ends is not None and ends[0] < 1.0 < ends[1]
