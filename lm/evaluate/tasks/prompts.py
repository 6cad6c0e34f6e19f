"""Prompts: a template filled with an item's fields, behind solved items."""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lm.config import UserError
from lm.evaluate.tasks.base import Conditions, Item, Task


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
    task: Task,
    items: Sequence[Item],
    pool: Sequence[Item],
    solve: Callable[[Item], str],
    conditions: Conditions,
    seed: int,
) -> list[str]:
    """What stands before each item's prompt: the solved items that a seed draws, all the same.

    Where the pool is the task's own items, an item's own solution is left out, and one more is
    drawn in its place. Where the task says so, they are drawn for each part from its own.
    Raises UserError where there are too few.
    """
    if not conditions.shots:
        return [""] * len(items)
    own = {item.place for item in items}
    needed = conditions.shots + any(item.place in own for item in pool)
    apart = task.draw == "part"
    parts = sorted({item.group for item in items}) if apart else [""]
    drawn: dict[str, list[tuple[str, str]]] = {}
    for number, part in enumerate(parts):
        there = [item for item in pool if not apart or item.group == part]
        if len(there) < needed:
            where = f" in {part}" if apart else ""
            raise UserError(
                f"shots={conditions.shots}: there are {len(there)} items to draw from{where};"
                f" at most {max(0, len(there) - needed + conditions.shots)}"
            )
        random = np.random.default_rng([seed, number] if apart else seed)
        chosen = [there[int(index)] for index in random.permutation(len(there))[:needed]]
        drawn[part] = [(item.place, solve(item) + task.between) for item in chosen]
    found = []
    for item in items:
        others = [
            text for place, text in drawn[item.group if apart else ""] if place != item.place
        ]
        found.append("".join(others[: conditions.shots]))
    return found
