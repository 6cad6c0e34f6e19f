"""Training of a group: its members step by step together, each in a directory of its own.

The group's state has one checkpoint, in a folder beside the members' directories, with what
each member has come to. In the end each member's part is the last checkpoint of its own
directory, from which `train_run` goes on as from any other: it has no step left, and scores.
"""

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
from msgspec.structs import replace

from lm.config import UserError, read_json
from lm.cost import ledger
from lm.data import Tokens, read_ahead
from lm.distributed import hosts, signals
from lm.distributed.signals import Stopped, stop_requests
from lm.output.files import write_whole
from lm.run import (
    Run,
    check_channels,
    evaluation_steps,
    identity_digest,
    in_positions,
    refuse_attention,
    steps,
    validate,
)
from lm.train.bookkeeping import Bookkeeper, Diverged
from lm.train.checkpoint import Checkpoints, Restored
from lm.train.directory import (
    checkpoints_of,
    decided_by_all,
    describe_run,
    open_run_tokens,
    other_settings,
    refuse_others,
)
from lm.train.lock import only_writer
from lm.train.members import MembersProgram, prepare_members
from lm.train.progress import Progress
from lm.train.step import State
from lm.train.trackers import TRACKERS, Trackers
from lm.train.trackers import check as check_trackers
from lm.train.trackers.base import Session
from lm.train.validation import check_targets, means_of, validation_sums

BAR = "bar"
"""The tracker that the group has one of."""


def train_group(runs: Mapping[str, Run], directory: Path) -> dict[str, str]:
    """Trains runs of one `program_key` together, each in the folder of its name.

    Afterwards each has all but its result, and `train_run` has nothing left to train. Those
    that diverged are returned with the reason: they harm no other, and have no last checkpoint.
    A group that was stopped or killed goes on from its newest checkpoint. Raises UserError as
    `train_run` does, and Stopped after SIGINT or SIGTERM, with everything saved.
    """
    runs = {name: validate(run) for name, run in runs.items()}
    first = next(iter(runs.values()))
    check_channels(first)
    check_trackers(first.trackers)
    devices = jax.devices()
    if why := refuse_attention(first, devices[0].platform):
        raise UserError(why)
    places = {name: directory / name for name in runs}
    for name, run in runs.items():
        if why := other_settings(run, places[name]):
            raise UserError(f"{places[name]} holds another run: {why}; remove it")
    folder = group_folder(runs, directory)
    label = f"{len(runs)} members of {directory.name}"
    with only_writer(folder, *places.values()) as check, stop_requests() as requests:
        write_whole(folder / NAMES, json.dumps({"members": [*runs]}) + "\n")
        tokens = open_run_tokens(first, next(iter(places.values())))
        check_targets(first, tokens)
        counted = [in_positions(run, tokens.row_tokens(run.data)) for run in runs.values()]
        for run in counted:
            tokens.consumed(run.data, run.seed, steps(run), run.objective.copies)
        program = prepare_members(counted, tokens.tokenizer.vocabulary, devices)
        print(f"{label}: {hosts.described()}", file=sys.stderr, flush=True)
        group = _Group(runs, places, folder, tokens, program, label)
        with Checkpoints(str(folder / "checkpoints"), keep=2) as checkpoints:
            state, progress, failed = _newest(group, checkpoints)
            with ExitStack() as opened:
                lockstep = _Lockstep(group, state, progress, failed, checkpoints, opened)
                while lockstep.goes_on and not requests:
                    lockstep.advance()
                    check()
                lockstep.save()
            if requests:
                at = lockstep.step
                raise Stopped(f"{label}: stopped and saved at step {at} of {steps(counted[0])}")
            _hand_over(group, lockstep)
        shutil.rmtree(folder)
    return lockstep.failed


NAMES = "members.json"


def group_folder(runs: Mapping[str, Run], directory: Path) -> Path:
    """Where a group of these members has its checkpoints until it is done."""
    named = [[name, identity_digest(run)] for name, run in runs.items()]
    return directory / f"members-{hashlib.sha256(json.dumps(named).encode()).hexdigest()[:12]}"


def unfinished_groups(runs: Mapping[str, Run], directory: Path) -> list[list[str]]:
    """Names of the members of each group of these runs that was begun and is not done."""
    found = []
    for path in sorted(directory.glob(f"members-*/{NAMES}")):
        names = read_json(path).get("members", [])
        if all(name in runs for name in names):
            group = {name: runs[name] for name in names}
            found += [names] if group_folder(group, directory) == path.parent else []
    return found


@dataclass(frozen=True)
class _Group:
    """What does not change while a group is trained."""

    runs: Mapping[str, Run]
    places: Mapping[str, Path]
    folder: Path
    tokens: Tokens
    program: MembersProgram
    label: str


def _newest(
    group: _Group, checkpoints: Checkpoints
) -> tuple[State, dict[str, Progress], dict[str, str]]:
    """Where to go on: the state, what each has come to, and why some have diverged."""
    mine = {name: decided_by_all(run, group.tokens) for name, run in group.runs.items()}
    found = checkpoints.restore_newest(group.program.abstract)
    if found is None:
        progress = {name: Progress(decided_by=decided) for name, decided in mine.items()}
        return group.program.init(), progress, {}
    kept = found.extra["progress"]
    for name, decided in mine.items():
        own = Restored(found.step, None, kept[name])
        refuse_others(decided, str(group.folder), own, known=True)
    progress = {name: msgspec.convert(kept[name], Progress) for name in mine}
    return found.state, progress, dict(found.extra["failed"])


class _Pending(NamedTuple):
    """A step that was sent to the devices, whose metrics are not read yet."""

    step: int
    metrics: dict[str, jax.Array]


