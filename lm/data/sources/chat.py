"""Chat files: conversations, instructions and preferences, in the shapes that they come in."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from lm.config import UserError
from lm.config.types import nearest_of
from lm.data.sources.base import (
    LOSS,
    TURN,
    Base,
    Channel,
    Conversation,
    Document,
    TooLong,
)
from lm.data.sources.text import find_files
from lm.data.tables import archive_of, packed, read_lines, read_table

CHOICE = Channel("choice", "int32", classes=2)
"""0 at the tokens of the chosen answer and its prompt, 1 at those of the rejected one."""

Messages = tuple[Mapping[str, str], ...]


class Chat(Base, frozen=True, tag="chat"):
    """Lines of JSON objects, or arrays of them, of which each is a conversation.

    Their shape is told by their fields: `messages` (role and content); `conversations` (from
    and value: ShareGPT); `instruction`, perhaps `input`, and `output` (Alpaca); `prompt` and
    `completion`; or `prompt` or `instruction` with `chosen` and `rejected`. The last four
    may be texts or lists of messages. Other fields are ignored.
    """

    paths: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="files or globs (** too), also of files in archives"),
    ]
    use: Annotated[
        Literal["conversation", "pair", "prompt"],
        Meta(
            description="what a document is: a conversation whose answers count, the chosen and"
            " the rejected one, or what is before the last answer, for a model to answer"
        ),
    ] = "conversation"
    answers: Annotated[
        Literal["all", "last"], Meta(description="which answers of a conversation count")
    ] = "all"
    system: Annotated[
        str | None,
        Meta(description="message that stands before a conversation that begins with none"),
    ] = None
    too_long: Annotated[
        TooLong,
        Meta(
            description="a document longer than a row: an error, or it is cut after the last"
            " whole answer that has room; one without, and a pair, is left out"
        ),
    ] = "refuse"

    @property
    def channels(self) -> tuple[Channel, ...]:
        return (LOSS, TURN, CHOICE) if self.use == "pair" else (LOSS, TURN)

    def files(self) -> list[tuple[str, Path]]:
        return [
            (name, path if path.is_file() else archive_of(path) or path)
            for name, path in find_files(self.paths, packed)
        ]

    def read(self) -> Iterator[Document]:
        """A document a line or an entry; raises UserError where it is none, and says which."""
        for name, path in find_files(self.paths, packed):
            try:
                for id, fields in read_lines(name, read_table(path), ()):
                    yield self._document(id, fields)
            except UserError as error:
                raise UserError(f"data.corpus: {error}") from None

    def _document(self, id: str, fields: Mapping[str, Any]) -> Document:
        try:
            found = self._conversations(fields)
            for each in found:
                _check(each.messages)
        except UserError as error:
            raise UserError(f"{id}: {error}") from None
        texts = [message["content"] for each in found for message in each.messages]
        asked = [message["content"] for message in _question(found[0].messages)]
        return Document(id, "\n".join(texts), conversations=found, group="\n".join(asked))

    def _conversations(self, fields: Mapping[str, Any]) -> tuple[Conversation, ...]:
        if self.use == "pair":
            prompt = _prompt(fields) or ()
            return tuple(
                Conversation(self._told(_after(prompt, fields, name)), "last", {"choice": n})
                for n, name in enumerate(("chosen", "rejected"))
            )
        if self.use == "prompt" and (asked := _prompt(fields)):
            return (Conversation(self._told(asked), "none"),)
        shape = next((names for names in SHAPES if set(names) <= fields.keys()), None)
        if shape is None:
            known = "; ".join(" and ".join(names) for names in SHAPES)
            pair = " (data.corpus.use=pair reads those)" if "chosen" in fields else ""
            raise UserError(
                f"no conversation: its fields are {', '.join(fields) or 'none'}, and must be"
                f" {known}{pair}"
            )
        messages = self._told(SHAPES[shape](fields))
        if self.use == "conversation":
            return (Conversation(messages, self.answers),)
        answers = [n for n, message in enumerate(messages) if _is_answer(message)]
        return (Conversation(messages[: answers[-1]] if answers else messages, "none"),)

    def _told(self, messages: Messages) -> Messages:
        """The messages with the system's before them."""
        if self.system is None or (messages and messages[0].get("role") == "system"):
            return messages
        return ({"role": "system", "content": self.system}, *messages)


