"""Tables in files: JSON lines, JSON, columns, records in SMART's form; archives of them."""

import csv
import io
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lm.config import UserError
from lm.data.smart import is_smart, read_smart

ARCHIVES = (".tar.xz", ".tar.gz", ".tar")


def read_table(path: Path) -> bytes:
    """What a file holds, which may lie in an archive; see `archive_of`."""
    if path.is_file() or (archive := archive_of(path)) is None:
        return path.read_bytes()
    return read_archive(str(archive))[path.relative_to(archive.parent).as_posix()]


def packed(pattern: str) -> list[str]:
    """The paths that a pattern would match if the archive of its folder were unpacked."""
    archive = archive_of(Path(pattern))
    if archive is None:
        return []
    paths = (archive.parent / name for name in read_archive(str(archive)))
    return [str(path) for path in paths if path.match(pattern)]


def archive_of(path: Path) -> Path | None:
    """The archive that may hold a file: it has the name of a folder that the file is in.

    `glue/SST-2/dev.tsv` may stand in `glue.tar.xz`. None: there is none.
    """
    beside = (Path(f"{folder}{ending}") for folder in path.parents for ending in ARCHIVES)
    return next(filter(Path.is_file, beside), None)


@cache
def read_archive(path: str) -> dict[str, bytes]:
    """Every file of an archive, in memory: some megabytes."""
    try:
        with tarfile.open(path) as archive:
            return {
                member.name.removeprefix("./"): file.read()
                for member in archive
                if member.isfile() and (file := archive.extractfile(member))
            }
    except (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        why = next(iter(str(error).splitlines()), "")
        raise UserError(f"{path}: no archive that can be read: {why}") from None


def read_lines(
    name: str, content: bytes, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line of a file is, and its fields; its name says which form it has.

    `names` are of the fields between tabs or commas, if the first line is none. Raises
    UserError for a line that has none, and for what is no UTF-8.
    """
    text = _decoded(name, content)
    if name.endswith((".tsv", ".csv")):
        yield from _of_columns(name, text, names)
        return
    if name.endswith(".json"):
        whole = _parsed(name, text)
        if not isinstance(whole, list):
            raise UserError(f"{name}: must be a list of objects")
        numbered: Any = enumerate(whole, 1)
    elif is_smart(text):
        yield from read_smart(name, text)
        return
    else:
        numbered = (
            (number, _parsed(f"{name}:{number}", line))
            for number, line in enumerate(io.StringIO(text, newline="\n"), 1)
            if line.strip()
        )
    for number, fields in numbered:
        if not isinstance(fields, dict):
            raise UserError(f"{name}:{number}: {str(fields)[:40]!r}; must be an object")
        if not _is_unicode(fields):
            raise UserError(f"{name}:{number}: half of a surrogate pair, which is no text")
        yield f"{name}:{number}", fields


def read_columns(
    name: str, content: bytes, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each line of words between spaces is, and its words by the names of columns.

    Raises UserError for a line of more or fewer, and for what is no UTF-8.
    """
    for number, line in enumerate(_decoded(name, content).split("\n"), 1):
        if not (words := line.split()):
            continue
        if len(words) != len(names):
            raise UserError(
                f"{name}:{number}: {len(words)} columns; must be {len(names)}:"
                f" {', '.join(names)}"
            )
        yield f"{name}:{number}", dict(zip(names, words, strict=True))


def _decoded(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8: {error}") from None


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: no JSON: {error}") from None


def _is_unicode(fields: Any) -> bool:
    """Whether UTF-8 can hold what JSON has escaped."""
    try:
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _of_columns(
    name: str, text: str, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Lines of fields between tabs, of which quotation marks are a part, as GLUE has them; or
    between commas, where quotation marks quote (RFC 4180).
    """
    tabs = name.endswith(".tsv")
    rows = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="\t" if tabs else ",",
        quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        strict=True,
    )
    header = list(names)
    try:
        for number, row in enumerate(rows, 1):
            if not row:
                continue
            if not header:
                header = row
                continue
            if len(row) != len(header):
                raise UserError(
                    f"{name}:{number}: {len(row)} fields; must be {len(header)}:"
                    f" {', '.join(header)}"
                )
            yield f"{name}:{number}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise UserError(f"{name}: {error}") from None
