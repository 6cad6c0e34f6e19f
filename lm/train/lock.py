"""One writer of a place: a second process that would train in it is refused.

On a disk the kernel keeps the lock (flock): it ends with its process, however that ends. In a
bucket it is an object, made if there is none and renewed every `BEAT` seconds by conditional
writes. It counts for nothing `BROKEN` seconds after the last of these, and at once where its
process is known to have ended: it is no more on this machine, or it was this job's.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorstore as ts

from lm.config import UserError
from lm.distributed import hosts

BEAT = 20.0
"""Seconds from one sign of life in a bucket to the next."""
BROKEN = 120.0
"""Seconds without one after which a bucket's lock counts for nothing."""

PATIENCE = 60.0
"""Seconds that a bucket has to answer."""

NAME = ".lock"


@contextlib.contextmanager
def only_writer(*places: str | Path, shared: bool = False) -> Iterator[Callable[[], None]]:
    """Keeps other processes from writing to these directories, or places in buckets.

    `shared` refuses only those who want a place for themselves. Of several hosts the first
    holds the locks. Raises UserError where a place is another's. What it gives raises UserError
    as soon as a place was removed or moved, or, in a bucket, taken over.
    """
    with contextlib.ExitStack() as stack:
        locks: list[_Disk | _Bucket] = []

        def lock_all() -> None:
            for place in places:
                lock = _Bucket(place) if "://" in str(place) else _Disk(Path(place), shared)
                stack.callback(lock.release)
                locks.append(lock)

        def check_all() -> None:
            for lock in locks:
                lock.check()

        hosts.broadcast_from_first(lock_all)
        yield check_all


class _Disk:
    def __init__(self, place: Path, shared: bool) -> None:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise UserError(f"{place}: there is a file of this name; remove it") from None
        self._place, self._path = place, place / NAME
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(
                self._file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
            )
        except BlockingIOError:
            holder = _read(os.pread(self._file, 4096, 0))
            os.close(self._file)
            raise UserError(_busy(place, holder)) from None
        except OSError as error:
            print(
                f"lm: {place}: this file system keeps no locks ({error.strerror}): start no"
                " second process there",
                file=sys.stderr,
            )
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(_who()).encode(), 0)

    def check(self) -> None:
        try:
            same = os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except (FileNotFoundError, NotADirectoryError):
            same = False
        if not same:
            raise UserError(
                f"{self._place}: it was removed or moved while it was trained in, and so were"
                " its metrics; start again"
            )

    def release(self) -> None:
        # The file stays: removing it would let two processes hold locks on two files.
        os.close(self._file)


class _Bucket:
    def __init__(self, place: str | Path) -> None:
        self._place = str(place)
        self._me = _who() | {"id": uuid.uuid4().hex}
        self._taken: dict[str, Any] | None = None
        self._ended = threading.Event()
        try:
            self._store = ts.KvStore.open(self._place.rstrip("/") + "/").result(PATIENCE)
            self._generation = self._take()
        except UserError:
            raise
        except Exception as error:  # of any type: of what stands for a bucket
            said = (str(error).splitlines() or [f"no answer within {PATIENCE:g} s"])[0][:200]
            raise UserError(f"{self._place}: no place for checkpoints: {said}") from error
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def _take(self) -> bytes:
        """The generation of the lock's object, which this process has made."""
        found = self._store.read(NAME).result(PATIENCE)
        holder = _read(found.value)
        if found.state == "value" and not _ended(holder, self._me):
            raise UserError(
                f"{_busy(self._place, holder)}; a process that was killed is forgotten"
                f" {BROKEN:g} s after its last sign of life"
            )
        made = self._write(found.stamp.generation)
        if not made:  # another process was first
            raise UserError(
                _busy(self._place, _read(self._store.read(NAME).result(PATIENCE).value))
            )
        return made

    def _write(self, expected: bytes) -> bytes:
        """Renews the lock if it is still that one; the new generation, or b""."""
        said = json.dumps(self._me | {"time": time.time()}).encode()
        made: bytes = (
            self._store.write(NAME, said, if_equal=expected).result(PATIENCE).generation
        )
        return made

    def _live(self) -> None:
        while not self._ended.wait(BEAT):
            # A bucket that is out of reach may be within it the next time.
            with contextlib.suppress(Exception):
                if made := self._write(self._generation):
                    self._generation = made
                    continue
                found = self._store.read(NAME).result(PATIENCE)
                holder = _read(found.value)
                if holder.get("id") != self._me["id"]:
                    self._taken = holder
                    return
                self._generation = found.stamp.generation  # an answer had been lost

    def check(self) -> None:
        if self._taken is not None:
            raise UserError(
                f"{self._place}: it is no longer this process's: for {BROKEN:g} s there was no"
                f" sign of life from here, and {_holder(self._taken)} has taken it over"
            )

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            self._store.write(NAME, None, if_equal=self._generation).result(PATIENCE)


def _who() -> dict[str, Any]:
    """This process, so that others can tell whether it is still there."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "machine": _machine(),
        "job": _job(),
        "time": time.time(),
    }


def _ended(holder: dict[str, Any], me: dict[str, Any]) -> bool:
    """Whether who holds a bucket's lock has ended, or has given no sign of life for too long.

    >>> me = {"machine": "m", "job": "7"}
    >>> now = {"machine": "m", "pid": os.getpid(), "started": _started(os.getpid())}
    >>> _ended(now | {"time": time.time()}, me), _ended(now | {"time": 0.0}, me)
    (False, False)
    >>> _ended({"machine": "n", "job": "8", "time": time.time()}, me)
    False
    >>> _ended({"machine": "n", "job": "7", "time": time.time()}, me)
    True
    """
    if holder.get("machine") == me["machine"] is not None:
        return bool(_started(holder["pid"]) != holder["started"])
    if holder.get("job") == me["job"] is not None:
        return True
    return time.time() - float(holder.get("time", 0)) > BROKEN


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's clock ticks; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]


def _machine() -> str | None:
    """This boot of this machine, as far as this process sees its others; None if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _job() -> str | None:
    """What a restart on another machine is known by: at most one of a job runs at a time."""
    if job := os.environ.get("YARDSTICK_JOB"):
        return job
    slurm = [os.environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "STEP_ID", "PROCID")]
    return f"slurm {'.'.join(slurm)}" if slurm[0] else None


def _read(content: bytes) -> dict[str, Any]:
    """Who holds a lock, as far as it says so: it may be being written."""
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _busy(place: str | Path, holder: dict[str, Any]) -> str:
    return (
        f"{place} is being trained in by {_holder(holder)}; wait for its end, stop it, or take"
        " another directory"
    )


def _holder(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"
