"""What a run has come to, step by step: whether its numbers are sound, and where they go."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import NoReturn

import numpy as np

from lm.config import UserError
from lm.data.digest import chain_text
from lm.distributed import hosts
from lm.run import Run
from lm.train.faults import Losses, RollBack, wrong
from lm.train.progress import Progress
from lm.train.trackers import Trackers


class Diverged(UserError):
    """A loss, an update, or the parameters are not finite any more."""


class Bookkeeper:
    """Judges each step of a run and records it; what it raises ends the run, or sends it back.

    `total` are the run's steps, and `progress` is what it has come to, kept up to date.
    """

    def __init__(
        self, run: Run, label: str, total: int, progress: Progress, trackers: Trackers
    ) -> None:
        self.progress = progress
        self._run, self._label, self._total, self._trackers = run, label, total, trackers
        self._losses, self._faults_in_a_row = Losses(run.faults, progress.losses), 0

    def limit(self, step: int) -> float:
        """The loss above which a step is wrong."""
        return self._losses.limit(step)

    def settle(self, step: int, metrics: Mapping[str, np.ndarray], took: float | None) -> None:
        """Judges and records a step by its metrics; `took` are its seconds, where known.

        Raises Diverged, or RollBack, where it is a fault that is not skipped.
        """
        found = dict(metrics)
        batches = chain_text(found.pop("batches"))
        values = {name: float(value) for name, value in found.items()}
        self._judge(step, values)
        if took is not None:
            positions = self._run.data.batch * self._run.data.length
            values["tokens_per_second"] = positions / took
            self._trackers.update(step, values["loss"], positions, took)
        self.progress.predicted += values["predicted"]
        left_out = {"left_out": ahead} if (ahead := self.progress.left_out) else {}
        self._trackers.write(step, {**values, **left_out, "batches": batches})

    def validated(
        self,
        step: int,
        found: dict[str, float],
        evaluate: Callable[[], Mapping[str, float | str]] = dict,
    ) -> None:
        """Records a validation, with what `evaluate` finds; raises as `settle` does."""
        if not math.isfinite(found["validation_loss"]):
            self.fail(step, f"validation_loss {found['validation_loss']}")
        self._trackers.write(step, {**found, **evaluate()})
        self.progress.validation = found.pop("validation_loss")
        self.progress.validation_terms = found

    def prove_sound(self, step: int, *, finite: bool) -> None:
        """Before a state is saved, of which all is settled: it must be worth it."""
        if not finite:
            self.fail(step, "parameters that are not finite")
        if self._run.checkpoints.directory:  # where metrics.jsonl may be lost before it
            self.progress.recent = self._trackers.recent

    def fail(self, step: int, why: str) -> NoReturn:
        """Ends the run, or sends it back."""
        faults = self._run.faults
        if faults.policy == "roll_back":
            raise RollBack(step, why, self.progress)
        in_a_row = faults.policy == "skip" and self._faults_in_a_row > faults.most
        raise diverged(self._run, self._label, step, why, in_a_row=in_a_row)

    def _judge(self, step: int, values: dict[str, float]) -> None:
        """Whether a step was sound, had no target, or is a fault."""
        faults, progress = self._run.faults, self.progress
        empty = not values["predicted"]
        judged = values | {"loss": 0.0} if empty else values
        if why := wrong(judged, self._losses.limit(step)):
            self._faults_in_a_row += 1
            if faults.policy != "skip" or self._faults_in_a_row > faults.most:
                self.fail(step, why)
            progress.skipped += 1
        elif empty:
            if not progress.predicted and step >= min(self._total, 8):
                raise UserError(
                    f"{self._label}: none of {step} steps had a target; read more text, or"
                    " raise data.batch or the objective's rate"
                )
            say(f"{self._label}: step {step} has no target, and so no loss")
        else:
            self._faults_in_a_row = 0
            self._losses.add(step, values["loss"])
            progress.losses = self._losses.kept


def diverged(run: Run, label: str, step: int, why: str, *, in_a_row: bool = False) -> Diverged:
    """The error that says at which step a run diverged, and what may help."""
    if run.faults.policy == "roll_back":
        more = f"after {run.faults.most} returns to one checkpoint; start"
    elif in_a_row:
        more = f"like {run.faults.most} in a row before it; start"
    else:
        others = "roll_back" if run.faults.policy == "skip" else "skip or roll_back"
        more = (
            "nothing of which is saved; go on from the last checkpoint with"
            f" faults.policy={others}, or start"
        )
    return Diverged(
        f"{label}: {why} at step {step}, {more} again in another directory"
        f" with a lower optimizer.learning_rate ({run.optimizer.learning_rate:g}) or a longer"
        " schedule.warmup"
    )


def say(line: str) -> None:
    """Prints a line on stderr, of several hosts once."""
    if hosts.is_first():
        print(f"lm: {line}", file=sys.stderr)
