"""`lm budget`: from a budget of FLOPs and a law to model shapes, tokens, steps and hours."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import msgspec

from lm.commands.named import OVERRIDES
from lm.commands.of_tables import said_of
from lm.config import UserError, override
from lm.distributed.process import Parser
from lm.output.console import add_json, console, print_json, print_notes, print_table, table
from lm.output.numbers import ends, short
from lm.scaling.laws import Convention

if TYPE_CHECKING:
    from lm.cost.budget import Rung
    from lm.cost.chips import Slice
    from lm.run import Run
    from lm.scaling.fit import Fit


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = "Plans a ladder of runs at a budget and below it."
    parser.epilog = (
        "lm train --help lists the fields that may follow, as objective.type=masked."
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
        "--mfu", type=float, default=0.4, help="fraction of its peak that is assumed (0.4)"
    )
    parser.add_argument("--data-length", type=int, metavar="L", help="data.length (1024)")
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar=OVERRIDES)


def main(given: argparse.Namespace) -> None:
    """Prints the best size and data of the budget, and the ladder of runs."""
    _check(given)
    from lm.cost.budget import DEFAULT, PLANNED, ladder, optimum
    from lm.cost.chips import parse_slice
    from lm.scaling.saved import read_law

    length = [] if given.data_length is None else [f"data.length={given.data_length}"]
    base = override(PLANNED, [*length, *given.overrides])
    # Shapes of the ladder are checked with it; this one only stands for them.
    base = msgspec.structs.replace(base, model=base.model.at_depth(1))
    machine = parse_slice(given.slice) if given.slice is not None else None
    with said_of():
        fit = read_law(given.law, given.group) if given.law else DEFAULT
    convention: Convention = given.params.replace("-", "_")
    try:
        best = optimum(fit, given.flops, given.unique)
    except UserError as error:
        raise UserError(f"{given.law}: {error}" if given.law else str(error)) from None
    rungs = ladder(
        base, fit, given.flops, rungs=given.rungs, convention=convention, unique=given.unique
    )
    found = _Found(given, base, fit, best, rungs, machine)
    print_json(_report(found)) if given.json else _print(found)


class _Found(NamedTuple):
    given: argparse.Namespace
    base: "Run"
    fit: "Fit"
    best: Mapping[str, Any]
    rungs: Sequence["Rung"]
    machine: "Slice | None"

    def hours(self, rung: "Rung") -> float | None:
        """Hours of training alone, at the fraction of the peak that is assumed."""
        if self.machine is None:
            return None
        return self.machine.hours(rung.cost.flops, self.given.mfu)


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
    for assignment in given.overrides:
        name = assignment.partition("=")[0]
        if name in (*_SET, "optimizer.learning_rate"):
            raise UserError(f"{assignment}: the ladder sets {name}")
        if name == "optimizer.base_width":
            raise UserError(f"{assignment}: the ladder sets a rate for every width")


def _notes(found: _Found) -> list[str]:
    """What to know of the ladder: what it assumes, and where the law is drawn on."""
    from lm.data import vocabulary_size

    given, base, fit, best, rungs, machine = found
    ratios = [rung.cost.flops / rung.flops_6nd for rung in rungs]
    by_6nd = ", by which the law counts" if fit.law.surface else ""
    objective = base.objective.__struct_config__.tag
    is_adamw = base.optimizer.__struct_config__.tag == "adamw"
    unlike = "" if is_adamw else "; not for this optimizer"
    notes = [
        f"{objective}, rows of {base.data.length}, {vocabulary_size(base.data.tokenizer):,}"
        f" tokens; tokens spend the budget by the exact count, {min(ratios):.2f} to"
        f" {max(ratios):.2f} of 6ND{by_6nd}; D* is the law's best for N",
        "N is the law's count of parameters, taken to be "
        f"{given.params} (--params); shapes are 64 times as wide as deep, with heads of 64",
        "batch and rate are starting points from other data (Porian et al. 2024,"
        f" arXiv:2406.19146: adamw, constant rate, 25M to 108M parameters){unlike}",
    ]
    if machine:
        slower = f", and precision={base.precision} takes several times as long"
        notes.append(
            f"hours on {given.slice} ({machine.chips} chips of {machine.chip.flops / 1e12:g}"
            f" TFLOP/s in bfloat16) assume {given.mfu:.0%} of peak; evaluation is not in them"
            + ("" if base.precision == "bfloat16" else slower)
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


def _report(found: _Found) -> dict[str, Any]:
    """What --json prints; a rung's `run` is what `lm train` takes as RUN.json."""
    given, fit = found.given, found.fit
    return {
        "flops": given.flops,
        "law": {
            "law": str(fit.law),
            "parameters": fit.parameters,
            "file": None if given.law is None else str(given.law),
        },
        "params_convention": given.params,
        "optimum": found.best,
        "slice": given.slice,
        "utilization": given.mfu if found.machine else None,
        "rungs": [
            {
                "budget": rung.budget,
                "depth": rung.run.model.depth,
                "width": rung.run.model.width,
                "heads": getattr(rung.run.model, "heads", None),  # where attention is
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
                "hours": found.hours(rung),
                "run": msgspec.to_builtins(rung.run),
            }
            for rung in found.rungs
        ],
        "notes": _notes(found),
        "warnings": list(fit.warnings),
    }


def _print(found: _Found) -> None:
    given, _, fit, best, rungs, machine = found
    ci95 = best.get("ci95", {})
    said = [
        f"{symbol} {short(best[name])}"
        + (f" ({ends(ci95[name], short)})" if name in ci95 else "")
        for symbol, name in (("N*", "params"), ("D*", "tokens"))
    ]
    loss = f", loss {best['loss']:.4g}" if "loss" in best else ""
    console().print(f"{given.flops:.3g} FLOPs by the {fit.law} law: {', '.join(said)}{loss}")
    titles = ["depth", "width", "heads", "total", "no emb.", "matmul", "tokens", "D*", "FLOPs"]
    titles += ["6ND", "batch", "rate", "steps", *(["hours"] if machine else [])]
    made = table(*titles, right=titles)
    for rung in rungs:
        model, params = rung.run.model, rung.params
        made.add_row(
            *map(str, (model.depth, model.width, getattr(model, "heads", "-"))),
            *map(short, (params.total, params.non_embedding, params.matmul)),
            short(rung.cost.tokens),
            short(rung.tokens_best) if rung.tokens_best else "",
            *(f"{value:.3g}" for value in (rung.cost.flops, rung.flops_6nd)),
            short(rung.batch),
            f"{rung.run.optimizer.learning_rate:.2g}",
            f"{rung.cost.steps:,}",
            *([f"{found.hours(rung):.2g}"] if machine else []),
        )
    print_table(made)
    print_notes(_notes(found), fit.warnings)
