"""`lm audit`: whether two runs saw the same rows in the same order."""

import argparse
import sys
from pathlib import Path

from lm.distributed.process import Parser
from lm.output.console import add_json, print_json


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Compares the digests of all batches that two runs trained on, whatever their"
        " objectives, meshes and restarts. Exit code 0: the same in every step; 1: not, and the"
        " first step is named in which they part or one ends."
    )
    parser.add_argument("directories", metavar="RUN_DIR", type=Path, nargs=2)
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Prints what was found; exit code 1 where the batches are not the same."""
    from lm.verify import batches

    a, b = given.directories
    found = batches.audit(a, b)
    if given.json:
        print_json({"same": found.same, **found._asdict()})
    else:
        print(batches.report(a, b, found))
    sys.exit(0 if found.same else 1)
