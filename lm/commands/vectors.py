"""`lm vectors`: what vectors of words know by themselves."""

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import add_json, console, print_json, print_table, table
from lm.output.files import check_exists

if TYPE_CHECKING:
    from lm.evaluate.tasks.metrics import Estimate
    from lm.evaluate.vectors import AnalogiesResult, Neighbour, PairsResult

TASKS = "wordsim-353, men, rg-65, analogies"
"""The public ones, which the package that has them is too heavy to be asked for."""


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Asks tables of words which words are alike, for the fourth word of analogies, and for"
        " nearest words: GloVe's files, and any model's tables of tokens, of inputs and, if not"
        " tied to them, of outputs. A word of several tokens has the mean of their rows."
    )
    parser.add_argument("tables", metavar="MODEL_OR_TABLE", type=Path, nargs="+")
    parser.add_argument(
        "--tasks",
        metavar="NAME",
        nargs="+",
        default=[],
        help=f"{TASKS}, or a file of one's own, whose lines are two words and a number, or an"
        " analogy's four words (all public ones, unless --near is given)",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", type=Path, help="public tasks' files ($YARDSTICK_TASKS)"
    )
    parser.add_argument(
        "--near", metavar="WORD", nargs="+", default=[], help="the words nearest to these"
    )
    parser.add_argument(
        "--count", type=int, default=10, metavar="N", help="how many of them (10)"
    )
    parser.add_argument(
        "--words",
        type=int,
        default=30_000,
        metavar="N",
        help="nearest words and answers are among the first N of a table (30000)",
    )
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Asks, and prints a table of similarities, one of analogies, and one of nearest words."""
    from lm.evaluate.tasks.base import folder_of
    from lm.evaluate.vectors import (
        FILES,
        AnalogiesResult,
        PairsResult,
        nearest,
        open_task,
        read_word_tables,
    )

    for option in ("count", "words"):
        if getattr(given, option) < 1:
            raise UserError(f"--{option} {getattr(given, option)}: must be > 0")
    folder = folder_of(given.data, os.environ)
    names = given.tasks or ([] if given.near else list(FILES))
    tasks = [open_task(name, folder) for name in dict.fromkeys(names)]
    twice = [name for name, times in Counter(t.name for t in tasks).items() if times > 1]
    if twice:
        raise UserError(f"--tasks: {twice[0]} is the name of two, and results go by it")
    paths = list(dict.fromkeys(given.tables))
    for path in paths:
        check_exists(path)
    prepare_machine()
    tables = [each for path in paths for each in read_word_tables(path)]
    near = [nearest(each, given.near, count=given.count, among=given.words) for each in tables]
    found = [[task.ask(each, words=given.words) for each in tables] for task in tasks]
    if given.json:
        results = {task.name: of for task, of in zip(tasks, found, strict=True)}
        by_table = {each.name: of for each, of in zip(tables, near, strict=True)}
        print_json(
            ({"tasks": results} if tasks else {}) | ({"near": by_table} if given.near else {})
        )
        return
    for number, each in enumerate(tables, 1):
        console().print(f"{number}: {each.name}: {each.about}", soft_wrap=True)
    print()
    pairs = [
        [(number, each) for number, each in enumerate(of, 1) if isinstance(each, PairsResult)]
        for of in found
    ]
    if any(pairs):
        _print_pairs([each for of in pairs for each in of])
    for of in found:
        if asked := [each for each in of if isinstance(each, AnalogiesResult)]:
            _print_analogies(asked)
    for word in dict.fromkeys(given.near):
        _print_near(word, [by_word[word] for by_word in near])


def _print_pairs(results: Sequence[tuple[int, "PairsResult"]]) -> None:
    """A row a task and table, which has a number."""
    made = table("", "task", "spearman", "95%", "known pairs", "of several tokens")
    for number, result in results:
        value, between = _shown(result.spearman)
        known = f"{result.known:,} of {result.asked:,}"
        several = f"{result.several:,}"
        made.add_row(str(number), result.task, value, between, known, several)
    print_table(made)
    print()


def _print_analogies(results: Sequence["AnalogiesResult"]) -> None:
    """A row a section, and the tables side by side."""
    columns = [
        title
        for number in range(1, len(results) + 1)
        for title in (str(number), "95%", "right of known")
    ]
    made = table(results[0].task, *columns, "questions")
    for name in [*results[0].sections, ""]:
        sections = [result.sections[name] if name else result.total for result in results]
        row = [name or "all"]
        for section in sections:
            row += [*_shown(section.accuracy), f"{section.right:,} of {section.known:,}"]
        made.add_row(*row, f"{sections[0].asked:,}")
    print_table(made)
    among = (f"{number}: {each.candidates:,}" for number, each in enumerate(results, 1))
    console().print(f"answers by 3CosAdd among words, {', '.join(among)}", soft_wrap=True)
    print()


def _print_near(word: str, found: Sequence[Sequence["Neighbour"]]) -> None:
    """The tables side by side."""
    numbered = range(1, len(found) + 1)
    columns = [title for number in numbered for title in (str(number), "cosine")]
    made = table(f"near {word}", *columns)
    for rank in range(max(map(len, found))):
        row = [str(rank + 1)]
        for near in found:
            there = near[rank : rank + 1]
            row += [there[0].word, f"{there[0].cosine:.4f}"] if there else ["", ""]
        made.add_row(*row)
    print_table(made)
    print()


def _shown(found: "Estimate | None") -> tuple[str, str]:
    if found is None:
        return "-", "too few known"
    return f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"
