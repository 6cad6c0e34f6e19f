"""How does the loss on each of two unlike texts fall with its weight, as a GPT and as a BERT?

Python's library is read as prose (the sentences in its strings and comments) and as code
(without those) in mixtures of some weights, each text once at most. All models are scored on
the same held-out pages of both. A law of mixtures is fit to the losses, and says which weight
is best if both count equally.

Answers to: Ye et al. 2024 (Data Mixing Laws, arXiv:2403.16952), where a causal model's loss on
a source is c + k exp(t r) in its fraction r, and so foretells mixtures that nobody trained;
Chen et al. 2024 (Aioli, arXiv:2411.05735), by whom such forms hold and what is fit to them is
often off. Of masked models neither says anything.

    python -m experiments.mixture --scale laptop

    smoke   a minute   toys, four weights, to see that everything works
    laptop  8 minutes  0.4M parameters, 0.5M bytes, seven weights

Expect a law that fits both, steep where a text is nearly absent, so that a tenth of it gains
most of what there is to gain; and a best weight near one half, nearer to the text that is
harder.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from lm.data import Component, TextMixture
from lm.data.mixture import AnyCorpus
from lm.run import Run
from lm.study import library, runner, scales, sections
from lm.study.analyses import mixing
from lm.study.analyses.held_parts import with_parts
from lm.study.analyses.mixing import Tradeoff
from lm.study.checks import variant_rows
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun, scale_of
from lm.study.groups import Group, groups_of
from lm.study.laws import attempt
from lm.study.report.values import Report
from lm.study.tables import equal_table

VARIANTS = {"causal": GPT, "any_order": ANY_ORDER}
SOURCES = "prose", "code"


class Plan(NamedTuple):
    """What a scale trains on, and scores."""

    scale: Scale
    weights: tuple[float, ...]
    """Of prose."""
    train: int
    """Bytes of each text that are there to be read."""
    held_out: int
    """Pages of each that are scored."""


PAGE = 1500
PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(seeds=1), (0.0, 0.25, 0.5, 1.0), train=20_000, held_out=4
    ),
    "laptop": Plan(
        scales.PART_LAPTOP._replace(sizes=(Size(2, 128, 4),), tokens=(500_000,)),
        (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0),
        train=600_000,
        held_out=40,
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.WHOLE_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every weight in each variant, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    for weight in plan.weights:
        data = replace(plan.scale.data, corpus=_corpus(weight))
        for name, run in plan.scale._replace(data=data).runs(VARIANTS).items():
            variant, rest = name.split("-", 1)
            found[f"{variant}-p{100 * weight:g}-{rest}"] = run
    return found


def _corpus(weight: float) -> AnyCorpus:
    """The mixture; where one text is all of it, both are held out nevertheless."""
    weights = dict(zip(SOURCES, (weight, round(1 - weight, 6)), strict=True))
    for source in SOURCES:
        if weights[source] == 1:
            return library.split_texts(f"{source}-train", "held-out")
    return TextMixture(
        components=tuple(
            Component(
                name=source,
                corpus=library.split_texts(f"{source}-train", f"{source}-held-out"),
                weight=weights[source],
            )
            for source in SOURCES
        )
    )


def before(scale: str, directory: Path) -> list[str]:
    """Writes both texts, and what is held out of both as one, in the same order."""
    plan, lines, held = PLANS[scale], [], list[dict[str, str]]()
    pages = {"prose": library.prose_pages(PAGE), "code": library.code_pages(PAGE)}
    for source in SOURCES:
        ours, theirs = library.take(pages[source], train=plan.train, held_out=plan.held_out)
        library.write_texts(directory, f"{source}-train", ({"text": page} for page in ours))
        library.write_texts(directory, f"{source}-held-out", ({"text": p} for p in theirs))
        held += [{"text": page} for page in theirs]
        lines.append(f"{source}: {len(ours):,} pages to train on, {len(theirs):,} held out")
    library.write_texts(directory, "held-out", held)
    return lines


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    plan = PLANS[scale_of(cells[0].directory.parent)]
    cells = [
        cell._replace(result=cell.result and mixing.with_both(cell.result, SOURCES))
        for cell in with_parts(cells, dict.fromkeys(SOURCES, plan.held_out))
    ]
    groups = list(groups_of(cells, VARIANTS).values())
    found = _tradeoffs(groups)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Prose and code",
        answer=mixing.mixing_answer(found),
        details=[text for text in (mixing.laws_text(found),) if text],
        table=mixing.mixtures_table(groups, SOURCES, _weight),
        sections=[
            sections.figure_section(
                "What one text costs the other",
                "tradeoff",
                mixing.tradeoff_figure(found),
                "The loss on prose against that on code, a mark a weight of prose, with one"
                " standard error over seeds; the line is the law's, and the star where its mean"
                " of both is least. Hollow: upper bounds.",
            ),
            sections.figure_section(
                "The law",
                "laws",
                mixing.laws_figure(found),
                "The loss on each text by its fraction of the tokens, a mark a run, with the"
                " law and its 95% band. Hollow: upper bounds.",
                mixing.mixing_laws_table(found),
            ),
            sections.section(
                sections.EQUAL,
                equal_table(variant_rows(cells), "between the variants of a weight and seed"),
                "All weights have the same tokens, steps, model, tokenizer (bytes) and held-out"
                " pages, and no text is read twice. More of one text is less of the other:"
                " nothing here tells what a text lacks from what the other one gives.",
            ),
            sections.section(
                "What this does and does not show",
                "It shows the losses of one small model after few bytes of two texts of one"
                " library, which share words and names, so that each helps the other more"
                " than unrelated texts would. Pages of few files are held out, and the law is"
                " fit to means over them: its intervals are of seeds and of what the law"
                " misses, not of other pages. Nothing says that a best weight holds for more"
                " tokens, where the easier text is learnt out first, or for a larger model;"
                " none is read twice here, as a scarce one would be. The BERT's numbers are"
                " bounds, and the slack of a bound may differ between texts. One learning"
                " rate serves all.",
                mixing.chosen_text(found),
            )
            if groups
            else None,
        ],
        compared=variant_rows(cells),
    )


def _tradeoffs(groups: Sequence[Group]) -> list[Tradeoff]:
    """Of each variant of which enough is finished."""
    found = [attempt(Tradeoff.of, groups, each, SOURCES, _weight) for each in VARIANTS.values()]
    return [each for each in found if isinstance(each, Tradeoff)]


def _weight(group: Group) -> float:
    return float(group.name.split("-")[1][1:]) / 100


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
