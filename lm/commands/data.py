"""`lm data`: a corpus cleaned by a recipe, and the page of what was removed and why."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lm.commands.named import OVERRIDES
from lm.config import UserError, describe, override, parse
from lm.distributed.process import Parser, usable_cores
from lm.output.console import add_json, print_json, print_notes, print_table, table
from lm.output.numbers import duration

if TYPE_CHECKING:
    from lm.data.cleaning import Manifest

PAGE = "report.html"


def add_arguments(parser: Parser) -> None:
    """The command line: two commands below this one."""
    parser.description = (
        "Cleans a corpus by a recipe into files that the source `shards` reads, and reports"
        " what was removed by which rule."
    )
    below = parser.add_subparsers(dest="what", required=True, metavar="prepare|report")
    prepare = below.add_parser("prepare", help="clean what a recipe names")
    prepare.description = (
        "Cleans what a recipe names into OUT. Stopped or killed, the same command goes on."
    )
    prepare.formatter_class = argparse.RawDescriptionHelpFormatter
    prepare.more = _fields
    prepare.add_argument("recipe", metavar="RECIPE.json", type=Path)
    prepare.add_argument("out", metavar="OUT", help="the folder that is written, also gs://")
    prepare.add_argument(
        "--workers", metavar="N", type=int, help="processes (default: a core each)"
    )
    prepare.add_argument(
        "--beam",
        nargs="*",
        metavar="OPTION=VALUE",
        help="by an Apache Beam pipeline with its options, as runner=FlinkRunner, behind all"
        " else (default: its runner in Python on this machine)",
    )
    add_json(prepare)
    prepare.add_argument("overrides", nargs="*", metavar=OVERRIDES, help="of the recipe")
    report = below.add_parser("report", help="write the page of a cleaned corpus")
    report.description = (
        f"Writes OUT/{PAGE}: sources, sizes, what was removed and why, samples."
    )
    report.add_argument("out", metavar="OUT", help="what lm data prepare wrote, also gs://")


def main(given: argparse.Namespace) -> None:
    """Cleans, and prints what each rule removed; or writes the page."""
    if given.what == "report":
        _report(given.out)
        return
    from lm.data.cleaning import Cleaning, clean, clean_to_bucket
    from lm.data.cleaning.beam import clean_by_beam
    from lm.data.remote import is_remote

    if given.workers is not None and given.workers < 1:
        raise UserError(f"--workers {given.workers}: must be >= 1")
    try:
        content = given.recipe.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{given.recipe}: no such file") from None
    cleaning = override(parse(Cleaning, content, str(given.recipe)), given.overrides)
    if not is_remote(given.out) and Path(given.out).is_file():
        raise UserError(f"{given.out}: there is a file of this name")
    if given.beam is not None:
        if given.workers is not None:
            raise UserError("--workers: of --beam its runner's options say how many there are")
        manifest = clean_by_beam(cleaning, given.out, given.beam)
    else:
        clean_here = clean_to_bucket if is_remote(given.out) else clean
        with _Line() as line:
            manifest = clean_here(
                cleaning,
                given.out,
                workers=given.workers or len(usable_cores()),
                progress=line.update,
            )
    if given.json:
        import msgspec

        print_json(msgspec.to_builtins(manifest))
    else:
        _print(manifest, given.out)


def _fields() -> str:
    from lm.data.cleaning import Cleaning

    return "fields of a recipe:\n\n" + describe(Cleaning)


class _Line:
    """The line that moves; where there is no terminal, a plain line every half minute."""

    def __init__(self) -> None:
        self._stage, self._begun, self._first, self._printed = "", 0.0, 0, time.monotonic()
        self._moves = sys.stderr.isatty()

    def __enter__(self) -> "_Line":
        return self

    def __exit__(self, *ending: object) -> None:
        if self._moves and self._stage:
            print(file=sys.stderr)

    def update(self, stage: str, done: int, total: int | None) -> None:
        """Shows how far a stage is."""
        now = time.monotonic()
        if stage != self._stage:
            if self._moves and self._stage:
                print(file=sys.stderr)
            self._stage, self._begun, self._first = stage, now, done
        rate = (done - self._first) / max(now - self._begun, 1e-9)
        facts = f"{done:,}" + (f" of {total:,}" if total else "") + " documents"
        if rate:
            facts += f"  {rate:,.0f} a second"
        if rate and total:
            facts += f"  {duration((total - done) / rate)} left"
        text = f"{stage}  {facts}" if done else stage
        if self._moves:
            print(f"\r\x1b[K{text[:110]}", end="", file=sys.stderr, flush=True)
        elif now - self._printed > 30:
            self._printed = now
            print(text, file=sys.stderr, flush=True)


def _print(manifest: "Manifest", out: str) -> None:
    from lm.data.cleaning.tally import total_of

    shown = table(
        "step",
        "rule",
        "documents removed",
        "changed",
        "MB",
        right=("documents removed", "changed", "MB"),
    )
    for number, step in enumerate(manifest.steps, 1):
        for rule in step.about:
            total = total_of(step.tally.rules.get(rule, {}))
            if total.documents or total.changed:
                shown.add_row(
                    f"{number} {step.type}",
                    rule,
                    f"{total.documents:,}",
                    f"{total.changed:,}",
                    f"{total.bytes / 1e6:.1f}",
                )
    print_table(shown)
    sources = manifest.sources.values()
    read, kept = sum(s.documents for s in sources), sum(s.kept_documents for s in sources)
    size, left = sum(s.bytes for s in sources), sum(s.kept_bytes for s in sources)
    print(
        f"{kept:,} of {read:,} documents are left, {left / 1e6:,.1f} of {size / 1e6:,.1f} MB,"
        f" in {len(manifest.shards)} files; lm data report {out} shows what was removed"
    )
    print_notes(
        (),
        [
            *(
                f"{name}: {each.damaged:,} places held no document, first {each.first_damaged}"
                for name, each in manifest.sources.items()
                if each.damaged
            ),
            *(note for step in manifest.steps for note in step.notes),
        ],
    )


def _report(out: str) -> None:
    from lm.data.cleaning import read_manifest
    from lm.data.remote import Folder
    from lm.study.cleaned import report_of
    from lm.study.report.figures import svg_of
    from lm.study.report.page import page_of

    report = report_of(read_manifest(out))
    page = page_of(report, {plot.name: svg_of(plot.figure) for plot in report.plots})
    Folder(out).write(PAGE, page.encode())
    print(f"{Folder(out).place}/{PAGE}")
