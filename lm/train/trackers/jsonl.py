"""metrics.jsonl: all that a run records, a JSON object a line; every run has it."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm.config import UserError
from lm.output.files import write_whole
from lm.train.trackers.base import Session, Tracker


class JsonlTracker(Tracker):
    """The run's records, which resuming, `lm audit` and figures read.

    Opening it after a restart forgets the records of later steps: they will be written again.
    Records that the checkpoint kept, its `recent`, take the place of those that were lost: on a
    pod checkpoints are in the bucket minutes before the records.
    """

    def __init__(self, session: Session, recent: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(session)
        path, step = session.directory / "metrics.jsonl", session.step
        kept = [record for record in read_metrics(session.directory) if record["step"] <= step]
        last = kept[-1]["step"] if kept else 0
        kept += [r for r in recent if last <= r["step"] <= step and r not in kept[-2:]]
        if gaps := missing_steps([r["step"] for r in kept if "loss" in r], step):
            print(f"lm: {path}: the records of steps {spans(gaps)} are lost", file=sys.stderr)
        write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a")

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


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


def missing_steps(steps: Iterable[int], end: int) -> list[tuple[int, int]]:
    """The gaps in what was recorded up to step `end`, each by its first and last step.

    >>> missing_steps([1, 2, 5, 6], 8)
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
