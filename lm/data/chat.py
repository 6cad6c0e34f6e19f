"""Conversations as text: chat templates, in which no message can spell a special token.

A template is a program in Jinja that writes the messages and, around them, special tokens by
their spelling. Whoever reads its text for special tokens reads those that a message spells too.
So what messages spell is written in private characters while the template works, and turned
back into text after the template's own special tokens have been found.
"""

import datetime
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from lm.config import UserError
from lm.config.types import nearest_of

ROLES = (
    *("system", "developer", "user", "assistant", "model", "tool", "function"),
    *("ipython", "environment"),
)
"""Roles of messages: some templates make special tokens of their names."""


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
    special: Sequence[str],
    variables: Mapping[str, str] | None = None,
) -> list[tuple[str, bool]]:
    """The text of a conversation in parts, each with whether it is a special token.

    `special` are the spellings of special tokens, `variables` further names that templates know
    (`bos_token`). Raises UserError where the template refuses the messages, or where it cannot
    be told what is the template's and what a message's.

    >>> render(
    ...     "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}",
    ...     [{"role": "user", "content": " not the <end> "}],
    ...     special=["<user>", "<end>"],
    ... )
    [('<user>', True), ('not the <end>', False), ('<end>', True)]
    """
    _check(messages)
    private = _Private(special, [template, *_texts(messages)])
    compiled = _compile(template)

    def rendered(change: Callable[[str], str], name: Callable[[str], str]) -> str:
        try:
            return compiled.render(
                messages=_changed(messages, change, name),
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **(variables or {}),
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template refuses the messages: {error}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(f"the chat template fails on the messages: {error}") from None

    plain = rendered(str, str)
    hidden = rendered(private.hide_special, private.hide_special)
    parts = private.parts(hidden)
    if private.show(hidden) != plain:
        found = private.spelled(_texts(messages))
        raise UserError(
            f"the chat template takes apart a message that spells {found}: it cannot be told"
            " which special tokens are the template's own"
        )
    apart = private.parts(rendered(private.hide_marks, private.hide_special))
    if _specials(apart) != _specials(parts):
        raise UserError(
            "the chat template and a message spell a special token together: it cannot be told"
            " which are the template's own"
        )
    return [(private.show(text), marked) for text, marked in parts]


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise UserError(
                f"message {number}: role is {role!r}; {nearest_of(str(role), ROLES)}"
            )


class _Private:
    """Private characters in place of those that special tokens are spelled with."""

    def __init__(self, special: Sequence[str], texts: Sequence[str]) -> None:
        ordered = sorted(filter(None, special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        spelled = sorted(set("".join(ordered)))
        seen = set("".join(texts))
        free = (chr(point) for point in range(0xF0000, 0xFFFFE) if chr(point) not in seen)
        self._hidden = dict(zip(spelled, free, strict=False))
        self._shown = {ord(hidden): character for character, hidden in self._hidden.items()}
        self._all = str.maketrans(self._hidden)
        self._marks = str.maketrans(
            {c: hidden for c, hidden in self._hidden.items() if not re.match(r"[\w\s-]", c)}
        )

    def spelled(self, texts: Sequence[str]) -> str:
        """The first special token that is spelled in one of these."""
        return next(
            (found[0] for text in texts if (found := self._special.search(text))), "one"
        )

    def hide_special(self, text: str) -> str:
        """The text with every special token's spelling hidden."""
        return self._special.sub(lambda found: found[0].translate(self._all), text)

    def hide_marks(self, text: str) -> str:
        """The text with the brackets, bars and so on hidden that such spellings have."""
        return text.translate(self._marks)

    def show(self, text: str) -> str:
        """The text with all that was hidden."""
        return text.translate(self._shown)

    def parts(self, text: str) -> list[tuple[str, bool]]:
        """The text cut at the special tokens that are spelled in it."""
        found, last = [], 0
        for match in self._special.finditer(text):
            found += [(text[last : match.start()], False), (match[0], True)]
            last = match.end()
        found.append((text[last:], False))
        return [(part, marked) for part, marked in found if part]


def _specials(parts: Sequence[tuple[str, bool]]) -> list[str]:
    return [text for text, marked in parts if marked]


def _changed(value: Any, change: Callable[[str], str], name: Callable[[str], str]) -> Any:
    """A message's values with every text but its role changed, and so the keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {
            name(key): each if key == "role" else _changed(each, change, name)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_changed(each, change, name) for each in value]
    return value


def _texts(value: Any) -> list[str]:
    """Every text in a message's values."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    _changed(value, note, note)
    return found


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks answers for training, and changes no text."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


@functools.lru_cache(8)
def _compile(template: str) -> jinja2.Template:
    """The program of a template, which reaches nothing of this machine."""
    sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _Generation],
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _refuse
    now = datetime.datetime.now()  # once, as a template is rendered many times
    sandbox.globals["strftime_now"] = now.strftime
    try:
        return sandbox.from_string(template)
    except jinja2.TemplateError as error:
        raise UserError(f"the chat template is no Jinja: {error}") from None


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # Jinja's own escapes <, > and quotes for web pages.
    return json.dumps(value, ensure_ascii=False, indent=indent)
