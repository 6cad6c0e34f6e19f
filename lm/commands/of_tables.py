"""What `lm fit` and `lm compare` have in common: options of tables, and their checks."""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lm.config import UserError
from lm.output.console import add_json
from lm.output.files import check_exists, check_outputs, write_whole
from lm.scaling.bootstrap import FEWEST_DRAWS
from lm.scaling.columns import USUAL
from lm.scaling.table import ColumnValues, DataError, read, unit_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_DRAWS = 100_000
"""Draws of a bootstrap: their numbers are all kept in memory and in --json."""


def add_columns(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Options that name a column each."""
    for name in names:
        usual = " or ".join(USUAL[name])
        parser.add_argument(f"--{name}", metavar="COL", help=f"its column (default: {usual})")


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of both."""
    add_list(
        parser, "--unit", "WHAT=UNIT", "that columns are in: params=M tokens=B flops=GFLOP"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="DRAWS", help="0: no intervals"
    )
    parser.add_argument("--seed", type=int, default=0)
    add_json(parser)
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="or OUT.svg")


def add_list(parser: argparse.ArgumentParser, option: str, metavar: str, help: str) -> None:
    """An option that takes several values, and may be given again."""
    parser.add_argument(
        option, nargs="+", action="extend", default=[], metavar=metavar, help=help
    )


def check_common(given: argparse.Namespace, tables: Iterable[Path]) -> dict[str, float]:
    """The units, once all is checked that can be before a table is read; raises UserError."""
    check_draws(given)
    if given.plot and given.plot.suffix not in (".png", ".svg"):
        raise UserError(f"--plot {given.plot}: must end in .png or .svg")
    files = [path / "results.csv" if path.is_dir() else path for path in tables]
    check_outputs({"--plot": given.plot}, files)
    return once("--unit", map(_unit, given.unit))


def check_draws(given: argparse.Namespace) -> None:
    """Raises UserError where a bootstrap has too few draws or too many."""
    check_least(given, ("bootstrap", 0), ("seed", 0))
    if 0 < given.bootstrap < FEWEST_DRAWS:
        raise UserError(
            f"--bootstrap {given.bootstrap}: intervals need {FEWEST_DRAWS} or more; 0: none"
        )
    if given.bootstrap > _MOST_DRAWS:
        raise UserError(f"--bootstrap {given.bootstrap}: at most {_MOST_DRAWS:,}")


def check_least(given: argparse.Namespace, *least: tuple[str, float]) -> None:
    """Raises UserError where an option is below its least value."""
    for option, lowest in least:
        if getattr(given, option) < lowest:
            raise UserError(
                f"--{option.replace('_', '-')} {getattr(given, option)}: must be >= {lowest}"
            )


def assignment(text: str) -> tuple[str, float]:
    """The name and the finite number of NAME=NUMBER; raises UserError."""
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not math.isfinite(number):
        raise UserError(f"{text}: write NAME=NUMBER")
    return name.strip(), number


def once(option: str, pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The pairs, each name once: of two values for one, neither is what was meant."""
    found: dict[str, float] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{option}: {name} is given twice ({found[name]:g}, {value:g})")
        found[name] = value
    return found


def _unit(text: str) -> tuple[str, float]:
    what, equals, unit = text.partition("=")
    try:
        if not equals or what not in ("params", "tokens", "flops", "unique"):
            raise ValueError
        return what, unit_of(unit)
    except ValueError:
        raise UserError(
            f"--unit {text}: write params, tokens, flops or unique, and k, M, B, T, GFLOP,"
            " PFLOP-days or a number: params=M"
        ) from None


def columns_of(given: argparse.Namespace) -> dict[str, str]:
    """The columns that the command line names, by quantity."""
    found = {what: getattr(given, what, None) for what in USUAL}
    return {what: name for what, name in found.items() if name is not None}


def read_table(path: Path) -> ColumnValues:
    """The columns of a file; UserError, which names it, where it has none."""
    check_exists(path)
    with said_of(path):
        columns = read(path)
    return columns


@contextmanager
def said_of(what: object = "") -> Iterator[None]:
    """A DataError within is a UserError, which begins with what it is of."""
    try:
        yield
    except DataError as error:
        raise UserError(f"{what}: {error}" if what else str(error)) from None


def write_plot(path: Path | None, draw: Callable[[], "Figure"]) -> None:
    """Draws a figure in the look of all figures, if one is asked for."""
    if path is None:
        return
    from lm.study.report.figures import drawing, styled

    with styled():
        content = drawing(draw(), path.suffix)
    write_whole(path, content)
