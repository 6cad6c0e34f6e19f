"""The loop: from the newest checkpoint to the end of the budget, or to a request to stop.

Metrics are read a step late, so that nothing waits for them. Before anything is saved they are
up to date, so that no state is saved whose update was not finite. So is what the hosts ask for:
to stop, or to save because it is time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec

from lm.artifact import as_tree, by_name
from lm.cost import ledger
from lm.data import Tokens, n_rows
from lm.distributed import hosts, signals
from lm.optimizer import LORA
from lm.run import Run, evaluation_steps, steps
from lm.train.bookkeeping import Bookkeeper, diverged, say
from lm.train.checkpoint import Checkpoints
from lm.train.directory import checkpoints_of, decided_by_all, describe_run, refuse_others
from lm.train.faults import RollBack, all_finite
from lm.train.progress import Progress
from lm.train.start import Begun, started_params
from lm.train.step import Program, State
from lm.train.trackers import Trackers
from lm.train.trackers.base import Session
from lm.train.validation import validation


@dataclass(frozen=True)
class Job:
    """What does not change while a run is trained in its directory."""

    run: Run
    directory: Path
    tokens: Tokens
    program: Program
    label: str
    """What the run is called in what it prints."""
    requests: Sequence[int]
    """Signals that ask it to stop, as they come."""
    check: Callable[[], None]
    """Raises UserError where the directory is not this process's any more."""
    known: bool
    """Whether the directory held this run before."""
    begun: Begun
    """What it starts from."""
    evaluate: Callable[[Any], Mapping[str, float | str]] | None = None
    """What the parameters are asked at each validation: metrics by name."""


def train_on(job: Job) -> tuple[State, Progress, bool]:
    """Trains on from the newest checkpoint and saves the end, or where it was asked to stop.

    Returns the state, what the run has come to, and whether it was asked to stop.
    """
    run, place = job.run, checkpoints_of(job.run, job.directory)
    with Checkpoints(place, keep=run.checkpoints.keep) as checkpoints:
        state, progress = _newest(job, checkpoints)
        start = int(state.step)
        hosts.broadcast_from_first(
            lambda: describe_run(
                run, job.directory, job.tokens, job.program.mesh, start, job.begun.started
            )
        )
        in_a_row = 0
        while True:
            start = int(state.step)
            try:
                state, progress, stopped = _train(job, state, progress, checkpoints)
                break
            except RollBack as fault:
                state, progress = _newest(job, checkpoints)
                back = int(state.step)
                in_a_row = in_a_row + 1 if back == start else 1
                if in_a_row > run.faults.most:
                    raise diverged(job.run, job.label, fault.step, fault.why) from None
                progress.seconds = fault.progress.seconds
                progress.rolled_back = fault.progress.rolled_back + 1
                progress.left_out = fault.progress.left_out + fault.step - back
                say(
                    f"{job.label}: {fault.why} at step {fault.step}: rolled back to step"
                    f" {back}, its batches since then are left out"
                )
        checkpoints.save(int(state.step), _own(job, state), msgspec.to_builtins(progress))
    return state, progress, stopped


def _own(job: Job, state: State) -> State:
    """What a checkpoint holds of a state."""
    return state._replace(params=job.program.own(state.params))


def _newest(job: Job, checkpoints: Checkpoints) -> tuple[State, Progress]:
    """Where to go on: the newest intact checkpoint, or the beginning."""
    mine = decided_by_all(job.run, job.tokens)
    restored = checkpoints.restore_newest(_own(job, job.program.abstract))
    if restored is None:
        return _first(job), Progress(decided_by=mine)
    refuse_others(mine, checkpoints_of(job.run, job.directory), restored, known=job.known)
    state: State = restored.state
    if job.run.adapter is not None:
        base, _, _ = started_params(job.begun, job.program.init().params)
        state = state._replace(params=as_tree(by_name(base) | by_name(state.params)))
    return state, msgspec.convert({"decided_by": mine} | restored.extra, Progress)


def _first(job: Job) -> State:
    """The state before training: drawn, or of what the run starts from."""
    state, start = job.program.init(), job.begun.start
    if start is None:
        return state
    params, new, left_out = started_params(job.begun, state.params)
    facts = [f"starts from {start.digest}, step {start.card.origin.step}"]
    facts += [f"new: {_names(new)}"] if new else []
    facts += [f"left out: {', '.join(left_out)}"] if left_out else []
    say(f"{job.label}: {'; '.join(facts)}")
    return state._replace(params=params)


def _names(new: list[str]) -> str:
    """Parameters by name, and those of an adapter by their number.

    >>> _names(["head/bias", "lora/layers/up/a", "lora/layers/up/b"])
    'head/bias, 2 of an adapter'
    """
    named = [name for name in new if not name.startswith(LORA)]
    beside = len(new) - len(named)
    return ", ".join([*named, *([f"{beside} of an adapter"] if beside else [])])


