"""Runs of a study that are trained as members of a group: which, and how many at a time."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from lm.config import UserError
from lm.cost import memory
from lm.distributed import hosts
from lm.run import Run
from lm.train.lockstep import train_group, unfinished_groups
from lm.train.members import program_key
from lm.train.members_speed import speedup

MOST = 32
"""Members on a device of an accelerator, at most, where nothing is said."""


def how_many_members(asked: int | None) -> int:
    """Members of a group, at most, where so many are asked for; 1: none are formed.

    Unasked it is `MOST` a device of an accelerator, and 1 on CPUs, whose cores are better used
    by runs side by side, and where there are other hosts. Raises UserError where it cannot be.
    """
    if asked is not None and (asked < 1 or (asked > 1 and hosts.is_multihost())):
        most = f"1 on {hosts.described()}" if hosts.is_multihost() else ">= 1"
        raise UserError(f"--members {asked}: must be {most}")
    if hosts.is_multihost():
        return 1
    if asked is None:
        return 1 if jax.default_backend() == "cpu" else MOST * jax.device_count()
    return asked


def train_together(
    runs: Mapping[str, Run],
    names: Sequence[str],
    directory: Path,
    *,
    members: int,
    beside: int = 1,
) -> list[str]:
    """Trains those of the named runs that may be members of groups, where that is faster.

    A group is measured before it begins: as one it must be faster than as many runs `beside`
    each other are at best. One that was begun goes on. Returns the names of those that
    diverged.
    """
    failed = list[str]()
    asked = {name: runs[name] for name in names}
    for begun in unfinished_groups(asked, directory):
        failed += train_group({name: runs[name] for name in begun}, directory)
    fresh = {name: run for name, run in asked.items() if name not in failed}
    for group in _groups(fresh, directory, members):
        these = {name: runs[name] for name in group}
        times = speedup([*these.values()])
        said = f"lm: {len(group)} runs ({group[0]} ...): as one {times:.2g} times as fast"
        if times <= beside:
            print(f"{said}: trained by themselves", file=sys.stderr, flush=True)
            continue
        print(said, file=sys.stderr, flush=True)
        failed += train_group(these, directory)
    return failed


def _groups(runs: Mapping[str, Run], directory: Path, most: int) -> list[list[str]]:
    """Names of runs that begin together: none that were begun, and none of one alone."""
    alike: dict[str, list[str]] = {}
    for name, run in runs.items():
        begun = (directory / name / "checkpoints").exists()
        if begun or (directory / name / "result.json").exists():
            continue
        if most > 1 and (key := program_key(run)) is not None:
            alike.setdefault(key, []).append(name)
    devices = jax.devices()
    found = list[list[str]]()
    for names in alike.values():
        # What is counted is the least, about half of what a run takes.
        each = 2 * sum(memory.least(runs[names[0]], devices[0].platform).values())
        fit = memory.device_memory(devices) // each
        found += _parts(names, min(most, fit), len(devices))
    return found


def _parts(names: Sequence[str], most: int, devices: int) -> list[list[str]]:
    """Groups of at most so many names, of which each device has equally many.

    >>> _parts("abcdefgh", most=5, devices=2), _parts("abc", most=9, devices=4)
    ([['a', 'b', 'c', 'd'], ['e', 'f', 'g', 'h']], [['a', 'b', 'c']])
    """
    parts = []
    while min(len(names), most) > 1:
        size = min(len(names), most)
        if size > devices:
            size -= size % devices
        parts.append([*names[:size]])
        names = names[size:]
    return parts
