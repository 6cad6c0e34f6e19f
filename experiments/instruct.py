"""What do instruction tuning and preferences gain on held-out answers, and cost on text?

A GPT reads English, is tuned on questions with their answers, and then prefers the chosen one
of two answers to each question (DPO). Beside it stand a GPT that prefers without having been
tuned, and one that reads English for as many tokens more, under the same change of rates.

Answers to: Ouyang et al. 2022 (arXiv:2203.02155, section 4.2), whose tuned models lose on
public sets of text ("alignment tax"), and Rafailov et al. 2023 (arXiv:2305.18290).
`YARDSTICK_TASKS` holds 1,100 questions, `YARDSTICK_CORPORA` a folder `english` of texts.

    YARDSTICK_TASKS=... YARDSTICK_CORPORA=... python -m experiments.instruct --scale laptop

    smoke   a minute      toys on Python's library, and made-up questions about its words
    laptop  half an hour  0.8M parameters, 1M tokens of English, 0.6M of questions, two seeds
    v5e-8   not run       85M parameters, 6.5B tokens of Wikipedia, the same questions

Expect held-out answers to cost fewer bits once questions are known, English to cost more, and
preferences to raise the margin between two answers more often than to turn their order. Among
the questions are made-up ones whose truth is known (`lm.study.planted`): what to decline, a
form to keep, facts. Others of these kinds are asked before and after each stage.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from lm.data import Chat, Data
from lm.evaluate.tasks.base import TASKS_VARIABLE
from lm.evaluate.tasks.metrics import Estimate
from lm.objectives import Causal, Preference, Response
from lm.optimizer import Adamw
from lm.run import Run, Start
from lm.study import made_up, planted, runner, scales, sections
from lm.study.analyses.answering import (
    answering_figure,
    answering_table,
    changes,
    columns_of,
    estimates,
    read_answering,
    score_answering,
)
from lm.study.analyses.controls import control_columns, controls_table, controls_text
from lm.study.analyses.on_tasks import ask_runs, read_answers
from lm.study.grid import (
    GPT,
    STUDY,
    Scale,
    StudyRun,
    Variant,
    parameters,
    scale_of,
    size_text,
)
from lm.study.report.figures import BLUE, GREEN, MUTED, ORANGE, VERMILLION
from lm.study.report.values import Report, Section
from lm.study.sentences import NO_ANSWER

VARIANTS = {
    "text": Variant("text", "the GPT of text alone", Causal(), BLUE),
    "more": Variant("more text", "the GPT of more text", Causal(), MUTED),
    "instruct": Variant("instructed", "the instructed GPT", Response(), VERMILLION),
    "dpo": Variant("instructed, then DPO", "the instructed GPT after DPO", Preference(), GREEN),
    "alone": Variant("DPO alone", "the GPT after DPO alone", Preference(), ORANGE),
}
STARTS = {"more": "text", "instruct": "text", "dpo": "instruct", "alone": "text"}
"""What each starts from."""


class Plan(NamedTuple):
    """What a scale trains on text, and what on questions."""

    text: Scale
    questions: Data
    """Length, batch and held-out fraction of questions; pairs have half the batch."""
    paths: tuple[str, str]
    """Of questions with an answer, and with two."""
    tokens: tuple[int, int]
    """Of questions, and more text; and of pairs."""
    rates: tuple[float, float]
    """Learning rates of instruction tuning, and more text; and of preferences."""
    asked: int | None = None
    """Planted requests of each kind that are asked; None: all."""


TEMPLATE = "plain"
_FILES = f"${TASKS_VARIABLE}/instruct/"
_PUBLIC = (f"{_FILES}instruction-data.json", f"{_FILES}instruction-data-with-preference.json")
_QUESTIONS = Data(length=256, batch=16, validation=0.15, packing="whole")
PLANS = {
    "smoke": Plan(
        scales.SMOKE._replace(seeds=1),
        Data(length=256, batch=8, validation=0.2, packing="whole"),
        made_up.QUESTIONS,
        (4096, 4096),
        (1e-3, 1e-4),
        asked=12,
    ),
    "laptop": Plan(
        scales.ENGLISH_LAPTOP._replace(seeds=2),
        _QUESTIONS,
        _PUBLIC,
        (600_000, 200_000),
        (1e-3, 1e-4),
    ),
    "v5e-8": Plan(
        scales.V5E_8._replace(seeds=2),
        replace(_QUESTIONS, batch=64),
        _PUBLIC,
        (600_000, 200_000),
        (3e-5, 3e-6),
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.EFFORT


def runs(scale: str) -> dict[str, Run]:
    """A GPT of text for each seed, and what starts from it."""
    plan = PLANS[scale]
    found = {}
    for name, run in plan.text.runs({"text": GPT}).items():
        tokenizer = replace(run.data.tokenizer, chat_template=TEMPLATE)
        text = replace(run, data=replace(run.data, tokenizer=tokenizer))
        end = name.partition("-")[2]
        found[name] = text
        for variant, start in STARTS.items():
            found[f"{variant}-{end}"] = _tuned(plan, text, variant, f"{start}-{end}")
    return found


def _tuned(plan: Plan, text: Run, variant: str, start: str) -> Run:
    """A run that starts from another of the same seed."""
    conversations, pairs = plan.paths
    objective, (rate, careful) = VARIANTS[variant].objective, plan.rates
    tokens, fewer = plan.tokens
    data = replace(plan.questions, tokenizer=text.data.tokenizer)
    if isinstance(objective, Preference):
        corpus = Chat(paths=(pairs,), use="pair", too_long="cut")
        data = replace(data, corpus=corpus, batch=data.batch // 2)
        rate, tokens = careful, fewer
    elif isinstance(objective, Response):
        data = replace(data, corpus=Chat(paths=(conversations, planted.TAUGHT), too_long="cut"))
    else:
        data = text.data
    return replace(
        text,
        data=data,
        objective=objective,
        optimizer=Adamw(learning_rate=rate),
        tokens=tokens,
        start=Start(path=f"{STUDY}/{start}"),
        # Another seed than the start's: more text is other rows than it began with.
        seed=text.seed + 100,
    )


def before(scale: str, directory: Path) -> list[str]:
    """Planted requests are written; of smoke, made-up questions too."""
    planted.write_planted(directory)
    if scale == "smoke":
        made_up.write_questions(directory)
    return []


def after(cells: list[StudyRun], directory: Path) -> None:
    """Asks all runs for the same held-out pairs, the same text, and the same requests."""
    scale = scale_of(directory)
    score_answering(cells, pairs="dpo", text="text", effort=EFFORT[scale], directory=directory)
    asked = planted.sheets(directory, items=PLANS[scale].asked)
    ask_runs(cells, asked, lambda cell: ["greedy"], directory)


def report(cells: list[StudyRun]) -> Report:
    """What each stage does to answers, to their order, and to text."""
    directory = cells[0].directory.parent
    columns = columns_of(read_answering(directory), VARIANTS, "text")
    found = estimates(columns)
    apart = changes(columns, "text")
    pairs = len(next(iter(columns["answers"].values()), [[]])[0])
    return sections.report_of(
        sys.modules[__name__],
        cells,
        title="Instructions and preferences",
        answer=_answer(found, apart),
        details=(
            "Intervals are of 95%, over pairs or documents, and over seeds; differences are"
            " paired by both.",
        ),
        table=answering_table(cells, found, VARIANTS),
        sections=[
            sections.figure_section(
                "By stage",
                "stages",
                answering_figure(found, VARIANTS) if pairs else None,
                f"Of {pairs} held-out pairs: bits per byte of the chosen answer given its"
                " question, how often it has gained more log-probability than the rejected one"
                " since the model of text, and how often it is the likelier one; and bits per"
                " byte of held-out text.",
            ),
            _controls(cells, directory),
            sections.section(
                "What is equal",
                "All stages of a seed are of one model and tokenizer. Questions of the two"
                " files are the same, and so are those that are held out of either; instruction"
                " tuning reads planted requests among them. More text and questions are as many"
                " tokens, at the same rate; preferences have a rate of their own, and read each"
                " question with two answers.",
            ),
            sections.section(
                "What this does and does not show",
                "It shows what a small model's probabilities of given answers become, not"
                " whether its own answers are good: but to planted requests, nobody read"
                " those. The rejected answers are"
                " rewritten in tone, so that to prefer is to know a tone. DPO raises the margin"
                " above where it started, and seldom turns which of two answers is likelier"
                " (Chen et al. 2024, arXiv:2405.19534): lengths and words that had decided it"
                " before still do. One rate for each stage, not tuned. The text is"
                " documentation and old literature.",
            ),
        ],
        compared={},
    )


def _controls(cells: list[StudyRun], directory: Path) -> Section | None:
    """What each stage does at planted requests."""
    if not (answers := read_answers(directory)):
        return None
    asked = planted.sheets(directory, items=PLANS[scale_of(directory)].asked)
    columns = control_columns(answers, asked, VARIANTS)
    stages = {"before instruction tuning": "text", "after it": "instruct", "after DPO": "dpo"}
    size = size_text(parameters(cells[0].run.model))
    return sections.section(
        "Control, safety and specificity",
        controls_text(columns, stages, size) or None,
        controls_table(columns, VARIANTS),
    )


def _answer(
    found: Mapping[str, Mapping[str, Estimate]], apart: Mapping[str, Mapping[str, Estimate]]
) -> str:
    if not all("dpo" in of and "instruct" in of for of in apart.values()):
        return NO_ANSWER

    def told(name: str, variant: str) -> str:
        value, low, high = apart[name][variant].values()
        return f"{value:+.3f} ({low:+.3f} to {high:+.3f})".replace("-", "−")

    def fraction(name: str, variant: str) -> str:
        value, low, high = found[name][variant].values()
        return f"{value:.0%} ({low:.0%} to {high:.0%})"

    return (
        f"Instruction tuning moves held-out answers, of"
        f" {found['answers']['text'].value:.3f} bits per byte, by {told('answers', 'instruct')}"
        f" and text by {told('text', 'instruct')}; with DPO after it these are"
        f" {told('answers', 'dpo')} and {told('text', 'dpo')}. By then the chosen answer has"
        f" gained more than the rejected one in {fraction('gained', 'dpo')} of pairs, and is"
        f" the likelier one in {fraction('likelier', 'dpo')}, where it was in"
        f" {fraction('likelier', 'text')}. As much more text moves text by"
        f" {told('text', 'more')}."
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
