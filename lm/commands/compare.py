"""`lm compare`: how many times the compute one variant needs for another's loss."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lm.commands.of_tables import (
    add_columns,
    add_common,
    add_list,
    assignment,
    check_common,
    columns_of,
    once,
    read_table,
    said_of,
    write_plot,
)
from lm.config import UserError
from lm.distributed.process import Parser
from lm.output.console import console, print_json, print_notes, print_table, table
from lm.output.numbers import ends, number
from lm.scaling.columns import (
    USUAL,
    common_loss,
    kinds,
    magnitudes,
    mixed_kinds,
    named,
    usable_runs,
)
from lm.scaling.compare import Comparison, compare, held_equal, mean_of_seeds
from lm.scaling.table import ColumnValues, Runs, groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Compares two files (or folders with a results.csv), two groups of one, or one file"
        " with a law."
    )
    parser.add_argument("first", metavar="A", type=Path)
    parser.add_argument("second", metavar="B", type=Path, nargs="?")
    parser.add_argument("--by", metavar="COL", help="the column that names the groups")
    parser.add_argument("--groups", nargs=2, metavar=("X", "Y"), help="two of its values")
    constants = "the second is this law L = E + k_L C^-x: k_L=95.18 x=0.0941 E=1.6"
    add_list(parser, "--law", "NAME=VALUE", constants)
    parser.add_argument(
        "--floor", type=float, default=0.0, metavar="E", help="of the laws that are fit (0)"
    )
    add_columns(parser, ("loss", "flops"))
    add_common(parser)


def main(given: argparse.Namespace) -> None:
    """Compares both variants, and prints the compute between them and what was held equal."""
    tables = [path for path in (given.first, given.second) if path]
    units = check_common(given, tables)
    constants = once("--law", map(assignment, given.law))
    if constants and given.plot:
        raise UserError("--plot: draws two variants that have rows, not a --law")
    variants, labels = _variants(given)
    chosen = columns_of(given)
    with said_of():
        if "loss" not in chosen and (loss := common_loss(variants, labels)):
            chosen["loss"] = loss
    files = given.first, given.second or given.first
    # Rows of a group are counted within it, which is said.
    within = [f" of {name}'s" for name in given.groups or ()] or ["", ""]
    ours, theirs = (
        _variant(columns, chosen, where, units, of)
        for columns, where, of in zip(variants, files, within, strict=True)
    )
    with said_of("" if constants else " and ".join(labels)):
        found = compare(
            ours.runs,
            constants or theirs.runs,
            floor=given.floor,
            bootstrap=given.bootstrap,
            seed=given.seed,
        )
    loss = theirs.names["loss"]
    if loss != USUAL["loss"][0] and (note := f"loss is column {loss}") not in ours.notes:
        ours.notes.append(note)
    notes = list(dict.fromkeys([*ours.notes, *theirs.notes, *kinds(variants, labels)]))
    equal, differ = held_equal(*variants)
    if constants:  # which says nothing of its runs
        equal, differ = [], {}

    def draw() -> "Figure":
        from lm.scaling.plots import comparison_figure

        return comparison_figure(found, labels, loss)

    write_plot(given.plot, draw)
    if not given.json:
        _print(found, labels, equal, differ, notes)
        return
    exponents = [fit.exponents for fit in found.fits]
    print_json(
        {
            "variants": labels,
            "multipliers": [asdict(point) for point in found.points],
            "per_decade": {"times": found.per_decade, "ci95": found.per_decade_ci95},
            "exponents": dict(zip(labels, exponents, strict=True)),
            "held_equal": equal,
            "differ": differ,
            "warnings": [*notes, *found.warnings],
        }
    )


# The variants


class _Variant(NamedTuple):
    runs: Runs
    names: Mapping[str, str]
    notes: list[str]


def _variants(
    given: argparse.Namespace,
) -> tuple[tuple[ColumnValues, ColumnValues], tuple[str, str]]:
    """Both variants' tables and names."""
    first = read_table(given.first)
    if given.law:
        if given.second or given.by or given.groups:
            raise UserError("compare one file with a --law: no second file, no groups")
        return (first, first), (_label(given.first), "the law")
    if given.second is not None:
        if given.by or given.groups:
            raise UserError("compare two files, or two groups of one: not both")
        labels = _label(given.first), _label(given.second)
        if labels[0] == labels[1]:
            labels = str(given.first), str(given.second)
        return (first, read_table(given.second)), labels
    if not given.by or not given.groups:
        raise UserError(
            "compare two files, or two groups of one: --by COL --groups X Y, or one file with"
            " --law k_L=.. x=.."
        )
    with said_of(given.first):
        rows = groups(first, [given.by])
    for name in given.groups:
        if name not in rows:
            raise UserError(
                f"{given.first}: column {given.by} has no {name}; it has {', '.join(rows)}"
            )
    ours, theirs = (
        {key: [values[row] for row in rows[name]] for key, values in first.items()}
        for name in given.groups
    )
    return (ours, theirs), tuple(given.groups)


def _variant(
    columns: ColumnValues,
    chosen: Mapping[str, str],
    where: Path,
    units: Mapping[str, float],
    of: str,
) -> _Variant:
    needs = ("loss", "flops")
    with said_of(f"{where}{of and f', rows{of}'}"):
        names, notes = named(columns, chosen, needs)
        runs, columns, left_out = usable_runs(columns, names, needs, units, of)
        left_out += mixed_kinds(columns, np.arange(len(runs)))
        if runs.params_R is None and "seed" in columns:
            runs = mean_of_seeds(runs, list(columns["seed"]))
    return _Variant(runs, names, [*notes, *left_out, *magnitudes(runs, names)])


def _label(path: Path) -> str:
    return path.resolve().parent.name if path.name == "results.csv" else path.stem


# What comes out


def _print(
    found: Comparison,
    labels: Sequence[str],
    equal: Sequence[str],
    differ: Mapping[str, float | None],
    notes: Sequence[str],
) -> None:
    titles = (f"flops of {labels[0]}", "loss", f"flops of {labels[1]}", "times", "95%", "")
    made = table(*titles, right=titles)
    for point in found.points:
        made.add_row(
            number(point.flops),
            number(point.loss),
            number(point.flops_needed),
            f"{point.multiplier:.3g}",
            ends(point.ci95),
            "extrapolated" if point.extrapolated else "",
        )
    print_table(made)
    times = [point.multiplier for point in found.points]
    span = f"{min(times):.3g}" + (f" to {max(times):.3g}" if len(times) > 1 else "")
    beyond = all(point.extrapolated for point in found.points)
    console().print(
        f"{labels[1]} needs {span} times the compute of {labels[0]} for its loss"
        + (", as its law is drawn on: it has measured no such loss" if beyond else "")
    )
    if found.per_decade is not None:
        both = ends(found.per_decade_ci95)
        console().print(
            f"with ten times the compute that is {found.per_decade:.3g} times as many"
            + (f" (95% {both})" if both else "")
        )
    console().print(f"held equal: {', '.join(equal) or 'none of the columns that are known'}")
    if differ:
        shown = [
            name if ratio is None else f"{name} (median × {ratio:.3g})"
            for name, ratio in differ.items()
        ]
        console().print(f"different: {', '.join(shown)}")
    print_notes(notes, found.warnings)