def _train(
    job: Job, state: State, progress: Progress, checkpoints: Checkpoints
) -> tuple[State, Progress, bool]:
    """Trains to the end of the budget, or to a request to stop."""
    run, tokens, start = job.run, job.tokens, int(state.step)
    cost = ledger.cost(run, tokens.tokenizer.vocabulary.size, job.program.named)
    flops = sum(cost.flops_forward.values()) + sum(cost.flops_backward.values())
    a_token = flops / (run.data.batch * run.data.length)
    session = Session(run, job.directory, job.label, start, steps(job.program.run), a_token)
    with Trackers(session, progress.recent) as trackers:
        # Libraries for CPUs wait half a minute for a host that is late, and this one may be.
        hosts.barrier(lambda: None)
        there = n_rows(tokens.validation, run.data.length, run.data.packing)
        if not start and there <= run.data.batch:
            # So little text may have no target by chance, which is better known at once.
            validation(run, tokens, job.program, state.params)
        loop = _Loop(job, state, progress, checkpoints, trackers)
        stopped = loop.train()
        return loop.state, progress, stopped


class _Pending(NamedTuple):
    """A step that was sent to the devices, whose metrics are not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    asked: tuple[bool, bool]
    """What this host asks for: to stop, to save."""


LONG_STEP = 0.05
"""Seconds of a step on a CPU from which on the next one waits for its end.

There a step takes its memory when it is begun, so that one which is begun while another runs
takes it once more; what it gains, the time to record a step, is a millisecond."""
FREED = 0.01
"""Part of that time after which XLA has freed a step's memory, of which it tells nobody: its
results are ready before."""


class _Loop:
    def __init__(
        self,
        job: Job,
        state: State,
        progress: Progress,
        checkpoints: Checkpoints,
        trackers: Trackers,
    ) -> None:
        self._job, self._run, self._checkpoints = job, job.run, checkpoints
        self._trackers, self.state = trackers, state
        total = steps(job.program.run)
        self._books = Bookkeeper(job.run, job.label, total, progress, trackers)
        self._pending: _Pending | None = None
        self._stop = self._due = False
        self._saved = time.monotonic()
        self._tick: float | None = None  # None: what was done since is not a step alone
        # Seconds of a step that the next one waits for: on CPUs all until one was short.
        self._long: float | None = 1.0 if jax.default_backend() == "cpu" else None

    def train(self) -> bool:
        """Takes step after step; returns whether it was asked to stop."""
        run, program, start = self._run, self._job.program, int(self.state.step)
        total, evaluations = steps(program.run), set(evaluation_steps(program.run))
        # A step's batch is the next that was not left out when the run was rolled back.
        ahead = self._books.progress.left_out
        batches = self._job.tokens.batches(run.data, run.seed, run.objective.copies)
        for step, part in enumerate(
            batches.iterate(start + ahead, total + ahead, program.rows), start + 1
        ):
            objective = run.objective.at(step - 1, total, run.seed)
            late = time.monotonic() - self._saved > run.checkpoints.seconds
            asked = bool(self._job.requests), hosts.is_first() and late
            limit = self._books.limit(step)
            if (long := self._long) is not None:
                self._settle()
                time.sleep(FREED * long)
            self.state, metrics = program.step(
                self.state, program.place(part), objective, limit=limit, flags=asked
            )
            signals.keep_alive(True)  # it compiled, and did what is not saved yet
            self._settle()
            self._pending = _Pending(step, metrics, asked)
            if step in evaluations:
                self._validate(step)
            if self._stop:
                break
            if run.checkpoints.steps is not None:
                self._due = step % run.checkpoints.steps == 0
            if self._due and step < total:
                self._save(step)
        self._prove_sound(int(self.state.step))
        return self._stop

    def _settle(self) -> None:
        """Reads the last step's metrics, which waits for it, and records them."""
        if self._pending is None:
            return
        (step, arrays, asked), self._pending = self._pending, None
        self._job.check()
        found = jax.device_get(arrays)
        self._stop, self._due = map(bool, found.pop("flags", asked))
        self._books.settle(step, found, self._took())

    def _took(self) -> float | None:
        """Seconds of the step, where nothing else was done since the one before."""
        before, self._tick = self._tick, time.monotonic()
        if before is None:
            return None
        self._books.progress.seconds += (took := self._tick - before)
        self._long = took if took > LONG_STEP and jax.default_backend() == "cpu" else None
        return took

    def _validate(self, step: int) -> None:
        self._settle()
        job = self._job
        found = validation(self._run, job.tokens, job.program, self.state.params)
        self._books.validated(step, found, self._evaluate)
        self._tick = None

    def _evaluate(self) -> dict[str, float | str]:
        """What evaluators find, and the seconds that it took."""
        if self._job.evaluate is None:
            return {}
        start = time.monotonic()
        found = dict(self._job.evaluate(self.state.params))
        return found | {"evaluation_seconds": time.monotonic() - start} if found else {}

    def _save(self, step: int) -> None:
        self._prove_sound(step)
        state = _own(self._job, self.state)
        self._checkpoints.save(step, state, msgspec.to_builtins(self._books.progress))
        self._saved, self._tick, self._due = time.monotonic(), None, False

    def _prove_sound(self, step: int) -> None:
        """Before a state is saved: all is settled, and it is worth it."""
        self._settle()
        self._job.check()
        finite = bool(hosts.fetch(all_finite(self.state.params)))
        self._books.prove_sound(step, finite=finite)
