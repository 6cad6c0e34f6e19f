"""The loop: from a state to the end of the budget, or to a request to stop."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from lm.config import UserError
from lm.cost import ledger
from lm.data import (
    Rows,
    Tokens,
    most_content,
    n_rows,
    rows,
)
from lm.data.digest import chain_text
from lm.distributed import hosts, signals
from lm.run import (
    Run,
    evaluation_steps,
    steps,
)
from lm.train.checkpoint import Checkpoints
from lm.train.directory import (
    Result,
    checkpoints_of,
    decided_by_all,
    describe_run,
    refuse_others,
)
from lm.train.faults import Losses, RollBack, wrong
from lm.train.progress import Bar, Metrics
from lm.train.step import Program, State


class Diverged(UserError):
    """A loss, an update, or the parameters are not finite any more."""


@jax.jit
def all_finite(params: Any) -> jax.Array:
    """Whether every parameter is a number, bool[]."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def newest_state(
    run: Run,
    directory: Path,
    tokens: Tokens,
    program: Program,
    checkpoints: Checkpoints,
    known: bool,
) -> tuple[State, Result]:
    """Where to go on: the newest intact checkpoint, or the beginning."""
    extra: Result = {"seconds": 0.0, "predicted": 0.0, "validation": None, "losses": []}
    # Steps whose update was left out, returns to a checkpoint, and batches left out by them.
    extra |= {"skipped": 0, "rolled_back": 0, "left_out": 0}
    extra["decided_by"] = decided_by_all(run, tokens)
    restored = checkpoints.restore_newest(program.abstract)
    if restored is None:
        return program.init(), extra
    place = checkpoints_of(run, directory)
    refuse_others(extra["decided_by"], place, restored, known=known)
    return restored.state, extra | restored.extra


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


def train_on(
    run: Run,
    directory: Path,
    tokens: Tokens,
    program: Program,
    label: str,
    requests: Sequence[int],
    check: Callable[[], None],
    known: bool,
) -> tuple[State, Result, bool]:
    """Trains on from the newest checkpoint and saves the end, or where it was asked to stop."""
    where = checkpoints_of(run, directory)
    with Checkpoints(where, keep=run.checkpoints.keep) as checkpoints:
        state, extra = newest_state(run, directory, tokens, program, checkpoints, known)
        start = int(state.step)
        hosts.told(lambda: describe_run(run, directory, tokens, program.mesh, start))
        again = 0
        while True:
            start = int(state.step)
            try:
                state, extra, stopped = loop(
                    run, directory, tokens, program, state, extra, checkpoints, label, requests,
                    check,
                )  # fmt: skip
                break
            except RollBack as fault:
                state, extra = newest_state(run, directory, tokens, program, checkpoints, known)
                back = int(state.step)
                again = again + 1 if back == start else 1
                if again > run.faults.most:
                    raise diverged(run, label, fault.step, fault.why) from None
                extra["seconds"] = fault.extra["seconds"]
                extra["rolled_back"] = fault.extra["rolled_back"] + 1
                extra["left_out"] = fault.extra["left_out"] + fault.step - back
                if hosts.first():
                    print(
                        f"lm: {label}: {fault.why} at step {fault.step}: rolled back to step"
                        f" {back}, its batches since then are left out",
                        file=sys.stderr,
                    )
        checkpoints.save(int(state.step), state, extra)
    return state, extra, stopped


