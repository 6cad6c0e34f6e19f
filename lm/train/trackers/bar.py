"""The progress bar."""

import re
import sys
import time

import jax
from rich import progress as bars
from rich.console import Console

from lm.cost.peak import device_peak
from lm.output.numbers import duration
from lm.train.trackers.base import Session, Tracker

SECONDS = 30.0
"""How often a plain line is printed where there is no terminal."""
LINE = re.compile(r"\S+  \d+/\d+  loss ")
"""How such a line begins."""


class Bar(Tracker):
    """The line that moves: loss, tokens/s, fraction of the devices' matmul peak, time left.

    Where the output is not a terminal it prints a plain line every `SECONDS` instead.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._console = Console(file=sys.stderr)
        self._peak = device_peak() * jax.device_count() if session.token_flops else 0.0
        self._begin = self._printed = time.monotonic()
        self._progress = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.TextColumn("{task.fields[facts]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            session.label, total=session.steps, completed=session.step, facts=""
        )
        self._progress.start()

    def update(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        start, total = self.session.step, self.session.steps
        rate = tokens / seconds
        fraction = self.session.token_flops * rate / self._peak if self._peak else 0.0
        left = (time.monotonic() - self._begin) / max(step - start, 1) * (total - step)
        facts = (
            f"{step}/{total}  loss {loss:.3f}  {_thousands(rate)} tokens/s"
            f"  {fraction:.0%} of peak  {duration(left)} left"
        )
        self._progress.update(self._task, completed=step, facts=facts)
        if not self._console.is_terminal and time.monotonic() - self._printed > SECONDS:
            self._printed = time.monotonic()
            print(f"{self.session.label}  {facts}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._progress.stop()


def _thousands(rate: float) -> str:
    return f"{rate / 1e3:.1f}k" if rate < 1e6 else f"{rate / 1e6:.1f}M"
