"""`lm search`: the passages of an index that fit a query best."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import add_json, console, print_json, print_table, table

if TYPE_CHECKING:
    from lm.retrieval.answer import Measured
    from lm.retrieval.search import TextIndex


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Finds passages for a query, by vectors and by words (reciprocal rank fusion); or, with"
        " --questions, says how well an index tells what it answers from what it does not."
    )
    parser.add_argument("index", metavar="INDEX", type=Path)
    parser.add_argument("query", metavar="QUERY", nargs="?")
    parser.add_argument("-k", type=int, default=5, help="passages (5)")
    parser.add_argument(
        "--by", choices=("both", "vectors", "words"), help="both, where there are vectors"
    )
    parser.add_argument(
        "--exact", action="store_true", help="compare all vectors, though there be very many"
    )
    parser.add_argument(
        "--model", metavar="MODEL", type=Path, help="the index's model, where it was moved to"
    )
    parser.add_argument(
        "--questions",
        metavar="FILE",
        type=Path,
        help='a line each: {"question": ..., "answered_by": ["FILE"]}, and some without',
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="with --questions: keep the rule found, by which lm serve --index answers",
    )
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Searches, or measures."""
    from lm.retrieval.answer import DECIDING, as_json, support_of
    from lm.retrieval.search import open_index

    if (given.query is None) == (given.questions is None):
        raise UserError("give a QUERY, or --questions FILE")
    if given.keep and given.questions is None:
        raise UserError("--keep: with --questions FILE")
    if given.k < 1:
        raise UserError(f"-k {given.k}: must be >= 1")
    if given.questions is None and not given.query.strip():
        raise UserError("the query is empty")
    if given.query is not None and not _is_text(given.query):
        raise UserError("the query is not UTF-8")
    if given.by != "words":
        prepare_machine()
    index = open_index(given.index, model=given.model, words_only=given.by == "words")
    if given.questions is not None:
        _measure(index, given)
        return
    count = max(given.k, DECIDING)
    found = index.search(given.query, count, by=given.by, exact=given.exact)
    support = support_of(index, given.query, found)
    found = found[: given.k]
    if given.json:
        print_json(as_json(given.query, found, support))
        return
    say = console().print
    for rank, each in enumerate(found, 1):
        similar = "" if each.similarity is None else f"similarity {each.similarity:.3f}, "
        say(f"{rank}. {each.passage.place}  ({similar}words {each.words:.2f})", style="bold")
        say(each.passage.text, soft_wrap=True)
        say()
    sign = ">=" if support.supported else "<"
    what = "something" if support.supported else "nothing"
    say(
        f"{what} supports an answer: {support.rule.by} {support.support:.3f} {sign}"
        f" {support.rule.least:.3f}"
    )


def _measure(index: "TextIndex", given: argparse.Namespace) -> None:
    import msgspec

    from lm.retrieval.answer import measure, read_questions

    measured = measure(index, read_questions(given.questions), given.k)
    if given.keep:
        with index.store.locked():
            manifest = msgspec.structs.replace(index.store.manifest(), support=measured.rule)
            index.store.keep(manifest)
    if given.json:
        print_json(measured)
    else:
        _print_measured(measured, given.k)


def _print_measured(measured: "Measured", k: int) -> None:
    say = console().print
    say(f"{measured.answerable} questions that a file answers, {measured.unanswerable} others")
    made = table("search", f"file in {k}", "file first", right=(f"file in {k}", "file first"))
    for by, found in measured.found.items():
        made.add_row(by, f"{found:.1%}", f"{measured.first[by]:.1%}")
    print_table(made)
    say()
    names = ("threshold", "answered", "95%", "refused", "95 %", "area")
    made = table("support", *names, right=names)
    for way, rates in measured.support.items():
        made.add_row(
            way,
            f"{rates.least:.3f}",
            f"{rates.answered:.1%}",
            "{:.0%} - {:.0%}".format(*rates.answered_interval),
            f"{rates.refused:.1%}",
            "{:.0%} - {:.0%}".format(*rates.refused_interval),
            f"{rates.area:.3f}",
        )
    print_table(made)
    kinds = measured.support[measured.rule.by].refused_by_kind
    for kind, rate in kinds.items():
        if kind:
            say(f"refused of those that are {kind}: {rate:.1%}")
    say(f"the rule: {measured.rule.by} >= {measured.rule.least:.3f}")


def _is_text(given: str) -> bool:
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True
