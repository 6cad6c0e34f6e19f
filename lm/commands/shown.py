"""How text that a model wrote is printed: as it comes, or each token by its probability."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from lm.output.console import console, print_table, table

ADDED = "bold green"
COLOURS = (
    (0.5, "black on green"),
    (0.2, "black on bright_green"),
    (0.05, "black on bright_yellow"),
    (0.01, "black on orange1"),
    (0.0, "black on bright_red"),
)
"""Of a token by its probability, from which on it has one."""


@dataclass(frozen=True)
class ShownToken:
    """A token as it is shown."""

    text: str
    p: float | None
    """Its probability; None: the model was not asked."""
    alternatives: tuple[tuple[str, float], ...]
    """The likeliest tokens there, with their probabilities."""
    added: bool
    """Whether the model wrote it."""

    @classmethod
    def of(cls, scored: Any, name: Callable[[int], str], *, added: bool) -> Self:
        """A token with its log-probability and alternatives, by the names of ids."""
        p = None if scored.log_p is None else math.exp(scored.log_p)
        others = tuple((name(id), math.exp(log_p)) for id, log_p in scored.alternatives)
        return cls(name(scored.token), p, others, added)


def colour(p: float | None) -> str:
    """The colours of a token by its probability.

    >>> colour(0.9), colour(0.011), colour(None)
    ('black on green', 'black on orange1', '')
    """
    return "" if p is None else next(name for least, name in COLOURS if p >= least)


def stream_parts(before: str, added: Iterable[str]) -> str:
    """Prints a text and what is added to it as that comes; gives back what was added."""
    from rich.text import Text

    shown, whole = console(), ""
    fancy = shown.is_terminal  # where not, rich would expand tabs and drop some controls

    def put(text: str, style: str) -> None:
        if fancy:
            shown.print(Text(text, style), end="", soft_wrap=True)
        else:
            print(text, end="", flush=True)

    put(before, "")
    for text in added:
        if text:
            put(text, ADDED)
            whole += text
    print(flush=True)
    return whole


def print_parts(parts: Sequence[tuple[bool, str]]) -> None:
    """Prints a text as it is, with what the model added set off on a terminal."""
    from rich.text import Text

    shown = console()
    if not shown.is_terminal:
        print("".join(text for _, text in parts))
        return
    styled = [(text, ADDED if added else "") for added, text in parts]
    shown.print(Text.assemble(*styled), soft_wrap=True)


def print_shown(tokens: Sequence[ShownToken], *, asked: int, price: float | None) -> None:
    """Prints tokens with their probabilities and what else was likely, and counts them.

    On a terminal the text comes first, coloured; elsewhere there is a line a token alone, with
    tabs. `asked` is how many tokens were given to the model, shown or not.
    """
    from rich.text import Text

    shown, added = console(), sum(token.added for token in tokens)
    if shown.is_terminal:
        text = Text()
        for token in tokens:
            text.append(token.text, colour(token.p) + (" underline" if token.added else ""))
        shown.print(text, soft_wrap=True)
        made = table("token", "p", "likeliest", right=("p",))
        for token in tokens:
            if token.p is not None:
                made.add_row(Text(quoted(token.text), colour(token.p)), *_numbers(token))
        print_table(made)
    else:
        for token in tokens:
            print("\t".join([quoted(token.text), *_numbers(token)]))
    counted = f"{asked + added} tokens: {asked} given, {added} added"
    if price is not None:
        counted += f"; at {price:g} a thousand {(asked + added) * price / 1000:g}"
    shown.print(counted, soft_wrap=True)


def quoted(text: str) -> str:
    r"""A token on one line, its spaces seen.

    >>> quoted(" a\n")
    "' a\\n'"
    """
    return repr(text)


def _numbers(token: ShownToken) -> tuple[str, str]:
    others = ", ".join(f"{quoted(text)} {p:.3f}" for text, p in token.alternatives)
    return "" if token.p is None else f"{token.p:.3f}", others
