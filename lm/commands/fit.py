"""`lm fit`: a table of runs -> a scaling law with error bars."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.table import Table

from lm.commands.of_tables import (
    add_columns,
    add_common,
    add_list,
    assignment,
    check_common,
    check_least,
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
from lm.scaling.base import Law
from lm.scaling.catalog import LAWS, law_of, options_of
from lm.scaling.columns import (
    clusters,
    flops_notes,
    magnitudes,
    mixed_kinds,
    named,
    usable_runs,
)
from lm.scaling.fit import Fit
from lm.scaling.forecast import LawForecast, forecasts_of
from lm.scaling.grouped import Grouped, extrapolations, fit_groups, fit_shared, predictions_of
from lm.scaling.power import QUANTITIES
from lm.scaling.saved import fit_report
from lm.scaling.table import Runs, groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = "Fits a law to a .csv, .json, .jsonl or .parquet file, a run a row."
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--law", choices=LAWS, default=next(iter(LAWS)))
    add_columns(parser, ("params", "tokens", "loss", "flops", "unique"))
    add_list(parser, "--by", "COL", "a law for each group")
    common = "one parametric law with these in common to all groups, and a test of that"
    add_list(parser, "--share", "NAME", common)
    parser.add_argument(
        "--cluster",
        metavar="COL",
        help="rows alike in it are of one run, and resampled together",
    )
    parser.add_argument(
        "--method",
        choices=[name for law in LAWS.values() for name in law.methods],
        help="how isoFLOP minima are found (parabola), the envelope (hull), a surface (newton)",
    )
    parser.add_argument("--against", choices=QUANTITIES, help="what a power law is of (flops)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="FRACTION",
        help="isoFLOP: runs whose flops differ by less than this are of one budget (0.1)",
    )
    parser.add_argument(
        "--drop-worst", type=int, default=0, metavar="K", help="without the K highest losses"
    )
    parser.add_argument("--delta", type=float, help="of the Huber loss of ln L (0.001)")
    add_list(parser, "--fix", "NAME=VALUE", "not fit")
    points = "flops=1e21 for the best split, or params=1e9,tokens=2e10[,unique=1e9]"
    add_list(parser, "--predict", "WHAT=VALUE,..", points)
    parser.add_argument(
        "--leave-out",
        action="store_true",
        help="forecast each budget from the others, not the largest alone",
    )
    add_common(parser)


def main(given: argparse.Namespace) -> None:
    """Fits the law and prints it, with what to know and to doubt of it."""
    units = check_common(given, [given.file])
    law = _law(given)
    points = [_point(text) for text in given.predict]
    with said_of(given.file):
        runs, parts, names, notes = _rows(given, law, units)
        found = _fit(given, law, parts)
    notes += [f"{name}: left out: {why}" for name, why in found.failed.items()]
    predictions, silent = predictions_of(found.fits, points)
    if points and not any(predictions.values()):
        raise UserError(silent[0])
    notes += silent
    if law.surface and {"flops", "params", "tokens"} <= set(names):
        notes += flops_notes(runs)
    notes += extrapolations(found.fits, predictions)
    forecasts, silent = _forecasts(given, found, parts)
    notes += silent

    def draw() -> "Figure":
        from lm.scaling.plots import figure_of

        return figure_of(found.fits, parts, names["loss"])

    write_plot(given.plot, draw)
    if given.json:
        print_json(fit_report(found.fits, predictions, notes, found.joint, forecasts))
    else:
        _print(found, predictions, forecasts, notes, given.bootstrap)


# The law that is asked for


def _law(given: argparse.Namespace) -> Law:
    """The law with its options; UserError where one has no effect, or cannot be."""
    check_least(given, ("drop_worst", 0))
    for option in ("delta", "tolerance"):
        value = getattr(given, option)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{option} {value}: must be above 0")
    kind = LAWS[given.law]
    if given.method and given.method not in kind.methods:
        legal = ", ".join(kind.methods) or "it has none"
        raise UserError(f"--method {given.method}: no method of --law {given.law}; {legal}")
    for option in ("against", "delta", "tolerance"):
        if getattr(given, option) is not None and option not in options_of(kind):
            _refuse(option, [law for law in LAWS if option in options_of(LAWS[law])], given)
    if given.unique is not None and "unique" not in law_of(given.law).needs:
        _refuse("unique", [law for law in LAWS if "unique" in law_of(law).needs], given)
    if kind.resamples != "rows" and given.cluster:
        raise UserError(f"--cluster: --law {given.law} resamples {kind.resamples}, not rows")
    if given.share and not kind.joint:
        _refuse("share", [law for law in LAWS if LAWS[law].joint], given)
    if given.share and given.method:
        raise UserError("--method and --share exclude each other")
    if given.fix and "fixed" not in options_of(kind):
        raise UserError(f"--fix: --law {given.law} has nothing to fix")
    if given.leave_out and not given.bootstrap:
        raise UserError("--leave-out: forecasts need intervals; not with --bootstrap 0")
    if given.fix and given.share:
        raise UserError("--fix and --share exclude each other")
    return law_of(
        given.law,
        against=given.against,
        delta=given.delta,
        fixed=once("--fix", map(assignment, given.fix)),
        method=given.method,
        tolerance=given.tolerance,
    )


def _refuse(option: str, laws: Sequence[str], given: argparse.Namespace) -> None:
    raise UserError(f"--{option}: for --law {' or '.join(laws)}, not {given.law}")


def _point(text: str) -> dict[str, float]:
    point = once(f"--predict {text}", map(assignment, text.split(",")))
    for name, value in point.items():
        if name not in ("flops", "params", "tokens", "unique") or value <= 0:
            raise UserError(
                f"--predict {name}={value:g}: write flops, params, tokens or unique, above 0"
            )
    return point


# The rows, and the fits


class _Rows(NamedTuple):
    runs: Runs
    parts: dict[str, Runs]
    """Of each group."""
    names: dict[str, str]
    """The column of each quantity."""
    notes: list[str]


def _rows(given: argparse.Namespace, law: Law, units: Mapping[str, float]) -> _Rows:
    """The table's runs, and what to say of them; raises DataError."""
    columns = read_table(given.file)
    names, notes = named(columns, columns_of(given), law.needs)
    runs, columns, left_out = usable_runs(columns, names, law.needs, units)
    notes += [*left_out, *magnitudes(runs, names)]
    if given.cluster:
        runs = replace(runs, cluster_R=clusters(columns, given.cluster))
    rows = groups(columns, given.by) if given.by else {"": np.arange(len(runs))}
    for name, rows_R in rows.items():
        notes += [f"{name}: {said}" if name else said for said in mixed_kinds(columns, rows_R)]
    parts = {
        name: runs.take(rows_R).without_worst(given.drop_worst) for name, rows_R in rows.items()
    }
    return _Rows(runs, parts, names, notes)


