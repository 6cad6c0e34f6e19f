"""`lm export`: the model of a run as a folder of its own."""

import argparse
from pathlib import Path

from lm.distributed.process import Parser, prepare_machine
from lm.output.console import console
from lm.output.numbers import count


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.add_argument("model", metavar="RUN_DIR", type=Path, help="or another artifact")
    parser.add_argument("folder", metavar="DIR", type=Path, help="made; must not hold anything")


def main(given: argparse.Namespace) -> None:
    """Writes the artifact and says what it holds."""
    from lm.artifact import by_name, check_folder, save_artifact
    from lm.distributed import hosts
    from lm.train.load import load_model

    check_folder(given.folder)  # before a large model is loaded
    prepare_machine()
    artifact = load_model(given.model).artifact
    if hosts.is_first():
        save_artifact(artifact, given.folder)
    size = sum(array.size for array in by_name(artifact.params).values())
    origin = artifact.card.origin
    console().print(
        f"{given.folder}: {count(size)} parameters, step {origin.step} of {origin.steps},"
        f" digest {artifact.digest}"
    )
