"""`lm budget`: from a budget of FLOPs and a law to model shapes, tokens, steps and hours."""

import argparse
import bisect
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq

from lm.config import UserError, override
from lm.cost import ledger
from lm.cost.chips import Slice, parse_slice
from lm.data import Data, SentencePiece, vocabulary_size
from lm.distributed.process import Parser, one_line_errors
from lm.model import Model
from lm.output.files import check_outputs, write_whole
from lm.run import Run, validate
from lm.scaling import laws
from lm.scaling.fit import Fit, predict

Convention = Literal["total", "non_embedding", "matmul"]

HEAD_SIZE = 64
STEP = 4
"""Each rung's budget is this many times that of the rung below."""

_MOST_PARAMS = 1e24

PLANNED = Run(data=Data(length=1024, tokenizer=SentencePiece(size=32_768)))
"""What is planned where the command line does not say otherwise."""

DEFAULT = Fit(
    law="parametric",
    parameters=laws.BESIROGLU,
    objective=0.0,
    rows_used=0,
    degrees=0,
    # The runs that they are of, as read off that paper's figure.
    ranges={
        "params": (5.73e7, 1.62e10),
        "tokens": (1.39e9, 3.18e11),
        "flops": (1.4e18, 1.3e22),
    },
    warnings=(
        "constants of Besiroglu et al. 2024 (arXiv:2404.10102), of another data set (Hoffmann"
        " et al. 2022), without intervals; --law FIT.json takes a law of your own runs",
    ),
)
"""The law where none is given; its N counts all parameters."""


class Rung(NamedTuple):
    """A run of the ladder, and what it costs."""

    run: Run
    budget: float
    """FLOPs to be spent."""
    params: ledger.Parameters
    tokens_best: float | None
    """D* at this N: the tokens with which the law finds no other size better."""
    flops_6nd: float
    """6 N D, with N by the convention that the law counts in."""
    cost: ledger.Cost

    @property
    def batch(self) -> int:
        """Positions of a step."""
        return self.run.data.batch * self.run.data.length

    def hours(self, machine: Slice, utilization: float) -> float:
        """Hours of training alone: FLOPs over what the slice does of its peak."""
        return machine.hours(self.cost.flops, utilization)


# The arithmetic


def optimum(fit: Fit, flops: float, unique: float | None = None) -> dict[str, Any]:
    """N*, D* and the loss at a budget, with 95% intervals where the fit has draws.

    Raises UserError where the law has no N*.

    >>> found = optimum(DEFAULT, 5.76e23)
    >>> f"{found['params']:.3e} {found['tokens']:.3e}"
    '7.225e+10 1.329e+12'
    """
    try:
        found = predict(fit, flops=flops, unique=unique)
    except ValueError as error:
        raise UserError(str(error).replace("unique=..", "--unique")) from None
    except KeyError as error:
        raise UserError(f"the {fit.law} law has no parameter {error}") from None
    if "params" not in found:
        raise UserError(f"the {fit.law} law has no line k_N C^a of the best size, so no N*")
    if not 0 < found["params"] < math.inf or _growth(fit, flops, unique) <= 0:
        raise UserError(f"the {fit.law} law's N* does not grow with FLOPs")
    if "tokens" not in found:
        k = laws.FLOPS_PER_PARAMETER_AND_TOKEN
        found["tokens"] = flops / (k * found["params"])
        if ends := found.get("ci95", {}).get("params"):
            found["ci95"]["tokens"] = tuple(flops / (k * end) for end in reversed(ends))
    return found


def best_tokens(fit: Fit, params: float, unique: float | None = None) -> float | None:
    """D* at a size: that of the budget at which the size is best; None beyond all budgets.

    >>> f"{best_tokens(DEFAULT, 7.225e10):.3e}"
    '1.329e+12'
    """

    def off(log_flops: float) -> float:
        return math.log(_best_params(fit, math.exp(log_flops), unique) / params)

    ends = math.log(1e3), math.log(1e45)
    if off(ends[0]) > 0 or off(ends[1]) < 0:
        return None
    flops = math.exp(brentq(off, *ends, xtol=1e-9))
    return float(optimum(fit, flops, unique)["tokens"])


