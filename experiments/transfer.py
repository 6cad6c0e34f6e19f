"""Does a GPT, a BERT, or a GPT that became a BERT transfer best, if all are tuned alike?

Four models read equal tokens of one corpus: a GPT, a BERT, one trained at all rates, and a
GPT of half the tokens that goes on as a BERT for the other half. Then each is probed as it is,
tuned by its head alone, and tuned whole, on GLUE's tasks: the same learning rates and seeds for
all, the rate chosen on a part of the train file, the dev file scored by what was chosen alone.

Answers to: Devlin et al. 2019 (table 1), where a BERT is ahead of a GPT that had another corpus
and other trials; Gisserot-Boukhlef et al. 2025 (arXiv:2507.00994) and Weller et al. 2025
(Ettin, arXiv:2507.11412), who disagree on the GPT that becomes a BERT. `YARDSTICK_TASKS` holds
GLUE, `YARDSTICK_CORPORA` a folder `english`, `YARDSTICK_ASSETS` published models.

    YARDSTICK_TASKS=... YARDSTICK_CORPORA=... python -m experiments.transfer --scale laptop

    smoke   2 minutes           toys on Python's library, and made-up tasks of its lines
    laptop  30 minutes, 2 cores 0.8M parameters, 1M tokens of English, 240 trials
    v5e-8   not run             85M parameters, 6.5B tokens of Wikipedia, 240 trials

Expect scores far below published ones, most differences below what the dev files can show, and
the models that see both sides ahead where two sentences are compared.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lm.evaluate.glue import SETS
from lm.objectives import Causal, Masked
from lm.run import Run, Start
from lm.study import made_up, runner, scales, sections
from lm.study.analyses.tuning import (
    Outcome,
    announce,
    beyond,
    choices_table,
    edge_warnings,
    equal_rows,
    gaps_table,
    gaps_to,
    outcomes,
    probe_models,
    read_forecasts,
    score_choices,
    told,
    trained_table,
    tuned_table,
    tuning_figure,
    ways_of,
)
from lm.study.grid import (
    GPT,
    GPT_AND_BERTS,
    STUDY,
    Scale,
    StudyRun,
    Variant,
    scale_of,
    variant_of,
)
from lm.study.report.figures import MUTED, ORANGE
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER, together
from lm.study.tables import equal_table
from lm.study.trials import (
    EqualTrials,
    TunedTask,
    Way,
    choices,
    compared_rows,
    equal_trials,
)

CONVERTED = Variant("GPT, then BERT", "the GPT that became a BERT", Masked(), ORANGE)
HALF = Variant("GPT, half", "the GPT of half the tokens", Causal(), MUTED)
VARIANTS = GPT_AND_BERTS | {"converted": CONVERTED}
PUBLISHED = {
    "minilm": Variant("MiniLM-L6", "MiniLM-L6", Masked(), MUTED),
    "smollm2-135m-instruct": Variant(
        "SmolLM2-135M-Instruct Q4_1", "SmolLM2 (Q4_1)", Causal(), MUTED
    ),
}
"""By their folders in `YARDSTICK_ASSETS`."""


class Plan(NamedTuple):
    """What a scale trains, and what it tunes."""

    before: Scale
    tasks: Mapping[str, TunedTask]
    ways: Mapping[str, Way]
    seeds: int
    length: int
    batch: int
    probed: int
    """Items of a train file that a probe is fitted to, at most."""
    published: Mapping[str, tuple[str, ...]] = {}
    """Published models that are probed, by their folders in `YARDSTICK_ASSETS`, and on what."""


TITLES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "sts_b": "STS-B"}
ASSUMED = {"cola": 0.7, "sst2": 0.7, "mrpc": 0.7, "sts_b": 0.2}
"""Accuracies, and a correlation, of small models."""


def _glue(tokens: int) -> dict[str, TunedTask]:
    return {
        name: TunedTask(title, SETS[name], tokens, ASSUMED[name])
        for name, title in TITLES.items()
    }


def _ways(whole: tuple[float, ...], head: tuple[float, ...]) -> dict[str, Way]:
    return {
        "head": Way("head alone", head, trainable=("head_*",)),
        "whole": Way("whole", whole),
    }


PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(seeds=1),
        {
            "order": TunedTask("order", made_up.order(), 2048, assumed=0.7),
            "alike": TunedTask("alike", made_up.alike(), 2048, assumed=0.2),
        },
        _ways((1e-3, 1e-2), (1e-2,)),
        seeds=2,
        length=64,
        batch=16,
        probed=200,
    ),
    "laptop": Plan(
        scales.ENGLISH_LAPTOP,
        _glue(50_000),
        _ways((3e-4, 1e-3, 3e-3), (3e-3, 3e-2)),
        seeds=3,
        length=256,
        batch=2,
        probed=1000,
        # The larger reads short texts alone: of others, it would take half an hour.
        published={"minilm": tuple(TITLES), "smollm2-135m-instruct": ("cola", "sst2")},
    ),
    "v5e-8": Plan(
        scales.V5E_8._replace(seeds=1),
        _glue(3_000_000),
        _ways((1e-5, 3e-5, 1e-4), (1e-3, 1e-2)),
        seeds=3,
        length=256,
        batch=32,
        probed=100_000,
        published=dict.fromkeys(PUBLISHED, tuple(TITLES)),
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.TUNED_EFFORT


def _trained(scale: str) -> dict[str, Run]:
    """What is pre-trained: each variant at the same tokens, one of them in two runs."""
    plan = PLANS[scale].before
    (size,), (tokens,) = plan.sizes, plan.tokens
    found = plan.runs(GPT_AND_BERTS)
    first = next(iter(found)).partition("-")[2]
    half = plan.run(HALF, size, tokens // 2)
    found[f"half-{first}"] = half
    # Under another seed, so that it reads other rows than it began with.
    found[f"converted-{first}"] = plan.run(
        CONVERTED, size, tokens // 2, seed=1, start=Start(path=f"{STUDY}/half-{first}")
    )
    return found


def _trials(scale: str) -> EqualTrials:
    """What is tuned: each variant on each task in each way, at each rate, for each seed."""
    plan = PLANS[scale]
    return equal_trials(
        plan.before,
        _trained(scale),
        VARIANTS,
        tasks=plan.tasks,
        ways=plan.ways,
        seeds=plan.seeds,
        length=plan.length,
        batch=plan.batch,
    )


def runs(scale: str) -> dict[str, Run]:
    """What is pre-trained, then all trials of it."""
    return _trained(scale) | _trials(scale).runs()


def before(scale: str, directory: Path) -> list[str]:
    """What the dev files can show; made-up tasks are written."""
    if scale == "smoke":
        made_up.write_made_up(directory)
    return announce(_trials(scale).at(directory), directory)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Scores what was chosen, and probes what it started from and the published models."""
    scale = scale_of(directory)
    plan, equal, trained = PLANS[scale], _trials(scale).at(directory), _trained(scale)
    score_choices(equal, cells)
    models = {
        variant_of(cell): cell.directory
        for cell in cells
        if cell.name in trained and cell.result is not None and variant_of(cell) in VARIANTS
    }
    probe_models(equal, models, directory, items=plan.probed)
    for name, folder in _assets(plan).items():
        tasks = plan.published[name]
        probe_models(equal, {name: folder}, directory, items=plan.probed, tasks=tasks)


