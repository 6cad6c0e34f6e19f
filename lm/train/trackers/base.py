"""What a tracker owes: a place to which a run's metrics go while it trains."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from lm.run import Run


class Session(NamedTuple):
    """A stretch of training, from where a run began or goes on."""

    run: Run
    directory: Path
    """The run's own, which is there."""
    label: str
    """What the run is called in what it prints."""
    step: int
    """Steps done before it. What was recorded of later ones will be recorded again."""
    steps: int
    """Steps of the whole run."""
    token_flops: float
    """FLOPs of training on one token, without what is computed again; 0: not known."""


class Tracker:
    """Takes metrics of one session; opened on the first host alone.

    What is not overridden does nothing.
    """

    def __init__(self, session: Session) -> None:
        self.session = session

    @classmethod
    def check(cls) -> str | None:
        """Why it cannot be had on this machine, in one line; None if it can."""
        return None

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Takes what was found after `step` steps: finite numbers, and words."""

    def update(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """Takes the newest loss, and what the last steps took: for whoever watches."""

    def close(self) -> None:
        """Finishes writing; nothing is taken after it."""