def loop(
    run: Run,
    directory: Path,
    tokens: Tokens,
    program: Program,
    state: State,
    extra: Result,
    checkpoints: Checkpoints,
    label: str,
    requests: Sequence[int],
    check: Callable[[], None],
) -> tuple[State, Result, bool]:
    """Trains to the end of the budget, or to a request to stop.

    Metrics are read a step late, so that nothing waits for them; before anything is saved they
    are up to date, so that no state is saved whose update was not finite. So is what the hosts
    ask for: to stop, or to save because it is time.
    """
    start, total = int(state.step), steps(run)
    evaluations = set(evaluation_steps(run))
    data = run.data
    batches = tokens.batches(data, run.seed)
    positions = data.batch * data.length
    flops = 3 * sum(ledger.step_flops(run, tokens.tokenizer.vocabulary.size).values())
    saved = time.monotonic()
    tick: float | None = None  # None: what was done since is not a step alone
    pending: tuple[int, dict[str, jax.Array], tuple[bool, bool]] | None = None
    stop = due = False
    losses, skipped = Losses(run.faults, extra["losses"]), 0
    # A step's batch is the next that was not left out when the run was rolled back.
    ahead = extra["left_out"]

    with (
        Metrics(directory, start, extra.pop("recent", ())) as metrics,
        Bar(label, steps=total, start=start, step_flops=flops / positions) as bar,
    ):

        def fail(step: int, why: str) -> NoReturn:
            if run.faults.policy == "roll_back":
                raise RollBack(step, why, extra)
            in_a_row = run.faults.policy == "skip" and skipped > run.faults.most
            raise diverged(run, label, step, why, in_a_row=in_a_row)

        def kept_records() -> Result:
            """What a checkpoint keeps of metrics.jsonl, where that may be lost before it."""
            return {"recent": metrics.recent} if run.checkpoints.directory else {}

        def prove_sound(step: int) -> None:
            """Before a state is saved: all is settled, and it is worth it."""
            settle()
            check()
            if not hosts.fetch(all_finite(state.params)):
                fail(step, "parameters that are not finite")

        def settle() -> None:
            """Reads the last step's metrics, which waits for it, and records them."""
            nonlocal pending, tick, stop, due, skipped
            if pending is None:
                return
            step, arrays, asked = pending
            check()
            found = jax.device_get(arrays)
            batches = chain_text(found.pop("batches"))
            stop, due = map(bool, found.pop("asks", asked))
            values = {name: float(value) for name, value in found.items()}
            pending = None
            empty = not values["predicted"]
            if why := wrong(values | {"loss": 0.0} if empty else values, losses.limit(step)):
                skipped += 1
                if run.faults.policy != "skip" or skipped > run.faults.most:
                    fail(step, why)
                extra["skipped"] += 1
            elif empty:
                if not extra["predicted"] and step >= min(total, 8):
                    raise UserError(
                        f"{label}: none of {step} steps had a target; read more text, or raise"
                        " data.batch or the objective's rate"
                    )
                _say_no_target(label, step)
            else:
                skipped = 0
                losses.add(step, values["loss"])
                extra["losses"] = losses.kept
            now = time.monotonic()
            if tick is not None:
                values["tokens_per_second"] = positions / (now - tick)
                extra["seconds"] += now - tick
                bar.update(step, values["loss"], positions, now - tick)
            tick = now
            extra["predicted"] += values["predicted"]
            # What is not finite is not JSON.
            kept = {name: value for name, value in values.items() if math.isfinite(value)}
            more = {"left_out": ahead} if ahead else {}
            metrics.write(step, {**kept, **more, "batches": batches})

        # Libraries for CPUs wait half a minute for a host that is late, and this one may be.
        hosts.together(lambda: None)
        if not start and n_rows(tokens.validation, data.length) <= data.batch:
            # So little text may have no target by chance, which is better known at once.
            validation_loss(run, tokens, program, state.params)
        parts = batches.iterate(start + ahead, total + ahead, program.rows)
        for step, part in enumerate(parts, start + 1):
            objective = run.objective.at(step - 1, total, run.seed)
            late = time.monotonic() - saved > run.checkpoints.seconds
            asked = bool(requests), hosts.first() and late
            state, newest = program.step(
                state, *program.place(part), objective, limit=losses.limit(step), asks=asked
            )
            signals.keep_alive(True)  # it compiled, and did what is not saved yet
            settle()
            pending = step, newest, asked
            if step in evaluations:
                settle()
                found = validation_loss(run, tokens, program, state.params)
                if not math.isfinite(found):
                    fail(step, f"validation_loss {found}")
                extra["validation"] = found
                metrics.write(step, {"validation_loss": found})
                tick = None
            if stop:
                break
            if run.checkpoints.steps is not None:
                due = step % run.checkpoints.steps == 0
            if due and step < total:
                prove_sound(step)
                checkpoints.save(step, state, extra | kept_records())
                saved, tick, due = time.monotonic(), None, False
        prove_sound(int(state.step))
        return state, extra | kept_records(), stop


def validation_loss(run: Run, tokens: Tokens, program: Program, params: Any) -> float:
    """The objective's loss on fixed rows with fixed masks, in nats per predicted piece."""
    data, split = run.data, tokens.validation
    available = n_rows(split, data.length)
    chosen = np.linspace(0, available - 1, min(run.evaluation_rows, available)).astype(int)
    total = count = 0.0
    for number, at in enumerate(range(0, len(chosen), data.batch)):
        indices = chosen[at : at + data.batch]
        here = indices[program.rows[program.rows < len(indices)]]
        part = rows(split, here, data.length, tokens.tokenizer.vocabulary)
        key = jax.random.fold_in(jax.random.key(0), number)
        both = program.validate(params, *program.place(_fill(part, len(program.rows))), key)
        total, count = total + float(both.total), count + float(both.count)
    if not count:
        raise UserError(
            f"data.validation: none of the {len(chosen)} validation rows has a target, so that"
            " there is no validation loss; hold out more text, or raise the objective's rate"
        )
    return total / count


def check_targets(run: Run, tokens: Tokens) -> None:
    """Raises UserError where no row of a split has enough content for the objective."""
    for name, split, objective in (
        ("training", tokens.train, run.objective),
        ("validation", tokens.validation, run.objective.last),
    ):
        most = most_content(split, run.data.length)
        if why := objective.check(length=1 + most, sentinels=run.data.tokenizer.sentinels):
            raise UserError(f"objective.{why} (the {name} text has no longer rows)")


def _say_no_target(label: str, step: int) -> None:
    if hosts.first():
        print(f"lm: {label}: step {step} has no target, and so no loss", file=sys.stderr)


def _fill(part: Rows, batch: int) -> Rows:
    """Adds rows of padding up to so many."""
    padding = ((0, batch - len(part.tokens_BL)), (0, 0))
    return Rows(np.pad(part.tokens_BL, padding), np.pad(part.segments_BL, padding))
