"""How few bits may a weight have, of a GPT and of a BERT?

Models of each kind are trained as usual. The matrices of their layers are then rounded, to
nearest and by GPTQ on rows of the training text, to 8 bits by channel and to 4, 3 and 2 in
groups of 32 inputs, and all are scored on the same held-out text under the same masks.

Answers to: Frantar et al. 2022 (GPTQ, arXiv:2210.17323), figure 1, where 4 bits cost little of
a large model and more of a small one, and 3 bits to nearest ruin it; and Dettmers & Zettlemoyer
2023 (arXiv:2212.09720), who find 4 bits to be the best use of a model's bits.

    python -m experiments.bits --scale laptop

    smoke   a minute    toys on bytes, to see that everything works
    laptop  5 minutes   0.4M parameters, 0.6M bytes of Python's library
    v5e-8   not run     85M parameters, 6.5B tokens of Wikipedia

Expect 8 bits to be free, 4 to cost a hundredth or so, and GPTQ to be ahead the more the fewer
bits there are, for both kinds alike.
"""

import sys
from functools import partial
from pathlib import Path

from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import bits, parts
from lm.study.grid import ANY_ORDER, GPT, Size, StudyRun, scale_of
from lm.study.groups import groups_of
from lm.study.report.values import Report

VARIANTS = {"causal": GPT, "any_order": ANY_ORDER}
PLANS = {
    "smoke": scales.SMOKE._replace(sizes=(Size(1, 32, 2),)),
    "laptop": scales.PART_LAPTOP._replace(sizes=(Size(2, 128, 4),), tokens=(600_000,), seeds=3),
    "v5e-8": scales.V5E_8,
}
SCALES = tuple(PLANS)
EFFORT = {scale: scales.PART_EFFORT[scale] for scale in SCALES}
GROUP = 32
"""Inputs that share a scale below 8 bits."""
WAYS = {scale: bits.ways((8, 4, 3, 2), GROUP) for scale in SCALES} | {
    "smoke": bits.ways((8, 2), GROUP)
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: a GPT and a BERT at all rates for every seed."""
    return PLANS[scale].runs(VARIANTS)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Rounds and scores all runs in every way."""
    scale = scale_of(directory)
    asked = partial(bits.scores, effort=EFFORT[scale], kept=WAYS[scale])
    parts.ask(cells, bits.NAME, asked)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    kept = WAYS[scale_of(cells[0].directory.parent)]
    cells = parts.with_scores(cells, bits.NAME)
    groups = list(groups_of(cells, VARIANTS).values())
    contrasts = [bits.contrast(group.variant.label, group, kept) for group in groups]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="How few bits a weight may have",
        answer=bits.bits_answer(contrasts, kept),
        table=bits.bits_table(contrasts, kept),
        sections=[
            sections.figure_section(
                "Bits per byte by bits a weight",
                "bits",
                bits.bits_figure(contrasts, kept),
                "With 95% intervals of what is above float32. BERTs' bits per byte are bounds.",
            ),
            sections.equal_section(groups, groups[0]),
            sections.limits(
                cells,
                groups,
                "Rounding is after training, with nothing trained again. Weights of models that"
                " are trained for longer hold more, and lose more of it by rounding: what is"
                " free here may not be later. Groups have the same size for all, and"
                " differ in how many there are of a row. GPTQ read some sixteen thousand"
                " tokens of the training text, shown as in training.",
            ),
        ]
        if groups
        else [],
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
