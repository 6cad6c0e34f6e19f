"""Chats that are answered from an index, and searches of it."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from lm.retrieval.answer import NOTHING
from lm.serve.app import Call, answered
from lm.serve.models import PromptIds, ServedModel
from lm.serve.protocol import ApiError, ChatMessage, ChatQuery, SearchQuery
from lm.serve.retriever import RetrievedSources, Retriever
from lm.serve.stream import EventStream, while_connected

LEAST = 64
"""Tokens that are left for an answer, where it was not said how many."""


async def search(asked: Call) -> Response:
    """POST /v1/search: the best passages of the server's index."""
    query = await asked.query(SearchQuery)
    retriever = _retriever(asked)
    asked.take(len(query.query.split()))
    found = await while_connected(asked.http, _find(asked, retriever, query.query, query.k))
    return answered({"index": retriever.name, **found.shown})


async def retrieve(asked: Call, query: ChatQuery) -> RetrievedSources | None:
    """What the index has for the last message of the user; None: it is not to be asked.

    Raises ApiError where there is no index, or no such message.
    """
    if query.retrieve is False or (query.retrieve is None and asked.server.retriever is None):
        return None
    retriever = _retriever(asked)
    question = query.messages[_last(query)].plain["content"].strip()
    if not question:
        raise ApiError(400, "messages: the last one asks nothing", param="messages")
    return await while_connected(asked.http, _find(asked, retriever, question, None))


def with_found(
    served: ServedModel, query: ChatQuery, found: RetrievedSources
) -> tuple[PromptIds, RetrievedSources]:
    """The conversation in ids, with as many of the sources as there is room for."""
    place, count = _last(query), query.count or LEAST
    for sources in range(len(found.found), 0, -1):
        kept = found.first(sources)
        messages: list[ChatMessage] = [*query.messages]
        messages[place] = msgspec.structs.replace(messages[place], content=kept.asked)
        try:
            prompt = served.conversation(messages, begun=query.continue_final_message)
        except ApiError:
            if sources == 1:
                raise
            continue
        if sources == 1 or len(prompt.ids) + count <= served.length:
            break
    return prompt, kept


def nothing_found(
    asked: Call,
    query: ChatQuery,
    found: RetrievedSources,
    head: dict[str, Any],
    usage: dict[str, int],
) -> Response:
    """An answer that says that nothing which was found supports one."""
    if not query.stream:
        message = {"role": "assistant", "content": NOTHING, "refusal": None}
        choices = [
            {"index": place, "message": message, "logprobs": None, "finish_reason": "stop"}
            for place in range(query.n)
        ]
        return answered({**head, "choices": choices, "usage": usage, "retrieval": found.shown})

    async def chunks() -> AsyncGenerator[Any, None]:
        of_usage = {"usage": None} if query.usage_in_stream else {}
        delta = {"role": "assistant", "content": NOTHING}
        for place in range(query.n):
            choice = {"index": place, "delta": delta, "logprobs": None, "finish_reason": "stop"}
            retrieval = {} if place else {"retrieval": found.shown}
            yield {**head, "choices": [choice], **of_usage, **retrieval}
        if query.usage_in_stream:
            yield {**head, "choices": [], "usage": usage}

    return EventStream(chunks(), asked.server.longest, lambda: None)


async def _find(
    asked: Call, retriever: Retriever, question: str, k: int | None
) -> RetrievedSources:
    vector_D = await asked.server.compute(partial(retriever.vector, question))
    return await asyncio.to_thread(retriever.find, question, vector_D, k)


def _retriever(asked: Call) -> Retriever:
    if asked.server.retriever is None:
        raise ApiError(
            400, "the server has no index: it is started with --index", param="retrieve"
        )
    return asked.server.retriever


def _last(query: ChatQuery) -> int:
    """The place of the last message of the user."""
    for place in reversed(range(len(query.messages))):
        if query.messages[place].role == "user":
            return place
    raise ApiError(400, "messages: none is the user's, to ask the index", param="messages")
