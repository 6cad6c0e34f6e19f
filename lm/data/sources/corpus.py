"""Corpora: where documents come from, in an order and under names that never change."""

import difflib
import glob
import hashlib
import math
import os
import stat
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from lm.config import Config, UserError
from lm.data import cache
from lm.data.sources import hmm
from lm.data.sources.hmm import Hmm


class Document(NamedTuple):
    """A text and the name that it keeps from run to run."""

    id: str
    text: str


class Stdlib(Config, frozen=True, tag="stdlib"):
    """The source files of the Python that runs this, a document a file; ids are paths.

    Left out: tests; near-duplicates, which would leak across a split by hash (the tables of
    `encodings`, the three compilers of `distutils`, the copied tokenizer of `lib2to3`); the
    machine's own build settings; and what is not UTF-8.
    """


class Text(Config, frozen=True, tag="text"):
    """UTF-8 text files, read as they are: line ends and a byte order mark are text."""

    paths: Annotated[tuple[str, ...], Meta(min_length=1, description="files or globs (** too)")]
    documents: Annotated[
        Literal["file", "paragraph"],
        Meta(description="a document is a file, or a run of lines between blank ones"),
    ] = "file"


class Tfds(Config, frozen=True, tag="tfds"):
    """A TensorFlow data set in array_record files, through `tfds.data_source`."""

    name: Annotated[str, Meta(description="data set, with /config and :version if it has them")]
    split: Annotated[str, Meta(description="its split; both of our splits are cut from it")] = (
        "train"
    )
    text: Annotated[str, Meta(description="the feature that holds the text")] = "text"
    data_dir: Annotated[str | None, Meta(description="its folder; None: TFDS's default")] = None


Corpus = Stdlib | Text | Tfds | Hmm


def documents(corpus: Corpus) -> Iterator[Document]:
    """The documents in order, one in memory at a time; empty ones are skipped.

    Raises `UserError` for a path that is not there and for invalid UTF-8 (file and byte).
    """
    match corpus:
        case Stdlib():
            found = _stdlib()
        case Text(documents="file"):
            found = ((id, 0, path.read_bytes()) for id, path in _text_files(corpus))
        case Text():
            found = (
                (f"{id}:{line}", start, content)
                for id, path in _text_files(corpus)
                for line, start, content in paragraphs(path)
            )
        case Tfds():
            found = _records(corpus)
        case Hmm():
            found = hmm.contents(corpus)
    for id, start, content in found:
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"data.corpus: {id}: byte {start + error.start} is not valid UTF-8; "
                "convert the file or leave it out"
            ) from None
        if text:
            yield Document(id, text)


class Survey(msgspec.Struct, frozen=True):
    """What one reading of a corpus found."""

    digest: str
    """SHA-256 of every document's id and content, in order."""
    train_documents: int
    train_bytes: int
    validation_documents: int
    validation_bytes: int
    lowest: float
    """The smallest share that would hold a document out."""
    highest: float
    """From this share on every document is held out."""


def survey(corpus: Corpus, validation: float) -> Survey:
    """Read the corpus once; later calls trust files of unchanged path, size and mtime.

    Raises `UserError` if either split is empty.
    """
    path = _survey_path(corpus, validation)
    kept = cache.read(path)
    if kept is not None:
        return msgspec.json.decode(kept, type=Survey)
    digest, counts, shares = Digest(), {True: [0, 0], False: [0, 0]}, [math.inf, 0.0]
    for document in documents(corpus):
        content = document.text.encode()
        digest.add(document.id, content)
        share = share_of(content)
        shares = [min(shares[0], share), max(shares[1], share)]
        count = counts[share < validation]
        count[0] += 1
        count[1] += len(content)
    if not any(documents for documents, _ in counts.values()):
        raise UserError(f"data.corpus: {corpus} holds no text; name one that does")
    for held_out, (hint, bound) in {True: ("above", 0), False: ("at most", 1)}.items():
        if not counts[held_out][0]:
            which = "validation" if held_out else "training"
            raise UserError(
                f"data.validation: {validation} leaves no document for {which} out of "
                f"{counts[not held_out][0]}; take more documents, or a share {hint} "
                f"{shares[bound]:.6f}"
            )
    found = Survey(digest.hex(), *counts[False], *counts[True], *shares)
    cache.write(path, msgspec.json.encode(found))
    return found


def forget(corpus: Corpus, validation: float) -> None:
    """Have the next `survey` read the corpus again."""
    _survey_path(corpus, validation).unlink(missing_ok=True)