def shape(model: Model, depth: int) -> Model:
    """The model of a depth, the one dial: 64 times as wide, with heads of 64.

    The aspect ratio is nanochat's (github.com/karpathy/nanochat, scripts/base_train.py), where
    GPT-2 of 12 layers is too; the loss hardly depends on it (Kaplan et al. 2020, figure 5).

    >>> found = shape(PLANNED.model, 12)
    >>> found.width, found.heads, found.head_size
    (768, 12, 64)
    """
    return msgspec.structs.replace(model, depth=depth, width=HEAD_SIZE * depth, heads=depth)


def nearest_depth(model: Model, pieces: int, params: float, convention: Convention) -> int:
    """The depth whose number of parameters is by factors nearest to `params`."""

    def count(depth: int) -> int:
        return getattr(_parameters(shape(model, depth), pieces), convention)

    most = 1
    while count(most) < params:
        most *= 2
    above = bisect.bisect_left(range(most + 1), params, lo=1, key=count)
    return min(max(1, above - 1), above, key=lambda d: abs(math.log(count(d) / params)))


def batch_and_rate(params_matmul: float) -> tuple[float, float]:
    """Tokens of a batch, and adamw's learning rate: where to start, not where to end.

    Porian et al. 2024 (arXiv:2406.19146), as rounded in their plotting.py: 160 rows of 2048
    and 0.0047 at N = 108M, going as N^(2/3) and N^(-1/3). They were found at N of 25M to 108M
    on RefinedWeb, for tokens near the best, a constant rate and decay independent of it.

    >>> batch_and_rate(108e6)
    (327680.0, 0.0047)
    """
    times = params_matmul / 108e6
    return 160 * 2048 * times ** (2 / 3), 0.0047 * times ** (-1 / 3)


def ladder(
    base: Run,
    fit: Fit,
    flops: float,
    *,
    rungs: int,
    convention: Convention = "total",
    unique: float | None = None,
) -> list[Rung]:
    """Runs at a budget and below it, each `STEP` times as large as the one before.

    A rung is the shape nearest to N* of its budget, and trains as many whole steps as spend
    that budget by the exact count. Where shapes are too coarse for two budgets the larger one
    stays. Raises UserError where the budget is too small for any shape.
    """
    pieces = vocabulary_size(base.data.tokenizer)
    least = getattr(_parameters(shape(base.model, 1), pieces), convention)
    found: dict[int, Rung] = {}
    for times in range(rungs):
        budget = flops / STEP**times
        params = optimum(fit, budget, unique)["params"]
        if params < least / 2:
            break
        if params > _MOST_PARAMS:
            raise UserError(f"--flops {flops:g}: N* is {params:.3g}, beyond any model")
        depth = nearest_depth(base.model, pieces, params, convention)
        if depth not in found:
            found[depth] = _rung(base, fit, budget, depth, convention, unique)
    if not found:
        best = optimum(fit, flops, unique)["params"]
        raise UserError(
            f"--flops {flops:g}: N* is {best:.3g}, but the smallest shape of the ladder has"
            f" {least:,} {convention.replace('_', '-')} parameters"
        )
    return list(reversed(found.values()))


def _rung(
    base: Run, fit: Fit, budget: float, depth: int, convention: Convention, unique: float | None
) -> Rung:
    pieces, model = vocabulary_size(base.data.tokenizer), shape(base.model, depth)
    params = _parameters(model, pieces)
    batch, rate = batch_and_rate(params.matmul)
    # A power of two, which devices can share.
    rows = 2 ** max(0, round(math.log2(batch / base.data.length)))
    run = msgspec.structs.replace(
        base,
        model=model,
        data=msgspec.structs.replace(base.data, batch=rows),
        optimizer=msgspec.structs.replace(base.optimizer, learning_rate=float(f"{rate:.2g}")),
    )
    run = validate(run)
    run = msgspec.structs.replace(run, tokens=ledger.tokens_for(run, pieces, budget))
    counted = getattr(params, convention)
    return Rung(
        run=run,
        budget=budget,
        params=params,
        tokens_best=best_tokens(fit, counted, unique),
        flops_6nd=float(laws.FLOPS_PER_PARAMETER_AND_TOKEN * counted * run.tokens),
        cost=ledger.cost(run, pieces),
    )


