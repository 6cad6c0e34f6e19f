"""`lm import`: a model of others as an artifact of ours."""

import argparse
import math
from pathlib import Path

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import console
from lm.output.numbers import count


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.add_argument(
        "model", metavar="FOLDER_OR_NAME", help="a Hugging Face folder, or a name on the hub"
    )
    parser.add_argument("folder", metavar="ARTIFACT", type=Path, help="made; must be empty")
    parser.add_argument("--revision", help="commit, tag or branch of a name")
    parser.add_argument(
        "--base", metavar="MODEL", type=Path, help="of an adapter of PEFT's: what it is put on"
    )


def main(given: argparse.Namespace) -> None:
    """Writes the artifact, checks it against a file of answers, and says what it holds."""
    from lm.artifact import check_folder, write_artifact
    from lm.hub.folder import open_folder
    from lm.hub.names import download, is_name
    from lm.hub.peft import is_peft_folder

    check_folder(given.folder)
    source, revision = Path(given.model), ""
    if source.exists():
        if given.revision:
            raise UserError(f"--revision {given.revision}: {source} is a folder, and has none")
    elif is_name(given.model):
        source, revision = download(given.model, revision=given.revision)
    else:
        raise UserError(f"{source}: there is no such folder, and it is no name")
    prepare_machine()
    if is_peft_folder(source):
        _import_adapter(source, given.base, given.folder)
        return
    if given.base is not None:
        raise UserError(f"--base {given.base}: {source} is a whole model; leave it out")
    foreign = open_folder(source, source=given.model, revision=revision)
    compared = _compare(source)
    write_artifact(foreign.card, foreign.tokenizer, foreign.arrays, given.folder)
    numbers = sum(math.prod(array.shape) for array in foreign.arrays.values())
    origin = foreign.card.origin
    say = console().print
    say(
        f"{given.folder}: {origin.family}, {count(numbers)} parameters,"
        f" {', '.join(sorted(foreign.card.objective.predictions)) or 'predicts nothing'}"
    )
    for line in (*foreign.said, compared):
        say(line)


def _import_adapter(source: Path, base: Path | None, folder: Path) -> None:
    """Writes an adapter of PEFT's as one of ours, with the digest of the model it is put on."""
    from lm.artifact import by_name
    from lm.train.load import load_model, save_model

    if base is None:
        raise UserError(
            f"{source}: an adapter, and no model: --base MODEL says what it is put on"
        )
    model = load_model(base, adapter=source)
    save_model(model, folder, what="adapter")
    assert model.adapter is not None
    size = count(sum(array.size for array in by_name(model.adapter.params).values()))
    console().print(f"{folder}: an adapter, {size} parameters, on {base}")


def _compare(source: Path) -> str:
    """Refuses a model that answers otherwise than the file in its folder says."""
    from lm.hub.parity import (
        REFERENCE,
        REFERENCE_TOLERANCE,
        answers,
        largest_difference,
        read_reference,
    )
    from lm.train.load import load_model

    reference = read_reference(source)
    if reference is None:
        return f"not compared: no {REFERENCE} is there (lm reference {source})"
    rows, wanted = reference
    model = load_model(source)
    found = answers(model.program.module, model.params, model.run.objective, rows)
    if found.shape != wanted.shape:
        raise UserError(
            f"{source / REFERENCE}: its answers are {list(wanted.shape)}, the model's"
            f" {list(found.shape)}"
        )
    if not (worst := largest_difference(found, wanted, rows)) <= REFERENCE_TOLERANCE:
        raise UserError(
            f"{source}: not imported: its answers differ from {REFERENCE} by {worst:.2g}; at"
            f" most {REFERENCE_TOLERANCE:g} is rounding"
        )
    return f"compared with {REFERENCE}: differs by at most {worst:.1g}"
