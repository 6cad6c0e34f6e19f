"""In what order do a BERT's bound, its decoding orders, its pseudo-likelihood and a GPT stand?

A GPT and a BERT of one size and one tokenizer read the same bytes. The BERT is then scored in
every way that is published as "bits per byte" of such models: the bound over random orders, the
exact likelihoods of three decoding orders, and the pseudo-likelihood, which is none. All are of
the same windows and pay for where documents end.

Answers to: github.com/openai/parameter-golf, a competition in bits per byte, where masked
models stand as bounds, as orders and as pseudo-likelihoods in one list. Its pull request 1699
scores one model of 19M parameters in three ways: 1.483 by the bound, 1.430 most confident
first, 1.420 from left to right; and a GPT, 1.239. What errors of accounting do besides is told
by `lm prove --scorer`.

    python -m experiments.golf --scale laptop

    smoke   a minute            toys on bytes, to see that everything works
    laptop  6 minutes, 2 cores  0.8M parameters, 1M bytes of Python's library, two seeds

Expect the GPT far ahead, no order of the BERT's bound and decoding orders that the intervals
tell, and the pseudo-likelihood below what it may not be below: the likelihoods of the same
model.
"""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses.ways import (
    BitsAndBytes,
    ask_ways,
    bits_per_byte,
    how_told,
    in_bits,
    lies_above,
    read_ways,
    ways_figure,
    ways_table,
)
from lm.study.grid import ANY_ORDER, GPT, Size, StudyRun, scale_of
from lm.study.groups import groups_of
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER

VARIANTS = {"causal": GPT, "any_order": ANY_ORDER}
SCORERS = (
    "any_order",
    "random_order",
    "confident_first",
    "left_to_right",
    "pseudo_all",
    "chain_rule",
)
PUBLISHED = {
    ("any_order", "any_order"): ("the bound", 1.483),
    ("any_order", "confident_first"): ("most confident first", 1.430),
    ("any_order", "left_to_right"): ("left to right", 1.420),
    ("causal", "chain_rule"): ("the GPT", 1.239),
}
"""In the order published, with what they are called and their bits per byte."""
PLANS = {
    "smoke": scales.SMOKE._replace(seeds=1),
    "laptop": scales.PART_LAPTOP._replace(
        sizes=(Size(4, 128, 2, 5e-3),), tokens=(1_000_000,), seeds=2
    ),
}
SCALES = tuple(PLANS)
EFFORT = {name: scales.PART_EFFORT[name] for name in SCALES}
ROWS = {"smoke": 8, "laptop": 48}
"""Windows that every scorer scores, in orders of one token at a time."""


def runs(scale: str) -> dict[str, Run]:
    """A GPT and a BERT at all rates, for every seed."""
    return PLANS[scale].runs(VARIANTS)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Scores all runs in every way."""
    scale = scale_of(directory)
    rows = ROWS[scale]
    effort = replace(EFFORT[scale], rows=rows, curve_rows=rows, orders=rows, block=1)
    ask_ways(cells, SCORERS, effort, directory)


def report(cells: list[StudyRun]) -> Report:
    """What each way says, and whether the published order is found."""
    ways, kinds = read_ways(cells, cells[0].directory.parent)
    ways = {key: of for scorer in SCORERS for key, of in ways.items() if key[1] == scorer}
    groups = list(groups_of(cells, VARIANTS).values())
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="One model, six numbers",
        answer=_answer(ways),
        details=("Intervals are of 95%, over documents and seeds, and paired in differences.",),
        table=ways_table(ways, kinds, VARIANTS, "causal"),
        sections=[
            sections.figure_section(
                "Side by side",
                "ways",
                ways_figure(ways, VARIANTS) if ways else None,
                "Bits per byte of the same windows, with 95% intervals over documents and"
                " seeds; hollow: no likelihood; dashed: the GPT.",
            ),
            sections.equal_section(groups, groups[0]),
            sections.limits(
                cells,
                groups,
                "The numbers published are of 19M parameters, another corpus and other"
                " tokens: their order may be compared, and not their sizes. A bound and an"
                " order's likelihood are of different codes of one model: that one lies below"
                " another does not say that a model is better. The pseudo-likelihood is of no"
                " code at all, and stands here to show how far below it lies. Rows are scored"
                " one token at a time, of few windows: documents are few, and intervals over"
                " them are wide where they are not paired.",
            ),
        ]
        if groups
        else [],
    )


def _answer(ways: BitsAndBytes) -> str:
    """Each step of the published order, and where the pseudo-likelihood lies."""
    there = [key for key in PUBLISHED if key in ways]
    if len(there) < len(PUBLISHED):
        return NO_ANSWER
    steps = []
    for above, below in pairwise(there):
        gap = lies_above(ways[above], ways[below])
        (first, its), (second, others) = PUBLISHED[above], PUBLISHED[below]
        steps.append(
            f"{first} above {second} is {how_told(gap)}, {in_bits(gap, '+')} here against"
            f" {its - others:+.3f}"
        )
    said = f"Of the published order, in bits per byte: {'; '.join(steps)}."
    pseudo = ways.get(("any_order", "pseudo_all"))
    if pseudo is not None:
        gap = lies_above(pseudo, ways["any_order", "left_to_right"])
        said += (
            f" The pseudo-likelihood, which is none, gives {in_bits(bits_per_byte(pseudo))},"
            f" {in_bits(gap, '+')} from the order from left to right."
        )
    return said


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