class _Lockstep:
    """What `_Loop` is to a run, for a group."""

    def __init__(
        self,
        group: _Group,
        state: State,
        progress: dict[str, Progress],
        failed: dict[str, str],
        checkpoints: Checkpoints,
        opened: ExitStack,
    ) -> None:
        """Trackers are closed by `opened`."""
        self._group, self._checkpoints = group, checkpoints
        self.state, self.failed = state, failed
        self.step = int(np.asarray(state.step)[0])
        one = group.program.one.run
        self._total, self._evaluations = steps(one), set(evaluation_steps(one))
        self._due_steps, self._due_seconds = one.checkpoints.steps, one.checkpoints.seconds
        self.progress = progress
        self._books: dict[str, Bookkeeper] = {}
        for _, name in self._sound():
            run, place = group.runs[name], group.places[name]
            describe_run(run, place, group.tokens, group.program.one.mesh, self.step, None)
            quiet = replace(run, trackers=tuple(t for t in run.trackers if t != BAR))
            session = Session(quiet, place, name, self.step, self._total, 0.0)
            trackers = opened.enter_context(Trackers(session))
            self._books[name] = Bookkeeper(run, name, self._total, progress[name], trackers)
        self._bar = None
        if BAR in one.trackers:
            cost = ledger.cost(one, group.tokens.tokenizer.vocabulary.size)
            a_token = cost.flops / (self._total * one.data.batch * one.data.length)
            session = Session(one, group.folder, group.label, self.step, self._total, a_token)
            self._bar = TRACKERS[BAR](session)
            opened.callback(self._bar.close)
        batches = [
            group.tokens.batches(run.data, run.seed, run.objective.copies)
            for run in group.program.runs
        ]
        self._parts = read_ahead(
            lambda step: [each(step) for each in batches], self.step, self._total
        )
        self._pending: _Pending | None = None
        self._saved = time.monotonic()
        self._tick: float | None = None  # None: what was done since is not a step alone

    @property
    def goes_on(self) -> bool:
        """Whether there are steps left, and members that have not diverged."""
        return self.step < self._total and len(self.failed) < len(self._group.runs)

    def advance(self) -> None:
        """Takes a step, and what is due after it."""
        program = self._group.program
        self.step += 1
        books = map(self._books.get, self._group.runs)
        limits = [math.inf if each is None else each.limit(self.step) for each in books]
        part = program.place(next(self._parts))
        self.state, metrics = program.step(self.state, part, limits)
        signals.keep_alive(True)  # it compiled, and did what is not saved yet
        self._settle()
        self._pending = _Pending(self.step, metrics)
        if self.step in self._evaluations:
            self._validate()
        late = time.monotonic() - self._saved > self._due_seconds
        due = late if self._due_steps is None else self.step % self._due_steps == 0
        if due and self.step < self._total:
            self.save()

    def save(self) -> None:
        """Saves the group, when all is settled and it is known which members are sound."""
        self._settle()
        finite_G = np.asarray(self._group.program.finite(self.state.params))
        for number, name in self._sound():
            with self._judged(name):
                self._books[name].prove_sound(self.step, finite=bool(finite_G[number]))
        extra = {"progress": msgspec.to_builtins(self.progress), "failed": self.failed}
        self._checkpoints.save(self.step, self.state, extra)
        self._saved, self._tick = time.monotonic(), None

    def _settle(self) -> None:
        """Reads the last step's metrics, which waits for it, and records them."""
        if self._pending is None:
            return
        (step, arrays), self._pending = self._pending, None
        found = jax.device_get(arrays)
        before, self._tick = self._tick, time.monotonic()
        took = None if before is None else self._tick - before
        # Of the devices' time each member has an equal part.
        each = (took or 0.0) * self._group.program.one.mesh.size / len(self._group.runs)
        losses = []
        for number, name in self._sound():
            own = {metric: array[number] for metric, array in found.items()}
            self.progress[name].seconds += each
            losses.append(float(own["loss"]))
            with self._judged(name):
                self._books[name].settle(step, own, took)
        if took is not None and self._bar is not None and losses:
            data = self._group.program.one.run.data
            positions = len(self._group.runs) * data.batch * data.length
            self._bar.update(step, float(np.mean(losses)), positions, took)

    def _validate(self) -> None:
        self._settle()
        program, params = self._group.program, self.state.params
        sums = validation_sums(
            program.one.run,
            self._group.tokens,
            program.one,
            lambda batch, key: program.validate(params, batch, key),
        )
        for number, name in self._sound():
            own = {
                term: (total[number], count[number]) for term, (total, count) in sums.items()
            }
            with self._judged(name):
                self._books[name].validated(self.step, means_of(own))
        self._tick = None

    def _sound(self) -> Iterator[tuple[int, str]]:
        """The members that have not diverged, by their number and name."""
        for number, name in enumerate(self._group.runs):
            if name not in self.failed:
                yield number, name

    @contextmanager
    def _judged(self, name: str) -> Iterator[None]:
        """Within, a member that diverges is noted: it computes on, and is not looked at."""
        try:
            yield
        except Diverged as error:
            self.failed[name] = str(error)
            print(f"lm: {error}", file=sys.stderr, flush=True)


def _hand_over(group: _Group, lockstep: _Lockstep) -> None:
    """Saves the end of each sound member as the last checkpoint of its own directory."""
    state: Any = jax.device_get(lockstep.state)
    for number, (name, run) in enumerate(group.runs.items()):
        if name in lockstep.failed:
            continue
        own = jax.tree.map(lambda array, number=number: np.asarray(array[number]), state)
        place = checkpoints_of(run, group.places[name])
        with Checkpoints(place, keep=run.checkpoints.keep) as checkpoints:
            progress = msgspec.to_builtins(lockstep.progress[name])
            checkpoints.save(lockstep.step, own, progress)
