"""Where derived files live, and how one is written so that nobody reads half of it."""

import hashlib
import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger("lm.data")


def folder() -> Path:
    """`$LM_CACHE`, or `~/.cache/yardstick`. All in it can be deleted; it is made again."""
    return Path(os.environ.get("LM_CACHE") or "~/.cache/yardstick").expanduser()


def write(path: Path, payload: bytes) -> None:
    """Put `payload`, sealed with its SHA-256, at `path`: readers see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_seal(payload) + b"\n" + payload)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


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
