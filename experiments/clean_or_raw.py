"""Is cleaned text worth more than raw text, of equal tokens and of equal source, and where?

Pages of prose of Python's library are made dirty in known ways: menus and notices, scripts,
repetitions, advertisements, lists of words, a wrong encoding, copies and near-copies. A recipe
of `lm data prepare` cleans them: C4's and Gopher's rules, exact and near duplicates, lines that
stood before. GPTs and BERTs read the raw text, or what cleaning left of it: of as many source
bytes, once (fewer tokens) or again and again (equal tokens), or of more source (equal tokens).
Beside them stands the text as it was before it was made dirty. All are scored on held-out pages
as they were, and on the same pages made dirty.

Real dirt is of unknown kinds, and nobody knows what would be right; here both are known, the
raw text is made of what is worth learning, and what cleaning misses can be counted.

Answers to: Raffel et al. 2020 (arXiv:1910.10683), table 8, where C4 is ahead of the raw text;
Rae et al. 2021 (arXiv:2112.11446), appendix A, where each step of cleaning helps; Muennighoff
et al. 2023 (arXiv:2305.16264), by whom filters help noisy text alone, and repeats of what is
left cost little. All are of causal models or of spans.

    python -m experiments.clean_or_raw --scale laptop

    smoke   a minute   toys, to see that everything works
    laptop  5 minutes  0.4M parameters, 0.5M bytes of raw text

Expect cleaned text ahead on clean pages at equal tokens, and raw text ahead on dirty ones,
which have menus that nobody else has seen; at equal source a close race.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import replace

from lm.config import read_json
from lm.data.cleaning import (
    C4,
    Cleaning,
    ExactCopies,
    GopherQuality,
    GopherRepetition,
    NamedCorpus,
    Near,
    clean,
)
from lm.data.sources import Shards
from lm.output.files import write_whole
from lm.output.numbers import count, percent
from lm.output.plain import to_json
from lm.run import Run
from lm.study import dirt, library, runner, scales, sections
from lm.study.analyses import parts
from lm.study.analyses.held_parts import with_parts
from lm.study.analyses.parts import Contrast, asked
from lm.study.checks import objective_rows
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun, Variant, scale_of
from lm.study.groups import Group, groups_of
from lm.study.made_up import FOLDER
from lm.study.report.figures import BLUE, GREEN, INK, ORANGE, VERMILLION
from lm.study.report.values import Column, Report, Table
from lm.study.tables import equal_table

OBJECTIVES = {"causal": ("GPTs", GPT.objective), "masked": ("BERTs", ANY_ORDER.objective)}
TEXTS = {
    "raw": ("raw", VERMILLION, "the text as it was found"),
    "fewer": ("cleaned (fewer)", ORANGE, "equal source, fewer tokens"),
    "again": ("cleaned (again)", BLUE, "equal source, read again to equal tokens"),
    "more": ("cleaned (more)", GREEN, "more source, equal tokens"),
    "original": ("never dirty", INK, "what was made dirty, equal tokens"),
}
"""What is read: what figures call it, its colour, and what it has in common with raw text."""
VARIANTS = {
    f"{text}_{name}": Variant(label, label, objective, colour)
    for name, (_, objective) in OBJECTIVES.items()
    for text, (label, colour, _) in TEXTS.items()
}
HELD = {"clean": "clean pages", "dirty": "dirty pages"}
"""What is held out: pages as they were, then the same pages made dirty."""
KEPT = 0.31
"""The part of the raw bytes that cleaning leaves: a plan's number, checked by the report."""
STEPS = C4(), GopherQuality(), GopherRepetition(), ExactCopies(), Near(), ExactCopies(by="line")
COUNTED = "cleaning.json"


class Plan(NamedTuple):
    """What a scale trains on, and scores."""

    scale: Scale
    train: int
    """Bytes of clean text that are made dirty."""
    held_out: int
    """Pages that are scored, as they were and dirty."""


