"""A trained model from an artifact or a run directory, and what a run starts from."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import msgspec

from lm.artifact import (
    Artifact,
    Card,
    Consumed,
    Provenance,
    as_tree,
    by_name,
    is_artifact,
    load_artifact,
    load_card,
    save_artifact,
)
from lm.config import UserError
from lm.cost import ledger
from lm.data import Data, LengthModel, Tokenizer, Tokens, vocabulary_size
from lm.data.tokenizers import load_tokenizer
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.run import Run, decided_by, read_run, splits, steps, validate
from lm.train.checkpoint import restore
from lm.train.directory import (
    budget_in_positions,
    checkpoints_of,
    environments,
    open_run_tokens,
    read_lengths,
    read_start,
    refuse_others,
    run_tokenizer,
)
from lm.train.faults import all_finite
from lm.train.step import Program, prepare


@dataclass(frozen=True)
class ModelWithText:
    """A trained model with what is needed to use it, and the corpus it was trained on."""

    run: Run
    tokens: Tokens
    program: Program
    params: Any


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with what it needs to read and write text, and no corpus."""

    run: Run
    """Its settings; of an artifact only `model`, `objective`, `precision`, and of `data` the
    tokenizer and the length mean anything."""
    tokenizer: Tokenizer
    program: Program
    params: Any
    lengths: LengthModel | None
    """How long its documents were; None: it is not known."""
    origin: Provenance

    @property
    def artifact(self) -> Artifact:
        """The model as a thing to be saved, its parameters fetched to this host."""
        run = self.run
        card = Card(
            model=run.model,
            objective=run.objective.last,  # type: ignore[arg-type] # one of the union
            tokenizer=run.data.tokenizer,
            length=run.data.length,
            precision=run.precision,
            lengths=self.lengths,
            origin=self.origin,
        )
        params = {name: hosts.fetch(array) for name, array in by_name(self.params).items()}
        return Artifact(card, self.tokenizer, as_tree(params))


def load_run(directory: Path) -> ModelWithText:
    """The model of a run directory, from its newest intact checkpoint, and its corpus."""
    run = validate(read_run(directory))
    tokens = open_run_tokens(run, directory)
    there = _of_run(run, directory, tokens.tokenizer, corpus_digest=tokens.corpus_digest)
    return ModelWithText(there.run, tokens, there.program, there.params)


def load_model(path: Path | str) -> LoadedModel:
    """The model of an artifact, or of a run directory's newest intact checkpoint.

    No corpus is read. Raises UserError in one line where the path holds neither, or is damaged.

    >>> load_model("nowhere")
    Traceback (most recent call last):
    lm.config.struct.UserError: nowhere: no such file or directory
    """
    path = Path(path)
    if is_artifact(path):
        return _of_artifact(load_artifact(path), path)
    run = validate(read_run(path))
    return _of_run(run, path, run_tokenizer(run, path))


def save_model(model: LoadedModel, folder: Path | str) -> None:
    """Writes a model as an artifact; raises UserError where the folder holds something."""
    save_artifact(model.artifact, Path(folder))


def settings_of(path: Path) -> Run:
    """The settings of a run directory or an artifact, without its parameters."""
    if not is_artifact(path):
        return read_run(path)
    return _run_of(load_card(path))


def tokenizer_at(path: Path) -> Tokenizer:
    """The tokenizer of a run directory or an artifact."""
    if is_artifact(path):
        return load_tokenizer(path / "tokenizer")
    return run_tokenizer(read_run(path), path)


def _of_artifact(artifact: Artifact, path: Path) -> LoadedModel:
    card = artifact.card
    run = validate(_run_of(card))
    program = _program(run, artifact.tokenizer)
    given, wanted = by_name(artifact.params), by_name(program.abstract.params)
    for name in [*wanted, *given]:
        if name not in given or name not in wanted or given[name].shape != wanted[name].shape:
            raise UserError(
                f"{path}: damaged: parameter {name} is {_shape(given, name)}, and its"
                f" config.json says {_shape(wanted, name)}"
            )
    placed = {name: hosts.put(given[name], wanted[name].sharding) for name in wanted}
    return LoadedModel(
        run, artifact.tokenizer, program, as_tree(placed), card.lengths, card.origin
    )


def _run_of(card: Card) -> Run:
    return Run(
        data=Data(tokenizer=card.tokenizer, length=card.length),
        objective=card.objective,
        model=card.model,
        precision=card.precision,
    )


def _shape(arrays: Any, name: str) -> str:
    return str(list(arrays[name].shape)) if name in arrays else "missing"


def _of_run(
    run: Run, directory: Path, tokenizer: Tokenizer, *, corpus_digest: str | None = None
) -> LoadedModel:
    program = _program(run, tokenizer)
    run = program.run
    place = checkpoints_of(run, directory)
    found = restore(place, {"params": program.abstract.params})
    data = {"tokenizer_digest": tokenizer.digest}
    data |= {"corpus_digest": corpus_digest} if corpus_digest else {}
    refuse_others(decided_by(run) | data, place, found, known=True)
    if not bool(all_finite(found.state["params"])):
        raise UserError(
            f"{place}: the parameters of checkpoint {found.step} are not finite: the run"
            " diverged; train it again in another directory with a lower"
            f" optimizer.learning_rate ({run.optimizer.learning_rate:g})"
        )
    total = steps(budget_in_positions(run, directory))
    if found.step < total and hosts.is_first():
        print(
            f"lm: {directory}: not trained to its end: this is step {found.step} of {total}",
            file=sys.stderr,
        )
    params, extra = found.state["params"], found.extra
    origin = _origin(budget_in_positions(run, directory), directory, found.step, extra)
    return LoadedModel(run, tokenizer, program, params, read_lengths(directory), origin)


def _program(run: Run, tokenizer: Tokenizer) -> Program:
    """The program of a run on this machine's devices, for any number of rows."""
    run = msgspec.structs.replace(run, mesh=_mesh.Mesh(), microbatches=1, attention="auto")
    sizes = [split for split in splits(run) if split.axis not in ("batch", "length")]
    devices = jax.devices()
    slices = _mesh.count_slices(devices)
    chosen = _mesh.choose_mesh(run.mesh, sizes, devices=len(devices), slices=slices)
    return prepare(run, tokenizer.vocabulary, _mesh.make(_mesh.Mesh(**chosen)))


def _origin(run: Run, directory: Path, step: int, extra: dict[str, Any]) -> Provenance:
    """Where the model of a run's checkpoint comes from, and what went into it."""
    cost = ledger.cost(run, vocabulary_size(run.data.tokenizer))
    mine = Consumed(
        tokens=step * run.data.batch * run.data.length,
        targets=int(extra.get("predicted", 0)),
        flops=cost.flops * step // cost.steps,
        device_seconds=extra.get("seconds", 0.0) * jax.device_count(),
    )
    start = read_start(directory)
    newest = (environments(directory) or [{}])[-1]
    return Provenance(
        run=directory.resolve().name,
        step=step,
        steps=steps(run),
        corpus_digest=extra.get("decided_by", {}).get("corpus_digest", ""),
        start="" if start is None else start.digest,
        consumed=mine if start is None else mine.plus(start.consumed),
        commit=newest.get("commit") or "",
    )
