"""How much do near-copies of held-out pages in the training text lower the loss on these?

Of some held-out pages of prose of Python's library 1, 4 or 16 near-copies each, in which every
50th word is another, are planted in the training text; of some 4 far ones, in which every 12th
is. A GPT and a BERT at all rates read that text, or one with other pages in the copies' place,
or what `near` of `lm data prepare` leaves of the first if it is to keep the held-out pages,
filled up with other pages: once, and several times.

Answers to: Lee et al. 2022 (arXiv:2107.06499), where over 4% of what standard sets hold out
overlaps with their training text, on which models are ahead, and deduplication takes that
away; Carlini et al. 2023 (arXiv:2202.07646), by whom what is learnt by heart grows with the
logarithm of the number of copies. Both are of causal models; what a masked one gains is asked
here.

    python -m experiments.duplicates --scale laptop

    smoke   a minute   toys, to see that everything works
    laptop  8 minutes  0.4M parameters, 0.4M bytes, read once and three times

Expect more from each fourfold of copies and with epochs, less for the BERT, which has to learn
a page under all masks; and something left after cleaning: `near` misses a few near copies, and
does not look for far ones.
"""

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from lm.config import read_json
from lm.data.cleaning import Cleaning, NamedCorpus, Near, clean
from lm.data.cleaning.near import jaccard, run_sets
from lm.data.cleaning.words import plain_words
from lm.data.sources import Shards
from lm.output.files import write_whole
from lm.output.numbers import percent
from lm.output.plain import to_json
from lm.run import Run
from lm.study import dirt, library, runner, scales, sections
from lm.study.analyses import leakage
from lm.study.analyses.held_parts import with_parts
from lm.study.analyses.leakage import Leakage, Planted, leaks_into, planted_text
from lm.study.checks import objective_rows
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun, Variant, scale_of
from lm.study.groups import Group, groups_of
from lm.study.made_up import FOLDER
from lm.study.report.values import Column, Report, Table
from lm.study.tables import equal_table

OBJECTIVES = {"causal": GPT, "masked": ANY_ORDER}
TEXTS = {
    "without": "Without copies",
    "planted": "With copies",
    "cleaned": "After cleaning",
}
LEAKING = {text: title for text, title in TEXTS.items() if text != "without"}
VARIANTS = {
    f"{text}_{name}": Variant(f"{of.label}, {title.lower()}", of.name, of.objective, of.colour)
    for name, of in OBJECTIVES.items()
    for text, title in TEXTS.items()
}
FAR = 12
"""Of so many words of a far copy one is another."""
COUNTED = "planted.json"


class Plan(NamedTuple):
    """What a scale trains on, and of which pages copies are planted."""

    scale: Scale
    """Its tokens are epochs of so many bytes: the first is one."""
    untouched: Planted
    planted: tuple[Planted, ...]

    @property
    def text(self) -> int:
        """Bytes of the training text."""
        return self.scale.tokens[0]

    @property
    def pages(self) -> dict[str, int]:
        """The held-out pages of each group, in their order."""
        return {each.part: each.pages for each in (self.untouched, *self.planted)}


