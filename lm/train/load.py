"""A trained model from an artifact or a run directory, and what a run starts from."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import jax
import msgspec
import numpy as np

from lm.artifact import (
    Artifact,
    Card,
    Consumed,
    Provenance,
    PutOn,
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
from lm.hub.peft import is_peft_folder, read_adapter
from lm.numerics import Precision, Quantized
from lm.output.tensors import LazyArray, read_arrays
from lm.quantization import Quantization
from lm.quantization.stored import dequantized, quantized_at, stored_shapes
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
    was_member,
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
    path: Path
    """What it was loaded from."""
    adapter: Artifact | None = None
    """The adapter that is merged into its parameters, as a thing to be saved; None: none is."""
    quantization: Quantization | None = None
    """How its layers' matrices are kept; None: as other parameters."""

    @cached_property
    def digest(self) -> str:
        """What decides its answers: see `Artifact.digest`."""
        return self.artifact.digest

    @property
    def artifact(self) -> Artifact:
        """The whole model as a thing to be saved, its parameters fetched to this host."""
        params = jax.tree.map(hosts.fetch, self.params)
        return Artifact(self.card, self.tokenizer, as_tree(by_name(params)))

    @property
    def card(self) -> Card:
        """What the whole model is."""
        run = self.run
        return Card(
            model=run.model,
            objective=run.objective.last,  # type: ignore[arg-type] # one of the union
            tokenizer=run.data.tokenizer,
            length=run.data.length,
            precision=run.precision,
            lengths=self.lengths,
            origin=self.origin,
            quantization=self.quantization,
        )

    def dequantized(self) -> "LoadedModel":
        """This model with float32 parameters, which answers the same; itself if it has them."""
        if self.quantization is None:
            return self
        where = jax.tree.map(lambda x: x.sharding, self.program.abstract.params)
        params = jax.jit(dequantized, out_shardings=where)(self.params)
        return replace(self, params=params, quantization=None)

    def with_adapter(self, folder: Path | str) -> "LoadedModel":
        """This model with an adapter merged into it: an artifact's folder, or one of PEFT's.

        This one stays as it is, and others can be put on it; what no adapter changes they
        share. What is quantized is not so any more. Raises UserError where the folder holds no
        adapter, or that of another model.
        """
        folder = Path(folder)
        if self.quantization is not None:
            return self.dequantized().with_adapter(folder)
        if is_peft_folder(folder):
            adapter = read_adapter(folder, self.card, self.tokenizer)
            put_on = PutOn(lora=adapter.lora, base=str(self.path.resolve()), digest=self.digest)
            card = msgspec.structs.replace(self.card, adapter=put_on)
            return _put_on(self, card, self.tokenizer, adapter.arrays, folder)
        card = load_card(folder)
        if card.adapter is None:
            raise UserError(f"{folder}: a whole model, and no adapter")
        if card.adapter.digest != self.digest:
            raise UserError(
                f"{folder}: an adapter of the model with the digest {card.adapter.digest},"
                f" which was {card.adapter.base}; that of {self.path} is {self.digest}"
            )
        tokenizer = load_tokenizer(folder / "tokenizer")
        return _put_on(self, card, tokenizer, read_arrays(folder), folder)


def load_run(directory: Path) -> ModelWithText:
    """The model of a run directory, from its newest intact checkpoint, and its corpus."""
    run = validate(read_run(directory))
    tokens = open_run_tokens(run, directory)
    there = _of_run(run, directory, tokens.tokenizer, corpus_digest=tokens.corpus_digest)
    return ModelWithText(there.run, tokens, there.program, there.params)


