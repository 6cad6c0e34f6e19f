"""`lm export`: a model as a folder of its own, in our format or in Hugging Face's."""

import argparse
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import console
from lm.output.numbers import count

if TYPE_CHECKING:
    from lm.train.load import LoadedModel


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.add_argument(
        "model", metavar="RUN_DIR", type=Path, help="or an artifact, or a Hugging Face folder"
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="made; must not hold anything")
    parser.add_argument(
        "--format",
        choices=("artifact", "hf"),
        default="artifact",
        help="hf: as transformers reads it, where a family of it has all of the model's parts",
    )
    adapter = parser.add_mutually_exclusive_group()
    adapter.add_argument(
        "--merge",
        action="store_true",
        help="of a run with an adapter: a whole model, what is learnt added to its start",
    )
    adapter.add_argument(
        "--adapter",
        action="store_true",
        help="the adapter alone, which names its start; with --format hf as PEFT reads it",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="hf: of the numbers as they are written (float32)",
    )


def main(given: argparse.Namespace) -> None:
    """Writes the model and says what it holds."""
    from lm.artifact import by_name, check_folder, save_artifact
    from lm.distributed import hosts
    from lm.train.load import load_model

    if given.precision and given.format != "hf":
        raise UserError(f"--precision {given.precision}: an artifact is float32; --format hf")
    if given.precision and given.adapter:
        raise UserError(f"--precision {given.precision}: an adapter is float32; leave it out")
    check_folder(given.folder)  # before a large model is loaded
    prepare_machine()
    model = load_model(given.model, precision="float32" if given.format == "hf" else None)
    model = model.dequantized() if given.format == "hf" else model
    if model.adapter is None and (given.merge or given.adapter):
        option = "--merge" if given.merge else "--adapter"
        raise UserError(f"{option}: {given.model} has no adapter; leave it out")
    if model.adapter is not None and not (given.merge or given.adapter):
        raise UserError(
            f"{given.model}: has an adapter: --merge writes a whole model, --adapter the"
            " adapter alone"
        )
    if given.format == "hf":
        if given.adapter:
            _write_peft(model, given.folder)
        else:
            _write_hf(model, given.folder, given.precision or "float32")
        return
    artifact = model.adapter if given.adapter else model.artifact
    assert artifact is not None
    if hosts.is_first():
        save_artifact(artifact, given.folder)
    size = sum(math.prod(array.shape) for array in by_name(artifact.params).values())
    origin = artifact.card.origin
    came = f"from {origin.source}" if origin.family else f"step {origin.step} of {origin.steps}"
    console().print(
        f"{given.folder}: {count(size)} parameters, {came}, digest {artifact.digest}"
    )


def _write_peft(model: "LoadedModel", folder: Path) -> None:
    """Writes the adapter of a model alone."""
    from lm.artifact import by_name
    from lm.hub.peft import write_adapter
    from lm.output.tensors import LazyArray

    assert model.adapter is not None and model.adapter.card.adapter is not None
    arrays = {
        name: LazyArray.of(array) for name, array in by_name(model.adapter.params).items()
    }
    put_on = model.adapter.card.adapter
    write_adapter(folder, put_on, arrays, model.card, model.tokenizer)
    size = count(sum(array.size for array in by_name(model.adapter.params).values()))
    console().print(
        f"{folder}: an adapter as PEFT reads it, {size} parameters, on {put_on.base}"
    )


def _write_hf(model: "LoadedModel", folder: Path, precision: str) -> None:
    """Writes beside the folder, compares, and only then gives it its name."""
    from lm.artifact import by_name
    from lm.hub.base import FamilySettings, transformer_of
    from lm.hub.writing import choose_family, write_folder
    from lm.output.tensors import LazyArray

    card = model.card
    settings = FamilySettings(
        model=transformer_of(card.model),
        objective=card.objective,
        length=card.length,
        vocabulary=model.tokenizer.vocabulary.size,
    )
    written = choose_family(settings, first=card.origin.family)
    arrays = by_name(model.artifact.params)
    lazy = {name: LazyArray.of(array) for name, array in arrays.items()}
    made = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name}."))
    try:
        otherwise = write_folder(made, written, lazy, model.tokenizer, precision=precision)
        worst = _difference(model, made, precision)
        if folder.exists():
            folder.rmdir()
        made.chmod(0o755)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    say = console().print
    size = sum(array.size for array in arrays.values())
    name = written.family.architecture(written.kind, settings)
    say(f"{folder}: {name}, {count(size)} parameters; read again, it differs by {worst:.1g}")
    if otherwise:
        say(otherwise)


def _difference(model: "LoadedModel", folder: Path, precision: str) -> float:
    """By how much what was written answers otherwise; raises UserError where that is more than
    rounding.
    """
    import jax

    from lm.hub.parity import WRITTEN_TOLERANCE, answers, draw_rows, largest_difference
    from lm.train.load import load_model

    again, run = load_model(folder, precision="float32"), model.run
    rows = draw_rows(
        model.tokenizer.vocabulary,
        length=run.data.length,
        types=run.model.token_types,
        source=run.model.reads_source,
    )
    params = model.params
    if precision != "float32":  # what is left of the numbers that are written
        params = jax.tree.map(lambda x: x.astype(precision).astype(x.dtype), params)
    module, objective = model.program.module, run.objective.last
    mine = answers(module, params, objective, rows)
    other = answers(again.program.module, again.params, again.run.objective, rows)
    worst = largest_difference(other, mine, rows)
    if not worst <= WRITTEN_TOLERANCE:
        raise UserError(
            f"{folder}: not exported: what was written answers otherwise by {worst:.2g}; at"
            f" most {WRITTEN_TOLERANCE:g} is rounding"
        )
    return worst