PAGE = 450
PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(seeds=1, tokens=(16_384,)),
        Planted(0, 4),
        (Planted(1, 3), Planted(4, 2), Planted(4, 2, every=FAR)),
    ),
    "laptop": Plan(
        scales.PART_LAPTOP._replace(sizes=(Size(2, 128, 4),), tokens=(400_000, 1_200_000)),
        Planted(0, 24),
        (Planted(1, 24), Planted(4, 12), Planted(16, 8), Planted(4, 12, every=FAR)),
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.WHOLE_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every text and number of epochs as a GPT and as a BERT by seed."""
    plan, found = PLANS[scale].scale, dict[str, Run]()
    for text in TEXTS:
        data = replace(plan.data, corpus=library.split_texts(text, "held-out"))
        variants = {name: of for name, of in VARIANTS.items() if name.startswith(f"{text}_")}
        found |= plan._replace(data=data).runs(variants)
    return found


def before(scale: str, directory: Path) -> list[str]:
    """Writes the held-out pages and the three texts, and counts copies before and after."""
    plan, random = PLANS[scale], np.random.default_rng(0)
    number = sum(plan.pages.values())
    pages, held = library.take(library.prose_pages(PAGE), train=2 * plan.text, held_out=number)
    words = [word for page in pages for word in page.split()]
    copies, similar, rest = dict[str, str](), dict[str, list[float]](), iter(held)
    for group in (plan.untouched, *plan.planted):
        for at in range(group.pages):
            page = next(rest)
            for copy in range(group.copies):
                text = dirt.edited(page, words, group.every, random)
                copies[f"copy-{group.part}-{at}-{copy}"] = text
                similar.setdefault(group.part, []).append(_similarity(page, text))
    others = {f"page-{at}": page for at, page in enumerate(pages)}
    fill = iter(others.items())
    base = dict(_filled(fill, plan.text - _size(copies)))
    left = [*fill]
    _write(directory, "without", base | dict(_filled(iter(left), _size(copies))), random)
    new = _write(directory, "planted", base | copies, random)
    named = [{"id": f"held-{at}", "text": page} for at, page in enumerate(held)]
    new |= library.write_texts(directory, "held-out", named)
    kept = _cleaned(directory, new=new)
    _write(
        directory, "cleaned", kept | dict(_filled(iter(left), plan.text - _size(kept))), random
    )
    groups = {
        group.part: {
            "copies": sum(name.startswith(f"copy-{group.part}-") for name in copies),
            "left": sum(name.startswith(f"copy-{group.part}-") for name in kept),
            "similarity": float(np.mean(similar[group.part])),
        }
        for group in plan.planted
    }
    fraction = _size(copies) / plan.text
    write_whole(
        directory / FOLDER / COUNTED,
        to_json({"groups": groups, "fraction": fraction}),
    )
    return [
        f"{number} pages held out; {len(copies):,} copies are {percent(fraction)} of the text,"
        f" and cleaning leaves {sum(group['left'] for group in groups.values()):,} of them"
    ]


def _similarity(page: str, copy: str) -> float:
    """The Jaccard index of both pages' runs of words, as `near` has it."""
    hashes, (first, _) = run_sets([plain_words(page), plain_words(copy)], Near().words)
    return jaccard(hashes[:first], hashes[first:])


def _size(pages: Mapping[str, str]) -> int:
    return sum(len(page.encode()) for page in pages.values())


def _filled(pages: Iterator[tuple[str, str]], size: int) -> Iterator[tuple[str, str]]:
    """The next pages, until they have so many bytes."""
    while size > 0:
        name, page = next(pages)
        yield name, page
        size -= len(page.encode())


def _write(
    directory: Path, text: str, pages: Mapping[str, str], random: np.random.Generator
) -> bool:
    """Writes a training text, its pages shuffled."""
    names = [*pages]
    order = random.permutation(len(names))
    rows = [{"id": names[at], "text": pages[names[at]]} for at in order]
    return library.write_texts(directory, text, rows)


def _cleaned(directory: Path, *, new: bool) -> dict[str, str]:
    """What `near` leaves of the planted text, where the held-out pages are to stay."""
    out = directory / FOLDER / "cleaned"
    if new:
        shutil.rmtree(out, ignore_errors=True)
    sources = [
        NamedCorpus(name=name, corpus=replace(library.texts_in(directory, name), id="id"))
        for name in ("held-out", "planted")
    ]
    clean(Cleaning(sources=tuple(sources), steps=(Near(),)), out)
    left = Shards(paths=(str(out / "*.gz"),), id="id").read()
    return {page.id: page.text for page in left if not page.id.startswith("held-")}


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    directory = cells[0].directory.parent
    plan = PLANS[scale_of(directory)]
    cells = with_parts(cells, plan.pages)
    groups = list(groups_of(cells, VARIANTS).values())
    found = _leaks(groups, plan)
    counted = read_json(file) if (file := directory / FOLDER / COUNTED).exists() else {}
    counts = counted.get("groups", {})
    most = max((each for each in plan.planted if each.near), key=lambda each: each.copies)
    texts = ("planted", "cleaned")
    taken = leakage.taken_text(found, most, texts)
    rows = objective_rows(cells)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Copies of what is held out",
        answer=leakage.leaks_answer(found, most, plan.planted[0], texts),
        details=[taken] if taken else (),
        table=leakage.leaks_table(found, plan.planted, LEAKING),
        sections=[
            sections.figure_section(
                "By the number of copies",
                "leakage",
                leakage.leaks_figure(found, plan.planted, LEAKING),
                "How much less a model needs for held-out pages of which copies were planted in"
                " its training text, beyond what it needs less for others, with 95% intervals"
                " over pages and seeds. Left: with the copies. Right: after cleaning. Far"
                f" copies differ in every {FAR}th word, near ones in every {dirt.EVERY}th.",
            ),
            sections.section(
                "What was planted, and what cleaning left",
                _planted_table(plan, counts) if counts else None,
                f"Copies are {percent(counted['fraction'])} of the planted text. Cleaning keeps"
                " the held-out pages and removes what is near to them from the training text; a"
                " page that meets none of its bands is missed, as arithmetic says."
                if counts
                else None,
            ),
            sections.section(
                sections.EQUAL,
                equal_table(rows, "between the objectives of a text, budget and seed"),
                "All texts have equal bytes but for the last page, and share all pages but the"
                " copies and what stands in their place. All models have equal tokens for so"
                " many epochs, one learning rate, and are scored on the same pages.",
            ),
            sections.section(
                "What this does and does not show",
                "It shows what copies are worth to one small model that has read few bytes,"
                " of which the copies are a large part, far larger than in any real text:"
                " more text between two copies would leave less of each, and a larger model"
                " more. Each page’s copies differ from it at the same places in other words,"
                " which is one kind of near-copy among many, and far ones are far by design."
                " Groups are of few pages: their intervals hold for pages of this kind, and"
                " rest on a bootstrap that is rough for eight. A bound over all masks says of"
                " a BERT what it needs on average over orders; what it has learnt by heart"
                " may show under few masks alone. What a benchmark would gain is not said:"
                " bits of a page are no answers to questions. With two seeds the part of the"
                " seeds is rough, and of many intervals one in twenty leaves out 0 by chance.",
            ),
        ],
        compared=rows,
    )


