"""What scaling studies share: cells as a table of runs, laws with intervals, rates tried."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.output.numbers import count, decimals, power
from lm.scaling.bootstrap import interval
from lm.scaling.compare import Comparison, held_equal
from lm.scaling.fit import Fit, Interval
from lm.scaling.plots import comparison_figure, figure_of
from lm.scaling.table import DataError, Runs
from lm.study.common import Result
from lm.study.report.figures import styled
from lm.study.report.values import Block, Column, Plot, Section, Table
from lm.study.runner import Cell
from lm.study.seeds import together

BITS = "bits per byte"


def results_of(cells: Sequence[Cell]) -> list[Result]:
    """The results of those that are finished."""
    return [cell.result for cell in cells if cell.result is not None]


def runs_of(
    results: Sequence[Result],
    *,
    loss: str = "bits_per_byte",
    params: str = "params_matmul",
    flops: str = "flops",
) -> Runs:
    """The table that laws are fit to; the names are those of numbers in a result.

    FLOPs are the ledger's exact count, and sizes those of all matrix products, the head's among
    them, which is what that count goes with. Raises DataError where there are no results.

    >>> runs = runs_of([{"bits_per_byte": 2.5, "params_matmul": 1e4, "tokens": 2e5,
    ...                  "flops": 1.3e10}])
    >>> float(runs.loss_R[0]), float(runs.flops_R[0])
    (2.5, 13000000000.0)
    """
    if not results:
        raise DataError("no finished cells")
    names = {"loss_R": loss, "params_R": params, "tokens_R": "tokens", "flops_R": flops}
    return Runs(
        **{field: np.array([float(r[name]) for r in results]) for field, name in names.items()}
    )


def attempt(fit: Callable[..., Any], *given: Any) -> Any:
    """What a fit finds, or the DataError that says why there is none yet."""
    try:
        return fit(*given)
    except DataError as error:
        return error


# Sentences


def number_text(value: float, ends: Interval | None, digits: int = 2) -> str:
    """A number and its 95% interval.

    >>> number_text(0.512, (0.45, 0.5741)), number_text(0.5, None)
    ('0.51 (95%: 0.45 to 0.57)', '0.50 (no interval)')
    """
    if ends is None:
        return f"{value:.{digits}f} (no interval)"
    return f"{value:.{digits}f} (95%: {ends[0]:.{digits}f} to {ends[1]:.{digits}f})"


def exponent_text(fit: Fit, name: str) -> str:
    """An exponent of a fit, a, b or x, and its 95% interval."""
    return number_text(fit.exponents[name], fit.ci95.get(name))


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


def holds(ends: Interval | None, value: float) -> bool | None:
    """Whether an interval holds a value; None where there is no interval."""
    return None if ends is None else ends[0] <= value <= ends[1]


# Tables and figures


def laws_table(fits: Mapping[str, Fit | DataError], caption: str, what: str = "law") -> Table:
    """A row a fit: its exponents with their 95% intervals, and how many rows it stands on."""
    names = [
        name for name in ("a", "b", "x") if any(name in _exponents(f) for f in fits.values())
    ]
    titles = {"a": "a (N* ~ C^a)", "b": "b (D* ~ C^b)", "x": "x (L* ~ C^−x)"}
    rows = []
    for title, fit in fits.items():
        row: dict[str, Any] = {"what": title}
        if isinstance(fit, Fit):
            row |= {name: exponent_text(fit, name) for name in fit.exponents}
            row |= {"rows": fit.rows_used, "doubts": len(fit.warnings) or "none"}
            if budgets := fit.details.get("budgets"):
                row["minima"] = len(budgets)
        else:
            row["doubts"] = f"not fit: {fit}"
        rows.append(row)
    minima = [Column("minima", "minima")] if any("minima" in row for row in rows) else []
    columns = (
        Column("what", what),
        *(Column(name, titles[name]) for name in names),
        Column("rows", "runs used"),
        *minima,
        Column("doubts", "doubts"),
    )
    return Table(columns, rows, caption)


def doubts_table(fits: Mapping[str, Fit | DataError], caption: str) -> Table | None:
    """Everything that the fits warn of, in their own words; None if nothing."""
    rows = [
        {"what": title, "doubt": doubt}
        for title, fit in fits.items()
        for doubt in (fit.warnings if isinstance(fit, Fit) else (f"not fit: {fit}",))
    ]
    return (
        Table((Column("what", "law"), Column("doubt", "doubt")), rows, caption)
        if rows
        else None
    )


def _exponents(fit: Fit | DataError) -> Mapping[str, float]:
    return fit.exponents if isinstance(fit, Fit) else {}


def law_plot(
    name: str,
    fits: Mapping[str, Fit],
    runs: Mapping[str, Runs],
    caption: str,
    *,
    loss: str = BITS,
) -> Plot:
    """The figure that `lm fit --plot` draws, of one law or of one in several groups."""
    # Draws of a law that rows pin down badly leave the range of floats far from them.
    with styled(), np.errstate(all="ignore"):
        return Plot(name, figure_of(fits, runs, loss), caption)


def comparison_plot(
    name: str, comparison: Comparison, names: Sequence[str], caption: str, *, loss: str = BITS
) -> Plot:
    """The figure that `lm compare --plot` draws."""
    with styled():
        return Plot(name, comparison_figure(comparison, names, loss), caption)


def equal_text(first: Sequence[Result], second: Sequence[Result]) -> str:
    """Which budgets two arms have in common and which not, in a sentence."""
    equal, differ = held_equal(_columns(first), _columns(second))
    text = (
        f"Held equal: {together([name.replace('_', ' ') for name in equal])}." if equal else ""
    )
    ratios = [
        name.replace("_", " ") + (f" (median × {ratio:.3g})" if ratio is not None else "")
        for name, ratio in differ.items()
    ]
    return " ".join(filter(None, [text, f"Not equal: {together(ratios)}." if ratios else ""]))


def _columns(results: Sequence[Result]) -> dict[str, list[Any]]:
    keys = [name for name, value in results[0].items() if isinstance(value, int | float | str)]
    return {name: [result.get(name) for result in results] for name in keys}


def cells_table(cells: Sequence[Cell], caption: str, *columns: Column) -> Table:
    """All finished cells, a row each; `columns` stand before the usual ones."""
    rows = [{"cell": cell.name, **cell.result} for cell in cells if cell.result is not None]
    usual = (
        Column("params_matmul", "N", count),
        Column("tokens", "D", count),
        Column("steps", "steps", lambda number: f"{number:,}"),
        Column("flops", "FLOPs", power),
        Column("bits_per_byte", BITS, decimals, error="text_se"),
        Column("kind", "which is"),
        Column("validation_loss", "own loss", decimals),
    )
    return Table((Column("cell", "cell"), *columns, *usual), rows, caption)


# The learning rate


class Trials(NamedTuple):
    """Cells of one arm at one size and budget that differ in a setting alone."""

    what: str
    """The arm, in a sentence."""
    used: float
    """The value that the study's file gives to all other cells, by its rule."""
    found: dict[float, float]
    """Bits per byte, by value, of the finished trials, ascending."""
    planned: int

    @property
    def best(self) -> float | None:
        """The value with the lowest loss; None before all trials are finished."""
        return min(self.found, key=self.found.__getitem__) if self.complete else None

    @property
    def complete(self) -> bool:
        """Whether all trials are finished."""
        return len(self.found) == self.planned > 0

    @property
    def verdict(self) -> str:
        """Whether the trials bear out the value that is used, in a sentence."""
        if not self.complete:
            return f"The trials of {self.what} are not finished."
        best = self.best
        assert best is not None
        edge = best in (min(self.found), max(self.found))
        if best == self.used:
            text = (
                f"For {self.what} {self.used:g} is best of {self.planned}, as the grid has it"
            )
        else:
            lost = self.found[self.used] - self.found[best] if self.used in self.found else None
            text = f"For {self.what} {best:g} is best, where the grid has {self.used:g}" + (
                f", which is {lost:.3f} bits per byte worse" if lost is not None else ""
            )
        return text + (", at the edge of what was tried." if edge else ".")


