"""Prompts: a template filled with an item's fields, behind solved items."""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lm.config import UserError
from lm.evaluate.tasks.base import Conditions, Item

BETWEEN = "\n\n"
"""What stands between a solved item and the next."""


def fill_template(template: str, fields: Mapping[str, Any], place: str) -> str:
    """A template with each `{field}` filled in; raises UserError for one that is not there.

    >>> fill_template("Question: {query}", {"query": "Who?"}, "a.jsonl:1")
    'Question: Who?'
    """
    try:
        return string.Formatter().vformat(template, (), fields)
    except (KeyError, IndexError) as error:
        there = ", ".join(fields) or "none"
        raise UserError(f"{place}: no field {error.args[0]}; it has {there}") from None
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"template {template!r}: {error}") from None


def template_fields(template: str) -> list[str]:
    """The fields that a template asks for; raises UserError where it is none.

    >>> template_fields("{a} and {b}")
    ['a', 'b']
    """
    try:
        return [
            name for _, name, _, _ in string.Formatter().parse(template) if name is not None
        ]
    except ValueError as error:
        raise UserError(f"template {template!r}: {error}") from None


def solved_before(
    items: Sequence[Item],
    pool: Sequence[Item],
    solve: Callable[[Item], str],
    conditions: Conditions,
    seed: int,
) -> list[str]:
    """What stands before each item's prompt: the solved items that a seed draws, all the same.

    Where the pool is the task's own items, an item's own solution is left out, and one more is
    drawn in its place. Raises UserError where there are too few.
    """
    if not conditions.shots:
        return [""] * len(items)
    needed = conditions.shots + 1
    own = {item.place for item in items}
    if not any(item.place in own for item in pool):
        needed = conditions.shots
    if len(pool) < needed:
        raise UserError(
            f"shots={conditions.shots}: there are {len(pool)} items to draw from; at most"
            f" {len(pool) - needed + conditions.shots}"
        )
    drawn = np.random.default_rng(seed).permutation(len(pool))[:needed]
    chosen = [pool[int(index)] for index in drawn]
    texts = {item.place: solve(item) for item in chosen}
    found = []
    for item in items:
        others = [texts[each.place] for each in chosen if each.place != item.place]
        found.append("".join(text + BETWEEN for text in others[: conditions.shots]))
    return found
