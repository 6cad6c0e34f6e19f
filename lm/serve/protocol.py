"""What may be asked, as OpenAI documents it, and how it is refused.

Requests are strict structs. A parameter that would change the answer and is not there is
refused by its name, unless it is given as what it is anyway; those that change nothing, which
OpenAI's clients send, are left out. Null is the same as nothing. Beyond OpenAI's are `top_k`,
`min_p` and `repetition_penalty`, which go by these names elsewhere too.

Source: https://platform.openai.com/docs/api-reference.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from lm.config.types import nearest_of

HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction"),
        *("parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention"),
    }
)
"""Parameters of OpenAI's that change no answer of a server that keeps nothing."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "use_beam_search": (False,),
    # Of messages, as answers that come back have them.
    "refusal": (),
    "tool_calls": ([],),
    "annotations": ([],),
}
"""Parameters that are not there, with the values that ask for what is done anyway."""
ALTERNATIVES = 20
"""The most alternatives a token, as OpenAI has it."""
CHOICES = 128
"""The most answers to one prompt, as OpenAI has it."""
TEXTS = 2048
"""The most prompts, or texts to embed, of one request, as OpenAI has it."""


class ApiError(Exception):
    """What is answered in place of an answer, in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after
        """After how long the same may be asked again (s)."""

    @property
    def body(self) -> dict[str, Any]:
        """The error as it is sent.

        >>> ApiError(404, "no such model", param="model").body["error"]["type"]
        'invalid_request_error'
        """
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        usual = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": kinds.get(self.status, usual),
                "param": self.param,
                "code": self.code,
            }
        }


TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
GivenIds = list[TokenId]
"""Ids, which are taken as they are."""
Given = str | list[str | TokenId | GivenIds]
"""One text, its ids, or a list of either."""
Bounded = Annotated[str, Meta(max_length=1024)]


class ApiQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all requests have."""

    model: str = ""


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a stream has besides its text."""

    include_usage: bool = False
    include_obfuscation: bool = False


class SampledQuery(ApiQuery, frozen=True, kw_only=True):
    """What asks for tokens that are drawn."""

    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, lt=2**31)] = 0
    """0 and -1: all."""
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    seed: int | None = None


class TextQuery(SampledQuery, frozen=True, kw_only=True):
    """What asks for text that goes on."""

    n: Annotated[int, Meta(ge=1, le=CHOICES)] = 1
    stop: Bounded | Annotated[list[Bounded], Meta(max_length=16)] = ()  # type: ignore[assignment]
    stream: bool = False
    stream_options: StreamOptions | None = None

    def __post_init__(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop))

    @property
    def usage_in_stream(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionQuery(TextQuery, frozen=True, kw_only=True):
    """POST /v1/completions."""

    prompt: Given = ""
    max_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 16
    logprobs: Annotated[int, Meta(ge=0, le=ALTERNATIVES)] | None = None
    echo: bool = False
    best_of: Annotated[int, Meta(ge=1, le=CHOICES)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.best_of not in (None, self.n):
            raise ValueError(f"best_of: not supported; leave it out, or give n ({self.n})")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 says nothing but with echo; at least 1")
        if self.max_tokens == 0 and self.stream:
            raise ValueError("max_tokens: 0 writes nothing that could be streamed")


class ContentPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a message's content; there are texts alone."""

    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody said."""

    role: Bounded
    content: str | list[ContentPart] = ""
    name: Bounded | None = None

    @property
    def plain(self) -> dict[str, str]:
        """The message as a chat template takes it."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        return {"role": self.role, "content": text}


