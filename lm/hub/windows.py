"""Which layers see near keys alone, in our words and in theirs."""

from collections.abc import Sequence

from lm.config import UserError
from lm.model.positions import Local, Rotary

_LETTER = {"full_attention": "g", "sliding_attention": "l"}


def local_of(
    layer_types: Sequence[str],
    window: int | None,
    *,
    rotary: Rotary | None = None,
    where: str = "config.json",
) -> Local | None:
    """The local layers of a model whose window of so many tokens counts the token itself.

    >>> local_of(["full_attention", "sliding_attention"] * 2, 5)
    Local(pattern='gl', reach=4, rotary=None)
    """
    if other := [each for each in layer_types if each not in _LETTER]:
        raise UserError(
            f"{where}: layer_types has {other[0]}; full_attention or sliding_attention can be"
            " computed here"
        )
    letters = "".join(map(_LETTER.__getitem__, layer_types))
    if "l" not in letters or window is None:
        if "l" in letters and window is None and "g" in letters:
            raise UserError(f"{where}: layer_types has sliding_attention without a window")
        return None
    if window < 1:
        raise UserError(f"{where}: a sliding window of {window} tokens; must be >= 1")
    period = next(
        n for n in range(1, len(letters) + 1)
        if all(letters[i] == letters[i % n] for i in range(len(letters)))
    )  # fmt: skip
    return Local(pattern=letters[:period], reach=window - 1, rotary=rotary)


def layer_types_of(local: Local | None, depth: int) -> list[str]:
    """What each layer is in their words."""
    if local is None:
        return ["full_attention"] * depth
    return ["sliding_attention" if each else "full_attention" for each in local.is_local(depth)]
