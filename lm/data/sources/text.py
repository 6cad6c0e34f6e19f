"""Text files, or the paragraphs in them."""

import contextlib
import difflib
import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple

from msgspec import Meta

from lm.config import UserError
from lm.data.remote import RemoteFile, copy, is_remote, listed
from lm.data.sources.base import Base


class Text(Base, frozen=True, tag="text"):
    """UTF-8 text files, read as they are: line ends and a byte order mark are text."""

    paths: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="files or globs (** too); $NAME is of the environment"),
    ]
    documents: Annotated[
        Literal["file", "paragraph"],
        Meta(description="a document is a file, or a run of lines between blank ones"),
    ] = "file"

    def files(self) -> list[tuple[str, Path]]:
        return find_files(self.paths)

    def contents(self) -> Iterator[tuple[str, int, bytes]]:
        for id, path in self.files():
            if self.documents == "file":
                yield id, 0, path.read_bytes()
                continue
            for line, start, content in paragraphs(path):
                yield f"{id}:{line}", start, content


def paragraphs(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """The runs of non-blank lines: (number of the first line, its byte offset, the run)."""
    start = position = first = 0
    lines: list[bytes] = []
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if line.strip():
                if not lines:
                    first, start = number, position
                lines.append(line)
            elif lines:
                yield first, start, b"".join(lines)
                lines = []
            position += len(line)
    if lines:
        yield first, start, b"".join(lines)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines as they are; where no line ends in a newline, a carriage return ends one."""
    for line in file:
        alone = file.tell() == len(line) and not line.endswith(b"\n")
        yield from line.splitlines(keepends=True) if alone else (line,)


def find_files(
    paths: tuple[str, ...], packed: Callable[[str], Sequence[str]] = lambda _: ()
) -> list[tuple[str, Path]]:
    """(id, path) of every file; ids are relative to the folder that holds them all.

    What a pattern matches nowhere else may be `packed` in an archive. Files of a bucket are
    copied, where they have not been.
    """
    return _find(paths, packed, lambda pattern: [copy(each) for each in listed(pattern)])


class FoundFile(NamedTuple):
    """A file of this machine or of a bucket, where it is."""

    name: str
    """As `find_files` calls it."""
    pattern: str
    """That matches it alone."""
    size: int
    state: tuple[object, ...]
    """Another one whenever its content is."""


def find_places(paths: tuple[str, ...]) -> list[FoundFile]:
    """Every file, in the order of `find_files`; those of a bucket are not copied."""
    remote = dict[str, RemoteFile]()

    def find(pattern: str) -> list[str]:
        found = {str(each.copy): each for each in listed(pattern)}
        remote.update(found)
        return [*found]

    places = []
    for name, path in _find(paths, lambda _: (), find):
        if each := remote.get(str(path)):
            places.append(FoundFile(name, each.url, each.size, (each.size, each.state)))
            continue
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            found = state.st_size, state.st_mtime_ns
            places.append(FoundFile(name, glob.escape(str(path)), state.st_size, found))
    return places


def _find(
    paths: tuple[str, ...],
    packed: Callable[[str], Sequence[str]],
    remote: Callable[[str], Sequence[str]],
) -> list[tuple[str, Path]]:
    files = set[str]()
    for pattern in paths:
        pattern = os.path.expandvars(os.path.expanduser(pattern))
        if is_remote(pattern):
            if not (found := remote(pattern)):
                raise UserError(f"data.corpus.paths: {pattern} matches no file")
            files.update(found)
            continue
        matches = [
            path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)
        ]
        if os.path.exists(pattern) and not os.path.isdir(pattern):
            matches.append(pattern)  # a real name that reads as a glob, such as a[1].txt
        inside = () if matches else packed(os.path.abspath(pattern))
        files.update(inside)
        if not matches and not inside:
            raise UserError(
                f"data.corpus.paths: {pattern} matches no file; {_nearest(pattern)}"
            )
        for match in matches:
            _check_readable(match)
        files.update(os.path.abspath(match) for match in matches)
    root = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    return sorted((Path(file).relative_to(root).as_posix(), Path(file)) for file in files)


_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def _check_readable(path: str) -> None:
    """Raises UserError for what a glob may find and nobody can read twice to its end."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"data.corpus.paths: {path!a}: its name is not UTF-8; rename it or leave it out"
        ) from None
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise UserError(
            f"data.corpus.paths: {path} is a link to nothing; mend it or leave it out"
        ) from None
    if kind := next((kind for is_kind, kind in _KINDS if is_kind(mode)), None):
        raise UserError(f"data.corpus.paths: {path} is {kind}; name regular files")


def _nearest(pattern: str) -> str:
    """What is there instead of `pattern`, in words."""
    path = Path(pattern)
    if path.is_dir():
        return f"it is a folder: {path / '**' / '*'} takes the files in it"
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    names = sorted(entry.name for entry in folder.iterdir())
    close = difflib.get_close_matches(path.name, names, 3, 0.4) or names[:3]
    return f"nearest in {folder}: {', '.join(close) or 'nothing'}"
