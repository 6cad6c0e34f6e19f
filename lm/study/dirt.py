"""Clean pages made dirty in known ways, and pages that are nearly others.

The ways are those that rules of cleaning are for, and one that no rule knows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WAYS = {
    "clean": "nothing",
    "menu": "a menu, a copyright and a notice about cookies",
    "script": "a line of a script",
    "repeated": "itself, twice more",
    "advert": "none of it: an advertisement instead",
    "list": "none of it: a list of its words instead",
    "garbled": "spaces and quotation marks read in a wrong encoding",
    "copy": "a copy of another page",
    "near-copy": "a copy with every 50th word another",
}
"""What is wrong with a page, or what it has besides."""
_SHARES = {
    "clean": 0.3,
    "menu": 0.3,
    "script": 0.08,
    "repeated": 0.1,
    "advert": 0.08,
    "list": 0.08,
    "garbled": 0.06,
}
"""Fractions of the pages that there were."""
COPIED = 0.15
"""The fraction of pages of which a copy is added, and that of which a near-copy is."""
EVERY = 50
"""Of so many words one is another in a near-copy."""
_MENU = (
    "Home", "News", "Products", "About us", "Contact", "Sign in", "Search", "Archive", "Help",
    "Weather", "Sports", "Subscribe", "Jobs", "Site map", "Forum", "Shop",
)  # fmt: skip
_GOODS = ("shoes", "watches", "tickets", "phones", "insurance", "flights", "games", "cameras")


class DirtyPage(NamedTuple):
    """A page, and the way in which it is dirty."""

    way: str
    text: str


def dirtied(pages: Sequence[str], *, seed: int, copies: bool = True) -> list[DirtyPage]:
    """The pages, each dirty in one way or clean, and with `copies` further ones; shuffled.

    >>> found = dirtied(["One page of words."] * 200, seed=0)
    >>> len(found), {page.way for page in found} == {*WAYS}
    (260, True)
    """
    random = np.random.default_rng(seed)
    words = [word for page in pages for word in page.split()]
    drawn = random.choice([*_SHARES], len(pages), p=[*_SHARES.values()])
    found = [
        DirtyPage(str(way), _dirty(str(way), page, random))
        for way, page in zip(drawn, pages, strict=True)
    ]
    if not copies:
        return found
    number = round(COPIED * len(pages))
    for way in ("copy", "near-copy"):
        for of in random.choice(len(pages), number, replace=False):
            text = found[of].text
            near = edited(text, words, EVERY, random) if way == "near-copy" else text
            found.append(DirtyPage(way, near))
    return [found[at] for at in random.permutation(len(found))]


def edited(text: str, words: Sequence[str], every: int, random: np.random.Generator) -> str:
    r"""The text with one of so many words another, drawn from `words`; lines stay lines.

    >>> edited("a b c d\ne f", ["x"], 2, np.random.default_rng(0))
    'x b x d\nx f'
    """
    lines, at = [], 0
    for line in text.split("\n"):
        parts = line.split(" ")
        for place in range(len(parts)):
            at += 1
            if at % every == every // 2:
                parts[place] = words[int(random.integers(len(words)))]
        lines.append(" ".join(parts))
    return "\n".join(lines)


def _dirty(way: str, page: str, random: np.random.Generator) -> str:
    match way:
        case "menu":
            top, bottom = (" | ".join(random.choice(_MENU, 6, replace=False)) for _ in "ab")
            year = random.integers(1998, 2024)
            notice = "This site uses cookies to serve all of you better."
            return f"{top}\n{page}\n{notice}\n{bottom}\nCopyright {year}, all rights reserved"
        case "script":
            return (
                f"{page}\nfunction track(page) {{ return send(page, {random.integers(999)}) }}"
            )
        case "repeated":
            return "\n".join([page] * 3)
        case "advert":
            line = "Buy cheap {0} online now, as {0} have never been so cheap as on this page."
            goods = str(random.choice(_GOODS))
            return "\n".join([line.format(goods)] * max(1, len(page) // len(line)))
        case "list":
            return "\n".join(random.permutation(page.split()))
        case "garbled":
            return page.replace("'", "â€™").replace('"', "â€œ").replace(". ", ".Â ")
    return page