def load_model(
    path: Path | str,
    *,
    adapter: Path | str | None = None,
    precision: Precision | None = None,
) -> LoadedModel:
    """The model of an artifact, a Hugging Face folder or a run's newest intact checkpoint.

    `adapter` is the folder of one that is merged into it: see `LoadedModel.with_adapter`. An
    adapter's folder by itself finds its model where it was trained from. No corpus is read.
    Parameters are float32. `precision` is of the operands of matrix products: unless given that
    of training, and float32 where others trained it. Raises UserError in one line where the
    path holds none of these, or is damaged.

    >>> load_model("nowhere")
    Traceback (most recent call last):
    lm.config.struct.UserError: nowhere: no such file or directory
    """
    path = Path(path)
    if adapter is not None:
        return load_model(path, precision=precision).with_adapter(adapter)
    if is_peft_folder(path):
        raise UserError(
            f"{path}: an adapter, and no model: give it as adapter=, with its model"
        )
    if is_hf_folder(path):
        foreign = open_folder(path)
        return _loaded(foreign.card, foreign.tokenizer, foreign.arrays, path, precision)
    if is_artifact(path):
        card = load_card(path)
        if card.adapter is not None:
            base = _base(path, card.adapter, precision or card.precision)
            return base.with_adapter(path)
        tokenizer = load_tokenizer(path / "tokenizer")
        return _loaded(card, tokenizer, read_arrays(path), path, precision)
    run = validate(read_run(path))
    return _of_run(run, path, run_tokenizer(run, path), precision=precision)


def save_model(
    model: LoadedModel, folder: Path | str, *, what: Literal["whole", "adapter"] = "whole"
) -> None:
    """Writes a model as an artifact, or the adapter alone that is merged into it.

    Raises UserError where the folder holds something, or the model has no adapter.
    """
    if what == "adapter" and model.adapter is None:
        raise UserError(f"{model.path}: the model has no adapter")
    chosen = model.artifact if what == "whole" else model.adapter
    assert chosen is not None
    save_artifact(chosen, Path(folder))


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
    wanted, quantization = by_name(program.abstract.params), card.quantization
    shapes = {name: each.shape for name, each in wanted.items()}
    shapes = stored_shapes(shapes, quantization, run.model)
    there = {name: array.shape for name, array in arrays.items()}
    for name in [*shapes, *there]:
        if there.get(name) != shapes.get(name):
            raise UserError(
                f"{path}: damaged: parameter {name} is {_shape(there, name)}, and its"
                f" config.json says {_shape(shapes, name)}"
            )
    placed: dict[str, Any] = {}
    for name, each in wanted.items():
        if name in arrays:
            placed[name] = _placed(arrays[name], each.sharding)
            continue
        assert quantization is not None
        try:
            found = quantized_at(name, arrays, each.shape, quantization.bits)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        placed[name] = place_quantized(found, each.sharding, program.mesh)
    return LoadedModel(
        *(run, tokenizer, program, as_tree(placed), card.lengths, card.origin, path),
        quantization=quantization,
    )


def place_quantized(
    found: Quantized, where: jax.sharding.Sharding, mesh: jax.sharding.Mesh
) -> Quantized:
    """The same on the devices: the numbers as the matrix would be, scales whole on each."""
    return Quantized(
        hosts.put(found.codes, where), hosts.put(found.scale, _mesh.sharding(mesh))
    )


def _base(folder: Path, put_on: PutOn, precision: Precision) -> LoadedModel:
    """The model that an adapter was trained from; raises UserError where it is not there."""
    try:
        return load_model(put_on.base, precision=precision)
    except UserError as error:
        raise UserError(
            f"{folder}: an adapter, whose model is not where it was ({error}); say where it is,"
            f" by load_model(MODEL, adapter={str(folder)!r})"
        ) from None


