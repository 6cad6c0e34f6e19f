"""`lm prove`: that no prediction of a run depends on what it must not see."""

import argparse

from lm.commands.named import OVERRIDES, RUN, find_run, with_defaults
from lm.config import override
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import console


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = "Proves that no prediction of a run depends on what it must not see."
    parser.add_argument("run", help=f"{RUN}; of it, the objective and the kind of model")
    parser.add_argument("overrides", nargs="*", metavar=OVERRIDES)


def main(given: argparse.Namespace) -> None:
    """Proves it with a tiny model of the kind, and prints how; UserError where it is not so."""
    from lm.run import validate
    from lm.verify.leaks import prove_all

    name, overrides = with_defaults(given.run, given.overrides)
    run = validate(override(find_run(name)[0], overrides))
    prepare_machine()
    prove_all(run.objective, run.model, console(), attention=run.attention)
