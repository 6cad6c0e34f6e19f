"""`lm fit` and `lm compare`: tables of runs -> laws with error bars, text, JSON, figures."""

import argparse
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from lm.config import UserError
from lm.distributed.process import Parser, one_line_errors
from lm.output.files import check_outputs, write_whole
from lm.scaling import envelope, isoflop
from lm.scaling.bootstrap import FEWEST_DRAWS
from lm.scaling.compare import Comparison, held_equal, mean_of_seeds
from lm.scaling.compare import compare as compare_arms
from lm.scaling.data_constrained import fit_data_constrained
from lm.scaling.fit import Fit, Interval, predict
from lm.scaling.joint import Joint, fit_joint
from lm.scaling.parametric import fit_parametric
from lm.scaling.power import QUANTITIES, fit_power
from lm.scaling.table import (
    Columns,
    DataError,
    Runs,
    column,
    groups,
    numbers,
    parsed,
    read,
    unit_of,
)

LAWS = ("parametric", "power", "isoflop", "envelope", "data-constrained")

_MOST_DRAWS = 100_000
"""Draws of a bootstrap: their numbers are all kept in memory and in --json."""

_COLUMNS = {
    "loss": ("loss", "bits_per_byte", "validation_loss"),
    "params": ("params", "params_total"),
    "tokens": ("tokens",),
    "flops": ("flops",),
    "unique": ("unique_tokens",),
}
"""Which columns are read where none is named: the first that exists."""
_NEEDS = {
    "parametric": ("loss", "params", "tokens"),
    "isoflop": ("loss", "params", "flops"),
    "envelope": ("loss", "flops"),
    "data-constrained": ("loss", "params", "tokens", "unique"),
}
_OF_LAWS = {
    "against": ("flops", ("power",)),
    "delta": (1e-3, ("parametric", "data-constrained")),
    "tolerance": (0.1, ("isoflop",)),
    "unique": (None, ("data-constrained",)),
}
"""Options that some laws alone know: what they are where none was given, and those laws."""
_STANDS_IN = {
    "flops": "6 × params × tokens",
    "tokens": "flops / (6 × params)",
    "params": "flops / (6 × tokens)",
}


def main(arguments: list[str]) -> None:
    """Either command, its name first."""
    parser = Parser(prog="lm", description=__doc__)
    _add_commands(parser.add_subparsers(dest="command", required=True, metavar="command"))
    given = parser.parse_args(arguments)
    with one_line_errors():
        if given.command == "fit":
            fit(given)
        else:
            compare(given)


def fit(given: argparse.Namespace) -> None:
    """`lm fit`."""
    _check(given)
    fixed = _once("--fix", map(_assignment, given.fix))
    points = [_point(text) for text in given.predict]
    units = _once("--unit", map(_unit, given.unit))
    try:
        columns = _read(given.file)
        needs = ("loss", given.against) if given.law == "power" else _NEEDS[given.law]
        names, notes = _named(columns, given, needs)
        runs, columns, left_out = _runs(columns, names, needs, units)
        notes += [*left_out, *_magnitudes(runs, names)]
        if given.cluster:
            runs = replace(runs, cluster_R=_clusters(columns, given.cluster))
        rows = groups(columns, given.by) if given.by else {"": np.arange(len(runs))}
        for name, rows_R in rows.items():
            notes += [f"{name}: {said}" if name else said for said in _mixed(columns, rows_R)]
        parts = {
            name: runs.take(rows_R).without_worst(given.drop_worst)
            for name, rows_R in rows.items()
        }
        joint = _fit_joint(parts, fixed, given) if given.share else None
        fits = dict(joint.fits) if joint else {}
        failed = {}
        for name, part in parts.items():
            if not joint:
                try:
                    fits[name] = _fit_one(part, fixed, given)
                except DataError as error:
                    failed[name] = str(error)
        if not fits:
            name, why = next(iter(failed.items()))
            raise DataError(f"{name}: {why}" if name else why)
        notes += [f"{name}: left out: {why}" for name, why in failed.items()]
        predictions, silent = _predictions_of(fits, points)
        notes += silent
    except DataError as error:
        raise UserError(f"{given.file}: {error}") from None
    if {"flops", "params", "tokens"} <= set(names) and runs.flops_R is not None:
        notes += _flops_notes(runs, given.law)
    notes += _extrapolations(fits, predictions)
    report = _report(fits, predictions, notes, joint)
    figure = _fit_drawing(fits, parts, names["loss"], given.plot)
    write_whole(given.json, _json(report))
    write_whole(given.plot, figure)
    _print_fit(fits, predictions, notes, joint, given.bootstrap)