PAGE = 1500
PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(
            seeds=1,
            only=("raw_causal", "fewer_causal", "again_causal", "raw_masked", "more_masked"),
        ),
        train=60_000,
        held_out=4,
    ),
    "laptop": Plan(
        scales.PART_LAPTOP._replace(sizes=(Size(2, 128, 4),), tokens=(500_000,)),
        train=1_050_000,
        held_out=40,
    ),
}
"""The tokens are those of raw text."""
SCALES = tuple(PLANS)
EFFORT = scales.WHOLE_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every text as a GPT and as a BERT for every seed."""
    plan, found = PLANS[scale].scale, dict[str, Run]()
    (raw,) = plan.tokens
    fewer = round(KEPT * raw)
    read = {
        # What is read, how many tokens, and of how many different ones.
        "raw": ("raw", raw, None),
        "fewer": ("cleaned", fewer, None),
        "again": ("cleaned", raw, fewer),
        "more": ("cleaned", raw, None),
        "original": ("original", raw, None),
    }
    for text, (file, tokens, unique) in read.items():
        corpus = library.split_texts(file, "held-out")
        data = replace(plan.data, corpus=corpus, unique=unique)
        variants = {name: of for name, of in VARIANTS.items() if name.startswith(f"{text}_")}
        found |= plan._replace(data=data, tokens=(tokens,)).runs(variants)
    return found


def before(scale: str, directory: Path) -> list[str]:
    """Writes the text as it was, dirty, and cleaned, and counts what cleaning did to it."""
    plan = PLANS[scale]
    pages, held = library.take(
        library.prose_pages(PAGE), train=plan.train, held_out=plan.held_out
    )
    library.write_texts(directory, "original", ({"text": page} for page in pages))
    raw = dirt.dirtied(pages, seed=0)
    new = library.write_texts(
        directory,
        "raw",
        ({"id": f"{number}-{page.way}", "text": page.text} for number, page in enumerate(raw)),
    )
    dirty = [page.text for page in dirt.dirtied(held, seed=1, copies=False)]
    library.write_texts(directory, "held-out", ({"text": page} for page in [*held, *dirty]))
    kept = _cleaned(directory, new=new)
    return [
        f"{len(pages):,} pages, {len(raw):,} with copies; cleaning leaves {percent(kept)} of"
        " the bytes"
    ]


def _cleaned(directory: Path, *, new: bool) -> float:
    """Cleans the raw text, and counts what is left of each way to be dirty; its part of all."""
    folder = directory / FOLDER
    out, counted = folder / "cleaned", folder / COUNTED
    if new:
        shutil.rmtree(out, ignore_errors=True)
    raw = Shards(paths=(str(folder / "raw.jsonl"),), id="id")
    clean(Cleaning(sources=(NamedCorpus(name="raw", corpus=raw),), steps=STEPS), out)
    left = [*Shards(paths=(str(out / "*.gz"),), id="id").read()]
    library.write_texts(directory, "cleaned", ({"text": page.text} for page in left))
    by_way = {way: Counter(pages=0, bytes=0, kept=0, left=0) for way in dirt.WAYS}
    for pages, number, size in ((raw.read(), "pages", "bytes"), (left, "kept", "left")):
        for page in pages:
            counts = by_way[page.id.split("-", 1)[1]]
            counts.update({number: 1, size: len(page.text.encode())})
    rows = [{"way": way, **counts} for way, counts in by_way.items()]
    write_whole(counted, to_json({"ways": rows}))
    return sum(of["left"] for of in by_way.values()) / sum(
        of["bytes"] for of in by_way.values()
    )


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    directory = cells[0].directory.parent
    plan = PLANS[scale_of(directory)]
    cells = with_parts(cells, dict.fromkeys(HELD, plan.held_out))
    groups = list(groups_of(cells, VARIANTS).values())
    ways = read_json(file)["ways"] if (file := directory / FOLDER / COUNTED).exists() else []
    kept = sum(way["left"] for way in ways) / max(1, sum(way["bytes"] for way in ways))
    contrasts = [
        Contrast(
            f"{title}, {pages}",
            [group for group in groups if group.objective == objective],
            VARIANTS[f"raw_{name}"],
            asked(f"bits_{part}"),
        )
        for name, (title, objective) in OBJECTIVES.items()
        for part, pages in HELD.items()
    ]
    rows = objective_rows(cells)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Cleaned or raw",
        answer=parts.contrasts_answer(contrasts),
        details=(
            "Of cleaned text fewer tokens are read (of as many source bytes as of raw text),"
            " the same again (to equal tokens), or more (equal tokens of more source bytes)."
            " Differences are in bits per byte, paired by seed and page, with their 95%"
            " intervals.",
        ),
        table=parts.contrasts_table(contrasts, "text"),
        sections=[
            sections.figure_section(
                "Against raw text",
                "cleaned",
                parts.contrasts_figure(contrasts),
                "Differences to the model of raw text on the same pages, to the left of 0 where"
                " a text is better, with 95% intervals, paired by seed and by page. Filled"
                " where the interval leaves out 0. Dirty pages are the clean ones, made dirty.",
            ),
            sections.section(
                "What cleaning did",
                _ways_table(ways) if ways else None,
            ),
            sections.section(
                sections.EQUAL,
                _read_table(groups, kept or KEPT) if groups else None,
                equal_table(rows, "between the objectives of a text and seed"),
                "All texts are read as bytes, by one model with one learning rate, and scored"
                " on the same pages. Equal source bytes are so as far as the plan’s number for"
                f" what cleaning leaves, {percent(KEPT)}, is right: it left {percent(kept)}."
                if kept
                else None,
            ),
            sections.section(
                "What this does and does not show",
                "It shows what these rules are worth where a third of the pages is clean, and"
                " the rest dirty in ways that were made for them to find: real pages are"
                " dirty in ways that nobody has listed. That the rules remove clean pages,"
                " too, the table shows: a manual repeats itself more than other prose. One"
                " way, the wrong encoding, no rule knows. Which text is best depends on what"
                " is asked: dirty pages have lines that only raw text teaches, and a reader"
                " who wants those has no use for cleaning. Source is scarce here only where"
                " it is read again; how many times that may be done is another study’s"
                " question. The text is small, of one library, and held-out pages are of its"
                " other files; the model is small and reads few tokens, so that copies are"
                " not learnt by heart as larger models would. One learning rate serves all,"
                " tuned for none, and with two seeds errors are rough; of many differences"
                " one in twenty is beyond its interval by chance. A BERT’s number is a bound.",
            ),
        ],
        compared=rows,
        warnings=[
            f"Source bytes are not equal: cleaning left {percent(kept)} of the raw bytes, and"
            f" the plan has {percent(KEPT)}."
        ]
        if kept and abs(kept / KEPT - 1) > TOLERANCE
        else [],
    )


TOLERANCE = 0.1
"""How far what cleaning leaves may be from the plan's number, as a fraction of it."""


