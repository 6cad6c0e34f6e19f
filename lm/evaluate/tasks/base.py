"""What a task owes, what it asks of a candidate, and what a candidate says of itself.

A *candidate* is whatever sits a task: a model with a scorer, an n-gram model. A *task* turns
files into items, items into requests, and what it is answered into columns of numbers, an item
a row, of which every metric is a function: so that each metric has an interval over items, and
two candidates a paired difference.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from msgspec import Meta

from lm.config import Config, UserError
from lm.results import Kind


class Query(NamedTuple):
    """A text of which a candidate gives the probability: `continuation`, behind `context`."""

    context: str
    continuation: str
    after: str = ""
    """What stands behind both: seen by those who see both sides, and never scored."""
    number: int = 0
    """Requests that are compared have one number, and masks that are drawn are the same."""


class Likelihood(NamedTuple):
    """What a candidate says of a continuation."""

    log_p: float
    """Its log-probability in nats, or what stands for it: see `Candidate.kind`."""
    likeliest: bool
    """Whether no token of it had a likelier rival: it is what a greedy reader writes."""
    tokens: int
    """How many tokens were scored."""
    cut: int = 0
    """How many tokens of what stands around it were left out, as they did not fit."""


class Completion(NamedTuple):
    """What a candidate writes after a prompt."""

    text: str
    cut: int = 0
    """How many tokens of the prompt were left out, as they did not fit."""


Note = Callable[[Sequence[int], Sequence[Any]], None]
"""Told of each batch that is done: the places of what was asked, and what was found."""


class Ranking(NamedTuple):
    """The documents that answer each query best."""

    documents_QK: np.ndarray
    """int[queries, K]: their numbers, the best first; -1 behind the last that was found."""
    cut_Q: np.ndarray
    """How many tokens of each query were left out, as they did not fit."""
    cut_N: np.ndarray
    """Likewise of each document."""


class Candidate(Protocol):
    """What sits a task; a new one gives likelihoods, and refuses what it cannot in one line."""

    @property
    def digest(self) -> str:
        """What decides its answers: the model, and how it is asked."""
        ...

    @property
    def scorer(self) -> str:
        """By which rule it gives probabilities."""
        ...

    @property
    def kind(self) -> Kind:
        """What its log-probabilities are: exact, a bound, or no likelihood."""
        ...

    @property
    def around(self) -> str:
        """What stands before the first token and behind the last, in words."""
        ...

    @property
    def sees_after(self) -> bool:
        """Whether it sees what stands behind a continuation."""
        ...

    def likelihoods(
        self, queries: Sequence[Query], note: Note = lambda *_: None
    ) -> list[Likelihood]:
        """The log-probability of each continuation."""
        ...

    def states(self, texts: Sequence[str]) -> "TextStates":
        """One vector for each text, pooled from its states."""
        ...

    def ranked(self, queries: Sequence[str], documents: Sequence[str], count: int) -> Ranking:
        """The documents that answer each query best, at most `count`."""
        ...

    def written(
        self,
        prompts: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        """What it writes after each prompt: the likeliest tokens, up to `count` or a stop."""
        ...

    def answered(
        self,
        messages: Sequence[str],
        *,
        count: int,
        stop: Sequence[str],
        note: Note = lambda *_: None,
    ) -> list[Completion]:
        """What it answers to each message, by its chat template: as with `written`."""
        ...


class Conditions(Config):
    """Under which conditions a task is sat: the same for every candidate."""

    items: Annotated[int, Meta(ge=1, description="first items of each file")] | None = None
    shots: Annotated[int, Meta(ge=0, description="solved items before each")] = 0
    seeds: Annotated[
        tuple[Annotated[int, Meta(ge=0)], ...],
        Meta(min_length=1, description="of the draw of these, a result each"),
    ] = (0,)
    calibration: (
        Annotated[
            str,
            Meta(
                description="divide by each answer's probability where this stands in every"
                " field of the item, as N/A (Zhao et al. 2021); null: do not"
            ),
        ]
        | None
    ) = None

    @property
    def draws(self) -> tuple[int, ...]:
        """The seeds that differ: without demonstrations nothing is drawn, and all are alike."""
        return self.seeds if self.shots else self.seeds[:1]


class Item(NamedTuple):
    """A line of a task's files."""

    fields: Mapping[str, Any]
    group: str
    """Which part of the task it is of; empty: the task has no parts."""
    place: str
    """FILE:LINE, for messages."""


class TextStates(NamedTuple):
    """Texts as vectors."""

    vectors_ND: np.ndarray
    cut_N: np.ndarray
    """How many tokens of each were left out, as they did not fit."""


