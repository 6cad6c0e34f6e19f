"""The training loop: from a `Run` to a directory that describes itself."""

import hashlib
import json
import math
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from lm import hosts, ledger, memory, signals
from lm import mesh as _mesh
from lm.config import UserError, dump, read_json
from lm.data import (
    Rows,
    Tokenizer,
    Tokens,
    corpus_digest,
    most_content,
    n_rows,
    open_tokens,
    rows,
    unique_rows,
)
from lm.data import tokenizer_of as learn_tokenizer
from lm.run import (
    DECISIVE,
    Run,
    decided_by,
    differing,
    evaluation_steps,
    mesh_for,
    read_run,
    refuse_attention,
    same_result,
    splits,
    steps,
    validate,
)
from lm.signals import Stopped
from lm.train.checkpoint import Checkpoints, Restored, restore
from lm.train.faults import Losses, RollBack, wrong
from lm.train.lock import only_writer
from lm.train.progress import Bar, Metrics
from lm.train.step import Program, State, prepare

Result = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A trained model with what is needed to use it."""

    run: Run
    tokens: Tokens
    program: Program
    params: Any


class Diverged(UserError):
    """A loss, an update, or the parameters are not finite any more."""


Evaluator = Callable[[Trained], Result]


def fit(
    run: Run, directory: Path, *, evaluate: Evaluator | None = None, label: str = ""
) -> Result:
    """Trains a run in `directory`, from its newest checkpoint if it has one.

    Returns (and writes to result.json) what the run cost and its last losses, together with
    what `evaluate` finds. A finished run is not trained again. Raises UserError where the
    settings are wrong, where the directory holds another run, is another process's, or was
    removed, and where the loss is not finite, if `run.faults` says to stop; Stopped after
    SIGINT or SIGTERM, with everything saved.
    """
    run = validate(run)
    finished = hosts.told(lambda: _finished(run, directory, asked=evaluate is not None))
    if finished is not None:
        return finished
    memory.check(run, jax.devices())
    slices = _mesh.count_slices(jax.devices())
    mesh = _mesh.make(mesh_for(run, devices=jax.device_count(), slices=slices))
    if why := refuse_attention(run, mesh.devices.flat[0].platform):
        raise UserError(why)
    label = label or directory.name
    if hosts.first():
        print(f"{label}: {hosts.described()}", file=sys.stderr, flush=True)
    tokens = _open_tokens(run, directory)
    seen = _seen(run, tokens)
    _check_targets(run, tokens)
    vocabulary = tokens.tokenizer.vocabulary
    program = prepare(run, vocabulary, mesh)
    places: list[str | Path] = [directory]
    if run.checkpoints.directory is not None:  # whoever else writes there
        places.append(checkpoints_of(run, directory))
    with only_writer(*places) as check:
        # By now another process may have finished it.
        finished = hosts.told(lambda: _finished(run, directory, asked=evaluate is not None))
        if finished is not None:
            return finished
        known = hosts.told(lambda: (directory / "config.json").exists())
        with _stop_requests() as requests:
            state, extra, stopped = _train(
                run, directory, tokens, program, label, requests, check, known
            )
            if stopped or requests:
                raise Stopped(
                    f"{label}: stopped and saved at step {state.step} of {steps(run)}"
                )
        result = _result(run, tokens, seen, state, extra)
        if evaluate is not None:
            result |= evaluate(Trained(run, tokens, program, state.params))
        result["evaluated"] = evaluate is not None
        result = _finite(result)
        if hosts.first():
            check()
            _write(directory / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def _result(run: Run, tokens: Tokens, seen: int, state: State, extra: Result) -> Result:
    """What the run cost, on what it was trained, and its last losses."""
    vocabulary = tokens.tokenizer.vocabulary
    cost = ledger.cost(run, vocabulary.size)
    parameters = ledger.parameters(run, vocabulary.size)
    return {
        "params_total": parameters.total,
        "params_non_embedding": parameters.non_embedding,
        "params_matmul": parameters.matmul,
        "steps": cost.steps,
        "tokens": cost.tokens,
        "slots": cost.slots,
        "predicted_targets": int(extra["predicted"]),
        "flops": cost.flops,
        "flops_6nd": cost.flops_6nd,
        "flops_rematerialized": cost.flops_rematerialized,
        "flops_forward": cost.flops_forward,
        "unique_tokens": seen * run.data.length,
        "unique_bytes": round(
            seen / n_rows(tokens.train, run.data.length) * int(tokens.train.bytes.sum())
        ),
        "device_seconds": extra["seconds"] * jax.device_count(),
        "validation_loss": extra["validation"],
        "seed": run.seed,
        "corpus_digest": tokens.corpus_digest,
        "tokenizer_digest": tokens.tokenizer_digest,
        "batches_digest": chain_text(state.batches),
        **{name: extra[name] for name in ("skipped", "rolled_back", "left_out")},
        "decided_by": decided_by(run),
    }


def _finite(value: Any) -> Any:
    """The value as JSON can say it: null for what is no number.

    >>> _finite({"bits_per_byte": 2.0, "text_se": math.nan})
    {'bits_per_byte': 2.0, 'text_se': None}
    """
    match value:
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with what it needs to read and write text, and no corpus."""

    run: Run
    tokenizer: Tokenizer
    program: Program
    params: Any


