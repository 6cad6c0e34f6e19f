"""`lm index`: passages of files, with their vectors and their words, to be searched."""

import argparse
import sys
import time
from pathlib import Path

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import add_json, console, print_json


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Makes an index of texts (text, Markdown, HTML, PDF; of folders the files in them), or"
        " adds to one: files that changed take the place of what they were, and what was killed"
        " goes on. Without files it finishes one, and says what it holds."
    )
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*")
    parser.add_argument("index", metavar="INDEX", type=Path, help="a folder, made if need be")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        type=Path,
        help="what makes vectors of a new index's passages",
    )
    parser.add_argument("--bm25", action="store_true", help="words alone, without a model")
    parser.add_argument("--delete", action="store_true", help="take the files out of the index")
    parser.add_argument(
        "--pooling",
        choices=("mean", "first", "last"),
        help="of the model's states (what it says of itself, else mean of an encoder's, last of"
        " a decoder's)",
    )
    parser.add_argument("--length", type=int, help="tokens that the model sees of a text")
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), help="of the model's matrix products"
    )
    parser.add_argument(
        "--tokens", type=int, metavar="N", help="of a passage, at most (126, or what it sees)"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="N",
        help="tokens shared with the passage before (a quarter)",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), help="of the vectors that are kept (float32)"
    )
    parser.add_argument(
        "--approximate",
        type=int,
        metavar="N",
        help="passages from which on neighbours are approximate (1,000,000)",
    )
    parser.add_argument(
        "--shard", type=int, metavar="N", help="passages that are written at once (1,024)"
    )
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Adds or deletes, and says what was done."""
    from lm.retrieval.index import building
    from lm.retrieval.texts import find_texts

    if given.delete and not given.files:
        raise UserError("--delete: name the files that it is to take out")
    if given.delete and not given.index.exists():
        raise UserError(f"{given.index}: no index: there is no such folder")
    if not given.files and not given.index.exists():
        raise UserError(f"{given.index}: there is no such index; name the files to make one of")
    files = [] if given.delete else find_texts(given.files)
    prepare_machine()
    start = time.perf_counter()
    options = ("pooling", "length", "precision", "tokens", "overlap", "dtype", "approximate")
    with building(
        given.index,
        model=given.model,
        words_only=given.bm25,
        **{name: getattr(given, name) for name in (*options, "shard")},
    ) as builder:
        if given.delete:
            builder.delete(given.files)
        else:
            builder.add(files, note=_note(start))
        builder.finish()
        done, settings = builder.done, builder.manifest.settings
    done.seconds = time.perf_counter() - start
    for line in done.skipped:
        print(f"lm: {line}", file=sys.stderr)
    for path in done.partial:
        print(f"lm: {path}: there in part, as it was killed; name it again", file=sys.stderr)
    if given.json:
        print_json({"done": done, "settings": settings})
        return
    say = console().print
    changed = {
        "added": done.added - done.replaced,
        "replaced": done.replaced,
        "unchanged": done.unchanged,
        "deleted": done.deleted,
    }
    said = ", ".join(f"{count:,} {what}" for what, count in changed.items() if count)
    say(f"files: {said or 'none'}")
    added = ""
    if done.passages_added:
        rate = done.passages_added / done.seconds
        added = f"; {done.passages_added:,} added, {rate:.1f} a second"
    say(f"passages: {done.passages:,}{added}")
    model = settings.model
    if model is None:
        say(f"words alone, passages of {settings.tokens} words, {settings.overlap} shared")
        return
    say(
        f"{model.path}, {model.pooling} of its states, {model.width} {settings.dtype} a vector;"
        f" passages of {settings.tokens} tokens, {settings.overlap} shared"
    )
    if done.truncated:
        say(f"of {done.truncated:,} passages the model sees a part alone")


def _note(start: float):  # type: ignore[no-untyped-def] # a function of numbers
    """Says on a terminal how far it is."""

    def note(passages: int, files: int) -> None:
        if sys.stderr.isatty():
            rate = passages / (time.perf_counter() - start)
            print(
                f"\r{passages:,} passages of {files:,} files, {rate:.1f} a second",
                end="",
                file=sys.stderr,
                flush=True,
            )

    return note
