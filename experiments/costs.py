"""`python -m experiments.costs NAME`: what a scale of a study costs, from the ledger."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import experiments
from lm import ledger
from lm.chips import parse_slice
from lm.config import UserError
from lm.data import vocabulary_size
from lm.report import power
from lm.start import Parser, one_line_errors


def main(arguments: list[str] | None = None) -> None:
    """Prints cells, FLOPs and hours of training; nothing is trained or downloaded."""
    parser = Parser(prog="python -m experiments.costs", description=__doc__)
    parser.add_argument("study", metavar="NAME")
    parser.add_argument("--scale", metavar="S", help="one of the study's (the last one)")
    parser.add_argument("--slice", metavar="NAME", help="hours on it, as v5e-16 or h100-8")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of its peak (0.4)")
    given = parser.parse_args(arguments)
    with one_line_errors():
        if not 0 < given.mfu <= 1:
            raise UserError(f"--mfu {given.mfu:g}: must be above 0 and at most 1")
        print(cost_text(given.study, given.scale, given.slice, given.mfu))


def cost_text(name: str, scale: str | None, machine: str | None, utilization: float) -> str:
    """Cells, FLOPs and hours of a study's scale; raises UserError where there is none."""
    if name not in _modules() or not hasattr(study := _import(name), "runs"):
        studies = (each for each in _modules() if hasattr(_import(each), "runs"))
        raise UserError(f"{name}: no such study; one of {', '.join(studies)}")
    scale = scale or study.SCALES[-1]
    if scale not in study.SCALES:
        raise UserError(f"--scale {scale}: {name} has {', '.join(study.SCALES)}")
    costs = [
        ledger.cost(run, vocabulary_size(run.data.tokenizer))
        for run in study.runs(scale).values()
    ]
    flops, largest = sum(cost.flops for cost in costs), max(cost.flops for cost in costs)
    text = (
        f"{name} {scale}: {len(costs)} cells, {power(flops)} FLOPs, the largest"
        f" {power(largest)}; {sum(cost.tokens for cost in costs):.3g} tokens"
    )
    if machine:
        hours = flops / (parse_slice(machine).flops * utilization) / 3600
        text += f"; {hours:.3g} hours of training on {machine} at {utilization:.0%} of its peak"
    return text


def _modules() -> list[str]:
    found = [Path(module.name).stem for module in pkgutil.iter_modules(experiments.__path__)]
    return [name for name in found if not name.startswith("_")]


def _import(name: str) -> Any:
    return importlib.import_module(f"experiments.{name}")


if __name__ == "__main__":
    main()