def load(directory: Path) -> Trained:
    """The model of a run directory, from its newest intact checkpoint, and its corpus."""
    run = validate(read_run(directory))
    tokens = _open_tokens(run, directory)
    there = _restored(run, directory, tokens.tokenizer, corpus_digest=tokens.corpus_digest)
    return Trained(there.run, tokens, there.program, there.params)


def load_model(directory: Path) -> LoadedModel:
    """The model of a run directory, from its newest intact checkpoint, without its corpus."""
    run = validate(read_run(directory))
    return _restored(run, directory, tokenizer_of(run, directory))


def tokenizer_of(run: Run, directory: Path) -> Tokenizer:
    """The tokenizer of a run directory, by what is recorded there of its corpus.

    Raises UserError where it had to be learnt anew and is another.
    """
    path = directory / "data.json"
    if not path.exists():
        return learn_tokenizer(run.data)
    there = _digests(path)
    tokenizer = learn_tokenizer(run.data, there["corpus_digest"])
    if tokenizer.digest != there["tokenizer_digest"]:
        raise UserError(
            _changed(directory, "tokenizer_digest", tokenizer.digest, there["tokenizer_digest"])
        )
    return tokenizer


def _restored(
    run: Run, directory: Path, tokenizer: Tokenizer, *, corpus_digest: str | None = None
) -> LoadedModel:
    # Trained on whatever mesh, it is used on this machine's devices, on any number of rows.
    run = msgspec.structs.replace(run, mesh=_mesh.Mesh(), microbatches=1, attention="auto")
    rows = "batch", "length"
    sizes = [split for split in splits(run) if split.axis not in rows]
    devices = jax.devices()
    slices = _mesh.count_slices(devices)
    chosen = _mesh.choose(run.mesh, sizes, devices=len(devices), slices=slices)
    program = prepare(run, tokenizer.vocabulary, _mesh.make(_mesh.Mesh(**chosen)))
    wanted = {"params": program.abstract.params}
    place = checkpoints_of(run, directory)
    found = restore(place, wanted)
    data = {"tokenizer_digest": tokenizer.digest}
    data |= {"corpus_digest": corpus_digest} if corpus_digest else {}
    _refuse_others(decided_by(run) | data, place, found, known=True)
    if not bool(_all_finite(found.state["params"])):
        raise UserError(
            f"{place}: the parameters of checkpoint {found.step} are not finite: the run"
            " diverged; train it again in another directory with a lower"
            f" optimizer.learning_rate ({run.optimizer.learning_rate:g})"
        )
    if found.step < steps(run) and hosts.first():
        print(
            f"lm: {directory}: not trained to its end: this is step {found.step} of"
            f" {steps(run)}",
            file=sys.stderr,
        )
    return LoadedModel(run, tokenizer, program, found.state["params"])


def checkpoints_of(run: Run, directory: Path) -> str:
    """Where the checkpoints of a run are.

    In a folder for several runs each has its own, named like its directory and by what decides
    its result, as runs of two studies may be named alike.
    """
    if run.checkpoints.directory is None:
        return str(directory / "checkpoints")
    decisive = "".join(dump(getattr(run, name)) for name in DECISIVE)
    name = f"{directory.name}-{hashlib.sha256(decisive.encode()).hexdigest()[:8]}"
    return f"{run.checkpoints.directory.rstrip('/')}/{name}"


def _decided_by(run: Run, tokens: Tokens) -> dict[str, str]:
    """Digests of all that decides a run's state: its settings, by field, and its data."""
    data = {name: getattr(tokens, name) for name in ("corpus_digest", "tokenizer_digest")}
    return decided_by(run) | data