def trials_of(cells: Sequence[Cell], what: str, used: float) -> Trials:
    """The trials of a learning rate, from the cells that make them."""
    found = {
        cell.run.optimizer.learning_rate: float(cell.result["bits_per_byte"])
        for cell in cells
        if cell.result is not None
    }
    return Trials(what, used, dict(sorted(found.items())), len(cells))


def trials_table(trials: Sequence[Trials], caption: str, value: str = "learning rate") -> Table:
    """Bits per byte of all trials, a row each; what the grid uses is marked."""
    rows = [
        {
            "what": each.what,
            "value": f"{tried:g}",
            "bits": bits,
            "note": "; ".join(
                filter(
                    None,
                    [
                        "used" if tried == each.used else "",
                        "best" if tried == each.best else "",
                    ],
                )
            ),
        }
        for each in trials
        for tried, bits in each.found.items()
    ]
    columns = (
        Column("what", "of"),
        Column("value", value),
        Column("bits", BITS, decimals),
        Column("note", ""),
    )
    return Table(columns, rows, caption)


def rate_at(params: float, rate: float, tuned_at: float) -> float:
    """A rate tuned at one size, at another: as N^(-1/3) (Porian et al. 2024, arXiv:2406.19146).

    >>> rate_at(8e6, 0.02, 1e6), rate_at(1e6, 0.02, 1e6)
    (0.01, 0.02)
    """
    return float(f"{rate * (params / tuned_at) ** (-1 / 3):.2g}")


