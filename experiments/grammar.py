"""Where do a GPT and a BERT differ in what they know of English grammar, and who says so?

Small models read English, and are asked which of two sentences is grammatical (BLiMP: 67
paradigms of 12 phenomena), each by every scorer that is valid for it: the chain rule, an
exact decoding order, a bound, and two pseudo-log-likelihoods that are no likelihood.

Answers to: Warstadt et al. 2020, table 3 (n-gram .612, LSTM .698, Transformer-XL .696, GPT-2
.830), and Salazar et al. 2020, who compare a BERT's pseudo-log-likelihood with a GPT's
likelihood. `YARDSTICK_TASKS` holds BLiMP, `YARDSTICK_CORPORA` a folder `english` of texts.

    YARDSTICK_TASKS=... YARDSTICK_CORPORA=... python -m experiments.grammar --scale laptop

    smoke   not timed           toys on Python's library, who tell lines from lines in disorder
    laptop  not timed           0.1M and 0.8M parameters, 1M and 4M tokens, 2,800 pairs
    v5e-8   not run             85M parameters, 6.5B tokens of Wikipedia, 67,000 pairs

Expect all near the n-gram at this scale, agreement within a word (determiner and noun) first,
and a BERT's accuracy to depend on who asks it more than a GPT's does on its size.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lm.evaluate.tasks import TASKS
from lm.evaluate.tasks.base import Candidate, Conditions, Item, folder_of
from lm.evaluate.tasks.blimp import PUBLISHED
from lm.evaluate.tasks.choice import Pairs
from lm.evaluate.tasks.counted import NGramCandidate
from lm.evaluate.tasks.sitting import Sheet, sheet_of
from lm.output.numbers import count
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses.on_tasks import (
    Sitting,
    accuracy_table,
    ask_runs,
    by_scorer,
    others_of,
    parts_figure,
    read_answers,
    tokens_figure,
    with_answers,
)
from lm.study.grid import GPT_AND_BERTS, Scale, Size, StudyRun, variant_of
from lm.study.groups import Group, groups_of
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER, together
from lm.train.load import load_run

VARIANTS = GPT_AND_BERTS
PLANS = {
    "smoke": scales.SMOKE._replace(seeds=1),
    "laptop": Scale(
        scales.ENGLISH,
        sizes=(Size(2, 64), Size(4, 128, 2)),
        tokens=(1_000_000, 4_000_000),
        settings={"evaluations": 4, "evaluation_rows": 64},
    ),
    "v5e-8": scales.V5E_8._replace(seeds=1),
}
SCALES = tuple(PLANS)
EFFORT = scales.EFFORT
PAIRS = {"smoke": 16, "laptop": 50, "v5e-8": 1000}
"""Of each paradigm."""
MASKED = ("left_to_right", "any_order", "pseudo_all", "pseudo_words")
"""What a BERT is asked by."""


def runs(scale: str) -> dict[str, Run]:
    """All sizes at the most tokens, the largest at all of them."""
    plan = PLANS[scale]
    *few, most = plan.tokens
    largest = plan._replace(tokens=tuple(few), sizes=plan.sizes[-1:])
    return largest.runs(VARIANTS) | plan._replace(tokens=(most,)).runs(VARIANTS)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Asks all runs, and n-gram models of the very rows that they read."""
    done = [cell for cell in cells if cell.result is not None]
    sheet = _sheet(done[0], directory.name)
    ask_runs(done, [sheet], _scorers, directory, _counted(done))


def _scorers(cell: StudyRun) -> Sequence[str]:
    return ("chain_rule",) if variant_of(cell) == "causal" else MASKED


def _counted(cells: Sequence[StudyRun]) -> dict[str, Candidate]:
    """A 5-gram model of the rows of each number of tokens."""
    first = {cell.run.tokens: cell for cell in reversed(cells)}
    return {
        f"5-gram, {count(tokens)} tokens": NGramCandidate.of(load_run(cell.directory))
        for tokens, cell in sorted(first.items())
    }