def compare(given: argparse.Namespace) -> None:
    """`lm compare`."""
    _check(given)
    arms, labels = _arms(given)
    files = given.first, given.second or given.first
    _common_loss(arms, labels, given)
    units = _once("--unit", map(_unit, given.unit))
    # Rows of a group are counted within it, which is said.
    within = [f" of {name}'s" for name in given.groups or ()] or ["", ""]
    ours, theirs = (
        _arm(columns, given, where, units, of)
        for columns, where, of in zip(arms, files, within, strict=True)
    )
    try:
        found = compare_arms(ours.runs, theirs.runs, bootstrap=given.bootstrap, seed=given.seed)
    except DataError as error:
        raise UserError(f"{' and '.join(labels)}: {error}") from None
    loss = theirs.names["loss"]
    if loss != _COLUMNS["loss"][0] and (note := f"loss is column {loss}") not in ours.notes:
        ours.notes.append(note)
    notes = list(dict.fromkeys([*ours.notes, *theirs.notes, *_kinds(arms, labels)]))
    equal, differ = held_equal(*arms)
    report = {
        "arms": list(labels),
        "multipliers": [asdict(point) for point in found.points],
        "exponents": {
            label: fit.exponents for label, fit in zip(labels, found.fits, strict=True)
        },
        "held_equal": equal,
        "differ": differ,
        "warnings": [*notes, *found.warnings],
    }
    figure = _comparison_drawing(found, labels, loss, given.plot)
    write_whole(given.json, _json(report))
    write_whole(given.plot, figure)
    _print_comparison(found, labels, equal, differ, notes)


# The settings


def _add_commands(commands: Any) -> None:
    fit = commands.add_parser(
        "fit",
        description="Fits a law to a .csv, .json, .jsonl or .parquet file, a run a row.",
    )
    fit.add_argument("file", metavar="FILE", type=Path)
    fit.add_argument("--law", choices=LAWS, default="parametric")
    _add_columns(fit, ("params", "tokens", "loss", "flops", "unique"))
    fit.add_argument(
        "--by",
        nargs="+",
        action="extend",
        default=[],
        metavar="COL",
        help="a law for each group",
    )
    fit.add_argument(
        "--share",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="one parametric law with these in common to all groups, and a test of that",
    )
    fit.add_argument(
        "--cluster",
        metavar="COL",
        help="rows alike in it are of one run, and resampled together",
    )
    fit.add_argument(
        "--method",
        choices=(*isoflop.METHODS, *envelope.METHODS),
        help="how isoFLOP minima are found (parabola), or the envelope (hull)",
    )
    fit.add_argument(
        "--against", choices=QUANTITIES, default="flops", help="what a power law is of"
    )
    fit.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        default=_OF_LAWS["tolerance"][0],
        help="isoFLOP: runs whose flops differ by less than this share are of one budget",
    )
    fit.add_argument(
        "--drop-worst", type=int, default=0, metavar="K", help="without the K highest losses"
    )
    fit.add_argument(
        "--delta",
        type=float,
        default=_OF_LAWS["delta"][0],
        help="of the Huber loss of ln L",
    )
    fit.add_argument(
        "--fix", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="not fit"
    )
    fit.add_argument(
        "--predict",
        nargs="+",
        action="extend",
        default=[],
        metavar="WHAT=VALUE,..",
        help="flops=1e21 for the best split, or params=1e9,tokens=2e10[,unique=1e9]",
    )
    compare = commands.add_parser(
        "compare",
        description="Compares two files (or folders with a results.csv), or two groups of one.",
    )
    compare.add_argument("first", metavar="A", type=Path)
    compare.add_argument("second", metavar="B", type=Path, nargs="?")
    compare.add_argument("--by", metavar="COL", help="the column that names the groups")
    compare.add_argument("--groups", nargs=2, metavar=("X", "Y"), help="two of its values")
    _add_columns(compare, ("loss", "flops"))
    for parser in (fit, compare):
        parser.add_argument(
            "--unit",
            nargs="+",
            action="extend",
            default=[],
            metavar="WHAT=UNIT",
            help="that columns are in: params=M tokens=B flops=GFLOP",
        )
        parser.add_argument(
            "--bootstrap", type=int, default=1000, metavar="DRAWS", help="0: no intervals"
        )
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers there")
        parser.add_argument("--plot", type=Path, metavar="OUT.png", help="or OUT.svg")


