"""What rows cannot tell of a surface of size and data, whatever is fit to them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lm.scaling.solve import Certificate, Problem, minimize, rounding
from lm.scaling.table import DataError

LOGARITHMIC = frozenset(("E", "A", "B", "R_D", "R_N"))
"""Parameters that are fit as logarithms, being positive and of any size."""
LEAST_SHARE = 1e-4
"""E is at least this part of the smallest loss."""

_NO_SHARE = 1e-2
"""Below this part of it E counts as zero."""
_REPEATS = ("R_D", "R_N")
_SAME = 0.02
"""Sizes, or amounts of data, whose logarithms differ by no more are one."""


def check_fixed(fixed: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """The names of what is free; raises DataError on what cannot be fixed."""
    for name, value in fixed.items():
        if name not in names:
            raise DataError(f"--fix {name}: no such parameter; one of {', '.join(names)}")
        if not 0 < value < np.inf and not (name == "E" and value == 0):
            raise DataError(f"--fix {name}={value:g}: must be above 0")
    free = [name for name in names if name not in fixed]
    if not free:
        raise DataError("--fix leaves nothing to fit")
    return free


def check_rows(rows: int, free: Sequence[str]) -> None:
    """Raises DataError where rows do not outnumber parameters."""
    if rows <= len(free):
        raise DataError(
            f"{rows} rows cannot fit {len(free)} parameters ({', '.join(free)});"
            f" needs {len(free) + 1} rows or more, or --fix NAME=VALUE"
        )


def few_rows_warnings(rows: int, free: int) -> list[str]:
    """Where rows are few for so many parameters."""
    if rows >= 4 * free:
        return []
    return [f"too few points: {rows} rows for {free} parameters; error bars are rough"]


def design_doubts(
    log_params_R: np.ndarray, log_tokens_R: np.ndarray, free: Collection[str]
) -> tuple[list[str], set[str]]:
    """What the rows' sizes and data cannot tell whatever the losses, and of which parameters.

    N and D on one line cannot be told apart. The law is a sum, so that k sizes say k - 1
    differences: two, where A and alpha are both free, need three sizes.

    >>> design_doubts(np.log([1e6, 1e7, 1e8]), np.log([2e7, 2e8, 2e9]), ["alpha", "beta"])[0]
    ['one ratio of tokens to parameters (20): alpha and beta cannot be told apart']
    >>> N, D = np.log([1e6, 1e6, 1e6, 1e7, 1e7, 1e7]), np.log([1e7, 1e8, 1e9, 1e7, 1e8, 1e9])
    >>> design_doubts(N, D, ["E", "A", "alpha", "B", "beta"])[0]
    ['2 sizes of model: E, A, alpha cannot be told from each other']
    """
    if line := _line(log_params_R, log_tokens_R, free):
        return [line], {"E", *_pair(free)}
    found, loose = [], set()
    for what, log_R, pair in (
        ("sizes of model", log_params_R, ("A", "alpha")),
        ("amounts of data", log_tokens_R, ("B", "beta")),
    ):
        distinct = int((np.diff(np.sort(log_R)) > _SAME).sum()) + 1
        unknown = [name for name in ("E", *pair) if name in free]
        if set(unknown) & set(pair) and len(unknown) > distinct:
            several = ", ".join(unknown)
            found.append(f"{distinct} {what}: {several} cannot be told from each other")
            loose |= set(unknown)
    return found, loose


def _pair(free: Collection[str]) -> tuple[str, ...]:
    """The exponents of size and of data, where both are free."""
    pairs = ("alpha", "beta"), ("alpha_N", "alpha_D")
    return next((pair for pair in pairs if set(pair) <= set(free)), ())


def _line(log_params_R: np.ndarray, log_tokens_R: np.ndarray, free: Collection[str]) -> str:
    """What to say where N and D lie on one line; "" where they do not."""
    if not _pair(free):
        return ""
    sizes = np.stack([log_params_R - log_params_R.mean(), log_tokens_R - log_tokens_R.mean()])
    along, across = np.linalg.svd(sizes, compute_uv=False)[:2]
    if across > 0.05 * along:
        return ""
    ratio_R = log_tokens_R - log_params_R
    if np.ptp(log_params_R) < 0.05 * max(np.ptp(log_tokens_R), 1e-9):
        line = "one size of model"
    elif np.ptp(log_tokens_R) < 0.05 * np.ptp(log_params_R):
        line = "one amount of data"
    elif ratio_R.std() < 0.1 * log_params_R.std():
        line = f"one ratio of tokens to parameters ({np.exp(ratio_R.mean()):.3g})"
    else:
        line = "one line of tokens against parameters"
    return f"{line}: {' and '.join(_pair(free))} cannot be told apart"


def solution_doubts(
    problem: Problem, names: Sequence[str], theta_P: np.ndarray, certificate: Certificate
) -> tuple[list[str], set[int]]:
    """What to doubt of a minimum, and the places of the parameters that nothing pins down."""
    found, flat = [], set()
    if not certificate.converged:
        found.append(f"did not converge: gradient {certificate.gradient:.1g} at the solution")
    elif certificate.agree < 2:
        found.append(
            f"only one of {certificate.starts} starts reached this minimum; others ended higher"
        )
    for number, name in enumerate(names):
        low, high, value = problem.lower_P[number], problem.upper_P[number], theta_P[number]
        if low == high:
            continue
        if name == "E" and value <= np.log(_NO_SHARE / LEAST_SHARE) + low:
            found.append("E is at its bound, 0: these rows show no irreducible loss")
        elif value <= low + 1e-3 * (high - low) or value >= high - 1e-3 * (high - low):
            found.append(f"{name} runs away: it is at its bound")
            if name not in _REPEATS:
                flat.add(number)
        elif _is_flat(problem, number, names, theta_P):
            found.append(
                f"flat ridge: {name} is not identified, a third or thrice of it fits as well"
            )
            flat.add(number)
    return found, flat


def draws_doubts(
    problem: Problem, names: Sequence[str], draws_BP: np.ndarray
) -> tuple[list[str], set[int]]:
    """Parameters whose interval would end at a bound, where resamples ran away, likewise."""
    found: list[str] = []
    away: set[int] = set()
    if not len(draws_BP):
        return found, away
    room_P = 1e-3 * (problem.upper_P - problem.lower_P)
    below_P = (draws_BP <= problem.lower_P + room_P).mean(axis=0)
    above_P = (draws_BP >= problem.upper_P - room_P).mean(axis=0)
    for number, name in enumerate(names):
        # E at its lower bound is a loss that may fall to 0, R_D at its upper one repeats that
        # are as good as new text: these are answers.
        below = 0.0 if name == "E" else below_P[number]
        above = 0.0 if name in _REPEATS else above_P[number]
        fraction = max(below, above)
        if room_P[number] > 0 and fraction > 0.025:
            found.append(f"{name} runs away in {fraction:.0%} of resamples: it has no interval")
            away.add(number)
    return found, away


def unidentified(
    names: Sequence[str],
    places: Collection[int],
    loose: Collection[str],
    fixed: Collection[str],
) -> tuple[str, ...]:
    """The parameters at these places, the loose ones, and those that go with them.

    A coefficient is the term's size at N = 1, far from the rows: it goes with its exponent.

    >>> names = ("E", "A", "B", "alpha", "beta")
    >>> unidentified(names, {3}, (), ()), unidentified(names, (), {"E", "beta"}, {"B"})
    (('A', 'alpha'), ('E', 'beta'))
    """
    found = {names[place] for place in places} | set(loose)
    found |= {c for c, e in (("A", "alpha"), ("B", "beta")) if e in found}
    return tuple(name for name in names if name in found and name not in fixed)


def _is_flat(problem: Problem, number: int, names: Sequence[str], theta_P: np.ndarray) -> bool:
    """Whether a third or three times a parameter fits as well, all others fit again.

    As well: within the 95% region of the likelihood whose scale is fit too, where the
    log-likelihood is -R ln(objective): so it is for Laplace's distribution, whose loss is
    nearly Huber's.
    """
    rows = problem.log_loss_R.shape[-1]
    tiny = rounding(problem)
    best = float(minimize(problem, theta_P[None])[1][0])
    limit = (best + tiny) * np.exp(1.92 / rows)
    for factor in (1 / 3, 3.0):
        moved = (
            theta_P[number] + np.log(factor)
            if names[number] in LOGARITHMIC
            else theta_P[number] * factor
        )
        if not problem.lower_P[number] < moved < problem.upper_P[number]:
            continue
        ends = (problem.lower_P, problem.upper_P, theta_P)
        lower_P, upper_P, start_P = (values_P.copy() for values_P in ends)
        lower_P[number] = upper_P[number] = start_P[number] = moved
        held = replace(problem, lower_P=lower_P, upper_P=upper_P)
        if minimize(held, start_P[None])[1][0] + tiny <= limit:
            return True
    return False