def share_of(content: bytes) -> float:
    """Where in [0, 1) a document falls, by its content alone, so that copies fall together.

    >>> round(share_of(b"a document"), 3)
    0.051
    """
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big") / 2**48


class Digest:
    """SHA-256 over (id, content) pairs, each with its length so that none can flow over."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, id: str, content: bytes) -> None:
        for part in (id.encode(), content):
            self._hash.update(b"%d:" % len(part))
            self._hash.update(part)

    def hex(self) -> str:
        return self._hash.hexdigest()


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


_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_NEAR_DUPLICATES = {"encodings", "distutils", "lib2to3"}


def _stdlib() -> Iterator[tuple[str, int, bytes]]:
    for id, path in _stdlib_files():
        content = path.read_bytes()
        try:
            content.decode()
        except UnicodeDecodeError:
            continue  # the user cannot mend it, unlike a file that they named
        yield id, 0, content


def _stdlib_files() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [
            name
            for name in subfolders
            if name not in _NOT_LIBRARY | _NEAR_DUPLICATES and not name.startswith("config-")
        ]
        for name in names:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = Path(folder, name)
                files.append((path.relative_to(root).as_posix(), path))
    return sorted(files)


def _text_files(corpus: Text) -> list[tuple[str, Path]]:
    """(id, path) of every file; ids are relative to the folder that holds them all."""
    files = set[str]()
    for pattern in corpus.paths:
        pattern = os.path.expanduser(pattern)
        matches = [
            path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)
        ]
        if os.path.exists(pattern) and not os.path.isdir(pattern):
            matches.append(pattern)  # a real name that reads as a glob, such as a[1].txt
        if not matches:
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


def _records(corpus: Tfds) -> Iterator[tuple[str, int, bytes]]:
    source = _data_source(corpus)
    for start in range(0, len(source), 256):
        numbers = range(start, min(start + 256, len(source)))
        for number, record in zip(numbers, source.__getitems__(numbers), strict=True):
            text = record[corpus.text]
            content = text.encode() if isinstance(text, str) else bytes(text)
            yield f"{corpus.name}/{corpus.split}:{number}", 0, content


def _data_source(corpus: Tfds) -> Any:
    import tensorflow_datasets as tfds  # half a second that other corpora need not wait

    try:
        builder = tfds.builder(
            corpus.name, data_dir=corpus.data_dir, file_format="array_record"
        )
    except tfds.core.DatasetNotFoundError:
        names = tfds.list_builders(with_community_datasets=False)
        if corpus.data_dir and os.path.isdir(corpus.data_dir):
            names += os.listdir(corpus.data_dir)
        close = difflib.get_close_matches(corpus.name, names, 3, 0.4) or names[:3]
        raise UserError(
            f"data.corpus.name: no data set {corpus.name}; nearest: {', '.join(close)}"
        ) from None
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever its author's code or the network raises
        raise UserError(
            f"data.corpus.name: TFDS cannot prepare {corpus.name} ({_line(error)})"
        ) from error
    features = sorted(builder.info.features)
    if corpus.text not in features:
        raise UserError(
            f"data.corpus.text: no feature {corpus.text}; it has {', '.join(features)}"
        )
    try:
        return builder.as_data_source(split=corpus.split)
    except ValueError as error:
        splits = ", ".join(sorted(builder.info.splits))
        raise UserError(
            f"data.corpus.split: {corpus.split} is none of {splits}, or a slice of one "
            f"({_line(error)})"
        ) from None
    except NotImplementedError as error:
        raise UserError(
            f"data.corpus.name: {corpus.name} is not in array_record files; prepare it with "
            f"--file_format=array_record ({_line(error)})"
        ) from None


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _survey_path(corpus: Corpus, validation: float) -> Path:
    match corpus:
        case Stdlib():
            files = _stdlib_files()
        case Text():
            files = _text_files(corpus)
        case Tfds():
            folder = Path(_data_source(corpus).dataset_info.data_dir)
            files = sorted((path.name, path) for path in folder.iterdir())
        case Hmm():
            files = []  # what it draws follows from its settings
    states = [
        (id, str(path), (state := path.stat()).st_size, state.st_mtime_ns) for id, path in files
    ]
    key = hashlib.sha256(msgspec.json.encode((corpus, validation, states))).hexdigest()
    return cache.folder() / "corpora" / f"{key[:32]}.json"
