"""What is written behind a prompt, compared with what people wrote there."""

import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from msgspec import Meta

from lm.config import UserError
from lm.evaluate.tasks.base import (
    Answers,
    Candidate,
    Completion,
    Conditions,
    Item,
    Statistic,
    Task,
)
from lm.evaluate.tasks.metrics import mean
from lm.evaluate.tasks.prompts import fill_template, solved_before, template_fields

BleuWords = Literal["13a", "intl", "zh", "char", "none"]
"""How sacrebleu parts a text into the words of BLEU: for most languages, for those with other
punctuation, for Chinese, for languages without spaces, and where it stands parted."""


class Generation(Task, tag="generation", kw_only=True):
    r"""Write a text behind a prompt: a summary, a translation, an answer.

    The likeliest tokens are written, up to `count` or to what is in `stop`. By `score`:

    - `rouge`: rouge1, rouge2 and rougeL (the headline), from 0 to 1: the mean F over items, of
      stems, of the best reference (Lin 2004; the library `rouge-score`). Letters beyond a to z
      count as spaces in it.
    - `chrf` or `bleu`: both, from 0 to 100, of the whole corpus (Popović 2015; Papineni et al.
      2002; chrF2 and BLEU with exponential smoothing by `sacrebleu`).
    - `match`: `match`, whether a reference was written to the letter, but for case and outer
      spaces; and `f1` of the words that it shares with the best one, without articles and
      punctuation (Rajpurkar et al. 2016). From 0 to 1.

    Summaries, on a file of one's own with the fields `document` and `summary`:

    >>> from lm.config import parse
    >>> task = parse(Generation, r'''{
    ...     "type": "generation",
    ...     "files": ["summaries.jsonl"],
    ...     "prompt": "{document}\n\nTL;DR:",
    ...     "reference": "summary",
    ...     "count": 60,
    ...     "stop": ["\n\n"],
    ...     "score": "rouge"
    ... }''', "summaries.json")
    >>> task.metric, list(task.statistics)
    ('rougeL', ['rouge1', 'rouge2', 'rougeL'])

    Translations, with the fields `source` and `target`, the latter a text or a list of them:

    >>> task = parse(Generation, '''{
    ...     "type": "generation",
    ...     "files": ["translations.jsonl"],
    ...     "prompt": "English: {source}\\nGerman:",
    ...     "reference": "target",
    ...     "score": "chrf"
    ... }''', "translations.json")
    >>> task.metric, task.stop
    ('chrf', ('\n',))
    """

    prompt: Annotated[
        str, Meta(description="template of what is written behind; no space at its end")
    ]
    reference: Annotated[
        str, Meta(description="the field of what people wrote: a text, or a list of texts")
    ] = "reference"
    answer: Annotated[
        str, Meta(description="template of a solved item's answer, its first {reference}")
    ] = " {reference}"
    count: Annotated[int, Meta(ge=1, description="tokens that are written, at most")] = 64
    stop: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="texts before the first of which it ends"),
    ] = ("\n",)
    score: Annotated[
        Literal["rouge", "chrf", "bleu", "match"],
        Meta(description="the headline; rouge is rougeL"),
    ]
    bleu_words: Annotated[
        BleuWords, Meta(description="how BLEU parts a text into words (sacrebleu)")
    ] = "13a"

    needs: ClassVar[str] = "text"

    @property
    def metric(self) -> str:
        return "rougeL" if self.score == "rouge" else self.score

    def prompt_text(self, candidate: Candidate) -> str:
        return f"{self.prompt}|{self.answer}"

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        match self.score:
            case "rouge":
                return {name: Statistic(mean(place)) for place, name in enumerate(ROUGES)}
            case "match":
                return {"match": Statistic(mean(0)), "f1": Statistic(mean(1))}
        found, start = {}, 0
        for name, size in CORPUS_SUMS.items():
            found[name] = Statistic(_of_sums(name, self.bleu_words, start, start + size))
            start += size
        return found

    def check(self, item: Item) -> None:
        self._open_library()
        for name in template_fields(self.prompt):
            self.field(item, name)
        self._references(item)

    def check_conditions(self, conditions: Conditions) -> None:
        if conditions.calibration is not None:
            raise UserError(
                "what is written is no choice among answers: calibration is of none"
            )

    def sit(
        self,
        candidate: Candidate,
        items: Sequence[Item],
        pool: Sequence[Item],
        conditions: Conditions,
    ) -> Answers:
        columns, cut, texts = [], [], []
        for seed in conditions.draws:
            before = solved_before(self, items, pool, self._solved, conditions, seed)
            prompts = [
                text + self._prompt(item) for text, item in zip(before, items, strict=True)
            ]
            found = self.ask(candidate)(prompts, count=self.count, stop=self.stop)
            columns.append(
                [
                    self._columns(each.text, self._references(item))
                    for each, item in zip(found, items, strict=True)
                ]
            )
            cut.append([each.cut for each in found])
            texts.append(tuple(each.text for each in found))
        return Answers(np.array(columns, np.float64), np.array(cut), tuple(texts))

    def ask(self, candidate: Candidate) -> Callable[..., list[Completion]]:
        """How a candidate is asked for texts."""
        return candidate.written

    def _columns(self, text: str, references: Sequence[str]) -> list[float]:
        """What the metrics are functions of, of one item."""
        text = text.strip()
        match self.score:
            case "rouge":
                scores = _rouge().score_multi(references, text)
                return [scores[name].fmeasure for name in ROUGES]
            case "match":
                folded = [each.strip().casefold() for each in references]
                shared = max(_shared(text, each) for each in references)
                return [float(text.casefold() in folded), shared]
        return [
            number
            for name in CORPUS_SUMS
            for number in _corpus_metric(name, self.bleu_words)._extract_corpus_statistics(
                [text], [[each] for each in references]
            )[0]
        ]

    def _open_library(self) -> None:
        """Raises UserError where the library that the score needs is missing."""
        if self.score == "rouge":
            _rouge()
        elif self.score != "match":
            _corpus_metric(self.score, self.bleu_words)

    def _prompt(self, item: Item) -> str:
        return fill_template(self.prompt, item.fields, item.place)

    def _solved(self, item: Item) -> str:
        """A demonstration: an item with its first reference."""
        fields = {**item.fields, "reference": self._references(item)[0]}
        return self._prompt(item) + fill_template(self.answer, fields, item.place)

    def _references(self, item: Item) -> list[str]:
        found = self.field(item, self.reference)
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise UserError(f"{item.place}: {self.reference} must be a text or a list of texts")
        if not texts or not all(each.strip() for each in texts):
            raise UserError(f"{item.place}: {self.reference} is empty")
        return texts


