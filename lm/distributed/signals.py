"""Requests to end are heard at all times: in imports, in compilation, in long calls of C.

Python runs a signal's handler between two of its own instructions, so that a compiler or an
import keeps the handler waiting for as long as it takes. A thread, to which the interpreter
writes each signal at once, ends the process where the handler does not.
"""

import atexit
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

STOPPED = 75
"""Exit code of a command that is to be run again, and goes on from what it has saved.

It is EX_TEMPFAIL of sysexits.h."""

REQUESTS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what Slurm, Kubernetes and `kill` send."""

SAID = "lm: stopped; the same command goes on from what was saved, if anything was"
"""How a command ends that was asked to, if it has nothing more to say."""

PATIENCE = 1.0
"""Seconds in which a command may end by itself, if it has nothing to save."""


class Stopped(Exception):
    """The user or the system asked the run to stop; it is saved, the same command goes on."""


def listen() -> None:
    """From here to its end the process answers `REQUESTS`, within `PATIENCE` or after saving.

    For whoever owns the process, before anything else is imported. What is ignored already, as
    under nohup, stays so.
    """
    for number in REQUESTS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    global _listens
    _listens = True
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_guard, args=(told,), daemon=True).start()
    # Python's own end gives signals back their defaults, but for those that are ignored: what
    # is done by then ends with its own exit code.
    atexit.register(_ignore)


def listens() -> bool:
    """Whether `listen` was called: this process is a command's own."""
    return _listens


_listens = False


@contextmanager
def as_interrupts() -> Iterator[None]:
    """Within, `REQUESTS` raise KeyboardInterrupt once; what they did before is restored."""

    def interrupt(number: int, before: Mapping[int, Any]) -> NoReturn:
        for request in before:
            signal.signal(request, _end)
        raise KeyboardInterrupt

    with _heard(interrupt):
        yield


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects `REQUESTS`, so that no step and no save is cut in two; a second is final."""
    received: list[int] = []

    def note(number: int, before: Mapping[int, Any]) -> None:
        received.append(number)
        signal.signal(number, before[number])

    with _heard(note):
        try:
            yield received
        finally:
            keep_alive(False)


@contextmanager
def _heard(handle: Callable[[int, Mapping[int, Any]], None]) -> Iterator[None]:
    """Within, `REQUESTS` call this with what they did before; what is ignored stays so."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in REQUESTS}
    before = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, lambda number, _: handle(number, before))
    except ValueError:  # not the main thread: signals are not ours
        before = {}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def keep_alive(needed: bool) -> None:
    """Says whether this process holds what it has to save, for which it may take its time."""
    global _needed, _saved
    if _needed and not needed:
        _saved = time.monotonic()
    _needed = needed


_needed = False
_saved = 0.0
"""When it last held something (s)."""


def _guard(told: int) -> None:
    while number := os.read(told, 1):
        if number[0] in REQUESTS:
            asked = time.monotonic()
            time.sleep(PATIENCE)
            # What was saved since is on its way to its end, and says which step it was.
            if not _needed and _saved < asked:
                _end()


def _ignore() -> None:
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)


def _end(*_: object) -> NoReturn:
    """Ends the process at once, whatever the other threads are at."""
    os.write(2, f"{SAID}\n".encode())
    os._exit(STOPPED)
