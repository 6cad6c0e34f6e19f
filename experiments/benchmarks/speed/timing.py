"""Seconds of programs that take turns, and what is made of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy.stats import linregress

from experiments.benchmarks.speed.machine import Failed, complain
from experiments.benchmarks.speed.plan import Plan, Result


def seconds_each(
    function: Callable[[], Any],
    times: int,
    *,
    wait: Callable[[Any], Any] = jax.block_until_ready,
) -> float:
    """Seconds a call, of so many in a row, until what the last one gave is done."""
    start, last = time.perf_counter(), None
    for _ in range(times):
        last = function()
    wait(last)
    return (time.perf_counter() - start) / times


def interleave(
    runs: Mapping[str, Callable[[int], float]], plan: Plan
) -> dict[str, list[float]]:
    """Seconds a step of each program, in rounds A B C A B C: a slow spell hits all alike.

    A run takes a number of steps and returns the seconds of one. One that fails is left out.
    """
    counts, seconds = dict[str, int](), dict[str, list[float]]()
    for turn in range(plan.rounds + 1):
        for name, run in runs.items():
            if turn and name not in seconds:
                continue
            try:
                if turn == 0:  # two steps to warm up, the second shows how many fill a burst
                    run(1)
                    counts[name] = max(1, round(plan.burst / run(1)))
                    seconds[name] = []
                else:
                    seconds[name].append(run(counts[name]))
            except Failed as error:
                complain(f"{name}: {error}")
                seconds.pop(name, None)
    return seconds


def repeat(run: Callable[[int], float], plan: Plan) -> Result:
    """Seconds a step of one program."""
    return spread(interleave({"": run}, plan)[""])


def spread(values: Sequence[float]) -> Result:
    """The median of repeats, and between what they lie.

    >>> spread([2.0, 1.0, 4.0])
    {'median': 2.0, 'low': 1.0, 'high': 4.0, 'repeats': 3}
    """
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "repeats": len(values),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Result:
    """How many times as fast ours is: the median of the rounds' ratios of seconds.

    >>> ratio([1.0, 2.0, 1.0], [2.0, 4.0, 3.0])["median"]
    2.0
    """
    return spread([b / a for a, b in zip(ours, theirs, strict=True)])


def slope(x: Sequence[float], y: Sequence[float]) -> Result:
    """The exponent of a power law through the points, and its standard error.

    >>> round(slope([1, 10, 100], [3, 30, 300])["slope"], 6)
    1.0
    """
    found = linregress(np.log(x), np.log(y))
    return {"slope": float(found.slope), "se": float(found.stderr)}
