"""`lm train`: a run's directory from its settings."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm.commands.named import OVERRIDES, RUN, find_run, with_defaults
from lm.config import describe, override
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import add_json, print_json
from lm.output.numbers import number


def add_arguments(parser: Parser) -> None:
    """The command line; `--help` lists every field of a run."""
    parser.description = "Trains a run, from its newest checkpoint if it has one."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.more = _fields
    parser.add_argument("run", help=RUN)
    parser.add_argument("--dir", metavar="DIR", help="run directory (default: runs/NAME)")
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar=OVERRIDES)


def main(given: argparse.Namespace) -> None:
    """Trains, and prints what result.json says."""
    from lm.evaluate.evaluators import check_evaluators, evaluate_during
    from lm.run import validate
    from lm.train.train import train_run

    name, overrides = with_defaults(given.run, given.overrides)
    run, default, evaluator = find_run(name)
    run = validate(override(run, overrides))
    check_evaluators(run)
    prepare_machine()
    target = Path(given.dir) if given.dir else Path("runs") / default
    result = train_run(run, target, evaluate=evaluator, evaluate_during=evaluate_during)
    print_json(dict(result)) if given.json else _print(result)


def _fields() -> str:
    from lm.run import Run

    return "fields, as field.path=value:\n\n" + describe(Run)


def _print(result: Mapping[str, Any]) -> None:
    """Numbers and digests, a line each; what else is nested is in result.json alone."""
    for name, value in [*result.items(), *(result.get("validation_terms") or {}).items()]:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            shown = value if isinstance(value, str) else number(value)
            print(f"{name:<22} {shown}")
    scores = result.get("by_component") or {}
    for name, read in (result.get("components") or {}).items():
        epochs = f"{number(read.tokens)} tokens, {number(read.epochs)} epochs"
        score = (
            f", {number(scores[name].bits_per_byte)} bits per byte" if name in scores else ""
        )
        print(f"component {name:<12} {epochs}{score}")
