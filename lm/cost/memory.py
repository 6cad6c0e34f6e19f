"""Whether a run fits: the least memory that it needs, before anything is allocated.

What is counted is needed by every program for the run, so that a run is refused only where it
cannot fit; `lm plan` says exactly what a compiler makes of it.
"""

import bisect
import math
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from lm.config import UserError, override
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.optimizer import Adafactor, Adamw
from lm.run import Run, channels_of, execution_of, steps

STATE = "parameters, gradients and the optimizer's state"
ROWS = "batches, of which some are read ahead"
ACTIVATIONS = "what layers keep for the backward pass"
SCORES = "attention scores"
COMPANIONS = "frozen models that the objective asks"
DOCUMENTS = "names and ends of documents"
_FIELDS = {
    STATE: ("model.width", "model.depth"),
    SCORES: ("data.length", "data.batch", "model.depth"),
    DOCUMENTS: ("data.corpus.documents",),
}
"""Which fields to make smaller, the first that is enough by itself."""


def check(
    run: Run, devices: Sequence[jax.Device], named: Mapping[str, Run] = MappingProxyType({})
) -> None:
    """Raises UserError if all the devices together cannot hold the least that a run needs.

    `named` has the settings of companions that the objective names by a path.
    """
    platform, there = devices[0].platform, device_memory(devices)
    needs = least(run, platform, named)
    total = sum(needs.values())
    if total <= there:
        return
    most = max(needs, key=lambda part: needs[part])
    fields = _FIELDS.get(most, ("data.batch", "data.length", "model.depth"))
    found = {field: _largest(run, field, platform, there) for field in fields}
    field = next((field for field in fields if found[field]), fields[0])
    largest = found[field]
    way = (
        f"; {field} may be {largest} at most"
        if largest
        else f"; take smaller {', '.join(fields)}"
    )
    raise UserError(
        f"{field}={_value(run, field)}: the run needs {_gb(total)} GB of memory at least, of"
        f" which {_gb(needs[most])} GB are {most}, and there are {_gb(there)} GB{way}"
    )


def least(
    run: Run, platform: str, named: Mapping[str, Run] = MappingProxyType({})
) -> dict[str, int]:
    """Bytes that a run needs on all devices of a platform together, by part, at least.

    >>> least(Run(), "cpu")[STATE] == 4 * 4 * ledger.parameters(Run(), 2048).total
    True
    """
    model, rows, length = run.model, run.data.batch, run.data.length
    parameters = ledger.parameters(run, vocabulary_size(run.data.tokenizer))
    moments = {Adamw: 2, Adafactor: 0}.get(type(run.optimizer), 1)
    positions = rows // run.microbatches * length
    channels = sum(
        np.dtype(channel.dtype).itemsize * math.prod(channel.shape)
        for channel in channels_of(run)
    )
    found = {
        STATE: 4 * (parameters.total + parameters.trainable * (1 + moments)),
        # Tokens, segments and channels, on the devices and in the reader's buffer.
        ROWS: (2 * 4 + channels) * rows * length * (1 + min(8, steps(run))),
        ACTIVATIONS: positions * model.activation_bytes(run.remat),
        DOCUMENTS: 80 * (run.data.corpus.expected_documents or 0),
    }
    if frozen := ledger.companion_parameters(run, vocabulary_size(run.data.tokenizer), named):
        found[COMPANIONS] = 4 * frozen
    if scores := model.score_bytes(execution_of(run, platform), length):
        found[SCORES] = positions * scores
    return found


def machine_memory() -> int:
    """Bytes of main memory that this process may use: the machine's, or what it is granted."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    granted, _ = resource.getrlimit(resource.RLIMIT_AS)
    if granted != resource.RLIM_INFINITY:
        limits.append(granted)
    return min(limits + _cgroup_limits())


def _cgroup_limits(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """What containers, and Slurm, grant: the limits of the process's group and those above."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return []
    limits = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        folder, name = root / controllers, "limit_in_bytes" if controllers else "max"
        group = folder / path.lstrip("/")
        for each in (group, *group.parents):
            try:
                limits.append(int((each / f"memory.{name}").read_text()))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return limits


def device_memory(devices: Sequence[jax.Device]) -> int:
    """Bytes that all devices have: of CPUs, which share it, their machines' memory."""
    if devices[0].platform == "cpu":
        return machine_memory() * jax.process_count()
    # Of those of other hosts nothing is known here; they are alike.
    each = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return each * len(devices) if each else 2**63


def _largest(run: Run, field: str, platform: str, there: int) -> int | None:
    """The largest legal value of a field with which a run may fit, if there is one."""
    step = {"data.batch": run.microbatches, "model.width": run.model.width_multiple}.get(
        field, 2
    )

    def fails(count: int) -> bool:
        smaller = override(run, [f"{field}={count * step}"])
        return sum(least(smaller, platform).values()) > there

    count = bisect.bisect_left(range(1, _value(run, field) // step + 1), True, key=fails)
    return count * step or None


def _value(run: Run, field: str) -> int:
    value: Any = run
    for name in field.split("."):
        value = getattr(value, name)
    return int(value)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.3g}" if size < 1e12 else f"{size / 1e9:.2g}"