def _messages(value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise UserError("its messages are no list, or an empty one")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise UserError(f"message {number}: must be an object of role and content")
    # What else is said of a message, such as a name, is no text that a model is to learn.
    return tuple({name: message[name] for name in ("role", "content")} for message in value)


SPEAKERS = {
    **{"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"},
    **{"model": "assistant", "chatgpt": "assistant", "system": "system", "tool": "tool"},
}
"""ShareGPT's names of roles."""


def _share_gpt(fields: Mapping[str, Any]) -> Messages:
    said = fields["conversations"]
    if not isinstance(said, list):
        raise UserError("its conversations are no list of messages")
    found = []
    for number, each in enumerate(said, 1):
        if not isinstance(each, dict) or not {"from", "value"} <= each.keys():
            raise UserError(f"message {number}: must be an object of from and value")
        if each["from"] not in SPEAKERS:
            raise UserError(
                f"message {number}: from={each['from']!r};"
                f" {nearest_of(str(each['from']), SPEAKERS)}"
            )
        found.append({"role": SPEAKERS[each["from"]], "content": each["value"]})
    return _messages(found)


def _prompt(fields: Mapping[str, Any]) -> Messages | None:
    """The messages of a prompt, or of an instruction with its input; None: there is neither."""
    if "prompt" in fields:
        return _said(fields["prompt"], "user")
    if "instruction" not in fields:
        return None
    parts = fields["instruction"], fields.get("input") or ""
    for name, part in zip(("instruction", "input"), parts, strict=True):
        if not isinstance(part, str):
            raise UserError(f"{name} is no text: {part!r}")
    return _said("\n\n".join(filter(None, parts)), "user")


def _said(value: Any, role: str) -> Messages:
    """A text as a message, or a list of messages."""
    return ({"role": role, "content": value},) if isinstance(value, str) else _messages(value)


def _after(prompt: Messages, fields: Mapping[str, Any], name: str) -> Messages:
    """A prompt with its answer, which may be given as the whole conversation."""
    if name not in fields:
        raise UserError(f"no field {name}; {nearest_of(name, fields)}")
    answer = _said(fields[name], "assistant")
    return answer if prompt and answer[: len(prompt)] == prompt else (*prompt, *answer)


SHAPES: dict[tuple[str, ...], Callable[[Mapping[str, Any]], Messages]] = {
    ("messages",): lambda fields: _messages(fields["messages"]),
    ("conversations",): _share_gpt,
    ("instruction", "output"): lambda fields: _after(_prompt(fields) or (), fields, "output"),
    ("prompt", "completion"): lambda fields: _after(
        _prompt(fields) or (), fields, "completion"
    ),
}
"""By their fields, how lines become messages."""


def _is_answer(message: Mapping[str, str]) -> bool:
    return message["role"] in ("assistant", "model")


def _question(messages: Messages) -> Messages:
    """What is before the first answer."""
    first = next((n for n, message in enumerate(messages) if _is_answer(message)), None)
    return messages[:first]


def _check(messages: Messages) -> None:
    """Raises UserError where a message is of nobody, no text, or an empty answer."""
    # Jinja takes a fifth of a second, and who reads no chat file has no use for it.
    from lm.data.chat import ROLES

    for number, message in enumerate(messages, 1):
        role, content = message["role"], message["content"]
        if role not in ROLES:
            raise UserError(
                f"message {number}: role is {role!r}; {nearest_of(str(role), ROLES)}"
            )
        if not isinstance(content, str):
            raise UserError(f"message {number}: its content is no text: {content!r}")
        if _is_answer(message) and not content.strip():
            raise UserError(f"message {number}: the answer is empty")
    if not messages or _is_answer(messages[0]):
        raise UserError("it begins with an answer, and must begin with a question")
