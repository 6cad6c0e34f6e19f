"""How a server listens, and how it stops: by uvicorn, with its ends of HTTP made impatient."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lm.config import UserError
from lm.serve.answers import chat, complete
from lm.serve.app import ModelServer
from lm.serve.beside import (
    detokenize,
    embed,
    fill,
    tokenize,
    tokenize_plainly,
    tokenizer_info,
)
from lm.serve.retrieving import search

ROUTES = {
    "POST /v1/completions": complete,
    "POST /v1/chat/completions": chat,
    "POST /v1/embeddings": embed,
    "POST /v1/fill": fill,
    "POST /v1/search": search,
    "POST /v1/tokenize": tokenize,
    "GET /tokenizer_info": tokenizer_info,
    "POST /tokenize": tokenize_plainly,
    "POST /detokenize": detokenize,
}
"""What is answered, by method and path, beside what a server says of itself."""


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; raises UserError where it cannot. Port 0 is any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: {reason}") from None


def listen(
    server: ModelServer,
    on: socket.socket,
    stop: Sequence[int],
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answers until `stop` holds something; raises what the device has failed of, if it has.

    `ready` is called once programs are compiled and it answers.
    """
    asyncio.run(_listen(server, on, stop, ready))
    if server.failed is not None:
        raise server.failed


async def _listen(
    server: ModelServer, on: socket.socket, stop: Sequence[int], ready: Callable[[], None]
) -> None:
    config = uvicorn.Config(
        server.app(ROUTES),
        http=_protocol(server.limits.upload_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=server.limits.connections,
        timeout_graceful_shutdown=2,
    )
    # That clients leave while they are written to is no news.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    http = _Server(config)
    listening = asyncio.create_task(http.serve(sockets=[on]))
    while not (listening.done() or http.started):
        await asyncio.sleep(0.01)
    if http.started:
        ready()
    while not (listening.done() or stop or server.failed):
        await asyncio.sleep(0.05)
    if not listening.done():
        await server.drain()
        http.should_exit = True
    await listening


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none: commands of this package hear signals in a way of their own."""
        yield


def _protocol(seconds: float) -> type[H11Protocol]:
    """HTTP for clients who may take so long to send a request's headers, or to read the end of
    an answer; others are cut off. uvicorn waits for them for ever.
    """

    class Impatient(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._check(before=None)

        def _check(self, before: object) -> None:
            """Ends a connection that is idle, or about to close, as it was last time."""
            idle = self.cycle is None or self.cycle.response_complete
            now = (id(self.cycle), self.transport.is_closing()) if idle else None
            if idle and now == before:
                self.transport.abort()
            if self in self.connections:
                self.loop.call_later(seconds, self._check, now)

    return Impatient
