"""`lm prove`: that no prediction of a run depends on what it must not see; what a scorer is."""

import argparse

from lm.commands.named import OVERRIDES, RUN, find_run, with_defaults
from lm.config import UserError, override
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import console


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Proves that no prediction of a run depends on what it must not see; or, of anybody's"
        " scorer of masked models, that its accounts are right."
    )
    parser.add_argument(
        "run", nargs="?", default="-", help=f"{RUN}; of it, the objective and kind of model"
    )
    parser.add_argument("overrides", nargs="*", metavar=OVERRIDES)
    parser.add_argument(
        "--scorer",
        metavar="MODULE:FUNCTION",
        help="in place of a run: a function of (ask, tokens, mask, sizes) that returns nats of"
        " tokens or bits per byte, held to a source whose truth is known",
    )


def main(given: argparse.Namespace) -> None:
    """Proves it with a tiny model of the kind, and prints how; UserError where it is not so."""
    if given.scorer is not None:
        if given.run != "-" or given.overrides:
            raise UserError("--scorer: give a run or a scorer, not both")
        _hold(given.scorer)
        return
    from lm.run import validate
    from lm.verify.leaks import prove_all

    name, overrides = with_defaults(given.run, given.overrides)
    run = validate(override(find_run(name)[0], overrides))
    prepare_machine()
    prove_all(run.objective, run.model, console(), attention=run.attention)


def _hold(name: str) -> None:
    """Says which errors a scorer's accounts show; UserError where they show any."""
    from lm.verify.accounting import account, find_scorer

    found = account(find_scorer(name))
    print(
        f"{name}: {found.bits_per_byte:.4f} bits per byte of a known source, whose truth is"
        f" {found.truth:.4f}; all strings of a model get probability {found.strings:.3f}"
    )
    found.raise_if_wrong()
    print("no error shown")
