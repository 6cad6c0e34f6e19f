"""Which way of finding isoFLOP minima is nearest to the truth, on tables whose law is known?

    python -m experiments.benchmarks.isoflop_methods

Makes tables of runs by two laws, with noise and with runs that diverged or went badly, in grids
as people have them, and fits each by every method of `lm fit --law isoflop`. Prints, a line a
kind of table, the root mean square error of the exponent of the best size, and how often the
method found no law. The first of `lm.scaling.isoflop.METHODS` is the default because of it. On
two cores it takes two minutes.
"""

import argparse
from typing import Literal, NamedTuple

import numpy as np

from lm.scaling.isoflop import METHODS, Isoflop
from lm.scaling.laws import BESIROGLU, parametric_exponents, parametric_loss, parametric_optimum
from lm.scaling.table import DataError, Runs

UNEVEN = {"E": 2.1432, "A": 171.0, "B": 7.77e6, "alpha": 0.2929, "beta": 0.7130}
"""With the exponents of Gemstones (McLeish et al. 2025): its valleys are lopsided."""
LAWS = {"even": BESIROGLU, "uneven": UNEVEN}


class Grid(NamedTuple):
    """Budgets over three decades, with sizes about the best of each."""

    budgets: int
    sizes: int
    step: float
    """From one size to the next, as a factor."""


GRIDS = {
    "5 sizes": Grid(6, 5, 1.7),
    "7 sizes": Grid(5, 7, 1.6),
    "7, coarse": Grid(5, 7, 2.0),
    "9, fine": Grid(6, 9, 1.3),
    "13, wide": Grid(6, 13, 1.6),
}

Spoiled = Literal["none", "bad", "diverged"]
"""One run of ten may be 3 to 20% worse than it should, or of loss 10.9 (ln of 50,000)."""
KINDS: tuple[tuple[float, Spoiled], ...] = (
    (0.002, "none"),
    (0.005, "none"),
    (0.015, "none"),
    (0.005, "bad"),
    (0.005, "diverged"),
)
"""Noise of ln L, and what is spoiled."""


def main(arguments: list[str] | None = None) -> None:
    """Prints a line a kind of table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=int, default=50, help="of each kind (50)")
    given = parser.parse_args(arguments)
    print(f"error of a, and tables of {given.tables} without a law")
    print(f"{'grid':<12}{'law':<8}{'noise':<7}{'spoiled':<10}" + "".join(map(_cell, METHODS)))
    for name, grid in GRIDS.items():
        for law in LAWS:
            for noise, spoiled in KINDS:
                found = errors(grid, law, noise, spoiled, given.tables)
                shown = [
                    f"{error:.3f}" + (f" ({failed})" if failed else "")
                    for error, failed in found.values()
                ]
                print(f"{name:<12}{law:<8}{noise:<7}{spoiled:<10}" + "".join(map(_cell, shown)))


def errors(
    grid: Grid, law: str, noise: float, spoiled: Spoiled, tables: int
) -> dict[str, tuple[float, int]]:
    """By method: the root mean square error of a, and how many tables had no law."""
    truth = parametric_exponents(LAWS[law])["a"]
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    for seed in range(tables):
        runs = table(grid, law, noise, spoiled, seed)
        for method in METHODS:
            try:
                fit = Isoflop(method=method).fit(runs, bootstrap=0)
            except DataError:
                continue
            found[method].append(fit.exponents["a"] - truth)
    return {
        method: (float(np.sqrt(np.mean(np.square(off)))) if off else np.nan, tables - len(off))
        for method, off in found.items()
    }


def table(grid: Grid, law: str, noise: float, spoiled: Spoiled, seed: int) -> Runs:
    """Runs of a law; each budget's sizes lie up to a step away from the middle."""
    random = np.random.default_rng(seed)
    C = np.repeat(np.geomspace(1e18, 1e21, grid.budgets), grid.sizes)
    moved = np.repeat(random.uniform(-1, 1, grid.budgets), grid.sizes)
    places = np.tile(np.arange(grid.sizes) - grid.sizes // 2, grid.budgets) + moved
    N = parametric_optimum(LAWS[law], C)[0] * grid.step**places
    loss = parametric_loss(LAWS[law], N, C / 6 / N) * np.exp(noise * random.normal(size=len(C)))
    if spoiled != "none":
        rows = random.choice(len(C), len(C) // 10, replace=False)
        worse = loss[rows] * random.uniform(1.03, 1.2, len(rows))
        loss[rows] = 10.9 if spoiled == "diverged" else worse
    return Runs(loss, params_R=N, flops_R=C).completed()


def _cell(text: str) -> str:
    return f"{text:>12}"


if __name__ == "__main__":
    main()
