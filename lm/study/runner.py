"""A study: a grid of runs, each trained and asked the same questions, and the report on them.

A study is a module with a docstring (the question), `SCALES`, `runs(scale)`, `report(runs)`
and `EFFORT`, how much a scale spends on scoring where that is not the usual. One that asks more
of what was trained has `after(runs, directory)`, which keeps what it finds beside the runs; one
that has something to say or to write before anything is trained has `before(scale, directory)`,
which gives lines.

A run may start from another of the study, which then stands before it: `start.path` is
"$STUDY/NAME". `STUDY` stands for the study's directory wherever it is in a run's settings. So
may a model that its objective asks. A
run that starts from what is not at hand (a folder under an environment variable) is left out.
"""

import argparse
import difflib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from msgspec.structs import replace
from rich.console import Console

from lm.config import UserError, dump, override
from lm.cost import ledger
from lm.cost.chips import parse_slice
from lm.data import vocabulary_size
from lm.distributed import hosts
from lm.distributed.process import Parser, one_line_errors, prepare_machine
from lm.evaluate.scoring import Effort
from lm.output.numbers import count
from lm.results import Result, read_result
from lm.run import (
    Run,
    decided_by,
    mesh_for,
    refuse_attention,
    same_result,
    validate,
)
from lm.study import jobs
from lm.study.grid import STUDY, StudyRun, placed
from lm.study.report import write as report
from lm.study.together import how_many_members
from lm.train.directory import other_settings
from lm.train.load import settings_of
from lm.train.lock import only_writer


def main(study: ModuleType, arguments: list[str] | None = None) -> None:
    """`python -m experiments.NAME`: runs what is not finished yet, then draws the report."""
    name = Path(study.__file__ or "").stem
    parser = Parser(
        prog=f"python -m experiments.{name}",
        description=study.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scale", choices=study.SCALES, default=study.SCALES[0])
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs are kept")
    parser.add_argument("--run", action="append", metavar="NAME", help="only this run")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="train so many runs side by side, on cores of their own (one for each core)",
    )
    parser.add_argument(
        "--members",
        type=int,
        metavar="N",
        help="train up to so many runs that differ in seed, learning rate and weight decay"
        " alone as one program, where that is faster (on accelerators all that fit, else 1)",
    )
    parser.add_argument("--report", action="store_true", help="only draw the report again")
    parser.add_argument(
        "--cost",
        metavar="SLICE",
        help="only say what the runs would take, as on v5e-16, and whether they divide on it",
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="so many of it (1)")
    parser.add_argument(
        "overrides", nargs="*", metavar="field.path=value", help="changes every run alike"
    )
    given = parser.parse_args(arguments)
    with one_line_errors():
        planned = study.runs(given.scale)
        runs = {cell: validate(override(run, given.overrides)) for cell, run in planned.items()}
        if any(runs[cell].objective != run.objective for cell, run in planned.items()):
            raise UserError("objective: the study's runs are named by it; use lm train instead")
        _no_twins(planned, runs)
        chosen(runs, given.run)
        directory = Path(given.runs) / name / _variant(given.scale, planned, runs)
        runs = at_hand(runs, directory)
        names = chosen(runs, given.run)
        if given.cost is not None:
            asked = {cell: runs[cell] for cell in names}
            print(cost(asked, given.cost, slices=given.slices))
            return
        failed = []
        if not given.report:
            prepare_machine()
            # What is wrong is said before anything is written.
            many = jobs.how_many(given.jobs, runs, names, directory)
            members = how_many_members(given.members)
            # All runs are for one process; several may each train some of them.
            with only_writer(directory, shared=bool(given.run)):
                if hasattr(study, "before"):
                    say_before(study, given.scale, directory)
                effort = effort_of(study, given.scale)
                failed = jobs.train(runs, names, directory, effort, jobs=many, members=members)
                if hasattr(study, "after"):
                    study.after(results(runs, directory), directory)
        if hosts.is_first():
            draw(study, runs, directory)
        if failed:
            raise UserError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")


def _no_twins(planned: dict[str, Run], runs: dict[str, Run]) -> None:
    """Refuses overrides that make one run of several runs: seeds that are alike have no error.

    What only one run stands for would be counted as often as it has names.
    """
    first: dict[str, str] = {}
    for cell, run in runs.items():
        other = first.setdefault(dump(run), cell)
        if planned[other] != planned[cell]:
            raise UserError(
                f"runs {other} and {cell} would be the same run: the study varies what is"
                " overridden"
            )


def at_hand(runs: Mapping[str, Run], directory: Path) -> dict[str, Run]:
    """The runs with the study's directory in its place, without those that cannot start.

    A run that starts from what the study does not train takes its model and tokenizer from
    there. What is not at hand is named on stderr, with the reason.
    """
    found, absent = {}, dict[str, list[str]]()
    for name, run in runs.items():
        found[name] = placed(run, directory)
        if run.start is None or run.start.path.startswith(STUDY):
            continue
        try:
            found[name] = _published(found[name], os.path.expandvars(run.start.path))
        except UserError as error:
            absent.setdefault(str(error), []).append(name)
            del found[name]
    for why, names in absent.items():
        print(f"lm: left out: {len(names)} runs ({names[0]} ...): {why}", file=sys.stderr)
    return found


