"""Answers that come in parts, and clients that leave before their end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lm.serve.protocol import ApiError

Answered = TypeVar("Answered")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


class EventStream(StreamingResponse):
    """Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html.

    Each object is one event of JSON, and the last one is [DONE]. What goes wrong when the first
    is sent is an event, too.
    """

    def __init__(
        self, objects: AsyncGenerator[Any, None], seconds: float, close: Callable[[], None]
    ) -> None:
        """`seconds`: how long all of it may take; `close`: is called at its end, whatever
        it is.
        """
        self._seconds, self._close = seconds, close
        super().__init__(
            _events(objects),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; what takes too long is left off, and the connection closed."""
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            return
        finally:
            self._close()


async def _events(objects: AsyncGenerator[Any, None]) -> AsyncGenerator[bytes, None]:
    try:
        async for each in objects:
            yield b"data: " + msgspec.json.encode(each) + b"\n\n"
    except ApiError as error:
        yield b"data: " + msgspec.json.encode(error.body) + b"\n\n"
        return
    yield b"data: [DONE]\n\n"


async def while_connected(request: HttpRequest, answer: Awaitable[Answered]) -> Answered:
    """An answer for which somebody waits; else it is cancelled. Raises ClientGone."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise ClientGone
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _left(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
