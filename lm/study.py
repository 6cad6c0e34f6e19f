"""A study: a grid of runs, each trained and asked the same questions, and the report on them.

A study is a module with a docstring (the question), `SCALES`, `runs(scale)`, `report(cells)`
and `EFFORT`, how much a scale spends on scoring where that is not the usual.
"""

import argparse
import difflib
import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rich.console import Console

from lm import report
from lm.config import UserError, override
from lm.evaluate import Effort, evaluate
from lm.run import Run, validate
from lm.start import one_line_errors, prepare_machine
from lm.train.fit import fit


class Cell(NamedTuple):
    """One run of a study and what came of it."""

    name: str
    run: Run
    result: dict[str, Any] | None
    """None until it is finished."""
    directory: Path


def main(study: ModuleType, arguments: list[str] | None = None) -> None:
    """`python -m experiments.NAME`: runs what is not finished yet, then draws the report."""
    name = Path(study.__file__ or "").stem
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=study.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", choices=study.SCALES, default=study.SCALES[0])
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs are kept")
    parser.add_argument("--cell", action="append", metavar="NAME", help="only this cell")
    parser.add_argument("--report", action="store_true", help="only draw the report again")
    parser.add_argument(
        "overrides", nargs="*", metavar="field.path=value", help="changes every run alike"
    )
    given = parser.parse_args(arguments)
    with one_line_errors():
        directory = Path(given.runs) / name / given.scale
        runs = {
            cell: validate(override(run, given.overrides))
            for cell, run in study.runs(given.scale).items()
        }
        if not given.report:
            effort = study.EFFORT.get(given.scale, Effort())
            train(runs, chosen(runs, given.cell), directory, effort)
        draw(study, runs, directory)


def train(runs: dict[str, Run], names: Iterable[str], directory: Path, effort: Effort) -> None:
    """Trains and evaluates the named cells, one after the other; finished ones are skipped."""
    prepare_machine()
    for name in names:
        fit(
            runs[name],
            directory / name,
            evaluate=partial(evaluate, effort=effort),
            label=name,
        )


def draw(study: ModuleType, runs: dict[str, Run], directory: Path) -> None:
    """Writes and prints the report on the cells that are finished."""
    cells = results(runs, directory)
    if not any(cell.result for cell in cells):
        raise UserError(
            f"{directory}: no finished cell to report on; run without --report first"
        )
    drawn = study.report(cells)
    page = report.write(drawn, directory)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(report.table(drawn))
    console.print(drawn.answer, highlight=False)
    console.print(str(page), highlight=False, soft_wrap=True)


def results(runs: dict[str, Run], directory: Path) -> list[Cell]:
    """All cells, with the results of those that are finished."""
    return [
        Cell(name, run, _result(directory / name), directory / name)
        for name, run in runs.items()
    ]


def chosen(runs: dict[str, Run], names: list[str] | None) -> list[str]:
    """The named cells, or all; raises UserError on a name that is not there."""
    for name in names or []:
        if name not in runs:
            near = difflib.get_close_matches(name, runs, 3, 0.3) or list(runs)[:3]
            raise UserError(f"cell {name}: not in this study; nearest: {', '.join(near)}")
    return names or list(runs)


def _result(directory: Path) -> dict[str, Any] | None:
    path = directory / "result.json"
    return json.loads(path.read_text()) if path.exists() else None
