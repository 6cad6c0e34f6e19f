"""What a run says while it trains: metrics.jsonl, TensorBoard, and a line that moves."""

import functools
import json
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import msgspec
from rich import progress as bars
from rich.console import Console
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from lm.config import UserError
from lm.cost.chips import peak_of
from lm.distributed import hosts
from lm.numerics import Precision
from lm.output.files import write_whole
from lm.output.numbers import duration

RECENT = 4096
"""Records that a checkpoint keeps where it is not beside metrics.jsonl."""


class Progress(msgspec.Struct):
    """What a run has come to, beside its state: a checkpoint keeps it."""

    decided_by: dict[str, str]
    """A digest of each thing that decides the run: its settings, by field, and its data."""
    seconds: float = 0.0
    """Spent in steps."""
    predicted: float = 0.0
    """Targets that counted."""
    validation: float | None = None
    """The newest validation loss."""
    validation_terms: dict[str, float] = {}
    """The objective's further terms there."""
    losses: list[list[float]] = []
    """The last losses with their steps, if a jump of them is a fault."""
    skipped: int = 0
    """Steps whose update was left out."""
    rolled_back: int = 0
    """Returns to a checkpoint."""
    left_out: int = 0
    """Batches left out by such returns."""
    recent: list[dict[str, Any]] = []
    """The newest metrics, where they may be lost before a checkpoint is."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Self:
        """What `plain` gave, of a checkpoint."""
        return msgspec.convert(plain, cls)

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return msgspec.to_builtins(self)


class Metrics:
    """The run's records, one JSON object a line, and the same numbers for TensorBoard.

    Opening it after a restart at `step` forgets the records of later steps: they will be
    written again. Records that the checkpoint kept, its `recent`, take the place of those that
    were lost: on a pod checkpoints are in the bucket minutes before the records. Of several
    hosts the first writes.
    """

    def __init__(
        self, directory: Path, step: int, recent: Sequence[dict[str, Any]] = ()
    ) -> None:
        self._writes = hosts.first()
        self._recent = deque(recent, maxlen=RECENT)
        if not self._writes:
            return
        self._path = directory / "metrics.jsonl"
        kept = [record for record in read_metrics(directory) if record["step"] <= step]
        last = kept[-1]["step"] if kept else 0
        kept += [r for r in recent if last <= r["step"] <= step and r not in kept[-2:]]
        if gaps := missing([r["step"] for r in kept if "loss" in r], step):
            print(
                f"lm: {self._path}: the records of steps {spans(gaps)} are lost",
                file=sys.stderr,
            )
        write_whole(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self._path.open("a")
        # Not by SummaryWriter, whose thread a full disk ends: whoever writes then waits.
        (directory / "tensorboard").mkdir(exist_ok=True)
        self._board = EventsWriter(str(directory / "tensorboard" / "events"))
        self._flushed = time.monotonic()
        # TensorBoard then hides what an earlier process had written from here on.
        started = SessionLog(status=SessionLog.START)
        self._board.write_event(Event(step=step + 1, session_log=started))

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        """Records the values after `step` steps; TensorBoard gets the numbers."""
        if not self._writes:
            return
        record = {"step": step, **values}
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()
        self._recent.append(record)
        for name, value in values.items():
            if not isinstance(value, str):
                event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                self._board.write_event(event)
        if time.monotonic() - self._flushed > 30:
            self._board.flush()
            self._flushed = time.monotonic()

    @property
    def recent(self) -> list[dict[str, Any]]:
        """The newest records, `RECENT` at most, for a checkpoint."""
        return list(self._recent)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writes:
            self._file.close()
            self._board.close()


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """All whole records of a run, in order; raises UserError where one is damaged."""
    path = directory / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    records = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):  # it was being written when the run was killed
            break
        try:
            record = json.loads(line)
            if type(record["step"]) is not int:
                raise ValueError(f"step {record['step']!r}")
            records.append(record)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: line {number} is damaged: {error}") from None
    return records


def missing(steps: Iterable[int], end: int) -> list[tuple[int, int]]:
    """The gaps in what was recorded up to step `end`, each by its first and last step.

    >>> missing([1, 2, 5, 6], 8)
    [(3, 4), (7, 8)]
    """
    gaps, before = [], 0
    for step in [*sorted(steps), end + 1]:
        if step > before + 1:
            gaps.append((before + 1, step - 1))
        before = step
    return gaps


def spans(gaps: Iterable[tuple[int, int]]) -> str:
    """Gaps in words.

    >>> spans([(3, 4), (7, 7)])
    '3 to 4, 7'
    """
    return ", ".join(f"{a:,} to {b:,}" if a < b else f"{a:,}" for a, b in gaps)


class Bar:
    """The line that moves: loss, tokens/s, share of the devices' matmul peak, time left.

    Where the output is not a terminal it prints a plain line every half minute instead. Of
    several hosts the first speaks.
    """

    def __init__(self, label: str, *, steps: int, start: int, step_flops: float) -> None:
        self._console = Console(file=sys.stderr)
        self._label, self._steps, self._start, self._flops = label, steps, start, step_flops
        speaks = hosts.first() and step_flops
        self._peak = device_peak() * jax.device_count() if speaks else 0.0
        self._begin = self._printed = time.monotonic()
        self._progress = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=24),
            bars.TextColumn("{task.fields[facts]}"),
            console=self._console,
            disable=not self._console.is_terminal or not hosts.first(),
        )
        self._task = self._progress.add_task(label, total=steps, completed=start, facts="")

    def update(self, step: int, loss: float, tokens: int, seconds: float) -> None:
        """After `step` steps: the newest loss, and what the last steps took."""
        rate = tokens / seconds
        share = self._flops * (tokens / seconds) / self._peak if self._peak else 0.0
        left = (
            (time.monotonic() - self._begin) / max(step - self._start, 1) * (self._steps - step)
        )
        facts = (
            f"{step}/{self._steps}  loss {loss:.3f}  {_thousands(rate)} tokens/s"
            f"  {share:.0%} of peak  {duration(left)} left"
        )
        self._progress.update(self._task, completed=step, facts=facts)
        quiet = self._console.is_terminal or not hosts.first()
        if not quiet and time.monotonic() - self._printed > 30:
            self._printed = time.monotonic()
            print(f"{self._label}  {facts}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def device_peak() -> float:
    """FLOP/s of one device in bfloat16 products: an accelerator's as its maker prints it.

    Where it is not in `lm.cost.chips`, as no CPU is, it is measured. The product that is
    measured takes a TPU v6e 19 microseconds, less than it takes to start: a clock would flatter
    there.
    """
    return peak_of(jax.devices()[0].device_kind) or matmul_peak()


@functools.cache
def matmul_peak(precision: Precision = "bfloat16") -> float:
    """FLOP/s of one device in products that accumulate in float32, measured once.

    A 2048-cube product, the best of twenty: what this machine can do, not what its maker says.
    """
    size = 2048
    x = jnp.ones((size, size), precision)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    product(x).block_until_ready()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        product(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def _thousands(rate: float) -> str:
    return f"{rate / 1e3:.1f}k" if rate < 1e6 else f"{rate / 1e6:.1f}M"