def _put_on(
    base: LoadedModel,
    card: Card,
    tokenizer: Tokenizer,
    arrays: Mapping[str, LazyArray],
    folder: Path,
) -> LoadedModel:
    """A model with the adapter of a card merged into it."""
    assert card.adapter is not None
    lora, run = card.adapter.lora, validate_fields(_with(_run_of(card), base.run.precision))
    program = _program(run, tokenizer)
    wanted, given = by_name(program.abstract.params), by_name(base.params)
    axes, shapes = run.model.axes(), run.model.shapes(tokenizer.vocabulary.size)
    added = lora.shapes(axes, shapes)
    there = {name: array.shape for name, array in arrays.items()}
    for name, shape in {**{n: each.shape for n, each in wanted.items()}, **added}.items():
        found = there.pop(name, None)
        found = given[name].shape if found is None and name in given else found
        if found != shape:
            raise UserError(
                f"{folder}: not an adapter of {base.path}: parameter {name} is"
                f" {'missing' if found is None else list(found)}, and must be {list(shape)}"
            )
    if there:
        raise UserError(f"{folder}: not an adapter of {base.path}: {min(there)} is left over")
    own = {name: np.asarray(array.whole(), np.float32) for name, array in arrays.items()}
    params = {name: own[name] if name in own else given[name] for name in wanted}
    params |= {name: own[name] for name in added}
    where = {name: each.sharding for name, each in wanted.items()}
    merged = jax.jit(partial(lora.merged, axes=axes), out_shardings=where)(params)
    return LoadedModel(
        run,
        tokenizer,
        program,
        as_tree(merged),
        card.lengths,
        card.origin,
        folder,
        Artifact(card, tokenizer, as_tree(own)),
    )


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


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "missing"


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
    found = restore(place, {"params": program.own(program.abstract.params)})
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
    params, extra = found.state["params"], found.extra
    origin = _origin(budget_in_positions(run, directory), directory, found.step, extra)
    lengths = read_lengths(directory)
    model = LoadedModel(run, tokenizer, program, params, lengths, origin, directory)
    return model if run.adapter is None else _on_start(model)


def _on_start(model: LoadedModel) -> LoadedModel:
    """The model of a run with an adapter, from one that has what the run changed alone."""
    from lm.train.start import begin, started_params  # it loads models, too

    run, program, own = model.run, model.program, by_name(model.params)
    assert run.adapter is not None and run.start is not None
    try:
        begun = begin(run)
    except UserError as error:
        raise UserError(
            f"{model.path}: an adapter, whose model is not where it was: {error}"
        ) from None
    assert begun.start is not None
    taken, _, _ = started_params(begun, program.init().params)
    params, there = by_name(taken) | own, by_name(begun.start.params)
    # What the run has drawn beyond its start goes with the adapter.
    own |= {
        name: array
        for name, array in params.items()
        if name not in there or there[name].shape != array.shape
    }
    put_on = PutOn(
        lora=run.adapter, base=str(Path(run.start.path).resolve()), digest=begun.start.digest
    )
    card = msgspec.structs.replace(model.card, adapter=put_on)
    alone = as_tree({name: hosts.fetch(array) for name, array in own.items()})
    return replace(
        model,
        params=program.merge(as_tree(params)),
        adapter=Artifact(card, model.tokenizer, alone),
    )


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
    from lm.train.companions import companion_settings  # it loads models, too

    start, mine = read_start(directory), None
    named: Mapping[str, Run] | None = {}
    if any(run.objective.companions.values()):
        try:
            named = companion_settings(run)
        except UserError:  # what each step asked is not where it was
            named = None
    if named is not None:
        cost = ledger.cost(run, vocabulary_size(run.data.tokenizer), named)
        devices = 1 if was_member(directory) else jax.device_count()
        mine = Consumed(
            tokens=step * run.data.batch * run.data.length,
            targets=int(extra.get("predicted", 0)),
            flops=cost.flops * step // cost.steps,
            device_seconds=extra.get("seconds", 0.0) * devices,
        )
    newest = (environments(directory) or [{}])[-1]
    return Provenance(
        run=directory.resolve().name,
        step=step,
        steps=steps(run),
        corpus_digest=extra.get("decided_by", {}).get("corpus_digest", ""),
        start="" if start is None else start.digest,
        consumed=mine and _with_start(mine, start),
        commit=newest.get("commit") or "",
    )


def _with_start(mine: Consumed, start: Started | None) -> Consumed | None:
    """What went into a model, with what had gone into its start; None where that is unknown."""
    if start is None:
        return mine
    return None if start.consumed is None else mine.plus(start.consumed)
