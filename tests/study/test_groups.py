"""Several seeds: which runs belong together, errors of means and of paired differences."""

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import scipy.stats

from experiments import curriculum, mask_rate, mask_recipe, objectives
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.evaluate import bits as scores
from lm.run import validate
from lm.study.grid import StudyRun, variant_of
from lm.study.groups import BITS, PROBE, best_of, gaps, groups_of
from lm.study.report import write as report
from lm.study.sentences import winner
from tests.experiments.results import result_of

STUDIES = {
    module.__name__.rpartition(".")[2]: module
    for module in (objectives, mask_rate, mask_recipe, curriculum)
}


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    """Enough for errors that only have to be there, or are compared with themselves."""
    monkeypatch.setattr(scores, "RESAMPLES", 40)


def cells_of(
    study: Any, tmp_path: Path, bits: dict[str, list[float]], scale: str = "laptop"
) -> list[StudyRun]:
    """The study's runs; variants that are named need these bits per byte, a number for a
    seed.
    """
    cells = []
    for name, run in study.runs(scale).items():
        values = bits.get(name.rpartition("-")[0].split("-")[0], [2.5] * 3)
        result = None
        if run.seed < len(values):
            value = values[run.seed]
            result = result_of(run, value, probe=0.9 - 0.1 * value)
        cells.append(StudyRun(name, run, result, tmp_path / "laptop" / name))
    return cells


def test_cells_that_differ_in_the_seed_alone_are_one_group(tmp_path):
    """Fails if sizes, budgets or variants are averaged over, or seeds are kept apart."""
    cells = cells_of(objectives, tmp_path, {})
    groups = groups_of(cells, objectives.VARIANTS)
    assert 2 * len(groups) == len(cells)
    for name, group in groups.items():
        assert [cell.name for cell in group.cells] == [f"{name}-seed0", f"{name}-seed1"]
    sizes = groups_of(cells_of(mask_rate, tmp_path, {}), mask_rate.VARIANTS)
    assert len(sizes) == 2 * len(mask_rate.RATES)


def test_the_error_of_a_mean_over_seeds(tmp_path):
    """Fails if the spread is not divided by the root of the number, or by n and not n - 1."""
    bits = {"switch025": [1.0, 2.0, 3.0], "switch050": [2.0]}
    groups = groups_of(cells_of(curriculum, tmp_path, bits), curriculum.VARIANTS)
    found = {group.variant.label: group for group in groups.values()}
    one = found["GPT for 25%, then BERT"]
    assert one.mean("bits_per_byte") == 2.0
    assert one.seeds_se("bits_per_byte") == pytest.approx(1 / math.sqrt(3))
    text = one.text_se(BITS)
    assert text is not None
    assert one.error(BITS) == pytest.approx(math.hypot(1 / math.sqrt(3), text))
    assert found["GPT for 50%, then BERT"].seeds_se("bits_per_byte") is None


def test_differences_are_paired_by_seed(tmp_path):
    """Fails if means are compared without regard to seeds, or one with another's seed."""
    base = [2.0, 2.6, 2.3]
    bits = {
        "switch000": base,
        "switch025": [value + 0.1 for value in base],
        "switch050": [
            value + shift for value, shift in zip(base, (0.1, 0.2, 0.3), strict=True)
        ],
    }
    groups = {
        variant_of(group.cells[0]): group
        for group in groups_of(
            cells_of(curriculum, tmp_path, bits), curriculum.VARIANTS
        ).values()
    }
    first, second, third = (groups[f"switch0{fraction}"] for fraction in ("00", "25", "50"))
    same = gaps([second], first, BITS)[second.name]
    assert same.value == pytest.approx(0.1)
    assert same.seeds == pytest.approx(0.0, abs=1e-12)
    # Two groups are a paired t-test: standard deviation 0.1 of three differences.
    gap = gaps([third], first, BITS)[third.name]
    assert gap.value == pytest.approx(0.2)
    assert gap.seeds == pytest.approx(0.1 / math.sqrt(3))
    assert gap.text is not None
    student = float(scipy.stats.t.ppf(0.975, 2))
    assert gap.limit == pytest.approx(math.hypot(student * 0.1 / math.sqrt(3), 1.96 * gap.text))
    # Three groups pool what is left: residuals of -0.1, 0, 0.1 over three, with 4 degrees.
    pooled = gaps([second, third], first, BITS)[second.name]
    left = math.sqrt(2 * 0.1**2 * (2 / 3) / 4)
    assert pooled.seeds == pytest.approx(left * math.sqrt(2 / 3))


def test_what_makes_a_document_hard_for_all_is_no_error_of_a_difference(tmp_path):
    """Fails if documents are not paired, or seeds are taken for further documents."""
    bits = {"switch000": [2.0, 2.0], "switch025": [2.1, 2.1]}
    groups = list(groups_of(cells_of(curriculum, tmp_path, bits), curriculum.VARIANTS).values())
    first, second = groups[:2]
    gap = gaps([second], first, BITS)[second.name]
    text = first.text_se(BITS)
    assert text is not None and gap.text is not None
    assert gap.text < 0.2 * text
    alone = first._replace(cells=first.cells[:1])
    assert alone.text_se(BITS) == pytest.approx(text)


def test_a_seed_that_only_one_variant_has_finished_is_left_out_of_their_difference(tmp_path):
    """Fails if a difference is one of means over other seeds."""
    bits = {"switch000": [2.0, 9.0], "switch025": [2.1]}
    groups = list(groups_of(cells_of(curriculum, tmp_path, bits), curriculum.VARIANTS).values())
    gap = gaps(groups[1:2], groups[0], BITS)[groups[1].name]
    assert gap.value == pytest.approx(0.1)
    assert gap.seeds is None


