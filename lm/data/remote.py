"""Files of a bucket: copied into the cache once, and again when they have changed."""

import json
import os
import re
from pathlib import Path
from typing import Any

from lm.config import UserError
from lm.data import cache

_STATE = ("size", "etag", "generation", "mtime", "created", "LastModified")


def is_remote(pattern: str) -> bool:
    """Whether a path or glob is a URL.

    >>> is_remote("gs://bucket/*.jsonl"), is_remote("texts/*.jsonl")
    (True, False)
    """
    return re.match(r"[a-z][a-z0-9+.-]*://", pattern) is not None


def copies(pattern: str) -> list[str]:
    """The local copies of all files that a URL or a glob of them names.

    They lie under `$LM_CACHE/remote/` as they do there. Raises UserError where what reads the
    bucket is not installed, or does not let us.
    """
    scheme = pattern.partition("://")[0]
    try:
        import fsspec  # only files of buckets have a use for it

        files, path = fsspec.core.url_to_fs(pattern)
        found = files.glob(path, detail=True) if "*" in path else {path: files.info(path)}
        whole = [info for info in found.values() if info["type"] == "file"]
        return [_copy(files, scheme, info) for info in whole]
    except FileNotFoundError:
        return []
    except (ImportError, ValueError) as error:
        more = ": pip install 'yardstick-lm[cloud]'" if scheme == "gs" else ""
        raise UserError(f"data.corpus.paths: {pattern}: {_line(error)}{more}") from None
    except UserError:
        raise
    except Exception as error:  # a file system's own, as gcsfs raises HttpError
        raise UserError(f"data.corpus.paths: {pattern}: {_line(error)}") from error


def _copy(files: Any, scheme: str, info: dict[str, Any]) -> str:
    name = info["name"].lstrip("/")
    if ".." in Path(name).parts:
        raise UserError(f"data.corpus.paths: {scheme}://{name}: it leads out of its bucket")
    target = cache.folder() / "remote" / scheme / name
    state = {key: str(info[key]) for key in _STATE if key in info}
    known = target.with_name(f".{target.name}.state")
    there = target.exists() and known.exists()
    if there and json.loads(known.read_bytes()) == state:
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with cache.unfinished(target.parent) as temporary:
        files.get_file(info["name"], str(temporary / "file"))
        (temporary / "state").write_text(json.dumps(state))
        known.unlink(missing_ok=True)
        os.replace(temporary / "file", target)
        os.replace(temporary / "state", known)
    return str(target)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
