"""Do larger models need fewer tokens for the same loss, as a GPT and as a BERT?

Answers to: Kaplan et al. 2020 (arXiv:2001.08361), figure 2, where loss against tokens falls
faster the larger the model, of causal models alone.

    python -m experiments.bigger_learns_faster --scale laptop

    smoke   a minute            toys, to see that everything works
    laptop  9 minutes, 2 cores  6k to 0.4M parameters, 0.6M tokens of a known source
    v5e-16  16 hours, 16 chips  25M to 1.2B parameters, 1.7B tokens of Wikipedia, 7.4e19 FLOPs

The laptop's cores were shared; the accelerator's line is a plan, not run (`--cost v5e-16`).

A point on the way of a run whose learning rate will yet fall is not where a shorter run would
have ended. So here the rate stays constant after warm-up: every point is the end of the same
recipe, at a loss that is higher than a fall of the rate would make it. All sizes have the same
batch, warm-up and rows. Losses are each objective's own, on the same held-out rows, and compare
between sizes, not between objectives. Expect fewer tokens for each loss as models grow, by a
power that is far below one: a larger model saves tokens and not FLOPs.
"""

import sys
from dataclasses import replace

from lm.optimizer import WarmupStableDecay
from lm.run import Run
from lm.study import runner, scales, sections, tables
from lm.study.analyses import races
from lm.study.checks import variant_rows
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun
from lm.study.groups import groups_of
from lm.study.report.values import Report

VARIANTS = {"causal": GPT, "any_order": ANY_ORDER}
CONSTANT = {"schedule": WarmupStableDecay(warmup=0.05, decay=0.0)}
PLANS = {
    "smoke": Scale(
        scales.SMOKE_SOURCE,
        sizes=(Size(1, 16), Size(1, 32)),
        tokens=(8192,),
        seeds=2,
        settings={"evaluations": 8, "evaluation_rows": 16, **CONSTANT},
    ),
    "laptop": Scale(
        scales.LAPTOP_SOURCE,
        sizes=(Size(2, 16), Size(2, 32), Size(2, 64, 2), Size(2, 128, 4)),
        tokens=(614_400,),
        seeds=2,
        settings={"evaluations": 40, "evaluation_rows": 256, **CONSTANT},
    ),
    "v5e-16": Scale(
        scales.WIKIPEDIA,
        sizes=(
            Size(8, 512, 8, 4e-3),
            Size(12, 768, 12, 3e-3),
            Size(24, 1024, 16, 2e-3),
            Size(24, 2048, 32, 1e-3),
        ),
        tokens=(1600 * 2**20,),
        seeds=2,
        settings=dict(scales.V5E_8.settings) | {"evaluations": 64, **CONSTANT},
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.LAW_EFFORT | {"laptop": replace(scales.LAW_EFFORT["laptop"], rows=256)}

LIMITS = (
    "At a constant rate the loss stops at a floor that the noise of the last steps makes, which"
    " is higher than where a falling rate would end; near it, tokens to a loss are a matter of"
    " that noise. Runs that never reach a loss are left out of its law, which makes the gain of"
    " size look smaller, as those are small ones.",
    "All sizes have one learning rate at the laptop’s scale. A smaller one might serve larger"
    " models better, and the exponent would then be larger. The levels are as low as the"
    " smallest model goes; at losses that only larger ones reach, tokens fall to a number from"
    " infinity, and no power of N describes that.",
)


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: each size in each variant, for every seed."""
    return PLANS[scale].runs(VARIANTS, once=True)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    found = races.races_of(cells, VARIANTS)
    flops = races.flops_text(found)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Bigger learns faster",
        answer=races.race_answer(found),
        details=(
            flops,
            "The two objectives’ losses are of different predictions. An exponent compares"
            " sizes of one objective; that one variant’s is larger than the other’s says"
            " nothing of which objective learns from fewer tokens.",
        )
        if flops
        else (),
        table=tables.runs_table(
            cells, ", at the end of their constant rate; bits per byte are of other windows"
        ),
        sections=[
            *races.race_sections(found),
            sections.equal_section(groups, groups[0]),
            sections.limits(cells, groups, *LIMITS),
        ]
        if groups
        else [],
        compared=variant_rows(cells),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
