"""A trained model from an artifact or a run directory, and what a run starts from."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np

from lm.artifact import (
    Artifact,
    Card,
    Consumed,
    Provenance,
    Started,
    as_tree,
    by_name,
    is_artifact,
    load_card,
    save_artifact,
)
from lm.config import UserError, validate_fields
from lm.cost import ledger
from lm.data import Data, LengthModel, Tokenizer, Tokens, vocabulary_size
from lm.data.tokenizers import load_tokenizer
from lm.distributed import hosts
from lm.distributed import mesh as _mesh
from lm.hub.folder import is_hf_folder, open_folder
from lm.numerics import Precision
from lm.output.tensors import LazyArray, read_arrays
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
from lm.train.use import Usable


@dataclass(frozen=True)
class ModelWithText:
    """A trained model with what is needed to use it, and the corpus it was trained on."""

    run: Run
    tokens: Tokens
    program: Program
    params: Any


@dataclass(frozen=True)
class LoadedModel(Usable):
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

    @cached_property
    def digest(self) -> str:
        """What decides its answers: see `Artifact.digest`, which reads all parameters."""
        return self.artifact.digest

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


def load_model(path: Path | str, *, precision: Precision | None = None) -> LoadedModel:
    """The model of an artifact, a Hugging Face folder or a run's newest intact checkpoint.

    No corpus is read. Parameters are float32. `precision` is of the operands of matrix
    products: unless given that of training, and float32 where others trained it. Raises
    UserError in one line where the path holds none of these, or is damaged.

    >>> load_model("nowhere")
    Traceback (most recent call last):
    lm.config.struct.UserError: nowhere: no such file or directory
    """
    path = Path(path)
    if is_hf_folder(path):
        foreign = open_folder(path)
        return _loaded(foreign.card, foreign.tokenizer, foreign.arrays, path, precision)
    if is_artifact(path):
        tokenizer = load_tokenizer(path / "tokenizer")
        return _loaded(load_card(path), tokenizer, read_arrays(path), path, precision)
    run = validate(read_run(path))
    return _of_run(run, path, run_tokenizer(run, path), precision=precision)


def save_model(model: LoadedModel, folder: Path | str) -> None:
    """Writes a model as an artifact; raises UserError where the folder holds something."""
    save_artifact(model.artifact, Path(folder))


def settings_of(path: Path) -> Run:
    """The settings of whatever `load_model` takes, without its parameters."""
    if is_hf_folder(path):
        return _run_of(open_folder(path).card)
    if not is_artifact(path):
        return read_run(path)
    return _run_of(load_card(path))


def tokenizer_at(path: Path) -> Tokenizer:
    """The tokenizer of whatever `load_model` takes."""
    if is_hf_folder(path):
        return open_folder(path).tokenizer
    if is_artifact(path):
        return load_tokenizer(path / "tokenizer")
    return run_tokenizer(read_run(path), path)


def _loaded(
    card: Card,
    tokenizer: Tokenizer,
    arrays: Mapping[str, LazyArray],
    path: Path,
    precision: Precision | None,
) -> LoadedModel:
    """A model whose parameters lie in files, placed as they are read."""
    # Not as a run that is trained, of which more is asked.
    run = validate_fields(_with(_run_of(card), precision))
    if why := run.model.check():
        raise UserError(f"{path}: model.{why}")
    program = _program(run, tokenizer)
    wanted = by_name(program.abstract.params)
    for name in [*wanted, *arrays]:
        if name not in arrays or name not in wanted or arrays[name].shape != wanted[name].shape:
            raise UserError(
                f"{path}: damaged: parameter {name} is {_shape(arrays, name)}, and its"
                f" config.json says {_shape(wanted, name)}"
            )
    placed = {name: _placed(arrays[name], wanted[name].sharding) for name in wanted}
    return LoadedModel(run, tokenizer, program, as_tree(placed), card.lengths, card.origin)


def _placed(array: LazyArray, where: jax.sharding.Sharding) -> jax.Array:
    """The array in float32 on the devices, each of which reads what it needs, in its turn."""
    parts = []
    for device, part in where.addressable_devices_indices_map(array.shape).items():
        assert part is not None
        read = np.asarray(array.read(part), np.float32)
        parts.append(jax.device_put(read, device).block_until_ready())
    return jax.make_array_from_single_device_arrays(array.shape, where, parts)


def _with(run: Run, precision: Precision | None) -> Run:
    """The run with its matrix products in a precision, if one is given."""
    return run if precision is None else msgspec.structs.replace(run, precision=precision)


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
    run: Run,
    directory: Path,
    tokenizer: Tokenizer,
    *,
    corpus_digest: str | None = None,
    precision: Precision | None = None,
) -> LoadedModel:
    decided = decided_by(run)
    program = _program(_with(run, precision), tokenizer)
    run = program.run
    place = checkpoints_of(run, directory)
    found = restore(place, {"params": program.abstract.params})
    data = {"tokenizer_digest": tokenizer.digest}
    data |= {"corpus_digest": corpus_digest} if corpus_digest else {}
    refuse_others(decided | data, place, found, known=True)
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
    params, extra = program.merge(found.state["params"]), found.extra
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
        consumed=_with_start(mine, start),
        commit=newest.get("commit") or "",
    )


def _with_start(mine: Consumed, start: Started | None) -> Consumed | None:
    """What went into a model, with what had gone into its start; None where that is unknown."""
    if start is None:
        return mine
    return None if start.consumed is None else mine.plus(start.consumed)