class Answers(NamedTuple):
    """What came of a task's items under each seed."""

    columns: np.ndarray
    """float64[seeds, items, columns]: see `Task.columns`."""
    cut: np.ndarray
    """int[seeds, items]: tokens of context that were left out."""
    texts: tuple[tuple[str, ...], ...] = ()
    """By seed and item, what was written; empty: the task asks for no text."""


class Statistic(NamedTuple):
    """A metric as a function of columns."""

    of: Callable[[np.ndarray], float]
    """float64[items, columns] to its value."""


class Task(Config):
    """Base of the forms that tasks have: a frozen value, whose fields say where its items are.

    Files are read relative to the folder of tasks (`lm.evaluate.tasks.files`).
    """

    headline: ClassVar[str]
    """The metric that a table shows, if the task has no field that says which."""
    needs: ClassVar[str] = "likelihoods"
    """What it asks a candidate for: likelihoods, states, rankings, or text."""

    files: Annotated[
        tuple[str, ...],
        Meta(
            min_length=1, description="jsonl, json or tsv files or globs; !PATTERN leaves out"
        ),
    ]
    names: Annotated[
        tuple[str, ...], Meta(description="of a tsv file's columns, if its first line is none")
    ] = ()
    group: Annotated[
        tuple[str, ...], Meta(description="fields that say which part an item is of")
    ] = ()
    demonstrations: Annotated[
        tuple[str, ...],
        Meta(description="files of solved items; none: the other items of the task's own"),
    ] = ()
    draw: Annotated[
        Literal["task", "part"],
        Meta(description="for each item from all of them, or from those of its own part"),
    ] = "task"
    between: Annotated[str, Meta(description="what stands after each of them")] = "\n\n"

    @property
    def metric(self) -> str:
        """The metric that a table shows."""
        return self.headline

    def prompt_text(self, candidate: Candidate) -> str:
        """The template of a candidate's prompt, for the record; empty: there is none."""
        return ""

    @property
    def statistics(self) -> Mapping[str, Statistic]:
        """Every metric, the headline among them, by name."""
        raise NotImplementedError

    def check_conditions(self, conditions: Conditions) -> None:
        """Raises UserError for conditions that are none of this form's."""

    def gather(
        self,
        items: Sequence[Item],
        read: Callable[[Sequence[str]], Sequence[tuple[str, bytes]]],
    ) -> tuple[list[Item], list[Item]]:
        """The items with what is said of them elsewhere, and what stands beside them all.

        `read` gives names and contents of files; it raises UserError where there are none.
        """
        return list(items), []

    def check(self, item: Item) -> None:
        """Raises UserError, naming the place, where an item lacks what the task needs."""
        raise NotImplementedError

    def sit(
        self,
        candidate: Candidate,
        items: Sequence[Item],
        pool: Sequence[Item],
        conditions: Conditions,
    ) -> Answers:
        """Asks a candidate; `pool` has the solved items that demonstrations are drawn from, or
        what was gathered beside the items.
        """
        raise NotImplementedError

    def baselines(self, items: Sequence[Item]) -> dict[str, float]:
        """The headline of who knows nothing, by name."""
        return {}

    def field(self, item: Item, name: str) -> Any:
        """A field of an item; raises UserError where there is none."""
        if name not in item.fields:
            there = ", ".join(item.fields) or "none"
            raise UserError(f"{item.place}: no field {name}; it has {there}")
        return item.fields[name]

    def text(self, item: Item, name: str) -> str:
        """A field of an item that is text; raises UserError where it is none."""
        value = self.field(item, name)
        if not isinstance(value, str):
            raise UserError(f"{item.place}: {name} is {value!r}; must be text")
        return value


TASKS_VARIABLE = "YARDSTICK_TASKS"
"""The environment variable that names the folder of tasks."""


EVERY_CONFIG = ("*",)


class HubFiles(NamedTuple):
    """Where a task's items are on the Hugging Face hub, and how a row becomes an item."""

    name: str
    configs: tuple[str, ...]
    """Parts that it is made of; `EVERY_CONFIG`: all there are; none: it has no parts."""
    split: str
    item: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    demonstrations: str | None = None
    """The split of solved items."""


class NamedTask(NamedTuple):
    """A public task."""

    task: Task
    about: str
    """One line: what it asks, how many items there are, and who made it."""
    hub: HubFiles | None = None


def folder_of(given: Path | None, environment: Mapping[str, str]) -> Path | None:
    """The folder of tasks: what is given, else what the environment says; None: there is none.

    >>> folder_of(None, {}), str(folder_of(None, {"YARDSTICK_TASKS": "t"}))
    (None, 't')
    """
    named = environment.get(TASKS_VARIABLE)
    return given or (Path(named) if named else None)
