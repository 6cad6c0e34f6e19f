"""What is no text that goes on: vectors, masks that are filled, how likely tokens are."""

import asyncio
import base64
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from starlette.responses import Response

from lm.serve import masked
from lm.serve.answers import Running, WritingJob, collected, prompts_of
from lm.serve.app import Call, answered
from lm.serve.models import PromptIds, ServedModel
from lm.serve.protocol import (
    ApiError,
    CompletionQuery,
    DetokenizeQuery,
    EmbeddingQuery,
    FillQuery,
    PlainTokenizeQuery,
    TokenizeQuery,
)
from lm.serve.stream import while_connected
from lm.serve.writing import Alternatives, LetterPlaces, PlacedToken, letters_of, token_text


async def embed(asked: Call) -> Response:
    """POST /v1/embeddings: the mean of each text's last hidden states, of length one."""
    query = await asked.query(EmbeddingQuery)
    served = asked.server.find(query.model, "embed")
    width = served.model.run.model.width
    if query.dimensions not in (None, width):
        raise ApiError(400, f"dimensions: the model has {width}", param="dimensions")
    prompts = await prompts_of(served, query.input, param="input")
    rows = [served.framed(prompt, param="input") for prompt in prompts]
    tokens = sum(len(prompt.ids) - prompt.before for prompt in prompts)
    asked.take(tokens)

    async def vectors() -> list[np.ndarray]:
        found = [np.zeros(0)] * len(rows)
        for group in served.groups(rows):
            job = partial(served.vectors, [rows[number] for number in group])
            for number, vector in zip(group, await asked.server.compute(job), strict=True):
                found[number] = vector
        return found

    found = await while_connected(asked.http, vectors())
    asked.server.metrics.prompt_tokens.inc(tokens)
    data = [
        {"object": "embedding", "index": number, "embedding": _coded(vector, query)}
        for number, vector in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return answered({"object": "list", "data": data, "model": served.name, "usage": usage})


async def fill(asked: Call) -> Response:
    """POST /v1/fill: a token in place of each mask, and what else could stand there."""
    query = await asked.query(FillQuery)
    served = asked.server.find(query.model, "fill")
    ids = await asyncio.to_thread(
        masked.masked_ids, served, query.prompt, query.mask, param="prompt"
    )
    asked.take(len(ids))
    job = partial(masked.filled, served, ids, query)
    found = await while_connected(asked.http, asked.server.compute(job))
    tokens = [found.get(place, PlacedToken(id, 0, None, ())) for place, id in enumerate(ids)]
    shown = [
        {"text": text, "filled": place in found} | _said(served, token, query.alternatives)
        for place, (text, token) in enumerate(_texts(served, tokens))
    ]
    text = served.tokenizer.decode([token.id for token in tokens])
    return answered({"model": served.name, "text": text, "tokens": shown})


async def tokenize(asked: Call) -> Response:
    """POST /v1/tokenize: the tokens of a text, and how likely each is."""
    query = await asked.query(TokenizeQuery)
    served = asked.server.find(query.model)
    mark = query.mask
    if mark is None or mark not in query.text or "fill" not in served.can:
        mark = None
    if mark is not None:
        blanks = partial(masked.masked_ids, served, query.text, mark, param="text")
        prompt = PromptIds(await asyncio.to_thread(blanks), query.text, 0)
    else:
        (prompt,) = await prompts_of(served, query.text, param="text")
    tokens = [PlacedToken(id, 0, None, ()) for id in prompt.ids[prompt.before :]]
    before, behind = served.around
    fits = 1 + len(tokens) + len(behind) < served.length
    if query.logprobs and fits and tokens:
        asked.take(len(tokens))
        if "complete" in served.can:
            job = WritingJob(served, [prompt], 1, 0, "text", query.alternatives, echo=True)
            with Running(asked, job, CompletionQuery(max_tokens=0, echo=True)) as running:
                (written,) = await while_connected(asked.http, collected(running, 1))
            tokens = written.before
        elif "fill" in served.can:
            row = served.framed(prompt, param="text")
            inner = range(len(before), len(row) - len(behind))
            mask = served.tokenizer.vocabulary.mask
            places = [place for place in inner if row[place] != mask]
            found = await while_connected(asked.http, _each(asked, served, row, places))
            tokens = _inner(served, found)
    letters = letters_of(served.tokenizer, query.text, mark)
    shown = [
        {"id": token.id, "text": text} | _said(served, token, query.alternatives)
        for text, token in zip(letters, tokens, strict=True)
    ]
    return answered({"model": served.name, "count": len(shown), "tokens": shown})


async def tokenizer_info(asked: Call) -> Response:
    """GET /tokenizer_info, as vLLM's servers have it and lm-eval asks it."""
    tokenizer = asked.server.find("").tokenizer
    roles = {"bos_token": tokenizer.vocabulary.bos, "eos_token": tokenizer.vocabulary.eos}
    shown = {role: tokenizer.id_to_token(id) for role, id in roles.items()}
    return answered({**shown, "chat_template": tokenizer.chat_template})


async def tokenize_plainly(asked: Call) -> Response:
    """POST /tokenize, likewise. A text that is a special token's spelling alone is its id,
    which lm-eval finds these by; in all others none is read.
    """
    query = await asked.query(PlainTokenizeQuery)
    served = asked.server.find(query.model)
    (prompt,) = await prompts_of(served, query.prompt, param="prompt")
    ids = prompt.ids[0 if query.add_special_tokens else prompt.before :]
    special = served.tokenizer.special_ids.get(query.prompt)
    ids = ids if special is None else [special]
    return answered({"tokens": ids, "count": len(ids), "max_model_len": served.length})


async def detokenize(asked: Call) -> Response:
    """POST /detokenize, likewise."""
    query = await asked.query(DetokenizeQuery)
    served = asked.server.find(query.model)
    if not query.tokens:
        return answered({"prompt": ""})
    (prompt,) = await prompts_of(served, query.tokens, param="tokens")
    return answered({"prompt": prompt.text})


async def _each(
    asked: Call, served: ServedModel, row: Sequence[int], places: Sequence[int]
) -> list[PlacedToken]:
    """The tokens of a row, and how likely those at some places are, given all others."""
    found: dict[int, tuple[float, Alternatives]] = {}
    for group in served.groups([row] * len(places)):
        of = [places[number] for number in group]
        likely = await asked.server.compute(partial(masked.likelihoods, served, row, of))
        found.update(zip(of, likely, strict=True))
    return [PlacedToken(id, 0, *found.get(place, (None, ()))) for place, id in enumerate(row)]


def _inner(served: ServedModel, tokens: Sequence[PlacedToken]) -> list[PlacedToken]:
    """Tokens of a row without what stands around the text."""
    before, behind = served.around
    return list(tokens[len(before) : len(tokens) - len(behind)])


def _texts(served: ServedModel, tokens: Sequence[PlacedToken]) -> list[tuple[str, PlacedToken]]:
    """Tokens with the letters that each one adds, so that together they are the text."""
    places = LetterPlaces(served.tokenizer)
    return [(places.letters(token.id), token) for token in tokens]


def _said(served: ServedModel, token: PlacedToken, most: int) -> dict[str, Any]:
    top = [
        {"id": id, "text": token_text(served.tokenizer, id), "logprob": log_p}
        for id, log_p in token.alternatives[:most]
    ]
    return {"logprob": token.log_p, "top": top}


def _coded(vector: np.ndarray, query: EmbeddingQuery) -> Any:
    if query.encoding_format == "float":
        return vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
