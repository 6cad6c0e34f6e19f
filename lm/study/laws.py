"""Laws through the runs of a study: their table, comparisons, figures, and rates tried."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from lm.model import Model
from lm.run import Run
from lm.scaling.bootstrap import interval
from lm.scaling.compare import Comparison, held_equal
from lm.scaling.fit import Fit, Interval, band
from lm.scaling.plots import comparison_figure, figure_of
from lm.scaling.table import DataError, Runs
from lm.study.grid import StudyRun
from lm.study.report.figures import styled
from lm.study.report.values import Plot, Row
from lm.study.sentences import together


def runs_of(results: Sequence[Row], *, loss: str = "bits_per_byte") -> Runs:
    """The table that laws are fit to; `loss` names a number of a result.

    FLOPs are the ledger's exact count, and sizes those of all matrix products, the head's among
    them, which is what that count goes with. Raises DataError where there are no results.

    >>> runs = runs_of([{"bits_per_byte": 2.5, "params_matmul": 1e4, "tokens": 2e5,
    ...                  "flops": 1.3e10}])
    >>> float(runs.loss_R[0]), float(runs.flops_R[0])
    (2.5, 13000000000.0)
    """
    if not results:
        raise DataError("no finished runs")
    names = (loss, "params_matmul", "tokens", "flops")
    return Runs(*(np.array([float(result[name]) for result in results]) for name in names))


def attempt(fit: Callable[..., Any], *given: Any) -> Any:
    """What a fit finds, or the DataError that says why there is none yet."""
    try:
        return fit(*given)
    except DataError as error:
        return error


def law_plot(
    name: str,
    fits: Mapping[str, Fit],
    runs: Mapping[str, Runs],
    caption: str,
) -> Plot:
    """The figure that `lm fit --plot` draws, of one law or of one in several groups."""
    # Draws of a law that rows pin down badly leave the range of floats far from them.
    with styled(), np.errstate(all="ignore"):
        return Plot(name, figure_of(fits, runs, "bits per byte"), caption)


def comparison_plot(
    name: str, comparison: Comparison, names: Sequence[str], caption: str
) -> Plot:
    """The figure that `lm compare --plot` draws."""
    with styled():
        return Plot(name, comparison_figure(comparison, names, "bits per byte"), caption)


def draw_law(
    axes: Axes, law: Fit, known: Mapping[str, np.ndarray], colour: str, *, alpha: float = 0.15
) -> None:
    """The loss that a law gives against the last of what is known, and its 95% band."""
    (*_, against) = known.values()
    axes.plot(against, law.law.evaluate(law.parameters, known)["loss"], color=colour)
    if law.draws and alpha:
        low, high = band(law, known)["loss"]
        axes.fill_between(against, low, high, color=colour, alpha=alpha, linewidth=0)


def equal_text(first: Sequence[Row], second: Sequence[Row]) -> str:
    """Which budgets two variants have in common and which not, in a sentence."""
    equal, differ = held_equal(_columns(first), _columns(second))
    text = (
        f"Held equal: {together([name.replace('_', ' ') for name in equal])}." if equal else ""
    )
    ratios = [
        name.replace("_", " ") + (f" (median × {ratio:.3g})" if ratio is not None else "")
        for name, ratio in differ.items()
    ]
    return " ".join(filter(None, [text, f"Not equal: {together(ratios)}." if ratios else ""]))


def _columns(results: Sequence[Row]) -> dict[str, list[Any]]:
    keys = [name for name, value in results[0].items() if isinstance(value, int | float | str)]
    return {name: [result.get(name) for result in results] for name in keys}


class Trials(NamedTuple):
    """Cells of one variant at one size and budget that differ in a setting alone."""

    what: str
    """The variant, in a sentence."""
    used: Any
    """What the study's file gives to all other runs, by its rule."""
    found: dict[Any, float]
    """Losses by setting, of the finished trials."""
    planned: int
    show: Callable[[Any], str] = "{:g}".format
    user: str = "the grid"
    """Who has the setting that is used."""
    setting: str = "learning rate"
    unit: str = "bits per byte"
    before: tuple[str, Any, float] | None = None
    """Who has another setting than was tried, which, and its loss."""

    @property
    def best(self) -> Any | None:
        """The setting with the lowest loss; None before all trials are finished."""
        done = len(self.found) == self.planned > 0
        return min(self.found, key=self.found.__getitem__) if done else None

    @property
    def contrary(self) -> bool:
        """Whether the trials found another setting to be best than is used."""
        return self.best not in (None, self.used)

    @property
    def verdict(self) -> str:
        """Whether the trials bear out the setting that is used, in a sentence."""
        best = self.best
        if best is None:
            return f"The trials of {self.what} are not finished."
        text = f"For {self.what} {self.show(best)} is best"
        if best == self.used:
            text += f" of {self.planned}, as {self.user} has it"
        else:
            text += f", where {self.user} has {self.show(self.used)}"
            if self.used in self.found:
                lost = self.found[self.used] - self.found[best]
                text += f", which is {lost:.3f} {self.unit} worse"
        if self.before:
            who, _, loss = self.before
            text += f"; it is {loss - self.found[best]:.3f} {self.unit} below {who}'s"
        edge = isinstance(best, float) and best in (min(self.found), max(self.found))
        return text + (", at the edge of what was tried." if edge else ".")


def trials_of(cells: Sequence[StudyRun], tried: Sequence[StudyRun], what: str) -> Trials | None:
    """The trials of a variant's learning rate, and the grid's own run of their size and seed.

    None where nothing was tried.
    """

    def place(run: Run) -> tuple[Model, int, int]:
        return run.model, run.tokens, run.seed

    places = [place(cell.run) for cell in tried]
    own = [cell for cell in cells if cell not in tried and place(cell.run) in places]
    found = {
        cell.run.optimizer.learning_rate: float(cell.result["bits_per_byte"])
        for cell in [*tried, *own]
        if cell.result is not None
    }
    if not own:
        return None
    used = own[0].run.optimizer.learning_rate
    return Trials(what, used, dict(sorted(found.items())), len(tried) + len(own))


def rate_at(params: float, rate: float, tuned_at: float) -> float:
    """A rate tuned at one size, at another: as N^(-1/3) (Porian et al. 2024, arXiv:2406.19146).

    >>> rate_at(8e6, 0.02, 1e6), rate_at(1e6, 0.02, 1e6)
    (0.01, 0.02)
    """
    return float(f"{rate * (params / tuned_at) ** (-1 / 3):.2g}")


ONE_SIZE = {"A": 1e-12, "alpha": 1.0}
"""What a parametric law holds fixed where there is one size of model: E then has its part."""


def least_of(results: Sequence[Row]) -> float | None:
    """What the source of the text needs, in bits per byte; None where it is not known."""
    known = [result["truth"]["bits_per_byte"] for result in results if result.get("truth")]
    return known[0] if known else None


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
