"""What the user can mend is one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One line that says what is wrong, where, and the nearest legal values.

    Commands print it without a traceback and exit with code 2.
    """


def nearest(text: str, legal: Iterable[str]) -> str:
    """The legal values, the closest one named if there is one.

    >>> nearest("smok", ["smoke", "laptop"])
    'one of smoke, laptop; did you mean smoke?'
    """
    names = list(legal)
    close = difflib.get_close_matches(text, names, 1, 0.6)
    return f"one of {', '.join(names)}" + (f"; did you mean {close[0]}?" if close else "")