class ChatQuery(TextQuery, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=4096)]
    max_tokens: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=ALTERNATIVES)] | None = None
    continue_final_message: bool = False
    """Whether the last message is the beginning of the answer, as vLLM's servers have it."""
    retrieve: bool | None = None
    """Of this package alone: whether it is answered from the server's index; None: where it has
    one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message: only where the assistant's is the last")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs=true")
        if (
            None not in (given := {self.max_tokens, self.max_completion_tokens})
            and len(given) > 1
        ):
            raise ValueError("max_tokens: another than max_completion_tokens; give one of them")

    @property
    def count(self) -> int | None:
        """Tokens of an answer, at most; None: as many as there is room for."""
        return self.max_completion_tokens or self.max_tokens


class EmbeddingQuery(ApiQuery, frozen=True, kw_only=True):
    """POST /v1/embeddings."""

    input: Given
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class SearchQuery(ApiQuery, frozen=True, kw_only=True):
    """POST /v1/search, of this package alone: passages of the server's index."""

    query: Annotated[str, Meta(min_length=1, max_length=1 << 16)]
    k: Annotated[int, Meta(ge=1, le=100)] = 5


class FillQuery(SampledQuery, frozen=True, kw_only=True):
    """POST /v1/fill, of this package alone: what stands at each mask of a text."""

    prompt: str
    mask: Annotated[str, Meta(min_length=1, max_length=64)] = "[MASK]"
    """What stands for a mask token in the prompt."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    order: Literal["certain", "left", "random", "diffusion"] = "certain"
    """See `lm.generate.filling.fill_blanks`."""
    alternatives: Annotated[int, Meta(ge=0, le=ALTERNATIVES)] = 5


class TokenizeQuery(ApiQuery, frozen=True, kw_only=True):
    """POST /v1/tokenize, of this package alone: a text's tokens, and how likely each is."""

    text: str
    mask: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    """What stands for a mask token in the text; None: nothing does."""
    alternatives: Annotated[int, Meta(ge=0, le=ALTERNATIVES)] = 5
    logprobs: bool = True


class PlainTokenizeQuery(ApiQuery, frozen=True, kw_only=True):
    """POST /tokenize, as vLLM's servers have it and lm-eval asks it."""

    prompt: str
    add_special_tokens: bool = False


class DetokenizeQuery(ApiQuery, frozen=True, kw_only=True):
    """POST /detokenize, likewise."""

    tokens: GivenIds


AnyQuery = TypeVar("AnyQuery", bound=ApiQuery)


def decode(body: bytes, type_: type[AnyQuery]) -> AnyQuery:
    """A request's body as what it asks for; raises ApiError.

    >>> decode(b'{"model": "gpt", "prompt": "a", "n": null, "user": "x"}', CompletionQuery).n
    1
    >>> decode(b'{"prompt": "a", "presence_penalty": 1}', CompletionQuery)
    Traceback (most recent call last):
    lm.serve.protocol.ApiError: presence_penalty: not supported; leave it out
    """
    try:
        given = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise ApiError(400, "the body is JSON that is too deep") from None
    if not isinstance(given, dict):
        raise ApiError(400, "the body is JSON, and not an object")
    given = _known(given, type_, "")
    if isinstance(given.get("messages"), list):
        given["messages"] = [
            _known(each, ChatMessage, f"messages[{number}].")
            if isinstance(each, dict)
            else each
            for number, each in enumerate(given["messages"])
        ]
    try:
        return msgspec.convert(given, type_)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        place = place.removesuffix("`").lstrip(".")
        # What a struct itself refuses begins with its parameter.
        param = place or message.partition(":")[0]
        raise ApiError(400, f"{place}: {message}" if place else message, param=param) from None


def _known(given: Mapping[str, Any], type_: type[msgspec.Struct], where: str) -> dict[str, Any]:
    """The parameters of a struct among those given, without nulls; raises ApiError for others.

    `where` stands before their names in what is said of them.
    """
    known, names = {}, type_.__struct_fields__
    for name, value in given.items():
        if name in names:
            if value is not None:
                known[name] = value
        elif value is not None and name not in HARMLESS:
            if name not in NEUTRAL:
                shown = where + name[:80]
                said = f"{shown}: no such parameter; {nearest_of(name[:80], names)}"
                raise ApiError(400, said, param=shown)
            # 0 is False to Python, and to nobody else.
            if (type(value) is bool, value) not in [
                (type(e) is bool, e) for e in NEUTRAL[name]
            ]:
                said = f"{where}{name}: not supported; leave it out"
                raise ApiError(400, said, param=where + name)
    return known
