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
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from lm.config import UserError
from lm.generate.engine import Emitted, Engine, Request
from lm.serve.metrics import ServerMetrics
from lm.serve.protocol import ApiError

_log = logging.getLogger("lm.serve")
Computed = TypeVar("Computed")


class Exchange:
    """What one client waits for: what the rows of its request have emitted."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[int, Emitted] | ApiError] = asyncio.Queue()
        """Emitted tokens with the number of their row, or why there are no more."""
        self.since = time.monotonic()


class _Row:
    """A text that is being written, or waits to be."""

    def __init__(self, number: int, request: Request, place: int, exchange: Exchange) -> None:
        self.number, self.request, self.place, self.exchange = number, request, place, exchange
        self.last: float | None = None
        """When its last token came."""

    def is_of(self, exchange: Exchange, places: Collection[int]) -> bool:
        """Whether it is one of these rows of a request."""
        return self.exchange is exchange and self.place in places


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
        self._gone: deque[tuple[_Lane, Exchange, frozenset[int]]] = deque()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._ending = False
        self._events = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self.failed: BaseException | None = None
        """Why the thread is no more."""
        self._thread.start()

    # From the event loop

    def submit(self, model: str, rows: int, request: Callable[[int, int], Request]) -> Exchange:
        """Puts rows in the queue; raises ApiError where it has no room for them.

        `request` makes a row's request of its place in the exchange and its number here.
        """
        with self._changed:
            self._check_room(rows)
            lane, exchange = self._lanes[model], Exchange()
            for place in range(rows):
                number = next(self._numbers)
                lane.waiting.append(_Row(number, request(place, number), place, exchange))
            self._changed.notify()
        return exchange

    def cancel(self, model: str, exchange: Exchange, rows: Sequence[int]) -> None:
        """Ends a request's rows: who waits does so no more, and slots are free before the next
        step.
        """
        with self._changed:
            lane = self._lanes[model]
            lane.waiting = deque(row for row in lane.waiting if not row.is_of(exchange, rows))
            self._gone.append((lane, exchange, frozenset(rows)))
            self._changed.notify()

    async def compute(self, function: Callable[[], Computed]) -> Computed:
        """What a function finds on the thread; raises ApiError where the queue is full."""
        job: tuple[Future[Computed], Callable[[], Computed]] = Future(), function
        with self._changed:
            self._check_room(1)
            self._jobs.append(job)
            self._changed.notify()
        try:
            return await asyncio.wrap_future(job[0])
        finally:
            with self._changed, suppress(ValueError):
                self._jobs.remove(job)

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
            for lane, exchange, rows in gone:
                for row in [row for row in lane.running.values() if row.is_of(exchange, rows)]:
                    lane.engine.cancel(row.number)
                    del lane.running[row.number]
            admitted = []
            for lane in self._lanes.values():
                for _ in range(min(lane.engine.free, len(lane.waiting))):
                    row = lane.waiting.popleft()
                    lane.running[row.number] = row
                    admitted.append((lane, row))
            job = self._jobs.popleft() if self._jobs else None
        for lane, row in admitted:
            try:
                lane.engine.admit(row.request)
            except UserError as error:
                del lane.running[row.number]
                refused = ApiError(400, str(error))
                self._tell(partial(row.exchange.queue.put_nowait, refused))
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
            self._tell(partial(_hand_out, found))

    def _measure(self, found: Sequence[tuple[_Row, Emitted]]) -> None:
        now = time.monotonic()
        for row, _ in found:
            if row.last is None:
                self._metrics.first_token.observe(now - row.exchange.since)
            else:
                self._metrics.between_tokens.observe(now - row.last)
            row.last = now
        drawn = sum(emitted.token is not None for _, emitted in found)
        self._metrics.generated_tokens.inc(drawn)

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
            if future.set_running_or_notify_cancel():
                future.set_exception(failed)


def _hand_out(found: Sequence[tuple[_Row, Emitted]]) -> None:
    for row, emitted in found:
        row.exchange.queue.put_nowait((row.place, emitted))


def _do(future: Future, function: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return  # whoever asked has left
    try:
        future.set_result(function())
    except Exception as error:  # it is the asker's, and the thread goes on
        future.set_exception(error)
