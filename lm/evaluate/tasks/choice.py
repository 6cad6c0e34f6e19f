"""Which of several texts is found likeliest: answers to a question, or two sentences."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from msgspec import Meta

from lm.config import Config, UserError
from lm.evaluate.tasks.base import (
    Answers,
    Candidate,
    Conditions,
    Item,
    Query,
    Statistic,
    Task,
)
from lm.evaluate.tasks.metrics import f1, matthews, mean
from lm.evaluate.tasks.prompts import fill_template, solved_before, template_fields

LengthNorm = Literal["nothing", "tokens", "characters", "bytes"]
"""What a choice's log-probability is divided by: its own length, in one of these."""
NORMS: tuple[LengthNorm, ...] = ("nothing", "tokens", "characters", "bytes")
ACCURACY: dict[LengthNorm, str] = {
    norm: "accuracy" if norm == "nothing" else f"accuracy_{norm}" for norm in NORMS
}
_GOLD, _CHOSEN, _TIED = range(len(NORMS), len(NORMS) + 3)


class Asked(NamedTuple):
    """A choice that is put to a candidate."""

    context: str
    continuations: Sequence[str]
    texts: Sequence[str]
    """The choices without what the template puts around them, whose lengths norms count."""
    gold: int
    after: str = ""


def choose(
    candidate: Candidate,
    asked: Sequence[Asked],
    *,
    norm: LengthNorm,
    neutral: Sequence[Asked] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What is chosen of each, float64[items, columns], and what was cut of it, int[items].

    Columns are whether it was right by each of `NORMS`, the right choice, the one chosen by
    `norm`, and whether others were as likely. Among k that are equally likely the right one
    counts 1/k. With `neutral` surroundings, a choice's probability is divided by the one that
    it has there.
    """
    found = _ask(candidate, asked)
    behind = None if neutral is None else _ask(candidate, neutral)
    columns = np.zeros((len(asked), len(NORMS) + 3))
    for number, each in enumerate(asked):
        logs = np.array([choice.log_p for choice in found[number]])
        if behind is not None:
            logs = logs - [choice.log_p for choice in behind[number]]
        lengths = {
            "nothing": [1] * len(logs),
            "tokens": [choice.tokens for choice in found[number]],
            "characters": [len(text) for text in each.texts],
            "bytes": [len(text.encode()) for text in each.texts],
        }
        for column, by in enumerate(NORMS):
            scores = logs / np.maximum(lengths[by], 1)
            best = np.isclose(scores, scores.max(), rtol=1e-9, atol=0)
            columns[number, column] = best[each.gold] / best.sum()
            if by == norm:
                columns[number, _CHOSEN], columns[number, _TIED] = best.argmax(), best.sum() > 1
        columns[number, _GOLD] = each.gold
    cut = np.array([max((choice.cut for choice in of), default=0) for of in found])
    return columns, cut


def _ask(candidate: Candidate, asked: Sequence[Asked]) -> list[Any]:
    """The likelihoods of each one's continuations."""
    requests = [
        Query(each.context, continuation, each.after, number)
        for number, each in enumerate(asked)
        for continuation in each.continuations
    ]
    answers = iter(candidate.likelihoods(requests))
    return [[next(answers) for _ in each.continuations] for each in asked]


def accuracies() -> dict[str, Statistic]:
    """The fraction that is right by each norm, and in how many a tie was broken."""
    found = {ACCURACY[norm]: Statistic(mean(column)) for column, norm in enumerate(NORMS)}
    return {**found, "tied": Statistic(mean(_TIED))}


class Template(NamedTuple):
    """What stands before an answer and behind it, and the answers, if they are fixed."""

    prompt: str
    after: str
    words: tuple[str, ...]


class Cloze(Config):
    """A prompt for those who see both sides: the answer is a gap in it."""

    prompt: Annotated[str, Meta(description="template of what stands before the gap")]
    after: Annotated[str, Meta(description="template of what stands behind it")]
    words: Annotated[tuple[str, ...], Meta(description="answers, if they are others")] = ()


class Choice(Task, tag="choice"):
    """Choose the answer that is likeliest behind a prompt, among an item's own or fixed words.

    The prompt and each answer are made by templates of an item's fields; `{choice}` is the
    answer's text. Candidates that see both sides are given the `cloze`, where there is one.
    """

    prompt: Annotated[str, Meta(description="template of what stands before an answer")] = (
        "{query}"
    )
    answer: Annotated[str, Meta(description="template of an answer")] = " {choice}"
    cloze: (
        Annotated[Cloze, Meta(description="prompt of who sees both sides; null: the same")]
        | None
    ) = None
    choices: Annotated[str, Meta(description="the field with an item's list of answers")] = (
        "choices"
    )
    words: Annotated[
        tuple[str, ...], Meta(description="answers that are the same for all items, if any")
    ] = ()
    gold: Annotated[str, Meta(description="the field of the right one: its number from 0")] = (
        "gold"
    )
    classes: Annotated[
        tuple[str, ...], Meta(description="what that field says in place of 0, 1, ...")
    ] = ()
    norm: Annotated[
        LengthNorm, Meta(description="what the headline divides log-probabilities by")
    ] = "nothing"
    f1: Annotated[
        Literal["none", "f1", "matthews"],
        Meta(description="a further metric of two classes: f1 of class 1, or matthews"),
    ] = "none"

    headline: ClassVar[str] = "accuracy"

    @property
    def metric(self) -> str:
        return ACCURACY[self.norm]

    def prompt_text(self, candidate: Candidate) -> str:
        template = self._template(candidate)
        return f"{template.prompt}|{self.answer}|{template.after}".rstrip("|")

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        further = {"f1": f1, "matthews": matthews}.get(self.f1)
        found = accuracies()
        return {**found, self.f1: Statistic(further(_GOLD, _CHOSEN))} if further else found

    def check(self, item: Item) -> None:
        for template in self._templates:
            for name in template_fields(template.prompt) + template_fields(template.after):
                self.field(item, name)
            gold, texts = self._gold(item), self._texts(item, template)
            self._answer("", item)
            if not 0 <= gold < len(texts) or len(texts) < 2:
                raise UserError(
                    f"{item.place}: {self.gold} is {gold}, and there are {len(texts)} choices"
                )

    def sit(
        self,
        candidate: Candidate,
        items: Sequence[Item],
        pool: Sequence[Item],
        conditions: Conditions,
    ) -> Answers:
        template = self._template(candidate)
        columns, cut = [], []
        for seed in conditions.draws:
            before = solved_before(
                self, items, pool, partial(self._solved, template), conditions, seed
            )
            pairs = list(zip(items, before, strict=True))
            asked = [self._asked(item, text, template) for item, text in pairs]
            neutral = None
            if (blank := conditions.calibration) is not None:
                neutral = [
                    each._replace(
                        context=text + _filled(template.prompt, item, blank),
                        after=_filled(template.after, item, blank),
                    )
                    for each, (item, text) in zip(asked, pairs, strict=True)
                ]
            found = choose(candidate, asked, norm=self.norm, neutral=neutral)
            columns.append(found[0])
            cut.append(found[1])
        return Answers(np.array(columns), np.array(cut))

    def baselines(self, items: Sequence[Item]) -> dict[str, float]:
        template = self._templates[0]
        texts = [self._texts(item, template) for item in items]
        gold = [self._gold(item) for item in items]
        longest = [int(np.argmax([len(text) for text in each])) for each in texts]
        return {
            "chance": float(np.mean([1 / len(each) for each in texts])),
            "majority": float(np.bincount(gold).max() / len(gold)),
            "longest": float(np.mean([a == b for a, b in zip(longest, gold, strict=True)])),
        }

    @property
    def _templates(self) -> list[Template]:
        """The prompt of who sees what stands before, and of who sees both sides."""
        usual = Template(self.prompt, "", self.words)
        if self.cloze is None:
            return [usual, usual]
        gap = self.cloze
        return [usual, Template(gap.prompt, gap.after, gap.words or self.words)]

    def _template(self, candidate: Candidate) -> Template:
        return self._templates[candidate.sees_after]

    def _asked(self, item: Item, before: str, template: Template) -> Asked:
        texts = self._texts(item, template)
        return Asked(
            context=before + _filled(template.prompt, item),
            continuations=[self._answer(text, item) for text in texts],
            texts=texts,
            gold=self._gold(item),
            after=_filled(template.after, item),
        )

    def _solved(self, template: Template, item: Item) -> str:
        """A demonstration: an item with its right answer."""
        right = self._answer(self._texts(item, template)[self._gold(item)], item)
        return _filled(template.prompt, item) + right + _filled(template.after, item)

    def _answer(self, text: str, item: Item) -> str:
        return fill_template(self.answer, {**item.fields, "choice": text}, item.place)

    def _texts(self, item: Item, template: Template) -> Sequence[str]:
        if template.words:
            return template.words
        found = self.field(item, self.choices)
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise UserError(f"{item.place}: {self.choices} must be a list of texts")
        return found

    def _gold(self, item: Item) -> int:
        found = self.field(item, self.gold)
        if self.classes:
            if str(found) not in self.classes:
                raise UserError(
                    f"{item.place}: {self.gold} is {found!r}; must be one of"
                    f" {', '.join(self.classes)}"
                )
            return self.classes.index(str(found))
        if isinstance(found, bool) or not isinstance(found, int):
            raise UserError(f"{item.place}: {self.gold} is {found!r}; must be a number from 0")
        return found


def _filled(template: str, item: Item, blank: str | None = None) -> str:
    """A template with an item's fields, or with `blank` in place of each."""
    fields = item.fields if blank is None else dict.fromkeys(item.fields, blank)
    return fill_template(template, fields, item.place)


class Pairs(Task, tag="pairs"):
    """Find the better one of two sentences likelier (Marvin and Linzen 2018; BLiMP).

    Each is scored whole, behind nothing but what begins a text; a tie counts as half.
    """

    better: Annotated[str, Meta(description="the field of the better sentence")] = "better"
    worse: Annotated[str, Meta(description="the field of the worse one")] = "worse"

    headline: ClassVar[str] = "accuracy"

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        return accuracies()

    def check_conditions(self, conditions: Conditions) -> None:
        if conditions.shots or conditions.calibration is not None:
            raise UserError("pairs of sentences stand alone: shots and calibration are of none")

    def check(self, item: Item) -> None:
        for name in (self.better, self.worse):
            if not self.text(item, name).strip():
                raise UserError(f"{item.place}: {name} is empty")

    def sit(
        self,
        candidate: Candidate,
        items: Sequence[Item],
        pool: Sequence[Item],
        conditions: Conditions,
    ) -> Answers:
        asked = [
            Asked("", texts, texts, 0)
            for item in items
            if (texts := (self.text(item, self.better), self.text(item, self.worse)))
        ]
        columns, cut = choose(candidate, asked, norm="nothing")
        return Answers(columns[None], cut[None])

    def baselines(self, items: Sequence[Item]) -> dict[str, float]:
        lengths = np.array(
            [
                [len(self.text(item, name)) for name in (self.better, self.worse)]
                for item in items
            ]
        )
        longest = np.where(lengths[:, 0] == lengths[:, 1], 0.5, lengths[:, 0] > lengths[:, 1])
        return {"chance": 0.5, "longest": float(longest.mean())}