def _sheet(cell: StudyRun, scale: str) -> Sheet:
    """BLiMP's pairs; where it is not at hand, lines of the held-out text and their disorder."""
    conditions = Conditions(items=PAIRS.get(scale, PAIRS["laptop"]))
    folder, named = folder_of(None, os.environ), TASKS["blimp"]
    if scale != "smoke":
        return sheet_of("blimp", named.task, folder, conditions, named.hub)
    split = load_run(cell.directory).tokens.validation
    lines = [line.split() for line in split.text(0).splitlines()]
    pairs = [words for words in lines if len(words) > 3 and words != words[::-1]]
    items = [
        Item({"better": " ".join(words), "worse": " ".join(words[::-1])}, "order/lines", str(n))
        for n, words in enumerate(pairs[: conditions.items])
    ]
    return Sheet("lines", Pairs(files=("lines",)), items, [], conditions)


def report(cells: list[StudyRun]) -> Report:
    """Accuracies by scorer, size and tokens, and by phenomenon."""
    answers = read_answers(cells[0].directory.parent)
    cells = with_answers(cells, answers)
    groups = list(groups_of(cells, VARIANTS).values()) if answers else []
    top = max(((group.size, group.tokens) for group in groups), default=None)
    best = [group for group in groups if (group.size, group.tokens) == top]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        best,
        title="Grammar",
        answer=_answer(best, answers),
        details=(
            "Intervals are of 95%, over the pairs asked; with one seed they say nothing of how"
            " much trainings differ. A pair that a scorer does not tell apart counts as half.",
        ),
        table=accuracy_table(groups, answers),
        sections=[
            sections.figure_section(
                "By tokens and size",
                "accuracy",
                tokens_figure(groups, answers, PUBLISHED) if groups else None,
                "Filled: exact likelihoods; hollow: the bound; crosses: no likelihood. Dashed:"
                " published models (Warstadt et al. 2020), which read 20 to 2,000 times more.",
            ),
            sections.figure_section(
                "By phenomenon",
                "phenomena",
                parts_figure(best, answers) if best else None,
                "Accuracy of the largest models after the most tokens.",
            ),
            sections.section(
                "The n-gram model beside the published one",
                "The 5-gram models here are interpolated Kneser-Ney models of the tokens in the"
                " rows that the other models read; the published one counts the words of"
                " 3.1 billion words of Gigaword. Pairs of BLiMP have the same words or nearly"
                " so, and what tells them apart is often farther than four tokens away: more"
                " text moves an n-gram model little where that is so, and much where a pair"
                " hangs on two neighbouring words.",
            ),
            sections.equal_section(best, best[0]) if best else None,
            sections.section(
                "What this does and does not show",
                "It shows how far the answer to “what does a BERT know?” depends on who asks. A"
                " pseudo-log-likelihood is no likelihood of the sentence: it may prefer a"
                " sentence whose words predict each other, whatever its grammar. Each paradigm"
                " is a template of its own, so that an interval over pairs is too narrow for"
                " “English grammar”. A BERT trained at 15% has hardly seen a sentence that is"
                " mostly masked, which an order from left to right shows it. The text is"
                " documentation and old literature, no sample of English. One seed, and one"
                " learning rate that was tuned for none.",
            ),
        ],
    )


def _answer(best: Sequence[Group], answers: Sequence[Sitting]) -> str:
    told = []
    for group in best:
        found = {name: of for name, (_, of) in by_scorer(group, answers).items()}
        if not found:
            continue
        high = max(found, key=lambda scorer: found[scorer].value)
        low = min(found, key=lambda scorer: found[scorer].value)
        text = f"{group.variant.name} {found[high].value:.1%}"
        if len(found) > 1:
            text += f" by {high.replace('_', ' ')} and {found[low].value:.1%} by"
            text += f" {low.replace('_', ' ')}"
        told.append(text)
    if not told:
        return NO_ANSWER
    for answer in others_of(answers)[-1:]:
        told.append(f"a {answer.scorer} model of the same rows {answer.result.value:.1%}")
    pairs = next(answer.result.asked for answer in answers)
    return f"Told apart rightly, of {pairs:,} pairs: by {together(told)}."


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