def _add_columns(parser: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        usual = " or ".join(_COLUMNS[name])
        parser.add_argument(f"--{name}", metavar="COL", help=f"its column (default: {usual})")


def _check(given: argparse.Namespace) -> None:
    """Everything that can be known to be wrong before the file is read."""
    for option, least in (("bootstrap", 0), ("seed", 0), ("drop_worst", 0)):
        if getattr(given, option, least) < least:
            raise UserError(
                f"--{option.replace('_', '-')} {getattr(given, option)}: must be >= {least}"
            )
    if 0 < given.bootstrap < FEWEST_DRAWS:
        raise UserError(
            f"--bootstrap {given.bootstrap}: intervals need {FEWEST_DRAWS} or more; 0: none"
        )
    if given.bootstrap > _MOST_DRAWS:
        raise UserError(f"--bootstrap {given.bootstrap}: at most {_MOST_DRAWS:,}")
    for option in ("delta", "tolerance"):
        if not 0 < getattr(given, option, 1) < math.inf:
            raise UserError(f"--{option} {getattr(given, option)}: must be above 0")
    if given.plot and given.plot.suffix not in (".png", ".svg"):
        raise UserError(f"--plot {given.plot}: must end in .png or .svg")
    named = [getattr(given, name, None) for name in ("file", "first", "second")]
    tables = [path / "results.csv" if path and path.is_dir() else path for path in named]
    check_outputs({"--json": given.json, "--plot": given.plot}, tables)
    law = getattr(given, "law", None)
    methods = {"isoflop": isoflop.METHODS, "envelope": envelope.METHODS}
    if law and given.method and given.method not in methods.get(law, ()):
        legal = ", ".join(methods.get(law, ())) or "it has none"
        raise UserError(f"--method {given.method}: no method of --law {law}; {legal}")
    for option, (usual, laws) in _OF_LAWS.items():
        if law and getattr(given, option) != usual and law not in laws:
            raise UserError(f"--{option}: for --law {' or '.join(laws)}, not {law}")
    if law in ("power", "isoflop") and given.cluster:
        raise UserError(f"--cluster: --law {law} resamples residuals, not rows")
    if law and given.share and law != "parametric":
        raise UserError(f"--share: for --law parametric, not {law}")
    if law and given.fix and law in methods:
        raise UserError(f"--fix: --law {law} has nothing to fix")


def _assignment(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not math.isfinite(number):
        raise UserError(f"{text}: write NAME=NUMBER")
    return name.strip(), number


def _once(option: str, pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
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


def _point(text: str) -> dict[str, float]:
    point = _once(f"--predict {text}", map(_assignment, text.split(",")))
    for name, value in point.items():
        if name not in ("flops", "params", "tokens", "unique") or value <= 0:
            raise UserError(
                f"--predict {name}={value:g}: write flops, params, tokens or unique, above 0"
            )
    return point


# The table


def _read(path: Path) -> Columns:
    try:
        return read(path)
    except DataError as error:
        raise UserError(f"{path}: {error}") from None


def _named(
    columns: Columns, given: argparse.Namespace, needs: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """The column of each quantity, and what to say of those that were not named."""
    names, notes = {}, []
    for what, usual in _COLUMNS.items():
        chosen = getattr(given, what, None)
        if chosen is not None:
            column(columns, chosen)
            names[what] = chosen
        elif found := [name for name in usual if name in columns]:
            names[what] = found[0]
            if found[0] != usual[0] and what in ("loss", "params"):
                notes.append(f"{what} is column {found[0]}")
    three = {"params", "tokens", "flops"}
    for what in needs:
        if what in names:
            continue
        if what not in three or not three - {what} <= set(names):
            try:
                column(columns, _COLUMNS[what][0])
            except DataError as error:
                raise DataError(f"{error}; name it with --{what} COL") from None
    if missing := three - set(names):
        (what, *others) = missing
        if not others:
            notes.append(f"no column of {what}: {_STANDS_IN[what]} stands in for it")
    return names, notes


def _not_doubled(columns: Columns) -> np.ndarray:
    """Whether each row is the first that is so in every column."""
    rows = list(zip(*(map(str, values) for values in columns.values()), strict=True))
    first: dict[tuple[str, ...], int] = {}
    return np.array([first.setdefault(cells, row) == row for row, cells in enumerate(rows)])


def _runs(
    columns: Columns,
    names: Mapping[str, str],
    needs: Sequence[str],
    units: Mapping[str, float],
    of: str = "",
) -> tuple[Runs, Columns, list[str]]:
    """The rows that have what a law needs, their columns, and what to say of the others.

    Rows are said by their places in these columns, and of what those are a part.
    Runs that are unfinished or diverged have no loss, and are left out; where most rows hold
    no number the column is another than was meant. Raises DataError then.
    """
    for what in units:
        if what not in names:
            raise DataError(f"--unit {what}: there is no column of {what}")
    values = {what: parsed(columns, name, units.get(what, 1)) for what, name in names.items()}
    needed = {what for what in needs if what in names}
    if missing := set(needs) - needed:
        needed |= {"params", "tokens", "flops"} - missing
    rows = len(values["loss"])
    good_R = _not_doubled(columns)
    notes = []
    if not good_R.all():
        notes.append(
            f"{rows - good_R.sum()} of {rows} rows stand in the file before, alike in every"
            " column: they count once"
        )
    for what in names:
        wrong = np.flatnonzero(np.isnan(values[what]))
        if what not in needed or not len(wrong):
            continue
        if len(wrong) > rows / 2:
            numbers(columns, names[what])
        listed = ", ".join(str(row + 1) for row in wrong[:5]) + ", ..." * (len(wrong) > 5)
        shown = str(columns[names[what]][wrong[0]]).strip()[:20] or "nothing"
        notes.append(
            f"{len(wrong)} of {rows} rows left out: {names[what]} is no number above 0 in row"
            f"{'s' * (len(wrong) > 1)} {listed}{of} ({shown})"
        )
        good_R[wrong] = False
    kept = {what: values_R[good_R] for what, values_R in values.items()}
    for what in set(names) - needed:
        if np.isnan(kept[what]).any():
            row = int(np.flatnonzero(good_R)[np.isnan(kept[what])][0]) + 1
            notes.append(
                f"column {names[what]} is not used: row {row}{of} holds no number above 0"
            )
            del kept[what]
    left = np.flatnonzero(good_R).tolist()
    columns = {name: [cells[row] for row in left] for name, cells in columns.items()}
    runs = Runs(**{f"{what}_R": values_R for what, values_R in kept.items()}).completed()
    used = np.stack(list(kept.values()), axis=1)
    if alike := len(used) - len(np.unique(used, axis=0)):
        notes.append(
            f"{alike} rows are alike in {', '.join(sorted(kept))}: if they are the same runs,"
            " intervals are too narrow"
        )
    return runs, columns, notes


_KINDS = ("objective", "kind", "scorer", "corpus_digest", "tokenizer_digest")
"""Columns that say what a loss is of: where rows differ in them, one law is of no run."""


def _mixed(columns: Columns, rows_R: np.ndarray) -> list[str]:
    """What to say of rows of several kinds that are fit as one."""
    for name in _KINDS:
        kinds = list(
            dict.fromkeys(
                str(columns[name][row])[:20] for row in rows_R.tolist() if name in columns
            )
        )
        if len(kinds) > 1:
            more = f" and {len(kinds) - 3} more" if len(kinds) > 3 else ""
            return [
                f"rows of {len(kinds)} kinds of {name} ({', '.join(kinds[:3])}{more}) are fit"
                f" as one: --by {name} parts them"
            ]
    return []


_LEAST = {"params": 500.0, "tokens": 1e4, "flops": 1e9}
"""A smallest run below these is in another unit, or of no language model."""


def _magnitudes(runs: Runs, names: Mapping[str, str]) -> list[str]:
    """What to say of numbers that are hardly in units of one."""
    said = []
    for what, least in _LEAST.items():
        values_R = getattr(runs, f"{what}_R")
        if what in names and values_R is not None and values_R.min() < least:
            said.append(
                f"{names[what]} is {values_R.min():,.6g} to {values_R.max():,.6g}: in thousands"
                f" or more? Laws and budgets count ones; --unit {what}=M reads millions"
            )
    if np.median(runs.loss_R) > 30:
        said.append(
            f"{names['loss']} is {runs.loss_R.min():.4g} to {runs.loss_R.max():.4g}: a"
            " perplexity? A law is of its logarithm"
        )
    if {"params", "tokens", "flops"} <= set(names) and not said:
        assert runs.params_R is not None and runs.tokens_R is not None
        assert runs.flops_R is not None
        times = float(np.median(runs.flops_R / (6 * runs.params_R * runs.tokens_R)))
        if not 1 / 30 < times < 30:
            said.append(
                f"flops are {times:.2g} of 6 × params × tokens: is one of the three in another"
                " unit? See --unit"
            )
    return said


def _flops_notes(runs: Runs, law: str) -> list[str]:
    """What to say where exact FLOPs are not 6 N D, and the law counts by that."""
    assert runs.params_R is not None and runs.tokens_R is not None and runs.flops_R is not None
    low, high = np.quantile(runs.flops_R / (6 * runs.params_R * runs.tokens_R), [0.05, 0.95])
    if law not in ("parametric", "data-constrained") or (low > 0.95 and high < 1.05):
        return []
    return [
        f"flops are {low:.2f} to {high:.2f} of 6 × params × tokens, which best splits go by"
    ]


def _arms(given: argparse.Namespace) -> tuple[tuple[Columns, Columns], tuple[str, str]]:
    """Both arms' tables and names."""
    first = _read(given.first)
    if given.second is not None:
        if given.by or given.groups:
            raise UserError("compare two files, or two groups of one: not both")
        labels = _label(given.first), _label(given.second)
        if labels[0] == labels[1]:
            labels = str(given.first), str(given.second)
        return (first, _read(given.second)), labels
    if not given.by or not given.groups:
        raise UserError("compare two files, or two groups of one: --by COL --groups X Y")
    try:
        rows = groups(first, [given.by])
    except DataError as error:
        raise UserError(f"{given.first}: {error}") from None
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


def _clusters(columns: Columns, name: str) -> np.ndarray:
    _, cluster_R = np.unique(list(map(str, column(columns, name))), return_inverse=True)
    return cluster_R.ravel()


class _Arm(NamedTuple):
    runs: Runs
    names: Mapping[str, str]
    notes: list[str]


def _common_loss(
    arms: Sequence[Columns], labels: Sequence[str], given: argparse.Namespace
) -> None:
    """Chooses a loss that both arms have: one's and another's do not compare."""
    if given.loss is not None:
        return
    usual = _COLUMNS["loss"]
    has = [[name for name in usual if name in columns] for columns in arms]
    if all(has) and not set(has[0]) & set(has[1]):
        raise UserError(
            f"{labels[0]} has {' and '.join(has[0])}, {labels[1]} has {' and '.join(has[1])}:"
            " a loss of one kind is needed in both; --loss COL names it"
        )
    given.loss = next((name for name in usual if all(name in each for each in has)), None)


def _arm(
    columns: Columns,
    given: argparse.Namespace,
    where: Path,
    units: Mapping[str, float],
    of: str,
) -> _Arm:
    try:
        names, notes = _named(columns, given, ("loss", "flops"))
        runs, columns, left_out = _runs(columns, names, ("loss", "flops"), units, of)
        left_out += _mixed(columns, np.arange(len(runs)))
        if runs.params_R is None and "seed" in columns:
            runs = mean_of_seeds(runs, list(columns["seed"]))
        return _Arm(runs, names, [*notes, *left_out, *_magnitudes(runs, names)])
    except DataError as error:
        raise UserError(f"{where}{of and f', rows{of}'}: {error}") from None


def _label(path: Path) -> str:
    return path.resolve().parent.name if path.name == "results.csv" else path.stem


def _kinds(arms: Sequence[Columns], labels: Sequence[str]) -> list[str]:
    """What to say where an arm's numbers are exact and the other's are bounds."""
    kinds = [sorted(set(map(str, columns.get("kind", ())))) for columns in arms]
    if kinds[0] == kinds[1]:
        return []
    said = ", ".join(f"{k[1]}: {' and '.join(k[0])}" for k in zip(kinds, labels, strict=True))
    return [f"the losses are not of one kind ({said})"]


# The fits


def _fit_one(runs: Runs, fixed: Mapping[str, float], given: argparse.Namespace) -> Fit:
    draws = {"bootstrap": given.bootstrap, "seed": given.seed}
    match given.law:
        case "parametric":
            return fit_parametric(runs, delta=given.delta, fixed=fixed, **draws)
        case "data-constrained":
            return fit_data_constrained(runs, delta=given.delta, fixed=fixed, **draws)
        case "power":
            return fit_power(runs, against=given.against, fixed=fixed, **draws)
        case "isoflop":
            method = given.method or isoflop.METHODS[0]
            return isoflop.fit_isoflop(runs, method=method, tolerance=given.tolerance, **draws)
        case _:
            method = given.method or envelope.METHODS[0]
            return envelope.fit_envelope(runs, method=method, **draws)


def _fit_joint(
    parts: Mapping[str, Runs], fixed: Mapping[str, float], given: argparse.Namespace
) -> Joint:
    if fixed:
        raise UserError("--fix and --share exclude each other")
    sizes = np.cumsum([0, *(len(part) for part in parts.values())])
    rows = {name: np.arange(sizes[i], sizes[i + 1]) for i, name in enumerate(parts)}
    first = next(iter(parts.values()))
    known = [field.name for field in fields(first) if getattr(first, field.name) is not None]
    together = {
        name: np.concatenate([getattr(part, name) for part in parts.values()]) for name in known
    }
    return fit_joint(
        Runs(**together),
        rows,
        given.share,
        delta=given.delta,
        bootstrap=given.bootstrap,
        seed=given.seed,
    )


def _predictions_of(
    fits: Mapping[str, Fit], points: Sequence[Mapping[str, float]]
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Every group's predictions, and what to say of groups that have none."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in fits}
    silent = []
    for point in points:
        for name, fit in fits.items():
            try:
                found[name].append(predict(fit, **point))
            except ValueError as error:
                shown = ",".join(f"{key}={value:g}" for key, value in point.items())
                silent.append(f"{name + ': ' if name else ''}--predict {shown}: {error}")
    if points and not any(found.values()):
        raise UserError(silent[0])
    return found, silent


def _extrapolations(
    fits: Mapping[str, Fit], predictions: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """That a law is drawn on beyond its rows, once for each that is."""
    said = []
    for name, several in predictions.items():
        far: dict[str, float] = {}
        for row in several:
            for key, times in row.get("extrapolated", {}).items():
                far[key] = max(times, far.get(key, 0.0))
        if far:
            ranges = [
                f"{key} {fits[name].ranges[key][0]:.3g} to {fits[name].ranges[key][1]:.3g}"
                for key in far
            ]
            said.append(
                f"{name + ': ' if name else ''}extrapolated, up to {max(far.values()):g} times"
                f" beyond the rows ({', '.join(ranges)}): intervals are the law's, if it holds"
                " there"
            )
    return said


# What comes out


def _report(
    fits: Mapping[str, Fit],
    predictions: Mapping[str, list[dict[str, Any]]],
    notes: Sequence[str],
    joint: Joint | None,
) -> dict[str, Any]:
    """What --json writes; a law that stands alone is at the top, groups under their names."""
    each = {name: _one_report(fit, predictions[name]) for name, fit in fits.items()}
    first = next(iter(fits.values()))
    if len(each) == 1:
        top = next(iter(each.values()))
    else:
        shared = joint.shared if joint else ()
        top = {
            "parameters": {name: first.parameters[name] for name in shared},
            "exponents": {},
            "objective": joint.objective if joint else sum(f.objective for f in fits.values()),
            "ci95": {name: first.ci95[name] for name in shared if name in first.ci95},
            "predictions": [],
            "warnings": [f"{name}: {w}" for name, f in fits.items() for w in f.warnings],
            "rows_used": sum(fit.rows_used for fit in fits.values()),
        }
    report = {"law": first.law} | top | {"warnings": [*notes, *top["warnings"]]}
    report["groups"] = {name: one for name, one in each.items() if name}
    if joint:
        report["test"] = {
            "shared": list(joint.shared),
            "statistic": joint.statistic,
            "p": joint.p,
            "objective_separate": joint.objective_separate,
        }
    return report


def _one_report(fit: Fit, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "parameters": fit.parameters,
        "exponents": fit.exponents,
        "objective": fit.objective,
        "ci95": fit.ci95,
        "predictions": predictions,
        "warnings": list(fit.warnings),
        "rows_used": fit.rows_used,
        # What intervals of another prediction need, as `lm budget` makes.
        "degrees": fit.degrees,
        "fixed": list(fit.fixed),
        "unidentified": list(fit.unidentified),
        "ranges": dict(fit.ranges),
        "against": fit.against,
        "method": fit.method,
        "draws": {
            name: [float(f"{draw:.9g}") for draw in draws_B]
            for name, draws_B in fit.draws.items()
        },
    }
    if fit.certificate:
        found["certificate"] = asdict(fit.certificate)
    return found


def _fit_drawing(
    fits: Mapping[str, Fit], parts: Mapping[str, Runs], loss: str, path: Path | None
) -> bytes:
    if path is None:
        return b""
    from lm.scaling.plots import figure_of
    from lm.study.report.figures import drawing, styled

    with styled():
        return drawing(figure_of(fits, parts, loss), path.suffix)


def _comparison_drawing(
    found: Comparison, labels: Sequence[str], loss: str, path: Path | None
) -> bytes:
    if path is None:
        return b""
    from lm.scaling.plots import comparison_figure
    from lm.study.report.figures import drawing, styled

    with styled():
        return drawing(comparison_figure(found, labels, loss), path.suffix)


def _json(report: Mapping[str, Any]) -> bytes:
    """The report, a list of numbers on one line."""
    text = json.dumps(report, indent=2, allow_nan=False)
    lists = re.sub(r"\[[-+0-9.e,\s]+\]", lambda found: " ".join(found[0].split()), text)
    return (lists + "\n").encode()


def _print_fit(
    fits: Mapping[str, Fit],
    predictions: Mapping[str, list[dict[str, Any]]],
    notes: Sequence[str],
    joint: Joint | None,
    draws: int,
) -> None:
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    table = Table(header_style="bold", box=None, pad_edge=False)
    first = next(iter(fits.values()))
    names = list(first.parameters | first.exponents)
    if len(fits) == 1:
        table.add_column(f"{first.law} law" + (f", {first.method}" if first.method else ""))
        table.add_column("value", justify="right")
        table.add_column("95%", justify="right")
        for name in names:
            value = (first.parameters | first.exponents)[name]
            table.add_row(
                name, _number(value), _ends(first.ci95.get(name)) or _why(first, name)
            )
    else:
        table.add_column("group", no_wrap=True)
        # Coefficients of groups are in the JSON: a terminal is not wide enough.
        names = [name for name in names if name not in ("A", "B", "b") and name[:2] != "k_"]
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("rows", justify="right")
        for group, fit in fits.items():
            cells = [
                f"{_number((fit.parameters | fit.exponents)[name])}\n"
                + _ends(fit.ci95.get(name))
                for name in names
            ]
            table.add_row(group, *cells, str(fit.rows_used))
    console.print(table)
    if len(fits) == 1:
        console.print(_quality(first, draws))
    if joint and joint.p is not None:
        console.print(
            f"shared {', '.join(joint.shared)}: objective {joint.objective:.6g}, separate"
            f" {joint.objective_separate:.6g}, likelihood ratio {joint.statistic:.3g},"
            f" p = {joint.p:.2g}"
        )
    if any(predictions.values()):
        console.print(_predictions(predictions))
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    for name, fit in fits.items():
        for warning in fit.warnings:
            console.print(
                f"[bold]warning:[/bold] {name + ': ' if name else ''}{warning}", soft_wrap=True
            )


def _why(fit: Fit, name: str) -> str:
    """Why a parameter has no interval, where that is known."""
    if name in fit.fixed:
        return "fixed"
    unknown = name in fit.unidentified or (name in ("a", "b") and not fit.has_split)
    return "not identified" if unknown else ""


def _quality(fit: Fit, draws: int) -> str:
    parts = [f"objective {fit.objective:.6g} over {fit.rows_used} rows"]
    if fit.certificate:
        known = fit.certificate
        definite = "" if known.positive_definite else "not "
        parts.append(
            f"{known.agree} of {known.starts} starts agree, gradient {known.gradient:.0e},"
            f" Hessian {definite}positive definite (condition {known.condition:.2g})"
        )
    if draws:
        parts.append(f"95% of {draws:,} resamples")
    return "; ".join(parts)


def _predictions(predictions: Mapping[str, list[dict[str, Any]]]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    names = ["flops", "params", "tokens", "unique", "loss"]
    rows = [(group, row) for group, several in predictions.items() for row in several]
    used = [name for name in names if any(name in row for _, row in rows)]
    table.add_column("prediction")
    beyond = any("extrapolated" in row for _, row in rows)
    for name in used:
        table.add_column(name, justify="right")
    if beyond:
        table.add_column("beyond the rows by")
    for group, row in rows:
        cells = []
        for name in used:
            ends = _ends(row.get("ci95", {}).get(name))
            cells.append(
                (_number(row[name]) if name in row else "") + (f"\n{ends}" * bool(ends))
            )
        times = row.get("extrapolated", {})
        cells += [", ".join(f"{key} × {value:g}" for key, value in times.items())] * beyond
        table.add_row(group, *cells)
    return table


def _print_comparison(
    found: Comparison,
    labels: Sequence[str],
    equal: Sequence[str],
    differ: Mapping[str, float | None],
    notes: Sequence[str],
) -> None:
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    table = Table(header_style="bold", box=None, pad_edge=False)
    for title in (f"flops of {labels[0]}", "loss", f"flops of {labels[1]}", "times", "95%", ""):
        table.add_column(title, justify="right")
    for point in found.points:
        table.add_row(
            _number(point.flops),
            _number(point.loss),
            _number(point.flops_needed),
            f"{point.multiplier:.3g}",
            _ends(point.ci95),
            "extrapolated" if point.extrapolated else "",
        )
    console.print(table)
    times = [point.multiplier for point in found.points]
    span = f"{min(times):.3g}" + (f" to {max(times):.3g}" if len(times) > 1 else "")
    beyond = all(point.extrapolated for point in found.points)
    console.print(
        f"{labels[1]} needs {span} times the compute of {labels[0]} for its loss"
        + (", as its law is drawn on: it has measured no such loss" if beyond else "")
    )
    console.print(f"held equal: {', '.join(equal) or 'none of the columns that are known'}")
    if differ:
        shown = [
            name if ratio is None else f"{name} (median × {ratio:.3g})"
            for name, ratio in differ.items()
        ]
        console.print(f"different: {', '.join(shown)}")
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    for warning in found.warnings:
        console.print(f"[bold]warning:[/bold] {warning}", soft_wrap=True)


def _number(value: float) -> str:
    """A number in digits that its size asks for.

    >>> [_number(value) for value in (0.0123456, 1.78389, 442.16, 1271.8, 1.4e12)]
    ['0.01235', '1.7839', '442.16', '1271.8', '1.4e+12']
    """
    if 1e-2 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.5g}"
    return f"{value:.4g}"


def _ends(ends: Interval | None) -> str:
    return f"{_number(ends[0])} – {_number(ends[1])}" if ends else ""
