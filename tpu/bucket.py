"""What the launcher and the hosts tell each other, in Cloud Storage."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import fsspec
from google.auth.exceptions import GoogleAuthError

from tpu.errors import UserError
from tpu.startup import Place


class Host(NamedTuple):
    """What a host last said of itself."""

    host: str
    """Its slice and its number in the slice: `0-3`."""
    state: str
    """installing, running, done, failed, or stopped."""
    code: int
    """The study's exit code, if it failed."""
    launch: str
    """The `launch_id` of what it runs."""
    time: str


class Bucket:
    """A study's folder; `files` is any fsspec file system, `gs://` outside of tests."""

    def __init__(self, where: Place, files: Any = None) -> None:
        self.where = where
        self._root = f"{where.bucket}/{where.folder}"
        if files is None:
            # It logs tracebacks of what it raises.
            logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
            try:
                files = fsspec.filesystem("gs", use_listings_cache=False)
            except ImportError:
                raise UserError('gs:// needs gcsfs: pip install -e ".[cloud]"') from None
        self._files = files

    def put_source(self, commit: str, bundle: bytes) -> None:
        """Uploads a commit's source, unless it is there."""
        path = f"{self._root}/source-{commit}.bundle"
        with self._one_line_errors():
            if not self._files.exists(path):
                self._files.pipe_file(path, bundle)

    def hosts(self) -> list[Host]:
        """The hosts that have said anything, by name."""
        with self._one_line_errors():
            paths = self._list("hosts")
            said = [json.loads(self._files.cat_file(path)) for path in paths]
        names = [path.rpartition("/")[2].removesuffix(".json") for path in paths]
        return [Host(name, **news) for name, news in zip(names, said, strict=True)]

    def forget_hosts(self) -> None:
        """Removes what hosts said, so that the next ones are not taken for the last."""
        with self._one_line_errors():
            for path in self._list("hosts"):
                self._files.rm_file(path)

    def log(self, host: str) -> str:
        """The newest log of a host; hosts upload theirs each minute."""
        with self._one_line_errors():
            logs = self._list("logs")
            found = [path for path in logs if path.rpartition("/")[2].startswith(f"{host}-2")]
            if not found:
                having = sorted({p.rpartition("/")[2].rpartition("-")[0] for p in logs})
                raise UserError(
                    f"--host {host}: no log at {self.where.url(self.where.folder)}/logs yet"
                    + (f"; there are logs of {', '.join(having)}" if having else "")
                )
            text: bytes = self._files.cat_file(found[-1])
        return text.decode(errors="replace")

    def _list(self, folder: str) -> list[str]:
        try:
            found = self._files.ls(f"{self._root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(found)

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        # gcsfs raises what HTTP says as OSError, or as an exception of its own.
        except (OSError, GoogleAuthError) as error:
            raise self._error(error) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] != "gcsfs":
                raise
            raise self._error(error) from None

    def _error(self, error: Exception) -> UserError:
        what = " ".join(str(error).split()) or type(error).__name__
        return UserError(f"gs://{self.where.bucket}: {what[:200]}")