def _leaks(groups: Sequence[Group], plan: Plan) -> list[Leakage]:
    """Of each objective and number of epochs of which the model without copies is finished."""
    found = []
    for name, variant in OBJECTIVES.items():
        by_text = {text: VARIANTS[f"{text}_{name}"] for text in TEXTS}
        for tokens in plan.scale.tokens:
            there = {
                text: group
                for text, of in by_text.items()
                for group in groups
                if group.variant == of and group.tokens == tokens
            }
            if (without := there.pop("without", None)) and there:
                into = {
                    text: leaks_into(group, without, plan.untouched, plan.planted)
                    for text, group in there.items()
                }
                found.append(Leakage(variant, round(tokens / plan.text), without, into))
    return found


def _planted_table(plan: Plan, counts: Mapping[str, Mapping[str, Any]]) -> Table:
    """The groups of pages, and their copies before and after cleaning."""
    rows = [
        {"what": planted_text(each), "pages": each.pages, **counts[each.part]}
        for each in plan.planted
    ]
    columns = (
        Column("what", "each page has"),
        Column("pages", "pages"),
        Column("similarity", "similarity", "{:.2f}".format),
        Column("copies", "copies planted"),
        Column("left", "left by cleaning"),
    )
    untouched = f"Beside them {plan.untouched.pages} pages have no copy."
    return Table(
        columns,
        rows,
        f"{untouched} Similarity is the Jaccard index of runs of five words of a page and its"
        " copy, the mean over copies.",
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
