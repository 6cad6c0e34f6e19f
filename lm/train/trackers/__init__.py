"""Where a run's metrics go while it trains. A new tracker: one file, one line in `TRACKERS`."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

from lm.config import UserError
from lm.config.types import nearest_of
from lm.distributed import hosts
from lm.train.trackers.bar import Bar
from lm.train.trackers.base import Session, Tracker
from lm.train.trackers.jsonl import JsonlTracker
from lm.train.trackers.tensorboard import Tensorboard
from lm.train.trackers.wandb import Wandb

TRACKERS: dict[str, type[Tracker]] = {"tensorboard": Tensorboard, "bar": Bar, "wandb": Wandb}
"""By the name that `Run.trackers` uses; `JsonlTracker` is always there."""

RECENT = 4096
"""Records that a checkpoint keeps where it is not beside metrics.jsonl."""


def check(names: Sequence[str]) -> None:
    """Raises UserError where a tracker is not known, or cannot be had on this machine."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"trackers={name}: no such tracker; {nearest_of(name, TRACKERS)}")
        if why := TRACKERS[name].check():
            raise UserError(f"trackers={name}: {why}")


class Trackers:
    """The trackers of a session; use it as a context. Of several hosts the first has any.

    `recent` are the records that a checkpoint kept.
    """

    def __init__(self, session: Session, recent: Sequence[dict[str, Any]] = ()) -> None:
        self._recent = deque(recent, maxlen=RECENT)
        self._all: list[Tracker] = []
        with ExitStack() as opened:
            if hosts.is_first():
                self._all.append(JsonlTracker(session, recent))
                opened.callback(self._all[-1].close)
                for name in session.run.trackers:
                    self._all.append(TRACKERS[name](session))
                    opened.callback(self._all[-1].close)
            self._opened = opened.pop_all()

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Records what was found after `step` steps; what is not finite is left out."""
        kept = {n: v for n, v in values.items() if isinstance(v, str) or math.isfinite(v)}
        if self._all:
            self._recent.append({"step": step, **kept})
        for tracker in self._all:
            tracker.write(step, kept)

    def update(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """Shows the newest loss, and what the last steps took."""
        for tracker in self._all:
            tracker.update(step, loss, tokens, seconds)

    @property
    def recent(self) -> list[dict[str, Any]]:
        """The newest records, `RECENT` at most, for a checkpoint."""
        return list(self._recent)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