def _parameters(model: Model, pieces: int) -> ledger.Parameters:
    return ledger.parameters(Run(model=model), pieces)


def _best_params(fit: Fit, flops: float, unique: float | None) -> float:
    points = {"flops": flops} if unique is None else {"flops": flops, "unique": unique}
    return float(predict(_without_draws(fit), **points)["params"])


def _growth(fit: Fit, flops: float, unique: float | None) -> float:
    """The exponent of N*, d ln N* / d ln C, about a budget."""
    ends = [_best_params(fit, flops * times, unique) for times in (0.5, 2)]
    return math.log(ends[1] / ends[0]) / math.log(4)


def _without_draws(fit: Fit) -> Fit:
    return Fit(
        fit.law,
        fit.parameters,
        0.0,
        0,
        0,
        unidentified=fit.unidentified,
        details=fit.details,
    )


# The law's file


class Saved(msgspec.Struct):
    """What `lm fit --json` writes of a law, as far as it is needed to predict."""

    parameters: dict[str, float]
    objective: float
    rows_used: int
    degrees: int = 0
    draws: dict[str, list[float]] = {}
    fixed: list[str] = []
    unidentified: list[str] = []
    ranges: dict[str, tuple[float, float]] = {}
    against: str = "flops"
    warnings: list[str] = []


class SavedFile(Saved, kw_only=True):
    """A file of it: one law, or several that stand in groups."""

    law: str
    groups: dict[str, Saved] = {}