def _assets(plan: Plan) -> dict[str, Path]:
    """The published models that are at hand, of those that are probed."""
    folder = Path(os.environ.get("YARDSTICK_ASSETS", "/nowhere"))
    return {name: folder / name for name in plan.published if (folder / name).is_dir()}


def report(cells: list[StudyRun]) -> Report:
    """Scores by task and way, how far the variants lie apart, and what could be seen at all."""
    directory = cells[0].directory.parent
    scale = scale_of(directory)
    plan, equal = PLANS[scale], _trials(scale).at(directory)
    found = outcomes(equal, cells, directory, PUBLISHED)
    made = choices(equal, cells)
    forecasts, there = read_forecasts(directory), {outcome.variant for outcome in found}
    absent = [of.name for of in map(PUBLISHED.__getitem__, plan.published) if of not in there]
    left_out = f"Not at hand in YARDSTICK_ASSETS, and left out: {', '.join(absent)}."
    return sections.report_of(
        sys.modules[__name__],
        cells,
        title="Transfer",
        answer=_answer(equal, found),
        details=(
            "Every variant has the same trials at every task. The learning rate is chosen on a"
            " tenth of the train file; the dev file is scored by what was chosen alone. No"
            " trial is stopped early.",
        ),
        table=tuned_table(equal, found),
        sections=[
            sections.figure_section(
                "By variant and way",
                "transfer",
                tuning_figure(equal, found, list(PUBLISHED.values())) if found else None,
                "Points of each task's metric, with 95% intervals over dev items and seeds;"
                " lines are probes of published models.",
            ),
            sections.section(
                "How far apart",
                gaps_table(equal, found, GPT, forecasts) if found else None,
            ),
            sections.section("What the dev files can show", *equal.announced(forecasts)),
            sections.section("The trials", choices_table(equal, made) if made else None),
            sections.section(
                sections.EQUAL,
                trained_table(cells, VARIANTS),
                equal_table(equal_rows(equal, cells), "between the variants of a task"),
                f"A probe is fitted to at most {plan.probed:,} items of the train file. Heads"
                " read the mean of a text's states, of the GPT too. A GPT is tuned with each"
                " token seeing what stands before it, the others with all.",
            ),
            sections.section(
                "What this does and does not show",
                "It shows how these models, of one size and one pre-training each, transfer at"
                " equal budgets of tuning. Intervals are over tuning seeds and dev items, not"
                " over pre-trainings: of another GPT of the same kind they say nothing. With"
                " three seeds the part of the seeds is rough. A difference that is not beyond"
                " its interval is not shown to be zero, least of all where the smallest effect"
                " is larger than what anyone would care for. Equal tokens are not equal FLOPs,"
                " nor equal predictions. The mean of states is one pooling of several, and may"
                " not be the best of each variant. GLUE's dev files have been looked at by the"
                " whole field; its test files have no public labels.",
                left_out if absent else None,
            ),
        ],
        compared=compared_rows(equal, cells),
        warnings=edge_warnings(equal, made),
    )


def _answer(equal: EqualTrials, found: Sequence[Outcome]) -> str:
    """What the variants score tuned whole, and how many differences are beyond the error."""
    if not (said := told(equal, found, "whole")):
        return NO_ANSWER
    own = [each for each in found if each.variant in VARIANTS.values()]
    gaps = [(each, gap) for each, gap in gaps_to(own, GPT) if beyond(gap)]
    ahead = [
        f"{each.variant.name} ({each.task.title}, {ways_of(equal)[each.way]})"
        for each, gap in gaps
        if gap.value > 0
    ]
    return (
        f"Tuned whole, in points: {said}. Of {len(gaps_to(own, GPT))} differences to the GPT"
        f" {len(gaps)} are beyond the error; ahead of it: {together(ahead or ['nobody'])}."
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
