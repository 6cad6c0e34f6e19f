"""Chat templates by name, for models that have none; `lm.data.chat` says what they are."""

import os
from pathlib import Path
from typing import NamedTuple

from lm.config import UserError
from lm.config.types import nearest_of


class ChatTemplate(NamedTuple):
    """A chat template."""

    text: str
    """In Jinja."""
    tokens: tuple[str, ...] = ()
    """The special tokens that it writes, beside those that every tokenizer has."""


TEMPLATES = {
    "chatml": ChatTemplate(
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "plain": ChatTemplate(
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ m.content + '\\n\\n' }}"
        "{% elif m.role == 'user' %}"
        "{{ '### Instruction:\\n' + m.content + '\\n\\n### Response:\\n' }}"
        "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
        "{% else %}{{ raise_exception('plain has no role ' + m.role) }}{% endif %}{% endfor %}"
    ),
}
"""`chatml` is OpenAI's, as most published models have it; `plain` is Alpaca's (Taori et al.
2023), without its first sentences, and ends an answer with the eos token."""


def as_kept(given: str) -> str:
    """A template as settings keep it: a name of one here, or the text, read if it is a file's.

    Raises UserError where it is none of these.
    """
    if given in TEMPLATES or "{" in given:
        return given
    try:
        return Path(os.path.expanduser(given)).read_text()
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"chat_template: {given} is no file of a Jinja template; such a file, or"
            f" {nearest_of(given, TEMPLATES)}"
        ) from None


def text_of(kept: str | None) -> str | None:
    """The text of a template as settings keep it; None: there is none.

    >>> text_of("{{ messages }}")
    '{{ messages }}'
    """
    return TEMPLATES[kept].text if kept in TEMPLATES else kept


def missing(kept: str | None, there: tuple[str, ...]) -> tuple[str, ...]:
    """The special tokens that a template writes, and that are not among those there.

    >>> missing("chatml", ("<|im_end|>",))
    ('<|im_start|>',)
    """
    tokens = TEMPLATES[kept].tokens if kept in TEMPLATES else ()
    return tuple(token for token in tokens if token not in there)
