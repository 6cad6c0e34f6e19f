"""How should a model know where tokens stand, as a GPT and as a BERT, and in longer rows?

Each kind of positions that the transformer has trains one model as a GPT and one as a BERT at
all rates, from the same initial values on the same rows. All are then also scored on the same
held-out text in windows two and four times as long as the rows that they were trained on, which
the learned table alone has no places for.

Answers to: Press et al. 2022 (ALiBi, arXiv:2108.12409), figure 1, where sinusoidal and rotary
models get worse on rows longer than those trained on, relative buckets hold for some time, and
ALiBi gets better; Haviv et al. 2022 (arXiv:2203.16634), where causal models without positions
are hardly worse and masked ones fail; and Kazemnejad et al. 2023 (arXiv:2305.19466), where
causal models without positions do best at longer rows.

    python -m experiments.positions --scale laptop

    smoke        2 minutes        toys on bytes, to see that everything works
    laptop       half an hour     0.4M parameters, 0.6M bytes of Python's library
    workstation  not run          1.8M parameters, 8M bytes of Python's library
    v5e-8        2 days, 8 chips  85M parameters (BERT-base), 6.5B tokens of Wikipedia

The accelerator's line is a plan by FLOPs, not run (`--cost v5e-8`).

Expect rotary and buckets ahead in rows as trained on, little lost without positions by the GPT
and much by the BERT, for which a row is a bag of tokens then; and in rows four times as long
ALiBi better than in short ones, and rotary and sinusoidal positions worse.
"""

import sys
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from lm.model.positions import (
    Alibi,
    Buckets,
    Learned,
    NoPositions,
    Positions,
    Rotary,
    Sinusoidal,
)
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import longer_rows, parts
from lm.study.analyses.parts import Contrast
from lm.study.figures import lines_of
from lm.study.grid import ANY_ORDER, GPT, Size, StudyRun, Variant, scale_of
from lm.study.groups import groups_of
from lm.study.report.figures import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILLION
from lm.study.report.values import Report

KINDS: dict[str, tuple[str, Positions | None, str]] = {
    "rotary": ("rotary", Rotary(), BLUE),
    "learned": ("learned", None, ORANGE),
    "sinusoidal": ("sinusoidal", Sinusoidal(), VERMILLION),
    "alibi": ("ALiBi", Alibi(), GREEN),
    "buckets": ("relative buckets", Buckets(), PURPLE),
    "none": ("none", NoPositions(), INK),
}
"""What figures call them, and the positions; a learned table has a place for each of a row."""
CONTRASTS = {
    "causal": ("GPTs", GPT.objective),
    "masked": ("BERTs, all rates", ANY_ORDER.objective),
}
"""What those that compare have in common, and what they are trained for."""
VARIANTS = {
    f"{kind}_{name}": Variant(label, label, objective, colour)
    for name, (_, objective) in CONTRASTS.items()
    for kind, (label, _, colour) in KINDS.items()
}
VARIED = ("model",)
PLANS = {
    "smoke": scales.SMOKE._replace(
        sizes=(Size(1, 32, 2),),
        only=("rotary_causal", "learned_causal", "none_causal", "rotary_masked", "none_masked"),
    ),
    "laptop": scales.PART_LAPTOP._replace(sizes=(Size(2, 128, 4),), tokens=(600_000,)),
    "workstation": scales.PART_WORKSTATION,
    "v5e-8": scales.V5E_8,
}
SCALES = tuple(PLANS)
EFFORT = scales.PART_EFFORT
LONG = {"smoke": 4, "laptop": 128, "workstation": 256, "v5e-8": 1024}
"""Windows of four times the length that are scored."""


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every kind as a GPT and as a BERT for every seed."""
    return {
        name: replace(run, model=replace(run.model, positions=_positions(name, run)))
        for name, run in PLANS[scale].runs(VARIANTS).items()
    }


def _positions(name: str, run: Run) -> Positions:
    _, positions, _ = KINDS[name.partition("_")[0]]
    return positions or Learned(length=run.data.length)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Scores all runs on one text in rows as trained on, and in longer ones."""
    scale = scale_of(directory)
    asked = partial(longer_rows.longer_rows, effort=EFFORT[scale], rows=LONG[scale])
    parts.ask(cells, longer_rows.NAME, asked)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    cells = longer_rows.with_changes(parts.with_scores(cells, longer_rows.NAME))
    groups = list(groups_of(cells, VARIANTS).values())
    contrasts = [
        Contrast(
            title,
            [group for group in groups if group.objective == objective],
            VARIANTS[f"rotary_{name}"],
        )
        for name, (title, objective) in CONTRASTS.items()
    ]
    longer = longer_rows.changes_answer(contrasts)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="How a model knows where tokens stand",
        answer=parts.contrasts_answer(contrasts),
        details=(longer, *sections.errors_text(groups)) if longer else None,
        table=parts.contrasts_table(contrasts, "positions"),
        sections=[
            sections.figure_section(
                "In rows as long as those trained on",
                "kinds",
                parts.contrasts_figure(contrasts),
                parts.BARS,
            ),
            sections.figure_section(
                "In longer rows",
                "longer",
                longer_rows.changes_figure(contrasts),
                "How many bits per byte more one text needs in windows longer than the rows of"
                " training, with 95% intervals. A longer window leaves fewer tokens without"
                " context, so that a model that reads it as well falls below 0.",
                longer_rows.changes_table(contrasts),
            ),
            sections.fractions_section(
                lines_of(contrasts[-1].groups),
                "The bound is the mean of this over all fractions. Where little is masked, more"
                " of the text is there whose places can be used.",
            ),
            parts.equal_section(
                contrasts,
                VARIED,
                "A learned table and buckets have parameters of their own, which the others"
                " have not: no other part makes up for them.",
            ),
            parts.limits(
                contrasts,
                "Python's source",
                "What a kind is worth grows with the length of rows, and these are short. Of"
                " rows longer than trained on it is asked what a model does with no further"
                " training and unscaled: rotary wavelengths can be stretched, and a little"
                " training at the new length does more.",
            ),
        ]
        if groups
        else [],
        compared=parts.contrast_rows(contrasts),
        varied=VARIED,
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
