"""Does the gain from more data flatten earlier for a BERT than for a GPT?

Answers to: nobody's table. Hoffmann et al. 2022 (arXiv:2203.15556), equation 2, has the loss
fall as E + B / D^beta in the tokens D, for causal models; Nie et al. 2024 (arXiv:2410.18514)
and Ni et al. 2025 (arXiv:2510.03280) fit masked diffusion by compute. Here each objective has
a beta on the same text, read once. What a size cannot learn is in E, as there is one size.

    python -m experiments.data_growth --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  16 minutes, 2 cores  0.1M parameters, 26k to 0.8M tokens of a known source
    v5e-16  3 hours, 16 chips    85M parameters, 52M to 1.7B tokens of Wikipedia, 1.3e19 FLOPs

The laptop's cores were shared; the accelerator's line is a plan, not run (`--cost v5e-16`).

The GPT's bits per byte are exact and those of the BERT at all rates a bound; the BERT at 15%
has hardly learnt what a bound asks, and is compared in its own loss. Expect the BERT to need
more tokens to begin, to gain more at each doubling once it has, and a beta that is not known to
differ.
"""

import sys

from msgspec.structs import replace

from lm.run import Run
from lm.study import runner, scales, sections, tables
from lm.study.analyses import growth
from lm.study.checks import variant_rows
from lm.study.grid import ANY_ORDER, BERT, GPT, GPT_AND_BERTS, Scale, Size, StudyRun
from lm.study.groups import BITS, groups_of
from lm.study.report.values import Report

VARIANTS = GPT_AND_BERTS
PLANS = {
    "smoke": Scale(
        scales.SMOKE_SOURCE,
        sizes=(Size(1, 16),),
        tokens=(1024, 2048, 4096, 8192),
        settings={"evaluations": 1, "evaluation_rows": 32},
    ),
    "laptop": Scale(
        scales.FEW_ROWS,
        sizes=(Size(2, 64, 2),),
        tokens=tuple(25_600 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 1, "evaluation_rows": 1024},
    ),
    "v5e-16": Scale(
        replace(scales.WIKIPEDIA, batch=512),
        sizes=(Size(12, 768, 12, 3e-3),),
        tokens=tuple(50 * 2**20 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 4096, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.LAW_EFFORT
LOSSES = {
    BITS: ("Bits per byte", (GPT, ANY_ORDER)),
    growth.OWN: ("Each objective’s own loss", (GPT, BERT, ANY_ORDER)),
}
"""The heading and the variants that are fit, by loss."""
LIMITS = (
    "E, B and β make up for each other over so short a span of tokens: their intervals, from"
    " resampled runs, hold if the law does, and that the loss goes on as a power of D beyond"
    " the last number is not shown. A model that has not begun to learn from context at the"
    " fewest tokens does not follow a power there, and bends β.",
    "A β says how the gain shrinks, not who is ahead: the variant with the larger β may gain"
    " more at every doubling shown. A bound may fall faster than an exact number as the orders"
    " it averages come to agree.",
)


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: each number of tokens in each variant, for every seed."""
    return PLANS[scale].runs(VARIANTS, once=True)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    found = {
        heading: growth.Growth.of(groups, loss, variants)
        for loss, (heading, variants) in LOSSES.items()
    }
    bits, budgets = found["Bits per byte"], sorted({cell.run.tokens for cell in cells})
    span = (
        f"Exponents come from {len(budgets)} numbers of tokens that span a factor of"
        f" {budgets[-1] / budgets[0]:.0f}."
    )
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="What more data gains",
        answer=growth.growth_answer(groups, bits),
        details=growth.growth_details(groups, bits),
        table=tables.runs_table(cells, ", which read each token once"),
        sections=[
            *(growth.growth_section(name, groups, each) for name, each in found.items()),
            sections.same_rows_section(
                cells, groups, "at the most tokens, between the variants of a seed"
            ),
            sections.limits(cells, groups, span, *LIMITS),
        ]
        if groups
        else [],
        compared=variant_rows(cells),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
