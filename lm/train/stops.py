"""Requests to stop, which neither a step nor a save is cut in two by."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm.distributed import signals


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that neither a step nor a save is cut in two.

    A second one is final. What is ignored already stays so, as in all that comes before.
    """
    received: list[int] = []
    previous: dict[signal.Signals, Any] = {}

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        for caught in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(caught) is not signal.SIG_IGN:
                previous[caught] = signal.signal(caught, note)
    except ValueError:  # not the main thread: signals are not ours
        pass
    try:
        yield received
    finally:
        signals.keep_alive(False)
        for caught, handler in previous.items():
            signal.signal(caught, handler)
