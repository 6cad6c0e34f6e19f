"""What the paths of OpenAI's protocol answer, and those that the playground has beyond it."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

from starlette.responses import Response

from lm.generate.engine import Emitted, Request
from lm.serve.app import Call, answered
from lm.serve.models import PromptIds, ServedModel, sampling_of
from lm.serve.protocol import (
    TEXTS,
    ApiError,
    ChatQuery,
    CompletionQuery,
    Given,
    GivenIds,
    TextQuery,
)
from lm.serve.retrieving import nothing_found, retrieve, with_found
from lm.serve.stream import EventStream, while_connected
from lm.serve.writing import (
    Added,
    PlacedToken,
    RowWriter,
    chat_logprobs,
    completion_logprobs,
    prompt_tokens,
)


@dataclass(frozen=True)
class WritingJob:
    """What one request has written: a number of texts after each of its prompts."""

    served: ServedModel
    prompts: list[PromptIds]
    each: int
    """Texts a prompt."""
    count: int
    """Tokens of a text, at most."""
    end: Literal["text", "answer"]
    alternatives: int = 0
    """How many a token."""
    echo: bool = False
    """Whether the prompts' own tokens are scored."""

    @property
    def texts(self) -> int:
        return len(self.prompts) * self.each

    def prompt_of(self, place: int) -> PromptIds:
        """What a text goes on from."""
        return self.prompts[place // self.each]

    def request(self, query: TextQuery, place: int, number: int) -> Request:
        """What the engine is asked for one of the texts."""
        return Request(
            number,
            self.prompt_of(place).ids,
            self.count,
            sampling_of(query, place % self.each),
            self.served.ends(of=self.end),
            self.alternatives,
            self.echo,
        )


class TextPart(NamedTuple):
    """What a token adds to one of a request's texts."""

    place: int
    added: Added
    before: list[PlacedToken]
    """The prompt's own tokens, with the first token of its text, where they are wanted."""
    first: bool


class Running:
    """A job at work; whoever leaves it closes it, and its slots are free."""

    def __init__(self, asked: Call, job: WritingJob, query: TextQuery) -> None:
        """Raises ApiError where the queue is full, or the key has no tokens left."""
        self._asked, self._job, server = asked, job, asked.server
        self.prompt_tokens = sum(len(prompt.ids) - prompt.before for prompt in job.prompts)
        self._reserved = self.prompt_tokens + job.texts * job.count
        asked.take(self._reserved)
        try:
            self._exchange = server.loop.submit(
                job.served.name, job.texts, partial(job.request, query)
            )
        except ApiError:
            asked.give_back(self._reserved)
            raise
        server.metrics.prompt_tokens.inc(self.prompt_tokens)
        self._ended = server.watch(self._exchange)
        tokenizer = job.served.tokenizer
        self._writers = [RowWriter(tokenizer, query.stops) for _ in range(job.texts)]
        self._left = set(range(job.texts))
        self._closed = self._cut = False

    @property
    def usage(self) -> dict[str, Any]:
        """How many tokens were given and written by now."""
        return usage(self.prompt_tokens, sum(writer.count for writer in self._writers))

    async def parts(self) -> AsyncGenerator[TextPart, None]:
        """What is written, as it comes; raises ApiError where no more comes."""
        begun: set[int] = set()
        while self._left:
            found = await self._exchange.queue.get()
            if isinstance(found, ApiError):
                self._cut = True
                raise found
            place, emitted = found
            if place not in self._left:
                continue  # its stop came true, and it was still at work
            added, before = self._added(place, emitted), None
            if place not in begun:
                begun.add(place)
                before = self._prompt_tokens(place, emitted)
            if added.reason is not None:
                self._left.discard(place)
                if emitted.reason is None:
                    self._cancel([place])
            if added.text or added.tokens or added.reason or before:
                yield TextPart(place, added, before or [], before is not None)

    def close(self) -> None:
        """Frees its slots, and gives back the tokens that were not used."""
        if self._closed:
            return
        self._closed = True
        if self._left:
            self._cancel(list(self._left))
            if not self._cut:
                self._asked.server.metrics.cancelled.inc()
        self._ended()
        self._asked.give_back(self._reserved - self.usage["total_tokens"])

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _added(self, place: int, emitted: Emitted) -> Added:
        return self._writers[place].take(emitted)

    def _prompt_tokens(self, place: int, emitted: Emitted) -> list[PlacedToken]:
        if not self._job.echo:
            return []
        prompt = self._job.prompt_of(place)
        # What stands before a text was not given, and only says how likely its first token is.
        return prompt_tokens(self._job.served.tokenizer, emitted.prompt[prompt.before :])

    def _cancel(self, places: Sequence[int]) -> None:
        loop = self._asked.server.loop
        loop.cancel(self._job.served.name, self._exchange, places)


def usage(prompt: int, completion: int) -> dict[str, int]:
    """How many tokens were given and written."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def collected(running: Running, texts: int) -> list[TextPart]:
    """All that each text of a job is, once it has ended."""
    found = [TextPart(place, Added("", [], None), [], True) for place in range(texts)]
    async for place, (text, tokens, reason), before, _ in running.parts():
        last = found[place]
        added = Added(last.added.text + text, [*last.added.tokens, *tokens], reason)
        found[place] = TextPart(place, added, [*last.before, *before], True)
    return found


async def complete(asked: Call) -> Response:
    """POST /v1/completions."""
    query = await asked.query(CompletionQuery)
    served = asked.server.find(query.model, "complete")
    prompts = await prompts_of(served, query.prompt, param="prompt")
    for prompt in prompts:
        served.check_count(prompt, query.max_tokens, "max_tokens")
    echo = query.echo and query.logprobs is not None
    job = WritingJob(
        served, prompts, query.n, query.max_tokens, "text", query.logprobs or 0, echo
    )
    running = Running(asked, job, query)
    head = _head("cmpl", "text_completion", served)

    def choice(written: TextPart) -> dict[str, Any]:
        place, (text, tokens, reason), before, first = written
        echoed = job.prompt_of(place).text if query.echo else ""
        logprobs = None
        if query.logprobs is not None:
            top, of = query.logprobs, served.tokenizer
            own = completion_logprobs(of, tokens, top=top, offset=len(echoed))
            given = completion_logprobs(of, before, top=top)
            logprobs = {name: given[name] + own[name] for name in own}
        text = echoed + text if first else text
        return {
            "index": place,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    if query.stream:

        async def chunks() -> AsyncGenerator[Any, None]:
            usage = {"usage": None} if query.usage_in_stream else {}
            async for written in running.parts():
                yield {**head, "choices": [choice(written)], **usage}
            if query.usage_in_stream:
                yield {**head, "choices": [], "usage": running.usage}

        return EventStream(chunks(), asked.server.longest, running.close)
    with running:
        found = await while_connected(asked.http, collected(running, job.texts))
    return answered({**head, "choices": [*map(choice, found)], "usage": running.usage})


async def chat(asked: Call) -> Response:
    """POST /v1/chat/completions."""
    query = await asked.query(ChatQuery)
    served = asked.server.find(query.model, "chat")
    prompt = await asyncio.to_thread(
        served.conversation, query.messages, begun=query.continue_final_message
    )
    kind = "chat.completion.chunk" if query.stream else "chat.completion"
    head = _head("chatcmpl", kind, served)
    retrieved, shown = await retrieve(asked, query), dict[str, Any]()
    if retrieved is not None:
        if not retrieved.support.supported:
            asked.take(len(prompt.ids))
            return nothing_found(asked, query, retrieved, head, usage(len(prompt.ids), 0))
        prompt, used = await asyncio.to_thread(with_found, served, query, retrieved)
        retrieved, shown = used, {"retrieval": used.shown}
    count = query.count or max(1, served.length - len(prompt.ids))
    served.check_count(prompt, count, "messages")
    top = (query.top_logprobs or 0) if query.logprobs else None
    job = WritingJob(served, [prompt], query.n, count, "answer", top or 0)
    running = Running(asked, job, query)

    def logprobs(tokens: Sequence[PlacedToken]) -> dict[str, Any] | None:
        return None if top is None else chat_logprobs(served.tokenizer, tokens, top=top)

    def in_sources(text: str) -> dict[str, float]:
        return {} if retrieved is None else {"said_in_sources": retrieved.said(text)}

    if query.stream:

        async def chunks() -> AsyncGenerator[Any, None]:
            usage = {"usage": None} if query.usage_in_stream else {}
            whole = [""] * job.texts
            for place in range(job.texts):
                delta = {"role": "assistant", "content": ""}
                choice = {"index": place, "delta": delta, "logprobs": None}
                found = {} if place else shown
                yield {**head, "choices": [{**choice, "finish_reason": None}], **usage, **found}
            async for place, (text, tokens, reason), *_ in running.parts():
                whole[place] += text
                choice = {
                    "index": place,
                    "delta": {"content": text} if text or tokens else {},
                    "logprobs": logprobs(tokens),
                    "finish_reason": reason,
                    **(in_sources(whole[place]) if reason else {}),
                }
                yield {**head, "choices": [choice], **usage}
            if query.usage_in_stream:
                yield {**head, "choices": [], "usage": running.usage}

        return EventStream(chunks(), asked.server.longest, running.close)
    with running:
        found = await while_connected(asked.http, collected(running, job.texts))
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": logprobs(tokens),
            "finish_reason": reason,
            **in_sources(text),
        }
        for place, (text, tokens, reason), *_ in found
    ]
    return answered({**head, "choices": choices, "usage": running.usage, **shown})


async def prompts_of(
    served: ServedModel, given: Given | GivenIds, *, param: str
) -> list[PromptIds]:
    """Prompts in ids, found beside the event loop; raises ApiError."""
    several = isinstance(given, list) and not (given and isinstance(given[0], int))
    if several and len(given) > TEXTS:
        raise ApiError(400, f"{param}: {len(given)} texts; at most {TEXTS}", param=param)
    return await asyncio.to_thread(served.prompts, given, param=param)


def _head(kind: str, object_: str, served: ServedModel) -> dict[str, Any]:
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "object": object_,
        "created": int(time.time()),
        "model": served.name,
    }
