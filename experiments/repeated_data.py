"""How many times may the same text be read, by a GPT and by a BERT?

Answers to: Muennighoff et al. 2023 (arXiv:2305.16264), figure 3 and equation 5, where the value
of a repeated token falls off exponentially, to nothing after R_D = 15 repeats or so, up to 4
epochs cost next to nothing, and all models are causal; and Prabhudesai et al. 2025
(arXiv:2507.15857) and Ni et al. 2025 (arXiv:2511.03276), by whom masked diffusion models bear
far more repeats (the former fit an R_D of about 500) and pass causal ones where text is scarce.

    python -m experiments.repeated_data --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  16 minutes, 2 cores  0.1M parameters, up to 32 epochs of a known source
    v5e-16  5 hours, 16 chips    85M parameters, up to 64 epochs of Wikipedia, 2.4e19 FLOPs

The laptop's cores were shared; the accelerator's line is a plan, not run (`--cost v5e-16`).

Each variant trains on so many tokens of text that is read once, and on as many of a part of it
that is read again and again, beginning with the same rows. A run that ends worse than one of
fewer epochs of the same text has overfit: the law knows no such thing, and is fit to the best
of a run and those that stopped before it. Expect the GPT ahead wherever text is new, its loss
to rise again after some ten epochs of little text, and the BERT's to fall on: each epoch masks
other tokens.
"""

import sys

from msgspec.structs import replace

from lm.output.numbers import count
from lm.run import Run
from lm.study import runner, scales, sections, tables
from lm.study.analyses import repeats
from lm.study.checks import variant_rows
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun
from lm.study.groups import groups_of
from lm.study.laws import attempt
from lm.study.report.values import Column, Report
from lm.study.sentences import together

VARIANTS = {"causal": GPT, "any_order": ANY_ORDER}
PLANS = {
    "smoke": Scale(
        scales.SMOKE_SOURCE,
        sizes=(Size(1, 16),),
        tokens=(1024, 2048, 4096, 8192),
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        scales.FEW_ROWS,
        sizes=(Size(2, 64, 2),),
        tokens=tuple(25_600 * 2**k for k in range(5)),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 128},
    ),
    "v5e-16": Scale(
        replace(scales.WIKIPEDIA, batch=512),
        sizes=(Size(12, 768, 12, 3e-3),),
        tokens=tuple(50 * 2**20 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 16, "evaluation_rows": 1024, "remat": "block"},
    ),
}
"""The tokens are those of text that is read once."""
REPEATED: dict[str, dict[int, tuple[int, ...]]] = {
    "smoke": {1024: (4096, 8192)},
    "laptop": {
        12_800: tuple(25_600 * 2**k for k in range(5)),
        51_200: (102_400, 409_600),
    },
    "v5e-16": {
        25 * 2**20: tuple(100 * 2**20 * 2**k for k in range(5)),
        100 * 2**20: (400 * 2**20, 1600 * 2**20),
    },
}
"""Tokens trained on, by how many of them are different."""
SCALES = tuple(PLANS)
EFFORT = scales.LAW_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: new text and repeated text in each variant, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    grid = [(tokens, (tokens,)) for tokens in plan.tokens]
    for unique, tokens in [*grid, *REPEATED[scale].items()]:
        data = replace(plan.data, unique=unique)
        for name, run in plan._replace(data=data, tokens=tokens).runs(VARIANTS).items():
            variant, size, *rest = name.split("-")
            found["-".join([variant, size, f"u{count(unique)}", *rest])] = run
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = sorted(groups_of(cells, VARIANTS).values(), key=lambda g: (g.unique, g.tokens))
    laws = {variant: attempt(repeats.law_of, groups, variant) for variant in VARIANTS.values()}
    overfit = repeats.overfit_text(groups, laws)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="The same text again",
        answer=repeats.repeats_answer(groups, laws),
        details=(overfit, *sections.errors_text(groups)) if overfit else (),
        table=tables.runs_table(
            [cell._replace(result=repeats.with_epochs(cell.result)) for cell in cells],
            ": U different tokens, read for so many epochs",
            Column("unique_tokens", "U", count),
            Column("epochs", "epochs", "{:g}".format),
        ),
        sections=[
            repeats.law_section(groups, laws),
            repeats.worth_section(groups, laws),
            sections.same_rows_section(
                cells,
                groups,
                "at the most epochs, between the variants",
                "A run that repeats begins with the rows that the run of new text begins with.",
            ),
            sections.limits(
                cells,
                groups,
                "R_D comes from"
                f" {together([str(e) for e in sorted({group.epochs for group in groups})])}"
                " epochs. Where the loss still falls at the most of them as it does on new"
                " text, R_D is known from below alone and its upper end is the fit’s bound. R_D"
                " is a constant of a size, a text and a recipe: larger models overfit sooner,"
                " and dropout or a stronger decay of weights, which nobody tuned here, may bear"
                " more epochs.",
                "The BERT’s number is a bound, which says of a model at least what it knows;"
                " that the bound falls while the GPT’s exact number rises is no artefact of"
                " that, but how far apart they are is.",
            ),
        ]
        if groups
        else [],
        compared=variant_rows(cells),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
