"""What bounds the largest run of each study on the slice that its scale names, by its plan?

A step takes at least its products at the chips' peak, its traffic at their memory's bandwidth,
and its collectives at the links' speed; the slowest of these bounds it, and the others can hide
behind it. The numbers are the TPU's own compiler's, as `lm plan` has them: no chip is needed.

    python -m experiments.benchmarks.plans --out experiments/results/speed/plans/v5e.json

Runs that are alike in model, rows and slice are compiled once: some twenty, in an hour on two
busy cores. `--quick` compiles them with few optimizations, in six minutes; memory's and the
links' times are then too high. What a study wants is a step that products bound, and
collectives of at most a tenth.
"""

import argparse
import contextlib
import importlib
import json
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

import experiments
from lm.distributed.process import one_line_errors
from lm.output.files import check_outputs, write_whole
from lm.plan import client, machine, plan
from lm.plan.machine import Machine, find_machine
from lm.plan.plan import Plan
from lm.run import Run


class OnSlice(NamedTuple):
    """A run of a scale that names a slice."""

    slice: str
    run: Run


def runs_on_slices() -> dict[str, OnSlice]:
    """The runs of all such scales, by STUDY/SCALE:RUN."""
    return {
        f"{module.name}/{scale}:{name}": OnSlice(scale, run)
        for module in pkgutil.iter_modules(experiments.__path__)
        for study in [importlib.import_module(f"experiments.{module.name}")]
        for scale in filter(machine.slice_of_scale, getattr(study, "SCALES", ()))
        for name, run in study.runs(scale).items()
    }


def largest(runs: Mapping[str, OnSlice]) -> dict[str, OnSlice]:
    """The largest run of each study and scale, with the first of its objectives.

    Of those with the same model, rows and slice, the first alone.
    """
    sizes = {name: sum(each.run.model.parameters(0).values()) for name, each in runs.items()}
    found: dict[str, str] = {}
    for name in runs:
        study = name.partition(":")[0]
        if study not in found or sizes[name] > sizes[found[study]]:
            found[study] = name
    alike: dict[object, tuple[str, OnSlice]] = {}
    for name in found.values():
        slice_, run = runs[name]
        (first, *_) = run.objective.parts(1000, run.seed)
        key = slice_, run.model, run.data.length, run.data.batch, run.microbatches
        alike.setdefault(
            key, (name, OnSlice(slice_, msgspec.structs.replace(run, objective=first)))
        )
    return dict(alike.values())


def planned(
    runs: Mapping[str, OnSlice], *, quick: bool = False
) -> Iterator[tuple[str, Plan, Machine]]:
    """The training steps of runs, compiled for their slices; `quick`: less optimized."""
    with contextlib.ExitStack() as stack:
        there = {}
        for name, (slice_, run) in runs.items():
            if slice_ not in there:
                chips = find_machine(slice_, 1)
                there[slice_] = chips, stack.enter_context(client.compiler(chips))
            chips, compiler = there[slice_]
            yield name, plan.plan(run, chips, compiler, wanted=["train"], quick=quick), chips


class Floors(NamedTuple):
    """The least milliseconds that a step takes, by what takes them."""

    run: str
    compute: float
    memory: float
    ici: float
    """Links within a slice."""

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(("compute", "memory", "ici"), key=lambda part: float(getattr(self, part)))

    @property
    def links(self) -> float:
        """The links' part of the step's least time."""
        return self.ici / max(self.compute, self.memory, self.ici)

    @property
    def row(self) -> str:
        """The row of the table."""
        return (
            f"| {self.run} | {self.compute:.0f} | {self.memory:.0f} | {self.ici:.0f}"
            f" | {self.bound} | {self.links:.0%} |"
        )


HEAD = """| run | compute, ms | memory, ms | links, ms | bound by | links of the step |
|---|---|---|---|---|---|"""


def floors_of(plans: Iterable[tuple[str, Plan, Machine]]) -> Iterator[Floors]:
    """The floors of every plan that fits."""
    for name, of, chips in plans:
        (step,) = of.train.values()
        least = {part: 1e3 * seconds for part, seconds in chips.floors(step).items()}
        if of.fits(chips):
            yield Floors(name, least["compute"], least["memory"], least["ici"])


def main(arguments: list[str] | None = None) -> None:
    """Compiles, prints a row of each, and writes all."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.plans",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the same as JSON")
    parser.add_argument("--quick", action="store_true", help="compile with few optimizations")
    given = parser.parse_args(arguments)
    with one_line_errors():
        check_outputs({"--out": given.out}, [])
        print(HEAD)
        found = list[Floors]()
        for each in floors_of(planned(largest(runs_on_slices()), quick=given.quick)):
            print(each.row, flush=True)
            found.append(each)
        if given.out:
            numbers = [each._asdict() | {"bound": each.bound} for each in found]
            write_whole(given.out, json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
