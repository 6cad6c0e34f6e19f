"""Prompts, and the solved items before them."""

import re

import pytest
from msgspec.structs import replace

from lm.config import UserError
from lm.evaluate.tasks.base import Conditions, Item
from lm.evaluate.tasks.choice import Pairs
from lm.evaluate.tasks.prompts import fill_template, solved_before, template_fields

ITEMS = [Item({"n": n}, "", f"own:{n}") for n in range(8)]
OTHERS = [Item({"n": 100 + n}, "", f"other:{n}") for n in range(8)]


TASK = Pairs(files=("none",), between=" | ")


def solve(item):
    return f"<{item.fields['n']}>"


def drawn(items, pool, shots, seed=0, task=TASK):
    """The numbers of the solved items before each item."""
    texts = solved_before(task, items, pool, solve, Conditions(shots=shots), seed)
    assert all(text.count(" | ") == shots for text in texts)
    assert all(text.endswith(" | ") for text in texts if text)
    return [[int(n) for n in re.findall(r"<(\d+)>", text)] for text in texts]


def test_no_item_shows_itself_and_each_is_shown_as_many():
    """Fails if an item's own solution stands before it, or it has one fewer for that."""
    for seed in range(20):
        for number, shown in enumerate(drawn(ITEMS, ITEMS, 3, seed)):
            assert number not in shown and len(set(shown)) == 3


def test_all_items_are_shown_the_same():
    """Fails if each item draws its own, so that scores differ by more than the item."""
    shown = drawn(ITEMS, ITEMS, 3)
    usual = max(shown, key=shown.count)
    assert shown.count(usual) >= 5  # but those that are drawn themselves
    for number, each in enumerate(shown):
        assert each == usual or number in usual
        assert set(each) >= set(usual) - {number}
    others = drawn(ITEMS, OTHERS, 3)
    assert all(each == others[0] for each in others) and min(others[0]) >= 100


def test_a_seed_draws_the_same_again_and_another_draws_others():
    """Fails if the draw hangs on what was drawn before, or on no seed."""
    first = [drawn(ITEMS, OTHERS, 3, seed) for seed in range(6)]
    assert first == [drawn(ITEMS, OTHERS, 3, seed) for seed in range(6)]
    assert len({tuple(each[0]) for each in first}) > 3
    # Fewer items that are asked change nothing of what they are shown.
    assert drawn(ITEMS[:2], OTHERS, 3, 1) == first[1][:2]


def test_fewer_items_than_are_to_be_shown_are_one_line():
    """Fails if some are shown fewer, or one that could be is refused."""
    assert drawn(ITEMS, OTHERS, 8)[0] and drawn(ITEMS, ITEMS, 7)[0]
    for pool, shots, most in ((OTHERS, 9, 8), (ITEMS, 8, 7), ([], 1, 0)):
        why = f"^shots={shots}: there are {len(pool)} items to draw from; at most {most}$"
        with pytest.raises(UserError, match=why):
            drawn(ITEMS, pool, shots)
    assert drawn(ITEMS, [], 0) == [[]] * 8


def test_each_part_may_be_shown_its_own():
    """Fails if an item is shown another part's, or all parts draw the same places."""
    parts = [
        [Item({"n": 100 * part + n}, f"{part}", f"{part}:{n}") for n in range(9)]
        for part in range(4)
    ]
    items = [item for of in parts for item in of[:2]]
    pool = [item for of in parts for item in of[2:]]
    shown = drawn(items, pool, 3, task=replace(TASK, draw="part"))
    for item, numbers in zip(items, shown, strict=True):
        assert {number // 100 for number in numbers} == {int(item.group)}
    assert shown[0] == shown[1]
    assert len({tuple(number % 100 for number in numbers) for numbers in shown}) > 2
    with pytest.raises(UserError, match="there are 7 items to draw from in 0; at most 7"):
        drawn(items, pool, 8, task=replace(TASK, draw="part"))


def test_templates():
    """Fails if a field that is no name of Python's is not found, or braces are no text."""
    fields = {"#1 String": "a {b}", "n": 3}
    assert fill_template("{{{#1 String}}} {n}", fields, "p") == "{a {b}} 3"
    assert template_fields("{{{#1 String}}} {n}{n}") == ["#1 String", "n", "n"]
    for template, why in (
        ("{m}", "^p: no field m; it has #1 String, n"),
        ("{n", "^template '{n'"),
        ("{n.real.x}", "^template"),
        ("{n:d!}", "^template"),
    ):
        with pytest.raises(UserError, match=why):
            fill_template(template, fields, "p")
