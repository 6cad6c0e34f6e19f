"""The training loop: from a `Run` to a directory that describes itself."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import msgspec

from lm.config import UserError
from lm.cost import ledger, memory
from lm.data import (
    Tokens,
    n_rows,
    unique_rows,
)
from lm.data.digest import chain_text
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.distributed.signals import Stopped
from lm.output.files import write_whole
from lm.run import (
    Run,
    decided_by,
    in_positions,
    mesh_for,
    refuse_attention,
    steps,
    validate,
)
from lm.train.directory import Result, checkpoints_of, finished_result, finite, open_run_tokens
from lm.train.load import Trained
from lm.train.lock import only_writer
from lm.train.loop import Job, train_on
from lm.train.progress import Progress
from lm.train.start import Begun, begin
from lm.train.step import State, prepare
from lm.train.stops import stop_requests
from lm.train.validation import check_targets

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
    begun = begin(validate(run))
    run = validate(begun.run)
    finished = hosts.told(lambda: finished_result(run, directory, asked=evaluate is not None))
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
    tokenizer = None if begun.start is None else begun.start.tokenizer
    tokens = open_run_tokens(run, directory, tokenizer)
    counted = in_positions(run, tokens.row_tokens(run.data))
    seen = rows_seen(counted, tokens)
    check_targets(run, tokens)
    vocabulary = tokens.tokenizer.vocabulary
    program = prepare(counted, vocabulary, mesh)
    places: list[str | Path] = [directory]
    if run.checkpoints.directory is not None:  # whoever else writes there
        places.append(checkpoints_of(run, directory))
    with only_writer(*places) as check:
        # By now another process may have finished it.
        finished = hosts.told(
            lambda: finished_result(run, directory, asked=evaluate is not None)
        )
        if finished is not None:
            return finished
        known = hosts.told(lambda: (directory / "config.json").exists())
        with stop_requests() as requests:
            job = Job(run, directory, tokens, program, label, requests, check, known, begun)
            state, progress, stopped = train_on(job)
            if stopped or requests:
                raise Stopped(
                    f"{label}: stopped and saved at step {state.step} of {steps(counted)}"
                )
        result = _result(run, counted, tokens, seen, state, progress, begun)
        if evaluate is not None:
            result |= evaluate(Trained(run, tokens, program, state.params))
        result["evaluated"] = evaluate is not None
        result = finite(result)
        if hosts.first():
            check()
            write_whole(directory / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def _result(
    run: Run,
    counted: Run,
    tokens: Tokens,
    seen: int,
    state: State,
    progress: Progress,
    begun: Begun,
) -> Result:
    """What the run cost, on what it was trained, and its last losses.

    `counted` is the run with its budget in positions.
    """
    vocabulary = tokens.tokenizer.vocabulary
    cost = ledger.cost(counted, vocabulary.size)
    each = tokens.row_tokens(run.data)
    parameters = ledger.parameters(run, vocabulary.size)
    return {
        "params_total": parameters.total,
        "params_non_embedding": parameters.non_embedding,
        "params_matmul": parameters.matmul,
        "steps": cost.steps,
        "tokens": round(cost.steps * run.data.batch * each),
        "slots": cost.slots,
        "predicted_targets": int(progress.predicted),
        "flops": cost.flops,
        "flops_6nd": cost.flops_6nd,
        "flops_rematerialized": cost.flops_rematerialized,
        "flops_forward": cost.flops_forward,
        "unique_tokens": round(seen * each),
        "unique_bytes": round(
            seen
            / n_rows(tokens.train, run.data.length, run.data.packing)
            * int(tokens.train.bytes.sum())
        ),
        "device_seconds": progress.seconds * jax.device_count(),
        "validation_loss": progress.validation,
        **progress.validation_terms,
        "seed": run.seed,
        "corpus_digest": tokens.corpus_digest,
        "tokenizer_digest": tokens.tokenizer_digest,
        "batches_digest": chain_text(state.batches),
        "skipped": progress.skipped,
        "rolled_back": progress.rolled_back,
        "left_out": progress.left_out,
        "decided_by": decided_by(run),
        **({} if begun.started is None else {"start": msgspec.to_builtins(begun.started)}),
    }


def rows_seen(run: Run, tokens: Tokens) -> int:
    """How many different rows the run reads; raises UserError if there are too few."""
    data = run.data
    there = unique_rows(tokens.train, data.length, data.unique, data.packing)
    return min(steps(run) * run.data.batch, there)
