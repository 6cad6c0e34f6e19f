"""How long do fits of scaling laws take on the machine at hand?

    python -m experiments.benchmarks.fit_speed

Fits 250 made-up runs: the parametric law of Besiroglu et al. with half a percent of noise, of
which some repeat their data. Prints the median of five repeats with the lowest and the highest,
with and without 1,000 resamples, and how much a starting Python costs. Goals, on two cores:
2 seconds for a parametric fit with its certificate, 20 with the resamples.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from lm.scaling.data_constrained import DataConstrained
from lm.scaling.envelope import Envelope
from lm.scaling.isoflop import Isoflop
from lm.scaling.laws import (
    BESIROGLU,
    MUENNIGHOFF,
    data_constrained_loss,
    parametric_loss,
    parametric_optimum,
)
from lm.scaling.parametric import Parametric
from lm.scaling.power import Power
from lm.scaling.table import Runs


def main(arguments: list[str] | None = None) -> None:
    """Prints a line a law."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--draws", type=int, default=1000)
    given = parser.parse_args(arguments)
    runs = made_up(given.rows)
    repeating = made_up_repeats(given.rows)
    laws: dict[str, Callable[..., object]] = {
        "parametric": partial(Parametric().fit, runs),
        "data-constrained": partial(DataConstrained().fit, repeating),
        "isoflop": partial(Isoflop().fit, runs),
        "envelope": partial(Envelope().fit, runs),
        "power": partial(Power().fit, runs),
    }
    print(f"{given.rows} rows, seconds: median (lowest to highest) of {given.repeats}")
    for name, fit in laws.items():
        for draws in (0, given.draws):
            shown = _seconds(given.repeats, partial(fit, bootstrap=draws))
            print(f"{name:<17}{draws:>6,} resamples {shown}")
    program = [sys.executable, "-c", "import lm.scaling.parametric"]
    start = _seconds(given.repeats, partial(subprocess.run, program, check=True))
    print(f"{'start and import':<34}{start}")


def made_up(rows: int) -> Runs:
    """Runs in ten budgets, sizes around the best of each."""
    random = np.random.default_rng(0)
    C = np.resize(np.geomspace(1e18, 1e22, 10), rows)
    N = parametric_optimum(BESIROGLU, C)[0] * 10 ** random.uniform(-0.7, 0.7, rows)
    noise = np.exp(0.005 * random.normal(size=rows))
    return Runs(parametric_loss(BESIROGLU, N, C / 6 / N) * noise, N, C / 6 / N, C)


def made_up_repeats(rows: int) -> Runs:
    """Runs that pass over their data up to a hundred times."""
    random = np.random.default_rng(0)
    N, U = 10 ** random.uniform(7, 10, rows), 10 ** random.uniform(8, 10, rows)
    D = U * 10 ** random.uniform(0, 2, rows)
    noise = np.exp(0.005 * random.normal(size=rows))
    return Runs(data_constrained_loss(MUENNIGHOFF, N, D, U) * noise, N, D, unique_R=U)


def _seconds(repeats: int, work: Callable[[], object]) -> str:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return f"{statistics.median(taken):7.3f} ({min(taken):.3f} to {max(taken):.3f})"


if __name__ == "__main__":
    main()
