"""A server of models: which path answers what, who may ask, and how it all ends."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from lm.config import UserError
from lm.config.types import nearest_of
from lm.generate.engine import Engine, Request
from lm.serve.batching import Computed, DeviceLoop, Exchange
from lm.serve.limits import KeyRing, Limits, TokenBucket, check_host, check_origin
from lm.serve.metrics import ServerMetrics
from lm.serve.models import Ability, ServedModel
from lm.serve.page import page_routes
from lm.serve.protocol import AnyQuery, ApiError, decode
from lm.serve.retriever import Retriever
from lm.serve.stream import ClientGone


class Call:
    """One request, with what its answer takes of a server."""

    def __init__(self, server: "ModelServer", http: HttpRequest, bucket: TokenBucket | None):
        self.server, self.http, self._bucket = server, http, bucket

    async def query(self, type_: type[AnyQuery]) -> AnyQuery:
        """What is asked; raises ApiError where it is malformed, too large or too slow."""
        limits, headers = self.server.limits, self.http.headers
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise ApiError(415, "the body must be JSON, and Content-Type application/json")
        too_large = ApiError(413, f"the body is larger than {limits.body:,} bytes")
        declared = headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limits.body:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(limits.upload_seconds):
                async for part in self.http.stream():
                    body += part
                    if len(body) > limits.body:
                        raise too_large
        except TimeoutError:
            raise ApiError(408, f"no whole request in {limits.upload_seconds:g} s") from None
        return decode(bytes(body), type_)

    def take(self, tokens: int) -> None:
        """Takes tokens of the key in advance; raises ApiError where it has not as many."""
        if self._bucket is not None:
            self._bucket.take(tokens)

    def give_back(self, tokens: int) -> None:
        """Gives back those that were not used."""
        if self._bucket is not None:
            self._bucket.give_back(tokens)


class ModelServer:
    """The models of one process, the thread that they compute on, and their limits."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        keys: KeyRing,
        limits: Limits,
        hosts: Sequence[str] | None,
        retriever: Retriever | None = None,
    ) -> None:
        """`hosts`: names that browsers may know it by; None: any. `retriever`: what chats are
        answered from.
        """
        self.models = {model.name: model for model in models}
        self.limits, self.metrics = limits, ServerMetrics()
        self.retriever = retriever
        self._keys, self._hosts = keys, hosts
        self._live: set[Exchange] = set()
        self._stopping = False
        self.loop: DeviceLoop
        """The thread; there is none before the event loop runs."""

    @property
    def failed(self) -> BaseException | None:
        """Why the thread is no more; None: it is, or was never."""
        return self.loop.failed if hasattr(self, "loop") else None

    # What handlers use

    def find(self, name: str, ability: Ability | None = None) -> ServedModel:
        """The model of a name; of none, the first that can. Raises ApiError."""
        able = [m for m in self.models.values() if ability is None or ability in m.can]
        if not name and able:
            return able[0]
        if name not in self.models:
            raise ApiError(
                404,
                f"model {name[:80]!r}: {nearest_of(name[:80], self.models)}",
                param="model",
                code="model_not_found",
            )
        if self.models[name] not in able:
            others = f"; {' or '.join(model.name for model in able)} can" if able else ""
            raise ApiError(400, f"model {name}: it cannot {ability}{others}", param="model")
        return self.models[name]

    @property
    def longest(self) -> float:
        """How long an answer's connection may stand (s): also of who reads it slowly."""
        return self.limits.seconds + 5

    def watch(self, exchange: Exchange) -> Callable[[], None]:
        """Ends an exchange with the time of a request, or with the server.

        Gives what is to be called when it has ended by itself.
        """
        timer = asyncio.get_running_loop().call_later(
            self.limits.seconds, exchange.queue.put_nowait, self._late()
        )
        self._live.add(exchange)

        def ended() -> None:
            timer.cancel()
            self._live.discard(exchange)

        return ended

    async def compute(self, function: Callable[[], Computed]) -> Computed:
        """What a function finds on the thread, in the time of a request; raises ApiError."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await self.loop.compute(function)
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> ApiError:
        seconds = self.limits.seconds
        return ApiError(504, f"no end in {seconds:g} s, which is a request's longest")

    # Beginning and end

    def app(self, routes: Mapping[str, Callable[[Call], Awaitable[Response]]]) -> Starlette:
        """The ASGI application: paths by method and path, the playground, and its own."""
        own = {
            "GET /health": self._health,
            "GET /metrics": self._metrics_page,
            "GET /v1/models": self._list_models,
            "GET /v1/models/{name:path}": self._show_model,
        }
        return Starlette(
            routes=[
                *(self._route(path, answer) for path, answer in {**own, **routes}.items()),
                *map(self._page, page_routes()),
            ],
            exception_handlers={HTTPException: _http_error, Exception: _fault},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        engines = {
            name: _warmed(model)
            for name, model in self.models.items()
            if "complete" in model.can
        }
        self.loop = DeviceLoop(engines, waiting=self.limits.waiting, metrics=self.metrics)
        yield
        await asyncio.to_thread(self.loop.end)

    async def drain(self) -> None:
        """Refuses what is new, and waits for what runs, which is cut off after the grace."""
        self._stopping = True
        deadline = time.monotonic() + self.limits.grace
        while (self._live or self.loop.waiting) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for exchange in self._live:
            exchange.queue.put_nowait(_stopping())

    # Paths

    def _route(self, path: str, answer: Callable[[Call], Awaitable[Response]]) -> Route:
        method, _, where = path.partition(" ")

        async def guarded(http: HttpRequest) -> Response:
            try:
                check_host(http.headers, self._hosts)
                check_origin(http.headers)
                bucket = None
                if where != "/health":
                    bucket = self._keys.check(http.headers.get("authorization"))
                if self._stopping and method == "POST":
                    raise _stopping()
                response = await answer(Call(self, http, bucket))
            except ApiError as error:
                response = error_response(error)
            except UserError as error:
                response = error_response(ApiError(400, str(error)))
            except (ClientGone, ClientDisconnect):
                response = Response(status_code=499)
            self.metrics.requests.labels(where, str(response.status_code)).inc()
            return response

        return Route(where, guarded, methods=[method])

    def _page(self, route: Route) -> Route:
        """A page, which a browser may come to from anywhere, and without a key."""

        async def guarded(http: HttpRequest) -> Response:
            try:
                check_host(http.headers, self._hosts)
            except ApiError as error:
                return error_response(error)
            found: Response = await route.endpoint(http)
            return found

        return Route(route.path, guarded, methods=["GET"])

    async def _health(self, _: Call) -> Response:
        if self.failed is not None:
            raise ApiError(500, "the device has failed")
        if self._stopping:
            raise _stopping()
        return answered({"status": "ok"})

    async def _metrics_page(self, _: Call) -> Response:
        self.metrics.running.set(self.loop.running)
        self.metrics.waiting.set(self.loop.waiting)
        return Response(
            self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def _list_models(self, _: Call) -> Response:
        return answered(
            {"object": "list", "data": [self._shown(each) for each in self.models.values()]}
        )

    async def _show_model(self, asked: Call) -> Response:
        name = asked.http.path_params["name"]
        if name not in self.models:
            raise ApiError(404, f"model {name[:80]!r}: there is none", code="model_not_found")
        return answered(self._shown(self.models[name]))

    def _shown(self, model: ServedModel) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": model.name,
            "object": "model",
            "created": model.created,
            "owned_by": "yardstick",
            "can": model.can,
            "context": model.length,
        }
        if self.retriever is not None and "chat" in model.can:
            found["index"] = self.retriever.name
        return found


def _warmed(model: ServedModel) -> Engine:
    """A model's engine, its programs compiled but for those of longer prompts."""
    engine, bos = model.engine(), model.tokenizer.vocabulary.bos
    for _ in engine.all([Request(0, [bos], 2)]):
        pass
    return engine


def answered(value: Any) -> Response:
    """An answer in JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def error_response(error: ApiError) -> Response:
    """An error in OpenAI's form."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, -int(-error.retry_after)))
    return Response(
        msgspec.json.encode(error.body), error.status, headers, media_type="application/json"
    )


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", retry_after=5.0)


async def _http_error(_: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "no such path", 405: "no such method here"}
    return error_response(
        ApiError(error.status_code, said.get(error.status_code, error.detail))
    )


async def _fault(_: HttpRequest, error: Exception) -> Response:
    return error_response(ApiError(500, "the server has a fault; its log says which"))