# The page


def section(heading: str, *blocks: Block | None) -> Section | None:
    """A section of the blocks that there are; None if there are none."""
    found = tuple(block for block in blocks if block is not None)
    return Section(heading, found) if found else None


NO_ANSWER = "There is no answer yet: too few cells are finished for a law."


# Laws of one size


ONE_SIZE = {"A": 1e-12, "alpha": 1.0}
"""What a parametric law holds fixed where there is one size of model: E then has its part."""


def truth_of(results: Sequence[Result]) -> float | None:
    """What the source of the text needs, in bits per byte; None where it is not known."""
    known = [result["truth"]["bits_per_byte"] for result in results if result.get("truth")]
    return known[0] if known else None


def arms_rows(cells: Sequence[Cell]) -> dict[str, dict[str, Cell]]:
    """Cells that differ in the arm alone, by what else their names say."""
    rows: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        arm, _, rest = cell.name.partition("-")
        rows.setdefault(rest, {})[arm] = cell
    return rows


def interval_of(value: float, draws_B: np.ndarray, degrees: int) -> Interval | None:
    """The 95% interval of a number made from draws; None where they are all alike."""
    return interval(value, draws_B, degrees) if np.ptp(draws_B) > 0 else None


def difference_of(first: Fit, second: Fit, name: str) -> tuple[float, Interval | None]:
    """How far the second fit's parameter lies above the first's.

    Draws are paired: tables of as many rows in the same order are resampled alike.
    """
    value = second.parameters[name] - first.parameters[name]
    if not (first.draws and second.draws) or name in first.unidentified + second.unidentified:
        return value, None
    draws_B = second.draws[name] - first.draws[name]
    return value, interval_of(value, draws_B, min(first.degrees, second.degrees))


def ratio_of(first: Fit, second: Fit, name: str) -> tuple[float, Interval | None]:
    """How many times the first fit's parameter the second's is, likewise."""
    value = second.parameters[name] / first.parameters[name]
    if not (first.draws and second.draws) or name in first.unidentified + second.unidentified:
        return value, None
    draws_B = second.draws[name] / first.draws[name]
    return value, interval_of(value, draws_B, min(first.degrees, second.degrees))


def signed_text(value: float, ends: Interval | None, digits: int = 2) -> str:
    """A difference with its sign, and its 95% interval.

    >>> signed_text(-0.05, (-0.2, 0.1))
    '−0.05 (95%: −0.20 to +0.10)'
    """

    def one(number: float) -> str:
        return f"{number:+.{digits}f}".replace("-", "−")

    interval = f"95%: {one(ends[0])} to {one(ends[1])}" if ends else "no interval"
    return f"{one(value)} ({interval})"


def parameters_table(
    fits: Mapping[str, Fit | DataError], names: Sequence[str], caption: str, what: str = "law"
) -> Table:
    """A row a fit: these parameters with their 95% intervals."""
    rows = []
    for title, fit in fits.items():
        row: dict[str, Any] = {"what": title}
        if isinstance(fit, Fit):
            row |= {
                name: short_text(fit.parameters[name], fit.ci95.get(name)) for name in names
            }
            row |= {"rows": fit.rows_used, "doubts": len(fit.warnings) or "none"}
        else:
            row["doubts"] = f"not fit: {fit}"
        rows.append(row)
    columns = (
        Column("what", what),
        *(Column(name, name) for name in names),
        Column("rows", "runs"),
        Column("doubts", "doubts"),
    )
    return Table(columns, rows, caption)


def short_text(value: float, ends: Interval | None) -> str:
    """A number of any size in three digits, and its 95% interval.

    >>> short_text(1234.5, (98.76, 1e6)), short_text(0.5, None)
    ('1.23e+03 (98.8 to 1e+06)', '0.5')
    """
    if ends is None:
        return f"{value:.3g}"
    return f"{value:.3g} ({ends[0]:.3g} to {ends[1]:.3g})"
