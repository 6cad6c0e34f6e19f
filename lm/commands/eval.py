"""`lm eval`: what models can do without training."""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import add_json, print_json, print_table, table
from lm.output.files import check_exists

if TYPE_CHECKING:
    from lm.evaluate.tasks.base import Candidate
    from lm.evaluate.tasks.result import Estimate, TaskResult
    from lm.evaluate.tasks.sitting import Sheet


def add_arguments(parser: Parser) -> None:
    """The command line."""
    from lm.evaluate.tasks import TASKS
    from lm.evaluate.tasks.base import TASKS_VARIABLE

    parser.description = (
        "Asks models what they can do without training. Each result says by which rule, after"
        " what, with which prompt, what was cut, and has an interval over items; it is kept"
        " in MODEL/eval, and the same command goes on where it was stopped."
    )
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+")
    parser.add_argument(
        "--tasks",
        metavar="NAME",
        nargs="+",
        required=True,
        help=f"{', '.join(TASKS)}, or a JSON file of one's own",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help=f"public tasks' files (${TASKS_VARIABLE})"
    )
    parser.add_argument("--items", type=int, metavar="N", help="the first N items of each file")
    parser.add_argument("--shots", type=int, default=0, metavar="N", help="solved items before")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="S", help="that draw them (0)"
    )
    parser.add_argument(
        "--calibrate",
        metavar="TEXT",
        help="divide by each answer's probability where TEXT stands in every field (N/A)",
    )
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        action="append",
        default=[],
        help="a rule to score by (see lm score); may be given again; by default chain-rule, or"
        " left-to-right and pseudo-words; of texts that a T5 writes greedy-answer, if it was"
        " tuned on pairs of texts",
    )
    parser.add_argument(
        "--prefix",
        default="bos",
        metavar="TOKEN",
        help="what stands before the first token: bos, eos, none, or a token (bos)",
    )
    parser.add_argument(
        "--pool",
        choices=("mean", "first", "last"),
        help="whose states make a text's vector (mean, or as contrastive training had it)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the matrix products, if another than the model is loaded with",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="where results are kept (MODEL/eval)"
    )
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Asks, and prints a table a task, the first model's results at its top."""
    from lm.evaluate.tasks import open_sheet
    from lm.evaluate.tasks.base import Conditions, folder_of
    from lm.train.load import load_model, settings_of

    conditions = _conditions(given, Conditions)
    folder = folder_of(given.data, os.environ)
    if folder is not None:
        check_exists(folder)
    names = list(dict.fromkeys(given.tasks))
    sheets = [open_sheet(name, folder, conditions) for name in names]
    twice = [name for name, times in Counter(s.name for s in sheets).items() if times > 1]
    if twice:
        raise UserError(f"--tasks: {twice[0]} is the name of two, and results go by it")
    models = list(dict.fromkeys(given.models))
    scorers = [name.replace("-", "_") for name in given.scorer]
    # Before anything is loaded, as a refusal after minutes would be too late.
    asked = {path: _asked(settings_of(path), sheets, scorers) for path in models}
    prepare_machine()
    found: dict[str, list[TaskResult]] = {sheet.name: [] for sheet in sheets}
    for path in models:
        model = load_model(path, precision=given.precision)
        for sheet in sheets:
            for scorer in asked[path][sheet.name]:
                found[sheet.name].append(_sit(model, path, sheet, scorer, given))
    for sheet in sheets:
        found[sheet.name] += _by_words(sheet)
    by_sheet = {sheet.name: sheet for sheet in sheets}
    if given.json:
        print_json(
            {name: [each.brief() for each in results] for name, results in found.items()}
        )
        return
    for name, results in found.items():
        _print_task(by_sheet[name], results)


def _conditions(given: argparse.Namespace, conditions: Any) -> Any:
    """The conditions that the options say; UserError where one cannot be."""
    if given.items is not None and given.items < 1:
        raise UserError(f"--items {given.items}: must be > 0")
    if given.shots < 0:
        raise UserError(f"--shots {given.shots}: must be >= 0")
    if min(given.seeds) < 0:
        raise UserError(f"--seeds {min(given.seeds)}: must be >= 0")
    return conditions(
        items=given.items,
        shots=given.shots,
        seeds=tuple(dict.fromkeys(given.seeds)),
        calibration=given.calibrate,
    )


