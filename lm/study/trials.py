"""Equal trials: the same learning rates and seeds for every variant that is tuned on a task.

A rate is chosen for each variant, task and way on the validation split of its own runs, a part
of the train file. Only then is the dev file scored, by the runs of that rate, of all seeds.
Every trial has the whole budget of its task: none is stopped early.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec.structs import replace

from lm.data import Data
from lm.evaluate.glue import LabelledSet
from lm.evaluate.labels import metrics_of
from lm.evaluate.tasks.metrics import Metric
from lm.optimizer import Adamw, Lora, WarmupStableDecay
from lm.results.record import Record
from lm.run import Run, Start
from lm.study.grid import STUDY, Scale, StudyRun, Variant, placed
from lm.study.power import metric_se, smallest_effect, with_seeds


class TunedTask(NamedTuple):
    """A task to be tuned on, and how much each trial may read of it."""

    title: str
    labelled: LabelledSet
    """Its train file is tuned on; the other is read for the score of what was chosen alone, and
    for how many items there are of which label."""
    tokens: int
    """The budget of every trial."""
    assumed: float
    """The accuracy, or the correlation of numbers, that the forecast of the noise takes."""

    @property
    def metric(self) -> Metric:
        """The headline as a function of columns."""
        return metrics_of(self.labelled.objective)[self.labelled.headline]

    @property
    def classes(self) -> int:
        """How many classes the label is one of; 1: it is a number."""
        return self.labelled.objective.head.outputs

    def labels(self) -> list[float]:
        """The label of each item that is scored."""
        documents = self.labelled.scored.read()
        found = [document.parts[0].values["label"] for document in documents]
        none = math.isnan if self.classes == 1 else (0.0).__gt__
        return [label for label in found if not none(label)]


class Way(NamedTuple):
    """What of a model is tuned, and the learning rates that are tried for it."""

    label: str
    rates: tuple[float, ...]
    trainable: tuple[str, ...] | None = None
    adapter: Lora | None = None


class Tuned(NamedTuple):
    """A variant that is tuned: what its runs start from, and what is known of that."""

    variant: Variant
    starts: tuple[str, ...]
    """As `start.path`: seed s starts from the one at s, and over again where they are fewer."""
    like: Run | None = None
    """A run of the study with its model and tokenizer; None: they are told by the start."""

    @property
    def attention(self) -> Literal["bidirectional", "causal"]:
        """What its tokens see in tuning: what they saw before."""
        causal = "next" in self.variant.objective.predictions
        return "causal" if causal else "bidirectional"


class Attempt(NamedTuple):
    """One of the equal trials."""

    variant: str
    task: str
    way: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """That of its run.

        >>> Attempt("causal", "sst2", "head", 3e-05, 1).name
        'causal-sst2-head-3e-05-seed1'
        """
        return f"{self.variant}-{self.task}-{self.way}-{self.rate:g}-seed{self.seed}"


class Forecast(Record):
    """What is known of a task's noise before anything is trained."""

    asked: int
    """How many items the dev file has."""
    se: float
    """The standard error that a paired difference is to have."""