def _fit(given: argparse.Namespace, law: Law, parts: Mapping[str, Runs]) -> Grouped:
    draws = {"bootstrap": given.bootstrap, "seed": given.seed}
    if given.share:
        delta = 1e-3 if given.delta is None else given.delta
        return fit_shared(parts, given.share, delta=delta, **draws)
    return fit_groups(law, parts, **draws)


def _forecasts(
    given: argparse.Namespace, found: Grouped, parts: Mapping[str, Runs]
) -> tuple[dict[str, list[LawForecast]], list[str]]:
    """How far each group's law is from what it has not seen, and what to say where none is."""
    forecasts: dict[str, list[LawForecast]] = {}
    silent: list[str] = []
    if not given.bootstrap:
        return forecasts, silent
    if found.joint:
        return forecasts, ["no forecast is made of laws that share parameters"]
    for name, fit in found.fits.items():
        draws = {"bootstrap": given.bootstrap, "seed": given.seed}
        several = forecasts_of(fit.law, fit, parts[name], **draws, each=given.leave_out)
        for one in several:
            if isinstance(one, LawForecast):
                forecasts.setdefault(name, []).append(one)
            else:
                silent.append(f"{name}: {one}" if name else one)
    return forecasts, silent


# What is printed


def _print(
    found: Grouped,
    predictions: Mapping[str, list[dict[str, Any]]],
    forecasts: Mapping[str, Sequence[LawForecast]],
    notes: Sequence[str],
    draws: int,
) -> None:
    first, *others = found.fits.values()
    print_table(_groups(found.fits) if others else _parameters(first))
    if not others:
        console().print(_quality(first, draws))
    if found.joint and found.joint.p is not None:
        joint = found.joint
        console().print(
            f"shared {', '.join(joint.shared)}: objective {joint.objective:.6g}, separate"
            f" {joint.objective_separate:.6g}, likelihood ratio {joint.statistic:.3g},"
            f" p = {joint.p:.2g}"
        )
    if any(forecasts.values()):
        print_table(_misses(forecasts))
    if any(predictions.values()):
        print_table(_predictions(predictions))
    warnings = [
        f"{name + ': ' if name else ''}{warning}"
        for name, fit in found.fits.items()
        for warning in fit.warnings
    ]
    print_notes(notes, warnings)