def _refuse_others(mine: dict[str, str], place: str, found: Restored, *, known: bool) -> None:
    """Raises UserError where a checkpoint is of another run, or of other data.

    One of an older version does not say what decided it: it is believed where the run is
    `known` by the config.json of its directory. A corpus that is not at hand is not compared.
    """
    there = found.extra.get("decided_by")
    if there is None and not known:
        why = "does not say of which run it is, and no config.json does"
    elif there is None:
        return
    else:
        names = [name for name in mine | there if mine.get(name) != there.get(name)]
        if "corpus_digest" not in mine:
            names.remove("corpus_digest")
        if not names:
            return
        why = f"is of another run: {', '.join(names)} differ"
    raise UserError(
        f"{place}: checkpoint {found.step} {why}; choose another directory or remove it"
    )


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def _newest(
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
    extra["decided_by"] = _decided_by(run, tokens)
    restored = checkpoints.restore_newest(program.abstract)
    if restored is None:
        return program.init(), extra
    place = checkpoints_of(run, directory)
    _refuse_others(extra["decided_by"], place, restored, known=known)
    return restored.state, extra | restored.extra


def _diverged(run: Run, label: str, step: int, why: str, *, in_a_row: bool = False) -> Diverged:
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


def _train(
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
        state, extra = _newest(run, directory, tokens, program, checkpoints, known)
        start = int(state.step)
        hosts.told(lambda: _describe(run, directory, tokens, program.mesh, start))
        again = 0
        while True:
            start = int(state.step)
            try:
                state, extra, stopped = _loop(
                    run, directory, tokens, program, state, extra, checkpoints, label, requests,
                    check,
                )  # fmt: skip
                break
            except RollBack as fault:
                state, extra = _newest(run, directory, tokens, program, checkpoints, known)
                back = int(state.step)
                again = again + 1 if back == start else 1
                if again > run.faults.most:
                    raise _diverged(run, label, fault.step, fault.why) from None
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


def _loop(
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
            raise _diverged(run, label, step, why, in_a_row=in_a_row)

        def kept_records() -> Result:
            """What a checkpoint keeps of metrics.jsonl, where that may be lost before it."""
            return {"recent": metrics.recent} if run.checkpoints.directory else {}

        def prove_sound(step: int) -> None:
            """Before a state is saved: all is settled, and it is worth it."""
            settle()
            check()
            if not hosts.fetch(_all_finite(state.params)):
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
            _validation_loss(run, tokens, program, state.params)
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
                found = _validation_loss(run, tokens, program, state.params)
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


def chain_text(batches: Any) -> str:
    """The digest of all batches so far, uint32[2], in hexadecimal.

    >>> chain_text(np.array([1, 255], np.uint32))
    '00000001000000ff'
    """
    return "".join(f"{word:08x}" for word in np.asarray(batches))


def _validation_loss(run: Run, tokens: Tokens, program: Program, params: Any) -> float:
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


def _check_targets(run: Run, tokens: Tokens) -> None:
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


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that neither a step nor a save is cut in two.

    A second one is final.
    """
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for caught in (signal.SIGINT, signal.SIGTERM):
            previous[caught] = signal.signal(caught, note)
    except ValueError:  # not the main thread: signals are not ours
        pass
    try:
        yield received
    finally:
        signals.keep_alive(False)
        for caught, handler in previous.items():
            signal.signal(caught, handler)


def _open_tokens(run: Run, directory: Path) -> Tokens:
    """The run's tokens; raises UserError if they are not those that the directory began with.

    A file added to the corpus, or another Python's standard library, is another experiment; so
    is a tokenizer learnt anew, whose ids mean other pieces. The first host goes first: it
    builds what is not there yet, and the others find that, or build the same on their disks.
    """
    opened: list[Tokens] = []

    def first_opens() -> list[str]:
        opened.append(_checked_tokens(run, directory))
        return [opened[0].corpus_digest, opened[0].tokenizer_digest]

    def others_open() -> Tokens:
        tokens = opened[0] if opened else _checked_tokens(run, directory)
        if [tokens.corpus_digest, tokens.tokenizer_digest] != digests:
            raise UserError(
                "data: the corpus here, or the tokenizer learnt from it, is not the first"
                " host's; all hosts need the same files and versions"
            )
        return tokens

    digests = hosts.told(first_opens)
    return hosts.together(others_open)


def _checked_tokens(run: Run, directory: Path) -> Tokens:
    tokens = open_tokens(run.data)
    path = directory / "data.json"
    if path.exists():
        there = _digests(path)
        for name in ("corpus_digest", "tokenizer_digest"):
            if there[name] != (now := getattr(tokens, name)):
                raise UserError(_changed(directory, name, now, there[name]))
    return tokens


def _digests(path: Path) -> dict[str, str]:
    there = read_json(path)
    try:
        return {name: there[name][:] for name in ("corpus_digest", "tokenizer_digest")}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error!r}") from None


def _seen(run: Run, tokens: Tokens) -> int:
    """How many different rows the run reads; raises UserError if there are too few."""
    there = unique_rows(tokens.train, run.data.length, run.data.unique)
    return min(steps(run) * run.data.batch, there)


def read_result(path: Path) -> Result:
    """What a result.json holds; raises UserError where it is damaged."""
    result = read_json(path)
    kinds = {"decided_by": dict, "corpus_digest": str}
    if not result or any(
        not isinstance(result.get(n, kind()), kind) for n, kind in kinds.items()
    ):
        raise UserError(f"{path}: damaged: it is no result; remove it and train again")
    return result


def _finished(run: Run, directory: Path, *, asked: bool) -> Result | None:
    """The result that is there already, if the corpus is still the one that it is of.

    None where an evaluator is `asked` that has not been asked yet.

    Refuses a directory of another run, and a file.
    """
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: there is a file of this name; choose another directory")
    if why := other_settings(run, directory):
        raise UserError(
            f"{directory} holds another run: {why}; choose another directory or remove this one"
        )
    path = directory / "result.json"
    if not path.exists():
        return None
    result = read_result(path)
    # One that was trained without being asked anything lacks what the evaluator finds.
    if asked and not result.get("evaluated", True):
        return None
    now, then = corpus_digest(run.data), result.get("corpus_digest")
    if then not in (None, now):
        raise UserError(_changed(directory, "corpus_digest", now, then))
    return result


def other_settings(run: Run, directory: Path) -> str:
    """Which fields of a run differ from what its directory is of, in words; "" if none.

    Both config.json and result.json say so; the result of an older version does not, and
    without a config.json nothing tells whose it is.
    """
    names: list[str] = []
    if known := (directory / "config.json").exists():
        names += same_result(run, read_run(directory))
    path = directory / "result.json"
    if path.exists():
        carried = read_result(path).get("decided_by")
        if carried is None and not known:
            return "nothing says which settings its result.json is of"
        names += differing(run, carried) if carried is not None else []
    return f"{', '.join(dict.fromkeys(names))} differ" if names else ""


def _changed(directory: Path, name: str, now: str, then: str) -> str:
    return (
        f"{directory}: the corpus, or the tokenizer learnt from it, has changed: {name} is"
        f" {now[:12]}, was {then[:12]}; restore it, or train in another directory"
    )


def _describe(
    run: Run, directory: Path, tokens: Tokens, mesh: jax.sharding.Mesh, step: int
) -> None:
    """Writes what the run is, on what, and where and by what code it goes on from a step."""
    _write(directory / "config.json", dump(run))
    described: Result = {
        "corpus_digest": tokens.corpus_digest,
        "tokenizer_digest": tokens.tokenizer_digest,
    }
    for name, split in (("train", tokens.train), ("validation", tokens.validation)):
        described[name] = {
            "documents": len(split.ids),
            "bytes": int(split.bytes.sum()),
            "tokens": split.size,
        }
    _write(directory / "data.json", json.dumps(described, indent=2) + "\n")
    _write(directory / "lengths.json", json.dumps(msgspec.to_builtins(tokens.lengths)) + "\n")
    devices = jax.devices()
    # Environments from which no step is left, as they began no earlier, are forgotten.
    earlier = [each for each in environments(directory) if each.get("step", 0) < step]
    environment = {
        "step": step,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "mesh": dict(mesh.shape),
        "hosts": jax.process_count(),
        "commit": commit(),
        **{name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
    }
    environment |= {"earlier": earlier} if earlier else {}
    _write(directory / "environment.json", json.dumps(environment, indent=2) + "\n")


def environments(directory: Path) -> list[dict[str, Any]]:
    """The environments that a run was trained in, one after the other."""
    path = directory / "environment.json"
    if not path.exists():
        return []
    newest = read_json(path)
    return [*newest.pop("earlier", []), newest]


def commit() -> str | None:
    """The commit of the source that runs, with `+` and a digest of what was changed since.

    None if it is not in git.
    """

    def git(*command: str) -> bytes:
        ask = ["git", "-C", str(Path(__file__).parent), *command]
        return subprocess.run(ask, capture_output=True, check=True, timeout=10).stdout

    try:
        found = git("describe", "--always", "--abbrev=12", "--dirty=+").decode().strip()
        changes = git("diff", "HEAD") if found.endswith("+") else b""
    except (OSError, subprocess.SubprocessError):
        return None
    return found + (hashlib.sha256(changes).hexdigest()[:8] if changes else "")


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