class EqualTrials(NamedTuple):
    """What is tuned on what, in which ways, at which rates, under how many seeds."""

    tuned: Mapping[str, Tuned]
    tasks: Mapping[str, TunedTask]
    ways: Mapping[str, Way]
    seeds: int
    data: Data
    """Length, batch and validation split; the corpus is the task's."""
    spread: float = 0.01
    """The standard deviation between seeds that the forecast of the noise takes."""
    settings: Mapping[str, Any] = {}
    """Further fields of the runs."""

    def at(self, directory: Path) -> "EqualTrials":
        """The same with files that a study has in its directory."""
        tasks = {
            name: task._replace(
                labelled=task.labelled._replace(
                    train=placed(task.labelled.train, directory),
                    scored=placed(task.labelled.scored, directory),
                )
            )
            for name, task in self.tasks.items()
        }
        return self._replace(tasks=tasks)

    def trials(self) -> list[Attempt]:
        """All of them; a seed is finished before the next begins."""
        return [
            Attempt(variant, task, way, rate, seed)
            for task in self.tasks
            for way, of in self.ways.items()
            for seed in range(self.seeds)
            for rate in of.rates
            for variant in self.tuned
        ]

    def runs(self) -> dict[str, Run]:
        """Their runs by name."""
        return {trial.name: self.run(trial) for trial in self.trials()}

    def run(self, trial: Attempt) -> Run:
        """The run of a trial."""
        tuned, task = self.tuned[trial.variant], self.tasks[trial.task]
        way = self.ways[trial.way]
        data = replace(self.data, corpus=task.labelled.train, packing="whole")
        known: dict[str, Any] = {}
        if tuned.like is not None:
            data = replace(data, tokenizer=tuned.like.data.tokenizer)
            known = {"model": tuned.like.model}
        usual: dict[str, Any] = {
            "optimizer": Adamw(learning_rate=trial.rate),
            "schedule": WarmupStableDecay(warmup=0.1, decay=0.9, shape="linear"),
            # What is held out is asked once, at the end: there is no early stopping.
            "evaluations": 1,
            "evaluation_rows": 256,
        }
        return Run(
            data=data,
            objective=replace(task.labelled.objective, attention=tuned.attention),
            start=Start(path=tuned.starts[trial.seed % len(tuned.starts)]),
            trainable=way.trainable,
            adapter=way.adapter,
            tokens=task.tokens,
            seed=trial.seed,
            **usual | known | dict(self.settings),
        )

    def forecasts(self) -> dict[str, Forecast]:
        """What is known of each task's noise before anything is trained.

        Of the dev files only how many items are of which label is read.
        """
        found = {}
        for name, task in self.tasks.items():
            labels = np.array(task.labels())
            se = metric_se(task.metric, labels, task.assumed, classes=task.classes)
            se = with_seeds(se, self.spread, self.seeds)
            found[name] = Forecast(asked=len(labels), se=se)
        return found

    def announced(self, forecasts: Mapping[str, Forecast]) -> list[str]:
        """What a comparison can show at each task, a line each."""
        lines = []
        for name, task in self.tasks.items():
            if name not in forecasts:
                continue
            asked, se = forecasts[name].asked, forecasts[name].se
            assumed = "accuracy" if task.classes > 1 else "correlation"
            lines.append(
                f"{task.title}: with {asked:,} dev items and {self.seeds} seeds the noise"
                f" floor, the standard error of a paired difference in"
                f" {task.labelled.headline}, is about {100 * se:.1f} points, and the smallest"
                f" effect {100 * smallest_effect(se):.1f}: what is found in 80% of such studies"
                f" at 5% two-sided (assumed: {assumed} {task.assumed:g}, and a deviation of"
                f" {100 * self.spread:g} points between seeds)"
            )
        return lines


def equal_trials(
    before: Scale,
    trained: Mapping[str, Run],
    variants: Mapping[str, Variant],
    *,
    tasks: Mapping[str, TunedTask],
    ways: Mapping[str, Way],
    seeds: int,
    length: int,
    batch: int,
) -> EqualTrials:
    """What a study tunes of the runs that it pre-trains: each variant, of its run.

    Runs are named after their variants; those of no variant are left out. A tenth of each train
    file is held out.
    """
    return EqualTrials(
        {
            variant: Tuned(variants[variant], (f"{STUDY}/{name}",), run)
            for name, run in trained.items()
            if (variant := name.partition("-")[0]) in variants
        },
        tasks,
        ways,
        seeds,
        replace(before.data, length=length, batch=batch, validation=0.1),
        settings={"trackers": ()},
    )


def compared_rows(
    equal: EqualTrials, cells: Sequence[StudyRun]
) -> dict[str, dict[str, StudyRun]]:
    """The finished trials by variant, in rows that were to be equal in all else."""
    there = {cell.name: cell for cell in cells if cell.result is not None}
    rows: dict[str, dict[str, StudyRun]] = {}
    for trial in equal.trials():
        if trial.name in there:
            title = equal.tasks[trial.task].title
            row = f"{title}, {trial.way} at {trial.rate:g}, seed {trial.seed}"
            rows.setdefault(row, {})[trial.variant] = there[trial.name]
    return rows


class Chosen(NamedTuple):
    """The rate that was chosen for a variant, task and way, and its runs."""

    variant: str
    task: str
    way: str
    rate: float
    losses: Mapping[float, float]
    """The mean loss over seeds on the validation split, by rate: all that it was chosen by."""
    cells: tuple[StudyRun, ...]
    """The runs of the rate, by seed."""
    others: tuple[StudyRun, ...]
    """The runs of the other rates."""


def choices(equal: EqualTrials, cells: Sequence[StudyRun]) -> list[Chosen]:
    """The rate of least mean validation loss for each variant, task and way that is finished.

    One of which a trial is missing has no choice yet: it would have had fewer than the others.
    """
    there = {cell.name: cell for cell in cells if cell.result is not None}
    found = []
    for task, way, variant in itertools.product(equal.tasks, equal.ways, equal.tuned):
        trials = {
            rate: [Attempt(variant, task, way, rate, seed).name for seed in range(equal.seeds)]
            for rate in equal.ways[way].rates
        }
        if any(name not in there for names in trials.values() for name in names):
            continue
        runs = {rate: tuple(there[name] for name in names) for rate, names in trials.items()}
        losses = {rate: float(np.mean([*map(_loss, of)])) for rate, of in runs.items()}
        rate = min(losses, key=lambda rate: losses[rate])
        chosen = runs.pop(rate)
        others = tuple(cell for of in runs.values() for cell in of)
        found.append(Chosen(variant, task, way, rate, losses, chosen, others))
    return found


def _loss(cell: StudyRun) -> float:
    assert cell.result is not None
    return float(cell.result["validation_loss"])