ROUGES = ("rouge1", "rouge2", "rougeL")
CORPUS_SUMS = {"chrf": 3 * 6, "bleu": 2 + 2 * 4}
"""How many counts of an item make up each metric of a corpus: of n-grams by their length."""


@cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise _missing("rouge-score") from None
    return RougeScorer(ROUGES, use_stemmer=True)


@cache
def _corpus_metric(name: str, words: BleuWords) -> Any:
    """A metric of sacrebleu, which counts each item, and makes of the counts what it is."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise _missing("sacrebleu") from None
    return CHRF() if name == "chrf" else BLEU(tokenize=words)


def _missing(library: str) -> UserError:
    return UserError(f"{library} is not installed: pip install 'yardstick-lm[eval]'")


def _of_sums(
    name: str, words: BleuWords, start: int, stop: int
) -> Callable[[np.ndarray], float]:
    """A metric of the corpus that has these items: of the sums of their counts."""

    def of(columns: np.ndarray) -> float:
        sums = columns[:, start:stop].sum(axis=0).astype(int).tolist()
        return float(_corpus_metric(name, words)._compute_score_from_stats(sums).score)

    return of


def _shared(text: str, reference: str) -> float:
    """F1 of the words of two texts; of none and none 1.

    >>> _shared("The cat, sat.", "a cat"), _shared("", "the")
    (0.6666666666666666, 1.0)
    """
    mine, others = Counter(_words(text)), Counter(_words(reference))
    if not mine or not others:
        return float(mine == others)
    return 2 * (mine & others).total() / (mine.total() + others.total())


def _words(text: str) -> list[str]:
    plain = text.lower().translate(dict.fromkeys(map(ord, string.punctuation)))
    return [word for word in plain.split() if word not in ("a", "an", "the")]