def test_the_spread_is_that_of_the_variants_that_have_all_seeds(tmp_path):
    """Fails if one variant that is behind its seeds leaves all others without an error."""
    bits = {"switch000": [2.0, 2.2], "switch025": [2.1, 2.4], "switch050": [2.1]}
    groups = list(groups_of(cells_of(curriculum, tmp_path, bits), curriculum.VARIANTS).values())
    found = gaps(groups[1:3], groups[0], BITS)
    # Differences of 0.1 and 0.2: their mean has the error 0.05.
    assert found[groups[1].name].seeds == pytest.approx(0.05)
    assert found[groups[2].name].seeds == pytest.approx(0.05 * math.sqrt(2))


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        ([2.0, 2.0, 2.0], "beyond the error ahead of all others"),
        ([2.5, 2.5, 2.5], "no difference to the others is beyond the error"),
    ],
)
def test_the_best_is_named_with_what_is_not_told_from_it(tmp_path, bits, says):
    """Fails if a winner is named whatever the errors are."""
    groups = groups_of(cells_of(mask_rate, tmp_path, {"masked40": bits}), mask_rate.VARIANTS)
    small = [group for group in groups.values() if group.size < 100_000]
    assert says in winner(small, BITS, lambda group: group.variant.label)
    ranked = best_of(small, PROBE)
    assert ranked is not None
    assert (ranked[0].variant.label == "BERT, 40%") == (bits[0] == 2.0)


@pytest.mark.parametrize(
    ("study", "bits", "says"),
    [
        ("objectives", {"causal": [2.0] * 2}, "exact numbers is that of the GPT (2.000 ± "),
        (
            "objectives",
            {"masked40": [2.0] * 2},
            "bounds is that of the BERT at 40% (at most 2.0",
        ),
        ("objectives", {}, "no difference to the others is beyond the error"),
        ("mask_rate", {"masked40": [2.0] * 2}, "lowest at a rate of 40% (at most 2.000 ± "),
        ("mask_rate", {"masked40": [2.0] * 2}, "15% lies +0.500"),
        ("mask_rate", {"masked15": [2.0] * 2}, "lowest at a rate of 15%"),
        ("mask_recipe", {"masks15": [2.0] * 2}, "better than 80/10/10: 100/0/0 (−0.500"),
        ("mask_recipe", {"masks15": [3.0] * 2}, "worse than 80/10/10: 100/0/0 (+0.500"),
        ("mask_recipe", {}, "no recipe differs from 80/10/10 beyond the error"),
        ("curriculum", {"switch050": [2.0] * 3}, "the best switch, at 50%, is better: −0.500"),
        ("curriculum", {"switch000": [2.0] * 3}, "is worse: +0.500"),
        ("curriculum", {}, "makes no difference beyond the error"),
    ],
)
def test_the_answer_follows_the_numbers(study, bits, says, tmp_path):
    """Fails if a conclusion is written down rather than computed, or forgets the error."""
    module = STUDIES[study]
    drawn = module.report(cells_of(module, tmp_path, bits))
    assert says in drawn.answer
    assert drawn.warnings == ()


@pytest.mark.parametrize("study", STUDIES)
def test_a_report_says_what_was_equal_and_what_it_does_not_show(study, tmp_path):
    """Fails if a report ends in its numbers, or cannot be drawn while most is missing."""
    module = STUDIES[study]
    cells = cells_of(module, tmp_path, {})
    drawn = module.report(cells)
    assert drawn.sections[-1].heading == "What this does and does not show"
    assert "What was held equal, and what was not" in [s.heading for s in drawn.sections]
    assert "standard error over seeds" in drawn.table.caption
    report.table(drawn)
    few = [cell if at == 2 else cell._replace(result=None) for at, cell in enumerate(cells)]
    partly = module.report(few)
    assert f"{len(cells) - 1} of {len(cells)} runs" in partly.warnings[0]
    assert "There is no answer yet" in partly.answer


def test_a_batch_of_another_order_is_a_warning(tmp_path):
    """Fails if variants are checked between seeds, which read other batches, or not at all."""
    cells = cells_of(mask_recipe, tmp_path, {})
    assert cells[1].result is not None
    cells[1].result["batches_digest"] = "0ther"
    (warning,) = mask_recipe.report(cells).warnings
    assert "batches" in warning


@pytest.mark.parametrize("scale", objectives.SCALES)
def test_variants_at_equal_flops_are_within_a_step_of_the_gpts(scale):
    """Fails if the budget is another variant's, or a variant that needs no other run has
    two.
    """
    runs = objectives.runs(scale)
    tokens = vocabulary_size(objectives.PLANS[scale].data.tokenizer)
    causal = next(run for name, run in runs.items() if name.startswith("causal"))
    flops = ledger.cost(causal, tokens).flops
    for variant in objectives.VARIANTS:
        names = [name for name in runs if name.split("-")[0] == variant and "seed0" in name]
        cost = ledger.cost(runs[names[-1]], tokens)
        assert abs(cost.flops - flops) <= 0.75 * cost.flops / cost.steps
        assert len({runs[name].tokens for name in names}) == len(names) <= 2


@pytest.mark.parametrize("study", STUDIES)
def test_variants_differ_in_the_objective_alone(study):
    """Fails if a variant has a learning rate, tokenizer or data order of its own."""
    module = STUDIES[study]
    for scale in module.SCALES:
        rest = {
            msgspec.structs.replace(
                validate(run), objective=objectives.VARIANTS["causal"].objective, tokens=1
            )
            for run in module.runs(scale).values()
        }
        plan = module.PLANS[scale]
        assert len(rest) == len(plan.sizes) * plan.seeds
