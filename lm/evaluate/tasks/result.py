"""What came of a task, typed, as it is kept beside the model."""

from pathlib import Path

import msgspec
import numpy as np

from lm.config import UserError
from lm.evaluate.tasks.base import Task
from lm.evaluate.tasks.metrics import Estimate, difference
from lm.results import Kind
from lm.results.record import Record


class GroupResult(Record):
    """The headline of a part of a task."""

    value: float
    asked: int
    """How many items it has."""


class TaskResult(Record):
    """How a candidate did at a task, and how it was asked."""

    task: str
    model: str
    """As it was named."""
    metric: str
    """The headline."""
    value: float
    low: float
    high: float
    """Between which two numbers the headline lies at 95%: a bootstrap over items and seeds."""
    metrics: dict[str, Estimate]
    """All metrics, the headline among them."""
    by_seed: dict[str, float]
    """The headline under each seed, where there are several."""
    groups: dict[str, GroupResult]
    """The headline of each part; empty: the task has none."""
    baselines: dict[str, float]
    """The headline of who knows nothing."""
    scorer: str
    kind: Kind
    """What the log-probabilities are; "no likelihood": they are none."""
    around: str
    """What stood before the first token and behind the last."""
    prompt: str
    shots: int
    seeds: tuple[int, ...]
    calibration: str | None
    asked: int
    """How many items there were."""
    cut: int
    """Items of which a part of the context was left out, as it did not fit."""
    cut_tokens: int
    """How many tokens that were."""
    places: str
    """Digest of the items, in order: what two results must share to be compared."""
    columns: tuple[tuple[tuple[float, ...], ...], ...]
    """By seed and item, what the metrics are functions of."""
    texts: tuple[tuple[str, ...], ...] = ()
    """By seed and item, what was written; empty: the task asks for no text."""

    @property
    def array(self) -> np.ndarray:
        """The columns, float64[seeds, items, columns]."""
        return np.array(self.columns, np.float64)

    def brief(self) -> "TaskResult":
        """The same without what it is made of, item by item."""
        return msgspec.structs.replace(self, columns=(), texts=())


def above(task: Task, mine: TaskResult, other: TaskResult) -> Estimate:
    """How far the headline lies above another's on the same items, paired.

    Raises UserError where they are not of the same items.
    """
    if mine.places != other.places:
        raise UserError(
            f"{mine.task}: {mine.model} and {other.model} were not asked the same items"
        )
    of = task.statistics[task.metric].of
    return difference(of, mine.array, other.array)


def as_task_result(text: str, path: Path) -> TaskResult:
    """What a file of `lm eval` holds; raises UserError where it is damaged."""
    try:
        return msgspec.json.decode(text, type=TaskResult)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise UserError(f"{path}: damaged: {error}; remove it and ask again") from None


def read_task_result(path: Path) -> TaskResult:
    """The same of a file."""
    return as_task_result(path.read_text(), path)