def read_law(path: Path, group: str | None) -> Fit:
    """The law of a file that `lm fit --json` wrote; UserError where it is none."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: not a file")
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=SavedFile)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no file of lm fit --json: {error}") from None
    law: Saved = saved
    names = ", ".join(saved.groups)
    if group is not None:
        if group not in saved.groups:
            raise UserError(f"--group {group}: {path} has {names or 'one law, and no groups'}")
        law = saved.groups[group]
    elif len(saved.groups) > 1:
        raise UserError(f"{path}: several laws; name one with --group: {names}")
    return Fit(
        law=saved.law,
        parameters=law.parameters,
        objective=law.objective,
        rows_used=law.rows_used,
        degrees=law.degrees,
        draws={name: np.array(draws) for name, draws in law.draws.items()},
        fixed=tuple(law.fixed),
        warnings=tuple(law.warnings),
        unidentified=tuple(law.unidentified),
        ranges=law.ranges,
        details={"against": law.against},
    )


# The command


def main(arguments: list[str]) -> None:
    """`lm budget`, without its name."""
    given = _parser().parse_intermixed_args(arguments)
    with one_line_errors():
        _check(given)
        base = _base(given)
        machine = parse_slice(given.slice) if given.slice is not None else None
        fit = read_law(given.law, given.group) if given.law else DEFAULT
        convention: Convention = given.params.replace("-", "_")
        try:
            best = optimum(fit, given.flops, given.unique)
        except UserError as error:
            raise UserError(f"{given.law}: {error}" if given.law else str(error)) from None
        rungs = ladder(
            base,
            fit,
            given.flops,
            rungs=given.rungs,
            convention=convention,
            unique=given.unique,
        )
        notes = _notes(given, base, fit, best, rungs, machine)
        if given.json:
            report = _report(given, fit, best, rungs, machine, notes)
            write_whole(given.json, report.encode())
        _print(given, fit, best, rungs, machine, notes)


def _parser() -> Parser:
    parser = Parser(
        prog="lm budget",
        description="Plans a ladder of runs at a budget and below it.",
        epilog="lm train --help lists the fields that may follow, as objective.type=masked.",
    )
    parser.add_argument("--flops", type=float, required=True, metavar="C", help="the budget")
    parser.add_argument(
        "--law", type=Path, metavar="FIT.json", help="of lm fit --json (default: Besiroglu's)"
    )
    parser.add_argument("--group", metavar="NAME", help="its law, where the file has several")
    parser.add_argument(
        "--unique", type=float, metavar="U", help="unique tokens, for a data-constrained law"
    )
    parser.add_argument(
        "--params",
        choices=[name.replace("_", "-") for name in get_args(Convention)],
        default="total",
        help="what the law counts as N (total)",
    )
    parser.add_argument("--rungs", type=int, default=5, metavar="N", help="at most (5)")
    parser.add_argument("--slice", metavar="NAME", help="hours on it, as v5e-16 or h100-8")
    parser.add_argument(
        "--mfu", type=float, default=0.4, help="share of its peak that is assumed (0.4)"
    )
    parser.add_argument("--data-length", type=int, metavar="L", help="data.length (1024)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers there")
    parser.add_argument("overrides", nargs="*", metavar="field.path=value")
    return parser


_SET = ("data.batch", "model.depth", "model.width", "model.heads", "tokens")


def _check(given: argparse.Namespace) -> None:
    for option in ("flops", "unique"):
        value = getattr(given, option)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{option} {value:g}: must be above 0")
    if not 0 < given.mfu <= 1:
        raise UserError(f"--mfu {given.mfu:g}: must be above 0 and at most 1")
    if given.rungs < 1:
        raise UserError(f"--rungs {given.rungs}: must be >= 1")
    if given.group is not None and not given.law:
        raise UserError(f"--group {given.group}: of which --law?")
    check_outputs({"--json": given.json}, [given.law])
    for assignment in given.overrides:
        name = assignment.partition("=")[0]
        if name in (*_SET, "optimizer.learning_rate"):
            raise UserError(f"{assignment}: the ladder sets {name}")
        if name == "optimizer.base_width":
            raise UserError(f"{assignment}: the ladder sets a rate for every width")


def _base(given: argparse.Namespace) -> Run:
    length = [] if given.data_length is None else [f"data.length={given.data_length}"]
    base = override(PLANNED, [*length, *given.overrides])
    # Shapes of the ladder are checked with it; this one only stands for them.
    return msgspec.structs.replace(base, model=shape(base.model, 1))


def _notes(
    given: argparse.Namespace,
    base: Run,
    fit: Fit,
    best: Mapping[str, Any],
    rungs: Sequence[Rung],
    machine: Slice | None,
) -> list[str]:
    ratios = [rung.cost.flops / rung.flops_6nd for rung in rungs]
    by_6nd = ", by which the law counts" if "alpha" in fit.parameters else ""
    objective = type(base.objective).__struct_config__.tag
    notes = [
        f"{objective}, rows of {base.data.length}, {vocabulary_size(base.data.tokenizer):,}"
        f" pieces; tokens spend the budget by the exact count, {min(ratios):.2f} to"
        f" {max(ratios):.2f} of 6ND{by_6nd}; D* is the law's best for N",
        "N is the law's count of parameters, taken to be "
        f"{given.params} (--params); shapes are 64 times as wide as deep, with heads of 64",
        "batch and rate are starting points from other data (Porian et al. 2024,"
        " arXiv:2406.19146: adamw, constant rate, 25M to 108M parameters)"
        + (
            ""
            if base.optimizer.__struct_config__.tag == "adamw"
            else "; not for this optimizer"
        ),
    ]
    if machine:
        notes.append(
            f"hours on {given.slice} ({machine.chips} chips of {machine.chip.flops / 1e12:g}"
            f" TFLOP/s in bfloat16) assume {given.mfu:.0%} of peak; evaluation is not in them"
            + (
                ""
                if base.precision == "bfloat16"
                else f", and precision={base.precision} takes several times as long"
            )
        )
    if far := best.get("extrapolated"):
        rows = ", ".join(
            f"{name} {fit.ranges[name][0]:.3g} to {fit.ranges[name][1]:.3g} (here × {times:g})"
            for name, times in far.items()
        )
        notes.append(
            f"extrapolated: the law was fit to {rows}, and is drawn on beyond that; N*, D* and"
            " loss are as good as that it holds there"
        )
    # A ladder goes down from the budget, and the loss of its lower rungs is told by them.
    low = fit.ranges.get("flops", (0.0,))[0]
    if below := [rung for rung in rungs[:-1] if rung.budget * 1.05 < low]:
        notes.append(
            f"extrapolated downward: the law was fit to flops of {low:.3g} and more, and"
            f" {len(below)} of {len(rungs)} rungs spend less, down to {below[0].budget:.3g}"
        )
    if not fit.ranges:
        notes.append("the law's file does not say which runs it was fit to: is this within?")
    if given.law and not best.get("ci95"):
        notes.append("no intervals: the law's file holds no resamples")
    return notes


def _report(
    given: argparse.Namespace,
    fit: Fit,
    best: Mapping[str, Any],
    rungs: Sequence[Rung],
    machine: Slice | None,
    notes: Sequence[str],
) -> str:
    """What --json writes; a rung's `run` is what `lm train` takes as RUN.json."""
    report = {
        "flops": given.flops,
        "law": {"law": fit.law, "parameters": fit.parameters, "file": _text(given.law)},
        "params_convention": given.params,
        "optimum": best,
        "slice": given.slice,
        "utilization": given.mfu if machine else None,
        "rungs": [
            {
                "budget": rung.budget,
                "depth": rung.run.model.depth,
                "width": rung.run.model.width,
                "heads": rung.run.model.heads,
                "params": {n: getattr(rung.params, n) for n in get_args(Convention)},
                "tokens": rung.cost.tokens,
                "tokens_best": rung.tokens_best,
                "flops": rung.cost.flops,
                "flops_6nd": rung.flops_6nd,
                "flops_rematerialized": rung.cost.flops_rematerialized,
                "flops_forward": rung.cost.flops_forward,
                "flops_backward": rung.cost.flops_backward,
                "batch_tokens": rung.batch,
                "learning_rate": rung.run.optimizer.learning_rate,
                "steps": rung.cost.steps,
                "hours": rung.hours(machine, given.mfu) if machine else None,
                "run": msgspec.to_builtins(rung.run),
            }
            for rung in rungs
        ],
        "notes": list(notes),
        "warnings": list(fit.warnings),
    }
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def _print(
    given: argparse.Namespace,
    fit: Fit,
    best: Mapping[str, Any],
    rungs: Sequence[Rung],
    machine: Slice | None,
    notes: Sequence[str],
) -> None:
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    ends = best.get("ci95", {})
    said = [
        f"{symbol} {_short(best[name])}" + (f" ({_range(ends[name])})" if name in ends else "")
        for symbol, name in (("N*", "params"), ("D*", "tokens"))
    ]
    loss = f", loss {best['loss']:.4g}" if "loss" in best else ""
    console.print(f"{given.flops:.3g} FLOPs by the {fit.law} law: {', '.join(said)}{loss}")
    table = Table(header_style="bold", box=None, pad_edge=False)
    titles = ["depth", "width", "heads", "total", "no emb.", "matmul", "tokens", "D*", "FLOPs"]
    titles += ["6ND", "batch", "rate", "steps", *(["hours"] if machine else [])]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for rung in rungs:
        model, params = rung.run.model, rung.params
        table.add_row(
            *map(str, (model.depth, model.width, model.heads)),
            *map(_short, (params.total, params.non_embedding, params.matmul)),
            _short(rung.cost.tokens),
            _short(rung.tokens_best) if rung.tokens_best else "",
            *(f"{value:.3g}" for value in (rung.cost.flops, rung.flops_6nd)),
            _short(rung.batch),
            f"{rung.run.optimizer.learning_rate:.2g}",
            f"{rung.cost.steps:,}",
            *([f"{rung.hours(machine, given.mfu):.2g}"] if machine else []),
        )
    console.print(table)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    for warning in fit.warnings:
        console.print(f"[bold]warning:[/bold] {warning}", soft_wrap=True)


def _short(value: float) -> str:
    """A count in three digits.

    >>> [_short(value) for value in (950, 80_500_000, 2.07e9, 1.33e12)]
    ['950', '80.5M', '2.07B', '1.33T']
    """
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if 0.9995 * unit <= value < 1e15:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def _range(ends: Sequence[float]) -> str:
    return " – ".join(map(_short, ends))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
