"""The one thread that all models compute on, and what waits for it.

Each model that generates has an engine with a number of slots. Between two steps the thread
frees the slots of those who left, gives free ones to those who wait, in their order, and does
one of the other computations (vectors, masked tokens). What steps emit is handed to the event
loop once a step, where each request has a queue of its own; no queue grows beyond the tokens
that its request may have.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from lm.generate.engine import Emitted, Engine, Request
from lm.serve.metrics import ServerMetrics
from lm.serve.protocol import ApiError

_log = logging.getLogger("lm.serve")
Computed = TypeVar("Computed")


class Exchange:
    """What one client waits for: the rows of its request, and what they have emitted."""

    def __init__(self, rows: int) -> None:
        self.queue: asyncio.Queue[tuple[int, Emitted] | ApiError] = asyncio.Queue()
        """Emitted tokens with the number of their row, or why there are no more."""
        self.left = set(range(rows))
        """Rows that are not at their end."""
        self.since = time.monotonic()


class _Row:
    """A text that is being written, or waits to be."""

    def __init__(self, number: int, request: Request, place: int, exchange: Exchange) -> None:
        self.number, self.request, self.place, self.exchange = number, request, place, exchange
        self.last: float | None = None
        """When its last token came."""


class _Lane:
    """One model's engine, its rows in slots, and those that wait."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.waiting: deque[_Row] = deque()
        self.running: dict[int, _Row] = {}


class DeviceLoop:
    """The thread; its methods are called from the event loop that it was made in."""

    def __init__(
        self, engines: Mapping[str, Engine], *, waiting: int, metrics: ServerMetrics
    ) -> None:
        """`waiting`: how many rows and computations may wait, over all models."""
        self._lanes = {name: _Lane(engine) for name, engine in engines.items()}
        self._most, self._metrics = waiting, metrics
        self._jobs: deque[tuple[Future, Callable[[], object]]] = deque()
        self._gone: deque[tuple[str, Exchange, frozenset[int]]] = deque()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ending = False
        self._events = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self.failed: BaseException | None = None
        """Why the thread is no more."""
        self._thread.start()

    # From the event loop

    def submit(self, model: str, requests: Sequence[Callable[[int], Request]]) -> Exchange:
        """Puts texts to be written in the queue; raises ApiError where it is full.

        Each is a function from the number of a row to its request.
        """
        with self._changed:
            self._check_room(len(requests))
            lane, exchange = self._lanes[model], Exchange(len(requests))
            for place, of in enumerate(requests):
                number = next(self._numbers)
                lane.waiting.append(_Row(number, of(number), place, exchange))
            self._changed.notify()
        return exchange

    def cancel(self, model: str, exchange: Exchange, rows: Sequence[int] | None = None) -> None:
        """Frees the slots of a request's rows, of all unless they are named, before the next
        step.
        """
        rows = list(exchange.left) if rows is None else rows
        exchange.left -= set(rows)
        with self._changed:
            self._gone.append((model, exchange, frozenset(rows)))
            self._changed.notify()

    async def compute(self, function: Callable[[], Computed]) -> Computed:
        """What a function finds on the thread; raises ApiError where the queue is full."""
        future: Future[Computed] = Future()
        with self._changed:
            self._check_room(1)
            self._jobs.append((future, function))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    @property
    def running(self) -> int:
        """Texts in slots."""
        return sum(len(lane.running) for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """Texts and computations that wait."""
        return len(self._jobs) + sum(len(lane.waiting) for lane in self._lanes.values())

    def end(self) -> None:
        """Ends the thread after the step that it is at."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join()

    def _check_room(self, more: int) -> None:
        if self.failed is not None:
            raise ApiError(500, "the device has failed: the server is to be started again")
        if more > self._most:
            raise ApiError(400, f"{more} texts in one request: at most {self._most} (--queue)")
        if self.waiting + more > self._most:
            raise ApiError(
                429,
                f"the queue is full: {self.waiting} of {self._most} wait",
                code="queue_full",
                retry_after=1.0,
            )

    # On the thread

    def _run(self) -> None:
        try:
            while self._await_work():
                self._step()
        except BaseException as error:  # whatever it is, nobody may wait for ever
            _log.exception("the device loop ends")
            self.failed = error
            self._tell(self._fail_all)

    def _await_work(self) -> bool:
        """Waits for something to do; False: it is to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ending or self._gone or self.waiting or self.running
            )
            return not self._ending

    def _step(self) -> None:
        with self._changed:
            gone, self._gone = self._gone, deque()
            for model, exchange, rows in gone:
                self._free(self._lanes[model], exchange, rows)
            admitted = []
            for lane in self._lanes.values():
                for _ in range(min(lane.engine.free, len(lane.waiting))):
                    row = lane.waiting.popleft()
                    lane.running[row.number] = row
                    admitted.append((lane, row))
            job = self._jobs.popleft() if self._jobs else None
        for lane, row in admitted:
            lane.engine.admit(row.request)
        if job is not None:
            _do(*job)
        found: list[tuple[_Row, Emitted]] = []
        for lane in self._lanes.values():
            if lane.running:
                for emitted in lane.engine.step():
                    row = lane.running[emitted.number]
                    found.append((row, emitted))
                    if emitted.reason is not None:
                        del lane.running[emitted.number]
        if found:
            self._measure(found)
            self._tell(lambda: _hand_out(found))

    def _free(self, lane: _Lane, exchange: Exchange, rows: frozenset[int]) -> None:
        def goes(row: _Row) -> bool:
            return row.exchange is exchange and row.place in rows

        for row in [row for row in lane.running.values() if goes(row)]:
            lane.engine.cancel(row.number)
            del lane.running[row.number]
        lane.waiting = deque(row for row in lane.waiting if not goes(row))

    def _measure(self, found: Sequence[tuple[_Row, Emitted]]) -> None:
        now = time.monotonic()
        for row, _ in found:
            if row.last is None:
                self._metrics.first_token.observe(now - row.exchange.since)
            else:
                self._metrics.between_tokens.observe(now - row.last)
            row.last = now
        self._metrics.generated_tokens.inc(len(found))

    def _tell(self, function: Callable[[], None]) -> None:
        try:
            self._events.call_soon_threadsafe(function)
        except RuntimeError:  # the event loop is closed, and nobody listens
            self._ending = True

    def _fail_all(self) -> None:
        """Tells everybody that no more comes."""
        failed = ApiError(500, "the device has failed: the server is to be started again")
        rows = [
            row
            for lane in self._lanes.values()
            for row in (*lane.waiting, *lane.running.values())
        ]
        for exchange in {row.exchange for row in rows}:
            exchange.queue.put_nowait(failed)
        for future, _ in self._jobs:
            future.set_exception(failed)


def _hand_out(found: Sequence[tuple[_Row, Emitted]]) -> None:
    for row, emitted in found:
        if emitted.reason is not None:
            row.exchange.left.discard(row.place)
        row.exchange.queue.put_nowait((row.place, emitted))


def _do(future: Future, function: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # whoever asked has left
    try:
        future.set_result(function())
    except Exception as error:  # it is the asker's, and the thread goes on
        future.set_exception(error)