def _published(run: Run, path: str) -> Run:
    """The run with the model and the tokenizer of a folder that it starts from."""
    assert run.start is not None
    if "$" in path:
        raise UserError(f"start.path={path}: this variable is not set")
    there = settings_of(Path(path))
    data = replace(run.data, tokenizer=there.data.tokenizer)
    return replace(run, start=replace(run.start, path=path), model=there.model, data=data)


def say_before(study: ModuleType, scale: str, directory: Path) -> None:
    """Prints what a study has to say before anything is trained."""
    lines: list[str] = hosts.broadcast_from_first(lambda: [*study.before(scale, directory)])
    if hosts.is_first() and lines:
        print("\n".join(lines), flush=True)


def cost(runs: dict[str, Run], name: str, utilization: float = 0.4, *, slices: int = 1) -> str:
    """What training these runs takes, and for how long a slice or several are at it, in a line.

    Raises UserError where a run cannot be divided among their devices, as training would there.

    >>> for part in cost({"a": Run(), "b": Run()}, "v5e-16").split("; "):
    ...     print(part)
    2 runs: 4.9e+13 FLOPs, 2M tokens
    1.1e-05 hours on v5e-16 at 40% of peak, by FLOPs alone
    """
    costs = [
        ledger.cost(run, vocabulary_size(run.data.tokenizer), jobs.asked_models(run, runs))
        for run in runs.values()
    ]
    flops, tokens = sum(each.flops for each in costs), sum(each.tokens for each in costs)
    slice_ = parse_slice(name)
    if slices < 1:
        raise UserError(f"--slices {slices}: must be >= 1")
    slice_ = slice_._replace(chips=slices * slice_.chips)
    groups = max(slices, slice_.chips // slice_.together)
    for run in runs.values():
        mesh_for(run, devices=slice_.chips * slice_.chip.devices, slices=groups)
        if why := refuse_attention(run, slice_.chip.platform):
            raise UserError(why)
    hours = slice_.hours(flops, utilization)
    float32 = any(run.precision == "float32" for run in runs.values())
    slower = ", in bfloat16: float32 takes several times as long" if float32 else ""
    many = f"{slices} x {name}" if slices > 1 else name
    return (
        f"{len(runs)} runs: {flops:.2g} FLOPs, {count(tokens)} tokens; {hours:.2g} hours on"
        f" {many} at {utilization:.0%} of peak, by FLOPs alone{slower}"
    )


def effort_of(study: ModuleType, scale: str) -> Effort:
    """How much this scale of a study spends on scoring."""
    efforts: dict[str, Effort] = study.EFFORT
    return efforts.get(scale, Effort())


def draw(study: ModuleType, runs: dict[str, Run], directory: Path) -> None:
    """Writes and prints the report on the runs that are finished."""
    cells = results(runs, directory)
    if not any(cell.result for cell in cells):
        raise UserError(
            f"{directory}: no finished run to report on; run without --report first"
        )
    drawn = study.report(cells)
    page = report.write(drawn, directory)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(report.table(drawn))
    console.print(drawn.answer, highlight=False)
    console.print(str(page), highlight=False, soft_wrap=True)


def cells_of(study: ModuleType, name: str, scale: str, runs: Path) -> list[StudyRun]:
    """All runs of a scale without overrides, as `python -m experiments.NAME` has them."""
    directory = runs / name / scale
    return results(at_hand(study.runs(scale), directory), directory)


def results(runs: dict[str, Run], directory: Path) -> list[StudyRun]:
    """All runs, with the results of those that are finished."""
    return [
        StudyRun(name, run, _result(run, directory / name), directory / name)
        for name, run in runs.items()
    ]


def chosen(runs: dict[str, Run], names: list[str] | None) -> list[str]:
    """The named runs, or all; raises UserError on a name that is not there."""
    for name in names or []:
        if name not in runs:
            near = difflib.get_close_matches(name, runs, 3, 0.3) or list(runs)[:3]
            raise UserError(f"run {name}: not in this study; nearest: {', '.join(near)}")
    return names or list(runs)


def _result(run: Run, directory: Path) -> Result | None:
    """The result of a finished run, if it is one of these settings and not of older ones."""
    path = directory / "result.json"
    if not path.exists():
        return None
    if why := other_settings(run, directory):
        print(f"lm: {directory} is left out, it is of another run: {why}", file=sys.stderr)
        return None
    result = read_result(path)
    if result.evaluation is None and run.objective.predictions:
        print(f"lm: {directory} is left out, it was trained and not scored", file=sys.stderr)
        return None
    return result


def _variant(scale: str, planned: dict[str, Run], runs: dict[str, Run]) -> str:
    """The scale, and a digest of all runs where the user changed any: another experiment.

    It is of what is not as by default, so that a field that settings gain later changes none.
    """
    if not any(same_result(runs[cell], run) for cell, run in planned.items()):
        return scale
    text = json.dumps([decided_by(run) for run in runs.values()], sort_keys=True)
    return f"{scale}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
