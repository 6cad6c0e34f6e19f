"""`lm export`: a model as a folder of its own, in our format or in Hugging Face's."""

import argparse
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
    check_folder(given.folder)  # before a large model is loaded
    prepare_machine()
    if given.format == "hf":
        _write_hf(given.model, given.folder, given.precision or "float32")
        return
    artifact = load_model(given.model).artifact
    if hosts.is_first():
        save_artifact(artifact, given.folder)
    size = sum(array.size for array in by_name(artifact.params).values())
    origin = artifact.card.origin
    came = f"from {origin.source}" if origin.family else f"step {origin.step} of {origin.steps}"
    console().print(
        f"{given.folder}: {count(size)} parameters, {came}, digest {artifact.digest}"
    )


def _write_hf(source: Path, folder: Path, precision: str) -> None:
    """Writes beside the folder, compares, and only then gives it its name."""
    from lm.artifact import by_name
    from lm.hub.base import FamilySettings
    from lm.hub.writing import choose_family, write_folder
    from lm.output.tensors import LazyArray
    from lm.train.load import load_model

    model = load_model(source, precision="float32")
    card = model.artifact.card
    settings = FamilySettings(
        model=card.model,
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

    from lm.hub.parity import WRITTEN_TOLERANCE, answers, difference, draw_rows
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
    worst = difference(other, mine, rows)
    if not worst <= WRITTEN_TOLERANCE:
        raise UserError(
            f"{folder}: not exported: what was written answers otherwise by {worst:.2g}; at"
            f" most {WRITTEN_TOLERANCE:g} is rounding"
        )
    return worst
