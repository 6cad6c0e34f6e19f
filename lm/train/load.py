"""A trained model from its run directory."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import msgspec

from lm.config import UserError
from lm.data import (
    Tokenizer,
    Tokens,
)
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.run import (
    Run,
    decided_by,
    read_run,
    splits,
    steps,
    validate,
)
from lm.train.checkpoint import restore
from lm.train.directory import checkpoints_of, open_run_tokens, refuse_others, tokenizer_of
from lm.train.loop import all_finite
from lm.train.step import Program, prepare


@dataclass(frozen=True)
class Trained:
    """A trained model with what is needed to use it."""

    run: Run
    tokens: Tokens
    program: Program
    params: Any


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
    tokens = open_run_tokens(run, directory)
    there = restored_model(run, directory, tokens.tokenizer, corpus_digest=tokens.corpus_digest)
    return Trained(there.run, tokens, there.program, there.params)


def load_model(directory: Path) -> LoadedModel:
    """The model of a run directory, from its newest intact checkpoint, without its corpus."""
    run = validate(read_run(directory))
    return restored_model(run, directory, tokenizer_of(run, directory))


def restored_model(
    run: Run, directory: Path, tokenizer: Tokenizer, *, corpus_digest: str | None = None
) -> LoadedModel:
    """The model of a run from its newest intact checkpoint, on this machine's devices."""
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
    refuse_others(decided_by(run) | data, place, found, known=True)
    if not bool(all_finite(found.state["params"])):
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
