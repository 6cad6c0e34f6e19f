"""Where derived files live, and how one is written so that nobody reads half of it."""

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("lm.data")


def folder() -> Path:
    """`$LM_CACHE`, or `~/.cache/yardstick`. All in it can be deleted; it is made again."""
    return Path(os.environ.get("LM_CACHE") or "~/.cache/yardstick").expanduser()


def write(path: Path, payload: bytes) -> None:
    """Put `payload`, sealed with its SHA-256, at `path`: readers see all of it or none."""
    with unfinished(path.parent) as temporary:
        (temporary / path.name).write_bytes(_seal(payload) + b"\n" + payload)
        os.replace(temporary / path.name, path)


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A new folder in `folder` for what is not whole yet; it is removed afterwards.

    What was left by processes that were killed is removed first: the kernel says by a lock on
    each such folder whether somebody is still at work there. A file system that refuses to be
    written, as a full disk, is an OSError that names `folder`, whoever says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):  # so that none is seen between its making and its locking
        for left in folder.glob(f"{_UNFINISHED}*"):
            with _locked(left, wait=False) as dead:
                if dead:
                    shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=folder, prefix=_UNFINISHED))
        stack = contextlib.ExitStack()
        stack.enter_context(_locked(temporary))
    with stack:
        try:
            yield temporary
        except (OSError, ValueError) as error:
            number = _errno_of(error)
            if number is None or getattr(error, "filename", None) is not None:
                raise
            raise OSError(number, os.strerror(number), str(folder)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


_UNFINISHED = ".unfinished-"


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds the kernel's lock on a folder, and says whether it does.

    It does not where another has it, unless one waits, nor on file systems without such locks.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


def _errno_of(error: OSError | ValueError) -> int | None:
    """The system's code of an error, or in tensorstore's message; None where there is none."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    full = errno.ENOSPC if "RESOURCE_EXHAUSTED" in str(error) else None
    return int(found[1]) if found else full


def read(path: Path) -> bytes | None:
    """What `write` put at `path`; None if it is not there, or damaged (which is logged)."""
    try:
        found, _, payload = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    if found != _seal(payload):
        log.warning("%s is damaged and will be made again", path)
        return None
    return payload


def _seal(payload: bytes) -> bytes:
    return hashlib.sha256(payload).hexdigest().encode()