def _asked(
    run: Any, sheets: Sequence["Sheet"], names: Sequence[str]
) -> dict[str, list[str | None]]:
    """In which ways a model sits each task."""
    from lm.evaluate.tasks.candidate import ways_to_sit
    from lm.evaluate.tasks.writing import WRITERS

    # Each kind of task is asked by those of the names that are its own.
    written = any(sheet.task.needs == "text" for sheet in sheets)
    scoring = [name for name in names if not (written and name in WRITERS)]
    return {
        sheet.name: ways_to_sit(
            run, sheet.name, sheet.task, names if sheet.task.needs == "text" else scoring
        )
        for sheet in sheets
    }


def _sit(
    model: Any, path: Path, sheet: "Sheet", scorer: str | None, given: argparse.Namespace
) -> "TaskResult":
    from rich.progress import Progress

    from lm.evaluate.tasks.candidate import ModelCandidate
    from lm.evaluate.tasks.sitting import sit

    kept = given.out if given.out is not None else path / "eval"
    candidate: Candidate = ModelCandidate.of(
        model, scorer, prefix=given.prefix, pool=given.pool
    )
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(f"{path.name} {sheet.name} {candidate.scorer}", total=None)
        return sit(
            candidate,
            sheet,
            model=str(path),
            kept=kept,
            progress=lambda done: progress.advance(bar, done),
        )


def _by_words(sheet: "Sheet") -> list["TaskResult"]:
    """What BM25 finds of a task of rankings, to stand beside the models; else nothing."""
    if sheet.task.needs != "rankings":
        return []
    from lm.evaluate.tasks.sitting import sit
    from lm.retrieval.measures import bm25

    try:
        return [sit(bm25(), sheet, model="BM25")]
    except UserError as error:  # the library is an extra
        print(f"lm: BM25 is left out: {error}", file=sys.stderr)
        return []


# What is printed


def _print_task(sheet: "Sheet", results: Sequence["TaskResult"]) -> None:
    """A row a result, how each was asked, and their parts side by side."""
    from lm.evaluate.tasks.result import above

    first = results[0]
    several = len(results) > 1
    titles = ["", "model", "scorer", "kind", first.metric, "95%"]
    made = table(*titles, *(["above the first"] if several else []))
    for number, result in enumerate(results, 1):
        asked = [str(number), result.model, result.scorer, result.kind]
        row = [*asked, f"{result.value:.4f}", _between(result)]
        if result is not first:
            gain = above(sheet.task, result, first)
            row.append(f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})")
        made.add_row(*row)
    for name, value in first.baselines.items():
        made.add_row("", name, "", "", f"{value:.4f}")
    print(f"{sheet.name}: {first.asked:,} items")
    print_table(made)
    for number, result in enumerate(results, 1):
        _print_how(number, result)
    if parts := {name: part for name, part in first.groups.items() if "/" not in name}:
        side_by_side = table("part", *(str(n + 1) for n in range(len(results))), "items")
        for name, part in parts.items():
            values = [f"{result.groups[name].value:.4f}" for result in results]
            side_by_side.add_row(name, *values, f"{part.asked:,}")
        print_table(side_by_side)
    print()


def _print_how(number: int, result: "TaskResult") -> None:
    """How it was asked, and the other metrics."""
    others = [
        f"{name} {metric.value:.4f}"
        for name, metric in result.metrics.items()
        if name != result.metric
    ]
    asked = [result.around, *([f"prompt {result.prompt!r}"] if result.prompt else [])]
    if result.shots:
        asked.append(f"{result.shots} solved items before, seeds {_list(result.seeds)}")
    if result.calibration is not None:
        asked.append(f"calibrated by {result.calibration!r}")
    if result.cut:
        asked.append(f"{result.cut:,} items cut, by {result.cut_tokens:,} tokens in all")
    print(f"{number}: {'; '.join(asked)}")
    if others:
        print(f"   {', '.join(others)}")
    if result.by_seed:
        print("   by seed: " + ", ".join(f"{s} {v:.4f}" for s, v in result.by_seed.items()))


def _between(found: "TaskResult | Estimate") -> str:
    return f"{found.low:.4f} to {found.high:.4f}"


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
