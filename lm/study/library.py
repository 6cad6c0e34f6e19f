"""Two unlike texts of Python's library, its prose and its code, in files that a study reads.

Prose is the sentences in strings (docstrings, above all) and comments, a paragraph a line; code
is what is left of the files without docstrings and comments, as `ast` writes it. Both are there
wherever Python is. A page is a few paragraphs or lines of one file, and all pages of a file are
trained on or held out.
"""

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lm.config import UserError
from lm.data.corpora import fraction_of
from lm.data.mixture import Official
from lm.data.sources import Shards, Stdlib
from lm.output.files import write_whole
from lm.study.grid import STUDY
from lm.study.made_up import FOLDER

HELD_OUT = 0.12
"""The fraction of files that are held out, by a hash of their names."""
_MANUAL = "pydoc_data/"
"""Here are no programs, but the language's manual in strings."""
_SENTENCES = re.compile(r"[A-Z][^{}<>|\\]*[.?!]")
_COMMENT = re.compile(r"\s*#+ ?(.*)")


class LibraryPage(NamedTuple):
    """A page of a file, and whether pages of this file are held out."""

    text: str
    held_out: bool


def prose_pages(size: int) -> Iterator[LibraryPage]:
    """Pages of at least so many bytes of prose, files in the order of a hash of their names.

    A paragraph that stood before is left out, and so is what is left of a file in the end.
    """
    seen = set[str]()

    def paragraphs(source: str) -> Iterator[str]:
        for _, said in sorted([*_strings(source), *_comments(source)]):
            for paragraph in re.split(r"\n\s*\n", said):
                text = " ".join(paragraph.split())
                if is_prose(text) and text not in seen:
                    seen.add(text)
                    yield text

    return _pages(size, paragraphs)


def code_pages(size: int) -> Iterator[LibraryPage]:
    """Pages of at least so many bytes of code, files in the same order."""
    return _pages(size, _code, without=_MANUAL)


def is_prose(text: str) -> bool:
    """Whether a paragraph reads as sentences, and not as a table, a listing or a signature.

    >>> is_prose("It returns what was there, or what is given where nothing was.")
    True
    >>> is_prose("Use d[k] = v, with {} for none of them as it stands."), is_prose("Too short.")
    (False, False)
    """
    return text.count(" ") >= 7 and _SENTENCES.fullmatch(text) is not None


def take(
    pages: Iterable[LibraryPage], *, train: int, held_out: int
) -> tuple[list[str], list[str]]:
    """The first pages to train on, of so many bytes together, and so many that are held out.

    Raises UserError where there are fewer.
    """
    ours, theirs, size = list[str](), list[str](), 0
    for page in pages:
        if page.held_out and len(theirs) < held_out:
            theirs.append(page.text)
        if not page.held_out and size < train:
            ours.append(page.text)
            size += len(page.text.encode())
        if size >= train and len(theirs) >= held_out:
            return ours, theirs
    raise UserError(
        f"the library of this Python has {size:,} bytes to train on and {len(theirs)} pages to"
        f" hold out, of {train:,} and {held_out}; take another Python, or a smaller scale"
    )


def write_texts(directory: Path, name: str, rows: Iterable[Mapping[str, str]]) -> bool:
    """Writes a file of JSON lines into a study's directory; False: it was there already."""
    file = directory / FOLDER / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(dict(row)) + "\n" for row in rows)
    if file.exists() and file.read_text() == content:
        return False
    write_whole(file, content)
    return True


def texts_in(directory: Path, name: str) -> Shards:
    """The documents of such a file; `directory` may be `STUDY`."""
    return Shards(paths=(str(Path(directory, FOLDER, f"{name}.jsonl")),))


def split_texts(train: str, held_out: str) -> Official:
    """A file to train on and one that is held out, of a study's directory."""
    there = Path(STUDY)
    return Official(train=texts_in(there, train), held_out=texts_in(there, held_out))


def _pages(
    size: int, lines_of: Callable[[str], Iterator[str]], *, without: str = "//"
) -> Iterator[LibraryPage]:
    files = [(id, path) for id, path in Stdlib().files() if not id.startswith(without)]
    for id, path in sorted(files, key=lambda file: fraction_of(file[0].encode())):
        # The order is by another hash, so that what is held out is not what comes first.
        held_out = fraction_of(f"split/{id}".encode()) < HELD_OUT
        page, held = list[str](), 0
        try:
            for line in lines_of(path.read_text("utf-8")):
                page.append(line)
                held += len(line.encode()) + 1
                if held > size:
                    yield LibraryPage("\n".join(page), held_out)
                    page, held = [], 0
        except (SyntaxError, ValueError):
            continue  # the user cannot mend it


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _code(source: str) -> Iterator[str]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    yield from ast.unparse(tree).splitlines()


def _strings(source: str) -> Iterator[tuple[int, str]]:
    """The line on which each string of a program ends, and the string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.end_lineno or 0, node.value


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """The line on which each run of lines of comment ends, and what it says."""
    said = list[str]()
    for number, line in enumerate([*source.splitlines(), ""]):
        if found := _COMMENT.fullmatch(line):
            said.append(found[1])
        elif said:
            yield number, "\n".join(said)
            said = []
