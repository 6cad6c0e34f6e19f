"""`lm plan`: what a run needs and how long it takes on a slice that you do not have."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from lm.commands.named import OVERRIDES, find_run, find_study, parts, scale_of, with_defaults
from lm.config import UserError, override
from lm.distributed.process import Parser
from lm.output.console import add_json, print_json
from lm.plan.found import HERE, StepKind
from lm.plan.machine import find_machine, slice_of_scale

if TYPE_CHECKING:
    from lm.plan.plan import Plan
    from lm.run import Run


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Compiles the steps of runs for a slice that need not be there: memory, products,"
        " traffic, collectives and the time of a step, a device each, and whether it fits."
    )
    parser.epilog = "lm train --help lists the fields that may follow, as model.depth=32."
    parser.add_argument("run", help="STUDY, STUDY:RUN, RUN.json, or - for defaults")
    parser.add_argument("--scale", metavar="S", help="of the study (its last)")
    parser.add_argument(
        "--slice",
        metavar="NAME",
        help="v5e-256, h100-8, cpu for this one (what the scale names)",
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="so many of it (1)")
    parser.add_argument(
        "--step",
        action="append",
        choices=get_args(StepKind),
        help="only this one; may be given again",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="compile with few optimizations, sooner; memory is near what a run"
        " needs, traffic and times are too high",
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="look for the fastest remat, microbatches, mesh and attention that fit, of one"
        " run: each is compiled, many minutes",
    )
    parser.add_argument(
        "--members",
        type=int,
        metavar="N",
        help="train so many of each run as one program, which differ in seed, learning rate and"
        " weight decay: whole ones a device",
    )
    parser.add_argument(
        "--traffic",
        action="store_true",
        help="also say which operations move most through main memory",
    )
    parser.add_argument(
        "--efficiency", type=float, metavar="E", help="fraction of the floors' speed (1)"
    )
    parser.add_argument(
        "--measure", action="store_true", help="also run the training step (--slice cpu)"
    )
    add_json(parser)
    parser.add_argument("overrides", nargs="*", metavar=OVERRIDES)


def main(given: argparse.Namespace) -> None:
    """Plans the runs, and prints a table of them and the largest one in detail."""
    from lm.commands.planned import plan_report, show, show_tried, tried_line
    from lm.plan import plan as planning
    from lm.plan.client import compiler
    from lm.plan.tune import Tried, tune

    runs, scale = _runs(given)
    name = slice_of_scale(scale) if given.slice is None else given.slice
    if name is None:
        raise UserError("--slice: for which slice? as v5e-256, h100-8, or cpu for this machine")
    if given.slices < 1:
        raise UserError(f"--slices {given.slices}: must be >= 1")
    if given.efficiency is not None and not 0 < given.efficiency <= 1:
        raise UserError(f"--efficiency {given.efficiency:g}: must be above 0 and at most 1")
    if given.tune and len(runs) > 1:
        raise UserError(f"--tune: of which run? as {given.run}:{next(iter(runs))}")
    if given.measure and name != HERE:
        raise UserError(f"--measure: --slice {name} is not here; --slice {HERE} is")
    machine = find_machine(name, given.slices)
    if given.members is not None:
        runs = _one_each(runs, given, machine.devices)
    else:
        planning.check(runs.values(), machine)  # before minutes of compilation
    wanted = tuple(given.step or get_args(StepKind))
    plans: dict[str, Plan] = {}
    tried: list[Tried] = []
    with compiler(machine) as compiled:
        if name == HERE:
            machine = planning.calibrated(machine, compiled)
        if given.efficiency is not None:
            machine = machine._replace(efficiency=given.efficiency, told=True)
        if given.tune:
            [(title, run)] = runs.items()

            def say(each: Tried) -> None:
                tried.append(each)
                print(f"lm: {tried_line(each, machine)}", file=sys.stderr)

            runs = {title: tune(run, machine, compiled, quick=given.quick, say=say).run}
        for number, (title, run) in enumerate(runs.items(), 1):
            if sys.stderr.isatty():
                print(f"lm: compiling {title} ({number}/{len(runs)})", file=sys.stderr)
            plans[title] = planning.plan(
                run,
                machine,
                compiled,
                wanted=wanted,
                quick=given.quick,
                measure=given.measure,
                members=given.members or 0,
            )
    if given.json:
        print_json(plan_report(plans, machine, tried))
    else:
        if tried:
            show_tried(tried, machine)
        show(plans, machine, quick=given.quick, traffic=given.traffic)


def _one_each(
    runs: dict[str, "Run"], given: argparse.Namespace, devices: int
) -> dict[str, "Run"]:
    """The first of those that could be members of a group; UserError for what could not."""
    from lm.train.members import program_key

    if given.tune or given.measure or given.step not in (None, ["train"]):
        raise UserError("--members: it plans the training step alone; leave out the others")
    if given.members < 1 or given.members % devices:
        below = max(given.members // devices, 1) * devices
        raise UserError(
            f"--members {given.members}: each of {devices} devices has equally many; nearest:"
            f" {below} or {below + devices}"
        )
    first: dict[str, str] = {}
    for title, run in runs.items():
        if (key := program_key(run)) is None:
            raise UserError(f"--members: {title} is trained alone: see docs/studies.md")
        first.setdefault(key, title)
    return {title: runs[title] for title in first.values()}


def _runs(given: argparse.Namespace) -> tuple[dict[str, "Run"], str | None]:
    """The runs that are named, with the overrides, and the study's scale if it is one's."""
    from lm.run import validate
    from lm.study.runner import chosen

    name, overrides = with_defaults(given.run, given.overrides)
    scale = given.scale
    if name == "-" or Path(name).is_file():
        if scale:
            raise UserError(f"--scale {scale}: of which study?")
        run, title, _ = find_run(name)
        runs = {title: run}
    else:
        study_name, named, title = parts(name)
        study = find_study(study_name)
        scale = scale_of(study, study_name, scale or named or study.SCALES[-1])
        runs = study.runs(scale)
        runs = {each: runs[each] for each in chosen(runs, [title] if title else None)}
    return {title: validate(override(run, overrides)) for title, run in runs.items()}, scale
