"""The training loop: from a `Run` to a directory that describes itself."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from msgspec.structs import replace

from lm.config import UserError
from lm.cost import ledger, memory
from lm.data import Tokens, n_rows, unique_rows
from lm.data.derived import REFERENCE
from lm.data.digest import chain_text
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.distributed.signals import Stopped, stop_requests
from lm.model.attention import KERNEL_LENGTH, noted_backend
from lm.output.files import write_whole
from lm.results import ComponentCosts, Costs, Evaluation, Result, Training
from lm.run import (
    Run,
    changing,
    check_channels,
    decided_by,
    in_positions,
    mesh_for,
    refuse_attention,
    steps,
    validate,
)
from lm.train.companions import FrozenModels
from lm.train.directory import (
    checkpoints_of,
    finished_result,
    open_run_tokens,
    was_member,
)
from lm.train.load import ModelWithText
from lm.train.lock import only_writer
from lm.train.loop import Job, train_on
from lm.train.progress import Progress
from lm.train.reference import with_reference
from lm.train.start import Begun, begin
from lm.train.step import Program, State, prepare
from lm.train.trackers import check as check_trackers
from lm.train.validation import check_targets

EvaluateAtEnd = Callable[[ModelWithText], Evaluation | None]
"""What a trained model is asked at the end."""

EvaluateDuring = Callable[[ModelWithText], Mapping[str, float | str]]
"""What a model is asked at each validation, on every host: metrics by name."""


def train_run(
    run: Run,
    directory: Path,
    *,
    evaluate: EvaluateAtEnd | None = None,
    evaluate_during: EvaluateDuring | None = None,
    label: str = "",
) -> Result:
    """Trains a run in `directory`, from its newest checkpoint if it has one.

    Returns (and writes to result.json) what the run cost and its last losses, together with
    what `evaluate` finds. What `evaluate_during` finds at each validation is in the metrics,
    with the seconds that it took; training is the same without it. A finished run is not
    trained again. Raises UserError where the settings are wrong, where the directory holds
    another run, is another process's, or was removed, and where the loss is not finite, if
    `run.faults` says to stop; Stopped after SIGINT or SIGTERM, with everything saved.
    """
    begun = begin(validate(run))
    check_channels(begun.run)
    companions = FrozenModels(begun)
    begun = companions.begun
    run = validate(begun.run)
    finish = partial(_finished, run, directory, asked=evaluate is not None)
    if finished := finish():
        return finished
    check_trackers(run.trackers)
    alone = was_member(directory) and not hosts.is_multihost()
    devices = jax.devices()[:1] if alone else jax.devices()
    memory.check(run, devices, companions.settings)
    slices = _mesh.count_slices(devices)
    mesh = _mesh.make(mesh_for(run, devices=len(devices), slices=slices), devices)
    if why := refuse_attention(run, mesh.devices.flat[0].platform):
        raise UserError(why)
    label = label or directory.name
    if hosts.is_first():
        print(f"{label}: {hosts.described()}", file=sys.stderr, flush=True)
    tokens = open_run_tokens(run, directory, begun.tokenizer)
    companions.check_tokenizer(tokens.tokenizer_digest)
    counted = in_positions(run, tokens.row_tokens(run.data))
    seen = rows_seen(counted, tokens)
    check_targets(run, tokens)
    vocabulary = tokens.tokenizer.vocabulary
    counted = with_noted_attention(counted, mesh.devices.flat[0])
    program = prepare(counted, vocabulary, mesh, companions.settings)
    places: list[str | Path] = [directory]
    if run.checkpoints.directory is not None:  # whoever else writes there
        places.append(checkpoints_of(run, directory))
    with only_writer(*places) as check:
        # By now another process may have finished it.
        if finished := finish():
            return finished
        program = companions.place(program)
        known = hosts.broadcast_from_first(lambda: (directory / "config.json").exists())
        reference = companions.artifact(REFERENCE.name)
        tokens = with_reference(run, tokens, program, begun, reference)

        def trained(params: Any) -> ModelWithText:
            return ModelWithText(run, tokens, program, program.merge(params))

        with stop_requests() as requests:
            ask = evaluate_during and (lambda params: evaluate_during(trained(params)))
            job = Job(
                run, directory, tokens, program, label, requests, check, known, begun, ask
            )
            state, progress, stopped = train_on(job)
            if stopped or requests:
                raise Stopped(
                    f"{label}: stopped and saved at step {state.step} of {steps(counted)}"
                )
        result = Result(
            costs=_costs(counted, tokens, seen, progress, program),
            training=_training(run, tokens, state, progress, begun),
            evaluation=evaluate and evaluate(trained(state.params)),
        )
        if hosts.is_first():
            check()
            write_whole(directory / "result.json", result.to_json() + "\n")
    return result


def with_noted_attention(run: Run, device: jax.Device) -> Run:
    """The run, on a GPU with the kernel that was noted for it where `auto` may choose.

    Hosts do not know each other's notes, so that several take none.
    """
    if run.attention != "auto" or device.platform != "gpu" or hosts.is_multihost():
        return run
    backend = noted_backend(device.device_kind)
    if backend is None or run.data.length < KERNEL_LENGTH:
        return run
    noted = replace(run, attention=backend)
    return run if refuse_attention(noted, device.platform) else noted


def _finished(run: Run, directory: Path, *, asked: bool) -> Result | None:
    """The result that the first host has already, on every host."""

    def there() -> str | None:
        found = finished_result(run, directory, asked=asked)
        return None if found is None else found.to_json()

    text = hosts.broadcast_from_first(there)
    return None if text is None else Result.from_columns(json.loads(text))


def _costs(run: Run, tokens: Tokens, seen: int, progress: Progress, program: Program) -> Costs:
    """What a run with its budget in positions cost, having read so many different rows."""
    named = program.named
    each = tokens.row_tokens(run.data)
    size = tokens.tokenizer.vocabulary.size
    cost, parameters = ledger.cost(run, size, named), ledger.parameters(run, size)
    rows, held_out = (
        n_rows(split, run.data.length, run.data.packing)
        for split in (tokens.train, tokens.validation)
    )
    batches = -(-rows // run.data.batch) + -(-held_out // run.data.batch)
    components = tokens.consumed(run.data, run.seed, cost.steps, run.objective.copies)
    of_each = components.values()
    return Costs(
        params_total=parameters.total,
        params_non_embedding=parameters.non_embedding,
        params_matmul=parameters.matmul,
        steps=cost.steps,
        tokens=sum(read.tokens for read in of_each)
        or round(cost.steps * run.data.batch * each),
        predicted_targets=int(progress.predicted),
        target_positions=cost.target_positions,
        flops=cost.flops,
        flops_6nd=cost.flops_6nd,
        flops_rematerialized=cost.flops_rematerialized,
        flops_forward=cost.flops_forward,
        unique_tokens=sum(read.unique_tokens for read in of_each) or round(seen * each),
        unique_bytes=sum(read.unique_bytes for read in of_each)
        or round(seen / rows * tokens.train.text_bytes),
        device_seconds=progress.seconds * program.mesh.size,
        params_trainable=None if changing(run) is None else parameters.trainable,
        flops_derived=batches * ledger.derived_flops(run, size, named) or None,
        params_active=None if parameters.active == parameters.total else parameters.active,
        components={name: ComponentCosts(**read._asdict()) for name, read in components.items()}
        or None,
    )


def _training(
    run: Run, tokens: Tokens, state: State, progress: Progress, begun: Begun
) -> Training:
    """What training found, and what it was of."""
    assert progress.validation is not None  # the last step is always validated
    return Training(
        validation_loss=progress.validation,
        seed=run.seed,
        corpus_digest=tokens.corpus_digest,
        tokenizer_digest=tokens.tokenizer_digest,
        batches_digest=chain_text(state.batches),
        skipped=progress.skipped,
        rolled_back=progress.rolled_back,
        left_out=progress.left_out,
        decided_by=decided_by(run),
        start=begun.started,
        validation_terms=progress.validation_terms,
    )


def rows_seen(run: Run, tokens: Tokens) -> int:
    """How many different rows the run reads; raises UserError if there are too few."""
    data = run.data
    tokens.consumed(data, run.seed, steps(run), run.objective.copies)
    there = unique_rows(tokens.train, data.length, data.unique, data.packing)
    return min(steps(run) * run.data.batch // run.objective.copies, there)
