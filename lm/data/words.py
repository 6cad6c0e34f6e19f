"""Where words begin, by Unicode, so that a script without spaces has words too."""

import functools
import unicodedata

_UNSPACED = (
    *("BALINESE ", "BOPOMOFO ", "CJK ", "HALFWIDTH KATAKANA ", "HIRAGANA ", "JAVANESE "),
    *("KATAKANA ", "KHITAN ", "KHMER ", "LAO ", "MYANMAR ", "NEW TAI ", "NUSHU ", "TAI "),
    *("TANGUT ", "THAI ", "YI "),
)
"""How Unicode's names of letters begin whose scripts put no space between words."""
_SKIN_TONES = range(0x1F3FB, 0x1F400)


def begins_word(character: str) -> bool:
    """Whether a word begins with a character; if not, it continues the one before it.

    Spaces, punctuation and symbols begin one, and what continues it are letters, digits, `_`,
    marks and what is not seen: `(self` is a word. A letter of a script without spaces begins a
    word of its own (as Unicode's annex 29 breaks, where there is no dictionary).

    >>> [begins_word(c) for c in " (a_7é語ก"]
    [True, True, False, False, False, False, True, True]
    """
    category = unicodedata.category(character)
    if category[0] == "L":
        return unicodedata.name(character, "").startswith(_UNSPACED)
    continues = category[0] in "NM" or category == "Cf" or character == "_"
    return not continues and ord(character) not in _SKIN_TONES


@functools.cache
def changes() -> tuple[int, ...]:
    """The code points at which `begins_word` is another than just before, from 0 on.

    >>> [chr(point) for point in changes()[:7]]
    ['\\x00', '0', ':', 'A', '[', '_', '`']
    """
    found, before = [], False
    for point in range(0x110000):
        # What lies between the last letters and the last marks has no use yet.
        if 0x40000 <= point < 0xE0000 or point > 0xE0FFF:
            continue
        if begins_word(chr(point)) != before:
            found.append(point)
            before = not before
    return tuple(found)
