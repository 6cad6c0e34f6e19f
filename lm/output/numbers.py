"""Numbers as people read them, in one way everywhere."""

import math
from collections.abc import Callable, Sequence


def count(number: float, digits: int = 2) -> str:
    """A number as people say it, in few digits.

    >>> [count(n) for n in (950, 24_576, 151_142, 3_145_728, 302e6, 6.5e9)]
    ['950', '25k', '0.15M', '3.1M', '302M', '6.5B']
    >>> count(786_432, digits=1)
    '0.8M'
    """
    scale, unit = next(
        (scale, unit)
        for scale, unit, least in (
            (1e9, "B", 1e9),
            (1e6, "M", 1e5),
            (1e3, "k", 1e3),
            (1, "", 0),
        )
        if number >= least
    )
    value = number / scale
    return (f"{value:.{digits}g}" if value < 10 else f"{value:.0f}") + unit


def power(number: float) -> str:
    """A number in powers of ten.

    >>> power(1.62e14), power(0)
    ('1.6×10¹⁴', '0')
    """
    if not number:
        return "0"
    digits, exponent = f"{number:.1e}".split("e")
    return f"{digits}×10" + str(int(exponent)).translate(_SUPERSCRIPTS)


def duration(seconds: float) -> str:
    """A time span in minutes and seconds, or with hours before them.

    >>> duration(75), duration(7500), duration(200_000)
    ('1:15', '2:05:00', '55:33:20')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(fraction: float) -> str:
    """A fraction in percent.

    >>> percent(0.9123)
    '91.2%'
    """
    return f"{fraction:.1%}"


def decimals(number: float) -> str:
    """A number in thousandths.

    >>> decimals(2.02)
    '2.020'
    """
    return f"{number:.3f}"


def with_error(
    value: float, error: float | None, show: Callable[[float], str] = decimals
) -> str:
    """A value and its standard error, if that is known.

    >>> with_error(2.02, 0.0113), with_error(0.912, 0.003, percent), with_error(2.02, None)
    ('2.020 ± 0.011', '91.2 ± 0.3%', '2.020')
    """
    if error is None or not math.isfinite(error):
        return show(value)
    return f"{show(value).removesuffix('%')} ± {show(error)}"


def number(value: float) -> str:
    """A number in the digits that its size asks for; an integer whole.

    >>> [number(value) for value in (0.0123456, 1.78389, 442.16, 1271.8, 1.4e12, 800)]
    ['0.01235', '1.7839', '442.16', '1271.8', '1.4e+12', '800']
    """
    if isinstance(value, int):
        return f"{value:,}"
    if 1e-2 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.5g}"
    return f"{value:.4g}"


def short(value: float) -> str:
    """A count in three digits.

    >>> [short(value) for value in (950, 80_500_000, 2.07e9, 1.33e12)]
    ['950', '80.5M', '2.07B', '1.33T']
    """
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if 0.9995 * unit <= value < 1e15:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def ends(interval: Sequence[float] | None, show: Callable[[float], str] = number) -> str:
    """The ends of an interval, nothing where there is none.

    >>> ends((0.31, 0.36)), ends(None)
    ('0.31 – 0.36', '')
    """
    return " – ".join(map(show, interval)) if interval else ""


def gigabytes(size: float) -> str:
    """Bytes in units of 1e9.

    >>> gigabytes(3.35e9), gigabytes(2_162_688)
    ('3.35', '0.002')
    """
    return f"{size / 1e9:.3g}" if size >= 5e7 else f"{size / 1e9:.3f}"


_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