def _ways_table(ways: Sequence[dict[str, Any]]) -> Table:
    """What was planted of each way to be dirty, and what is left of it."""
    rows = [
        {**way, "about": dirt.WAYS[way["way"]], "part": way["left"] / max(1, way["bytes"])}
        for way in ways
    ]
    columns = (
        Column("way", "way"),
        Column("about", "what such a page has besides"),
        Column("pages", "pages", "{:,}".format),
        Column("kept", "left", "{:,}".format),
        Column("bytes", "bytes", count),
        Column("left", "left", count),
        Column("part", "of bytes", percent),
    )
    return Table(
        columns,
        rows,
        "The pages that were made, and what is left of them. Of a page and its copy one stays,"
        " whichever has the lower hash, so that some are gone for their copies.",
    )


def _read_table(groups: Sequence[Group], kept: float) -> Table:
    """What each text's runs read."""
    rows = []
    for group in groups:
        text, objective = group.name.split("-")[0].split("_")
        result = next(iter(group.results.values()))
        if objective == "causal":
            cleaned = text in ("fewer", "again", "more")
            new = result["unique_tokens"]
            rows.append(
                {
                    "text": TEXTS[text][0],
                    "about": TEXTS[text][2],
                    "tokens": result["tokens"],
                    "new": new,
                    "epochs": result["tokens"] / new,
                    "source": new / kept if cleaned else new if text == "raw" else None,
                }
            )
    columns = (
        Column("text", "text"),
        Column("about", "what it is"),
        Column("tokens", "tokens", count),
        Column("new", "different ones", count),
        Column("epochs", "each read", "{:.1f}×".format),
        Column("source", "raw bytes behind them", count),
    )
    return Table(columns, rows, "What a run of each text reads; a token is a byte.")


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
