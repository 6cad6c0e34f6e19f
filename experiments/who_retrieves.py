"""Who finds documents best: counted words, a BERT or a GPT, before and after they learn to?

A GPT and a BERT read equal tokens of English. As they are, and after contrastive training on
neighbouring paragraphs or on the collection's own titles and abstracts, they rank Cranfield's
1,400 abstracts for 225 questions by the angle between mean states. Beside them stand BM25 and
a published encoder of sentences, MiniLM, as it is and trained on titles, too.

Answers to: Thakur et al. 2021 (BEIR, arXiv:2104.08663), where BM25 is hard to beat outside of
what an encoder was trained on; Gao et al. 2021 (SimCSE, arXiv:2104.08821), on states as they
are; BehnamGhader et al. 2024 (LLM2Vec, arXiv:2404.05961), on decoders. `YARDSTICK_TASKS` holds
Cranfield, `YARDSTICK_CORPORA` a folder `english` of texts, `YARDSTICK_ASSETS` MiniLM.

    YARDSTICK_TASKS=... YARDSTICK_CORPORA=... python -m experiments.who_retrieves --scale laptop

    smoke   a minute    toys on Python's library, which look for lines of it
    laptop  19 minutes  0.8M parameters, 1M tokens of English, then 0.5M of pairs, two seeds
    v5e-8   not run     85M parameters, 6.5B tokens of Wikipedia, then 5M of pairs

Expect BM25 ahead of all but MiniLM, states as they are far behind, and titles, which are of the
collection itself, to gain most.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from lm.data import Corpus, Data, NeighbourPairs
from lm.evaluate.tasks import TASKS
from lm.evaluate.tasks.base import TASKS_VARIABLE, Candidate, Conditions, folder_of
from lm.evaluate.tasks.candidate import ModelCandidate
from lm.evaluate.tasks.sitting import Sheet, sheet_of
from lm.objectives import Contrastive
from lm.optimizer import Adamw
from lm.retrieval.measures import bm25
from lm.run import Run, Start
from lm.study import made_up, runner, scales, sections
from lm.study.analyses.on_tasks import ask_runs, read_answers, with_answers
from lm.study.analyses.retrieving import (
    Findings,
    findings_of,
    in_points,
    lead_over,
    measured,
    retrieval_figure,
    retrieval_table,
)
from lm.study.grid import BERT, GPT, STUDY, Scale, StudyRun, Variant, scale_of
from lm.study.report.figures import GREEN, INK, MUTED, ORANGE, SKY
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER
from lm.train.load import load_model

READ = {"causal": GPT, "masked15": BERT}
"""What reads text first."""
GPT_LOOKS, BERT_LOOKS = Contrastive(attention="causal"), Contrastive()
LEARNT = {
    "causal_paragraphs": Variant("GPT, paragraphs", "the GPT after paragraphs", GPT_LOOKS, SKY),
    "causal_titles": Variant("GPT, titles", "the GPT after titles", GPT_LOOKS, SKY),
    "masked15_paragraphs": Variant(
        "BERT, paragraphs", "the BERT after paragraphs", BERT_LOOKS, ORANGE
    ),
    "masked15_titles": Variant("BERT, titles", "the BERT after titles", BERT_LOOKS, ORANGE),
}
TUNED = "minilm_titles"
WORDS, PUBLISHED = "BM25", "MiniLM"
OTHERS = {
    WORDS: Variant(WORDS, WORDS, BERT_LOOKS, INK),
    PUBLISHED: Variant(PUBLISHED, PUBLISHED, BERT_LOOKS, MUTED),
    TUNED: Variant("MiniLM, titles", "MiniLM after titles", BERT_LOOKS, GREEN),
}
VARIANTS = {
    **{name: OTHERS[name] for name in (WORDS, PUBLISHED, TUNED)},
    **dict(sorted((READ | LEARNT).items())),
}
STARTS = {name: name.partition("_")[0] for name in LEARNT} | {TUNED: PUBLISHED}
"""What each starts from."""


class Plan(NamedTuple):
    """What a scale trains on text, and what on pairs."""

    text: Scale
    pairs: Mapping[str, Corpus]
    rows: Data
    """Length, batch and held-out fraction of pairs."""
    tokens: int
    rate: float
    published: tuple[int, float] | None
    """Tokens and learning rate of MiniLM; None: it is left out."""


def _english(*names: str) -> NeighbourPairs:
    paths = tuple(f"$YARDSTICK_CORPORA/english/{name}/*.txt" for name in names)
    return NeighbourPairs(paths=paths, characters=400, shortest=80, too_long="cut")


_PAIRS = {
    "paragraphs": _english("anarchism", "foldoc", "opticks", "phylip", "png"),
    "titles": NeighbourPairs(
        paths=(f"${TASKS_VARIABLE}/retrieval/cran.all.1400",),
        of="title",
        characters=500,
        too_long="cut",
    ),
}
_ROWS = Data(length=256, batch=32, validation=0.05, packing="whole")
PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(seeds=1),
        {"titles": made_up.SIDES},
        Data(length=64, batch=16, validation=0.1, packing="whole"),
        8192,
        1e-3,
        None,
    ),
    "laptop": Plan(
        scales.ENGLISH_LAPTOP._replace(seeds=2), _PAIRS, _ROWS, 500_000, 1e-3, (60_000, 3e-5)
    ),
    "v5e-8": Plan(
        scales.V5E_8._replace(seeds=2),
        _PAIRS,
        replace(_ROWS, batch=256),
        5_000_000,
        3e-5,
        (1_000_000, 3e-5),
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.TUNED_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """A GPT and a BERT of text for each seed, what starts from them, and from MiniLM."""
    plan = PLANS[scale]
    found = {}
    for name, text in plan.text.runs(READ).items():
        variant, _, rest = name.partition("-")
        found[name] = text
        for kind, corpus in plan.pairs.items():
            learnt = f"{variant}_{kind}"
            found[f"{learnt}-{rest}"] = replace(
                text,
                data=replace(plan.rows, corpus=corpus, tokenizer=text.data.tokenizer),
                objective=LEARNT[learnt].objective,
                optimizer=Adamw(learning_rate=plan.rate),
                tokens=plan.tokens,
                start=Start(path=f"{STUDY}/{name}"),
                # Rows of pairs have far fewer tokens than what those of text take parts for.
                microbatches=1,
            )
    if plan.published is not None:
        tokens, rate = plan.published
        for seed in range(plan.text.seeds):
            found[f"{TUNED}-seed{seed}"] = Run(
                data=replace(plan.rows, corpus=plan.pairs["titles"]),
                objective=OTHERS[TUNED].objective,
                optimizer=Adamw(learning_rate=rate),
                tokens=tokens,
                start=Start(path="$YARDSTICK_ASSETS/minilm"),
                seed=seed,
                evaluations=1,
            )
    return found


def before(scale: str, directory: Path) -> list[str]:
    """What is to be found is read, before anything is trained; of smoke, it is made up."""
    if scale == "smoke":
        made_up.write_looked_for(directory)
    sheet = _sheet(scale, directory)
    return [f"{len(sheet.items):,} queries, {len(sheet.pool):,} documents"]


def after(cells: list[StudyRun], directory: Path) -> None:
    """Asks all runs, and those that are none."""
    scale = scale_of(directory)
    others: dict[str, Candidate] = {WORDS: bm25()}
    folder = Path(os.environ.get("YARDSTICK_ASSETS", "/nowhere")) / "minilm"
    if PLANS[scale].published is not None and folder.is_dir():
        others[PUBLISHED] = ModelCandidate.of(load_model(folder), None)
    ask_runs(cells, [_sheet(scale, directory)], lambda _: [None], directory, others)


def _sheet(scale: str, directory: Path) -> Sheet:
    """Cranfield; where it is not to be at hand, lines that look for others."""
    if scale == "smoke":
        folder = directory / made_up.FOLDER
        return sheet_of("lines", made_up.LOOKED_FOR, folder, Conditions())
    task = TASKS["cranfield"].task
    return sheet_of("cranfield", task, folder_of(None, os.environ), Conditions())


def report(cells: list[StudyRun]) -> Report:
    """What each finds, as it is and after contrastive training."""
    answers = read_answers(cells[0].directory.parent)
    found = findings_of(answers)
    columns = {name: found[name] for name in VARIANTS if name in found}
    plan = PLANS[scale_of(cells[0].directory.parent)]
    expected = [PUBLISHED, TUNED] if plan.published else []
    absent = [VARIANTS[name].label for name in expected if answers and name not in columns]
    left_out = f"Not at hand in YARDSTICK_ASSETS, and left out: {', '.join(absent)}."
    queries = next(iter(columns.values())).shape[1] if columns else 0
    return sections.report_of(
        sys.modules[__name__],
        with_answers(cells, answers),
        title="Who retrieves",
        answer=_answer(columns),
        details=(
            "Intervals are of 95%, over queries and seeds; differences are paired by both."
            " BM25 and MiniLM as it is have one seed.",
        ),
        table=retrieval_table(columns, VARIANTS, STARTS, WORDS),
        sections=[
            sections.figure_section(
                "By who looks",
                "retrieval",
                retrieval_figure(columns, VARIANTS) if columns else None,
                f"nDCG@10 over {queries} queries, with 95% intervals over queries and seeds;"
                " dashed: BM25.",
            ),
            sections.section(
                "What is equal",
                "The GPT and the BERT of a seed have read equal tokens of the same text, and"
                " then equal tokens of the same pairs, at one learning rate that was tuned for"
                " none. All are asked by the mean of their last states, the GPT's of a token"
                " seeing what stands before it, and all rank all documents. MiniLM reads fewer"
                " tokens of pairs, at a lower rate.",
            ),
            sections.section(
                "What this does and does not show",
                "It shows how well small models rank one small collection, in English of one"
                " trade, for questions that its makers wrote with the papers at hand: words are"
                " shared more often than elsewhere, which is to BM25's favour. Titles and"
                " abstracts are of the very documents that are ranked, though neither a query"
                " nor a judgement is read: who is trained on them knows the collection, and"
                " what they gain need not be there in another. Judgements are not complete."
                " States as they are lie in a narrow cone, and their angles say less than the"
                " states do: that a GPT or a BERT finds little so is not that it knows little."
                " One pooling, one temperature and one rate serve all; batches are of tens of"
                " pairs, where published encoders had thousands, and MiniLM had a billion"
                " pairs. With two seeds the part of the seeds is rough. Many differences are"
                " told, of which one in twenty is beyond its interval by chance.",
                left_out if absent else None,
            ),
        ],
        compared={},
    )


def _answer(columns: Findings) -> str:
    """The headline of each kind, and what contrastive training gains."""
    if WORDS not in columns or not any(name in columns for name in LEARNT):
        return NO_ANSWER
    parts = []
    for name in (*READ, PUBLISHED):
        if name not in columns:
            continue
        gains = [
            f"{in_points(gap, '+')} after {learnt.partition('_')[2]}"
            for learnt, start in STARTS.items()
            if start == name and (gap := lead_over(columns, learnt, name))
        ]
        said = f"{VARIANTS[name].name} {in_points(measured(columns[name]))} as it is"
        parts.append(", ".join([said, *gains]))
    best = max(columns, key=lambda name: measured(columns[name]).value)
    return (
        f"nDCG@10 in points: {WORDS} {in_points(measured(columns[WORDS]))}; {'; '.join(parts)}."
        f" The most has {VARIANTS[best].name}."
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
