"""`lm predict`: what a study's law says of its runs before they are trained."""

import argparse
from pathlib import Path

from lm.commands.named import find_study, parts, scale_of
from lm.commands.of_tables import check_draws
from lm.config import UserError
from lm.distributed.process import Parser
from lm.output.console import console, print_notes, print_table, table
from lm.output.files import check_outputs, write_whole
from lm.output.numbers import ends, number


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Fits a study's law to its finished runs, and writes what it says of those that have"
        " not begun."
    )
    parser.add_argument("study", metavar="STUDY[/SCALE]")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FORECAST.json", help="a new file"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="DRAWS")
    parser.add_argument("--seed", type=int, default=0)


def main(given: argparse.Namespace) -> None:
    """Writes the forecast and prints it; UserError where there is nothing to forecast."""
    check_draws(given)
    if given.out.exists():
        raise UserError(f"--out {given.out}: exists; a forecast is not written over")
    check_outputs({"--out": given.out}, [])
    import msgspec

    from lm.study.forecasts import foretell
    from lm.study.runner import cells_of

    name, scale, run = parts(given.study)
    if run:
        raise UserError(f"{given.study}: forecasts are of a study, without :{run}")
    study = find_study(name)
    scale = scale_of(study, name, scale or study.SCALES[0])
    if not hasattr(study, "LAW"):
        raise UserError(f"{name}: declares no LAW, so nothing says what its runs will come to")
    made = foretell(
        study.LAW,
        cells_of(study, name, scale, given.runs),
        study=name,
        scale=scale,
        bootstrap=given.bootstrap,
        seed=given.seed,
    )
    write_whole(given.out, msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    shown = table("run to come", "flops", "loss", "95%", right=("flops", "loss", "95%"))
    for each in made.runs:
        shown.add_row(each.name, number(each.flops), number(each.loss), ends(each.ci95))
    print_table(shown)
    console().print(
        f"{given.out}: {len(made.runs)} runs by the {made.law} law of {len(made.fitted)},"
        f" {made.made}, digest {made.digest[:16]}"
    )
    print_notes((), made.warnings)
