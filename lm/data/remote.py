"""Buckets: their files are copied into the cache, again when they changed; folders are written.

What is in a bucket is read and written by fsspec, which knows gs://, s3:// and others.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import UserError
from lm.data import cache
from lm.output.files import write_whole

_STATE = ("size", "etag", "generation", "mtime", "created", "LastModified")


class RemoteFile(NamedTuple):
    """A file of a bucket."""

    url: str
    copy: Path
    """Where its copy is, or would be."""
    size: int
    state: dict[str, str]
    """Another one whenever its content is."""


def is_remote(pattern: str) -> bool:
    """Whether a path or glob is a URL.

    >>> is_remote("gs://bucket/*.jsonl"), is_remote("texts/*.jsonl")
    (True, False)
    """
    return re.match(r"[a-z][a-z0-9+.-]*://", pattern) is not None


def listed(pattern: str) -> list[RemoteFile]:
    """All files that a URL or a glob of them names.

    Raises UserError where what reads the bucket is not installed, or does not let us.
    """
    scheme = pattern.partition("://")[0]
    with _one_line("data.corpus.paths", pattern):
        files, path = _file_system(pattern)
        try:
            found = files.glob(path, detail=True) if "*" in path else {path: files.info(path)}
        except FileNotFoundError:
            return []
    return [_file(scheme, info) for info in found.values() if info["type"] == "file"]


def _file(scheme: str, info: dict[str, Any]) -> RemoteFile:
    name = info["name"].lstrip("/")
    if ".." in Path(name).parts:
        raise UserError(f"data.corpus.paths: {scheme}://{name}: it leads out of its bucket")
    state = {key: str(info[key]) for key in _STATE if key in info}
    target = cache.folder() / "remote" / scheme / name
    return RemoteFile(f"{scheme}://{name}", target, int(info.get("size") or 0), state)


def copy(file: RemoteFile) -> str:
    """The local copy of a file; under `$LM_CACHE/remote/` they lie as they do there."""
    target = file.copy
    known = target.with_name(f".{target.name}.state")
    there = target.exists() and known.exists()
    if there and json.loads(known.read_bytes()) == file.state:
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        _one_line("data.corpus.paths", file.url),
        cache.unfinished(target.parent) as temporary,
    ):
        files, path = _file_system(file.url)
        files.get_file(path, str(temporary / "file"))
        (temporary / "state").write_text(json.dumps(file.state))
        known.unlink(missing_ok=True)
        os.replace(temporary / "file", target)
        os.replace(temporary / "state", known)
    return str(target)


class Folder:
    """A folder that is written, of this machine or of a bucket.

    Files are written whole or not at all. Raises UserError in one line where a bucket refuses.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/") or place
        self._remote = is_remote(place)

    def names(self) -> list[str]:
        """The files and folders in it, in order; none where it is not there."""
        if not self._remote:
            here = Path(self.place)
            return sorted(each.name for each in here.iterdir()) if here.is_dir() else []
        with self._opened() as (files, path):
            try:
                found = files.ls(path, detail=False, refresh=True)
            except FileNotFoundError:
                return []
        # Some buckets know a folder as an empty object of its name.
        return sorted({name.rstrip("/").rpartition("/")[2] for name in found if name != path})

    def read(self, name: str) -> bytes | None:
        """What a file holds; None where there is none."""
        try:
            if not self._remote:
                return (Path(self.place) / name).read_bytes()
            with self._opened() as (files, path):
                try:
                    return bytes(files.cat_file(f"{path}/{name}"))
                except FileNotFoundError:
                    return None
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a file, or writes over it."""
        if not self._remote:
            target = Path(self.place) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)
            return
        with self._opened() as (files, path):
            files.pipe_file(f"{path}/{name}", content)

    def upload(self, source: Path, name: str) -> None:
        """Writes a file as one of this machine is."""
        with self._opened() as (files, path):
            files.put_file(str(source), f"{path}/{name}")

    def remove(self, name: str) -> None:
        """Removes a folder that is there, with all that is in it."""
        if not self._remote:
            shutil.rmtree(Path(self.place) / name)
            return
        with self._opened() as (files, path):
            files.rm(f"{path}/{name}", recursive=True)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        with _one_line("OUT", self.place):
            yield _file_system(self.place)


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec  # only buckets have a use for it

    files, path = fsspec.core.url_to_fs(url)
    return files, path


@contextlib.contextmanager
def _one_line(what: str, url: str) -> Iterator[None]:
    """Makes one line of whatever a file system raises."""
    try:
        yield
    except UserError:
        raise
    except (ImportError, ValueError) as error:
        more = ": pip install 'yardstick-lm[cloud]'" if url.startswith("gs:") else ""
        raise UserError(f"{what}: {url}: {_line(error)}{more}") from None
    except Exception as error:  # a file system's own, as gcsfs raises HttpError
        raise UserError(f"{what}: {url}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