def _parameters(fit: Fit) -> Table:
    title = f"{fit.law} law" + (f", {fit.law.method}" if fit.law.method else "")
    made = table(title, "value", "95%", right=("value", "95%"))
    for name, value in (fit.parameters | fit.exponents).items():
        made.add_row(name, number(value), ends(fit.ci95.get(name)) or _why(fit, name))
    return made


def _groups(fits: Mapping[str, Fit]) -> Table:
    """A row a group; what there is no room for is in the JSON."""
    first = next(iter(fits.values()))
    names = [n for n in first.parameters | first.exponents if n not in first.law.minor]
    made = table("group", *names, "rows", right=(*names, "rows"))
    for group, fit in fits.items():
        cells = [
            f"{number((fit.parameters | fit.exponents)[name])}\n{ends(fit.ci95.get(name))}"
            for name in names
        ]
        made.add_row(group, *cells, str(fit.rows_used))
    return made


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
    rows = [(group, row) for group, several in predictions.items() for row in several]
    names = ["flops", "params", "tokens", "unique", "loss"]
    used = [name for name in names if any(name in row for _, row in rows)]
    beyond = ["beyond the rows by"] * any("extrapolated" in row for _, row in rows)
    made = table("prediction", *used, *beyond, right=used)
    for group, row in rows:
        cells = []
        for name in used:
            both = ends(row.get("ci95", {}).get(name))
            cells.append(
                (number(row[name]) if name in row else "") + (f"\n{both}" * bool(both))
            )
        if beyond:
            times = row.get("extrapolated", {})
            cells.append(", ".join(f"{key} × {value:g}" for key, value in times.items()))
        made.add_row(group, *cells)
    return made


def _misses(forecasts: Mapping[str, Sequence[LawForecast]]) -> Table:
    """A row for each quantity that was forecast: how far, and how often within its interval."""
    titles = ("× beyond", "of", "bias of ln", "rms of ln", "within 95%")
    made = table("forecast without", *titles, right=titles)
    for group, several in forecasts.items():
        for one in several:
            for miss in one.misses:
                inside = "no interval"
                if miss.inside is not None:
                    inside = f"{miss.inside} of {len(miss.places)}"
                elif one.unidentified:
                    inside = f"none: {', '.join(one.unidentified)} not identified"
                made.add_row(
                    f"{group}: {one.left_out}" if group else one.left_out,
                    f"{one.beyond:g}",
                    miss.quantity,
                    f"{miss.bias:+.4f}",
                    f"{miss.rms:.4f}",
                    inside,
                )
    return made
