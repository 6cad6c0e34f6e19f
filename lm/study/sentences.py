"""Numbers, errors and names in sentences."""

from collections.abc import Callable, Sequence

from lm.output.numbers import with_error
from lm.scaling.fit import Fit, Interval
from lm.study.groups import BITS, Gap, Group, Measure, best_of, gaps

NO_ANSWER = "There is no answer yet: no two variants that could be compared are finished."
NO_LAW = "There is no answer yet: too few runs are finished for a law."


def together(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> together(["a"]), together(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def capital(text: str) -> str:
    """The same at the beginning of a sentence."""
    return text[0].upper() + text[1:]


def signed(gap: Gap, measure: Measure) -> str:
    """A difference with its sign and both errors together.

    >>> from lm.study.groups import PROBE
    >>> signed(Gap(-0.0123, 0.003, 0.004, 0.02), BITS)
    '−0.012 ± 0.005'
    >>> signed(Gap(0.0123, 0.003, 0.004, 0.02), PROBE)
    '+1.2 ± 0.5 points'
    """
    text = with_error(abs(gap.value), gap.error, measure.show).replace("%", " points")
    return f"{'−' if gap.value < 0 else '+'}{text}"


def value_text(group: Group, measure: Measure) -> str:
    """A group's mean and both errors together."""
    return with_error(group.mean(measure.key) or 0.0, group.error(measure), measure.show)


def winner(groups: Sequence[Group], measure: Measure, who: Callable[[Group], str]) -> str:
    """The best and who is not told from it, as a part of a sentence; "" if nothing to rank."""
    ranked = best_of(groups, measure)
    if ranked is None or len(groups) < 2:
        return ""
    best, close = ranked
    at_most = "at most " if measure is BITS and best.kind != "exact" else ""
    text = f"{who(best)} ({at_most}{value_text(best, measure)}), "
    if not close:
        return f"{text}beyond the error ahead of all others"
    if len(close) == len(groups) - 1:
        return text + "though no difference to the others is beyond the error"
    return text + f"not told from {together([who(group) for group in close])} within the error"


def differences(
    groups: Sequence[Group],
    reference: Group,
    measure: Measure,
    who: Callable[[Group], str],
) -> str | None:
    """Who is beyond the error better or worse than the reference; "" if nobody is.

    None where there is nobody to compare.
    """
    if not (found := gaps(groups, reference, measure)):
        return None
    sides: dict[str, list[str]] = {"better than": [], "worse than": []}
    for group in groups:
        gap = found.get(group.name)
        if gap and gap.beyond:
            side = "better than" if gap.value * measure.better > 0 else "worse than"
            sides[side].append(f"{who(group)} ({signed(gap, measure)})")
    return "; ".join(
        f"{side} {who(reference)}: {together(names)}" for side, names in sides.items() if names
    )


def number_text(value: float, ends: Interval | None, digits: int = 2) -> str:
    """A number and its 95% interval.

    >>> number_text(0.512, (0.45, 0.5741)), number_text(0.5, None)
    ('0.51 (95%: 0.45 to 0.57)', '0.50 (no interval)')
    """
    if ends is None:
        return f"{value:.{digits}f} (no interval)"
    return f"{value:.{digits}f} (95%: {ends[0]:.{digits}f} to {ends[1]:.{digits}f})"


def fit_text(fit: Fit, name: str) -> str:
    """A parameter of a fit, or an exponent that follows from them, and its 95% interval."""
    return number_text((fit.parameters | fit.exponents)[name], fit.ci95.get(name))


def times_text(ends: Interval | None) -> str:
    """The 95% interval of a factor; one that spans four decades says nothing, and is called so.

    >>> times_text((8.04, 1251)), times_text((1e-3, 1e5)), times_text(None)
    ('95%: 8 to 1,300', 'its interval spans decades', 'no interval')
    """
    if ends is None:
        return "no interval"
    if ends[1] > 1e4 * ends[0]:
        return "its interval spans decades"
    return f"95%: {times_number(ends[0])} to {times_number(ends[1])}"


def times_number(factor: float) -> str:
    """A factor in two digits.

    >>> times_number(0.123), times_number(338.2)
    ('0.12', '340')
    """
    return f"{float(f'{factor:.2g}'):,.{0 if factor >= 10 else 2}f}".removesuffix(".00")


def signed_text(value: float, ends: Interval | None, digits: int = 2) -> str:
    """A difference with its sign, and its 95% interval.

    >>> signed_text(-0.05, (-0.2, 0.1))
    '−0.05 (95%: −0.20 to +0.10)'
    """

    def one(number: float) -> str:
        return f"{number:+.{digits}f}".replace("-", "−")

    interval = f"95%: {one(ends[0])} to {one(ends[1])}" if ends else "no interval"
    return f"{one(value)} ({interval})"


def short_text(value: float, ends: Interval | None) -> str:
    """A number of any size in three digits, and its 95% interval.

    >>> short_text(1234.5, (98.76, 1e6)), short_text(0.5, None)
    ('1.23e+03 (98.8 to 1e+06)', '0.5')
    """
    if ends is None:
        return f"{value:.3g}"
    return f"{value:.3g} ({ends[0]:.3g} to {ends[1]:.3g})"
