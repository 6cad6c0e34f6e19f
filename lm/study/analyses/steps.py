"""How steps of counting and training move the exponent of the best size."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from lm.cost.budget import batch_and_rate
from lm.data import Data
from lm.optimizer import Adamw
from lm.output.numbers import count
from lm.scaling.fit import Fit
from lm.scaling.isoflop import METHODS, Isoflop, IsoflopMethod, budgets
from lm.scaling.laws import FLOPS_PER_PARAMETER_AND_TOKEN as SIX
from lm.scaling.table import DataError, Runs
from lm.study.analyses.isoflops import SHOWN, minima_of
from lm.study.curves import curve_of
from lm.study.grid import Size, StudyRun, matmul_parameters
from lm.study.laws import Trials, attempt
from lm.study.report.figures import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RULE,
    VERMILLION,
    panels,
    reference_lines,
    styled,
)
from lm.study.report.values import Column, Plot, Section, Table
from lm.study.sections import figure_section, section
from lm.study.sentences import NO_LAW, fit_text, together


class Setting(NamedTuple):
    """What is tuned of adamw."""

    learning_rate: float
    rows: int
    """Of a batch."""
    b2: float

    def __str__(self) -> str:
        return f"rate {self.learning_rate:g}, {self.rows} rows, beta2 {self.b2:g}"

    @staticmethod
    def published(size: Size, data: Data) -> "Setting":
        """Porian et al.'s settings by size; beta2 is larger where batches are small."""
        tokens, rate = batch_and_rate(matmul_parameters(size.model, data))
        rows = 2 ** round(math.log2(tokens / data.length))
        return Setting(float(f"{rate:.2g}"), rows, 0.99 if tokens < 2**17 else 0.95)

    def star(self, other_b2: float) -> tuple["Setting", ...]:
        """This setting, and others that differ in the rate, the batch or beta2."""
        rate, rows, _b2 = self
        half = self._replace(rows=rows // 2)
        rates = [self._replace(learning_rate=each) for each in (rate / 2, rate * 2)]
        others = [each._replace(b2=other_b2) for each in (self, half)]
        return (self, *rates, half, self._replace(rows=rows * 2), *others)


class Recipe(NamedTuple):
    """What a scale trains its sizes with, which the steps refer to by number."""

    most: float
    """FLOPs of a curve, by 6 N D with the head in N."""
    warmup: int
    """Tokens of the long warm-up."""
    base: Setting
    tuned: tuple[Setting, ...]
    """What each size has in step 5."""
    trials: Mapping[int, tuple[Setting, ...]]
    """What was tried, by size."""
    matched: Mapping[float, range]
    """The sizes of step 4, by FLOPs of the same count."""
    evaluations: int
    """Times that a curve is validated, evenly spaced."""


class Step(NamedTuple):
    """What a step changes, which runs it reads, how it counts, and what the paper found."""

    number: int
    title: str
    what: str
    runs: Literal["long", "short", "matched", "tuned"]
    params: Literal["params_non_embedding", "params_matmul"]
    paper: float
    """a of the paper's runs on RefinedWeb, as `lm fit` has it from their published losses."""
    colour: str

    @property
    def name(self) -> str:
        """What tables, legends and panels call it."""
        return f"{self.number} {self.title}"


# fmt: off
STEPS = (
    Step(1, "Kaplan", "counts without the head, long warm-up, no decay",
         "long", "params_non_embedding", 0.834, PURPLE),
    Step(2, "head", "the same runs, the head counted",
         "long", "params_matmul", 0.701, BLUE),
    Step(3, "warm-up", "as many tokens of warm-up as parameters",
         "short", "params_matmul", 0.604, ORANGE),
    Step(4, "decay", "a cosine to the end of each budget",
         "matched", "params_matmul", 0.571, GREEN),
    Step(5, "tuned", "rate, batch and beta2 tuned, no decay",
         "tuned", "params_matmul", 0.497, VERMILLION),
)
"""Those of Porian et al., from Kaplan's setting to Chinchilla's."""
# fmt: on


def rows_of(cells: Sequence[StudyRun], step: Step, *, exact: bool = False) -> Runs:
    """The losses of a step's runs by size and budget, counted as it counts.

    Runs of one budget are read at their end, others at every power of two of FLOPs. With
    `exact`, compute is the ledger's count, of attention scores too. DataError without runs.
    """
    found = [cell for cell in cells if trial_kind(cell) == step.runs and cell.result]
    curves = [curve_of(cell, step.params) for cell in found]
    curves = [c if exact else c._replace(flops=SIX * float(c.params)) for c in curves]
    points = []
    if step.runs == "matched":
        points = [
            (c.loss_T[-1], c.params, c.tokens_T[-1], c.flops * c.tokens_T[-1]) for c in curves
        ]
    for flops in [] if points else 2.0 ** np.arange(20, 80):
        at = [(curve, flops / curve.flops) for curve in curves]
        there = [(c, d) for c, d in at if c.tokens_T[0] <= d <= c.tokens_T[-1]]
        # Fewer sizes draw no curve that one could look for a minimum on.
        if len(there) >= 4:
            points += [(c.loss_at(tokens), c.params, tokens, flops) for c, tokens in there]
    if not points:
        raise DataError("no finished runs, or too few sizes")
    loss_R, params_R, tokens_R, flops_R = np.array(points, float).T
    return Runs(loss_R, params_R=params_R, tokens_R=tokens_R, flops_R=flops_R)


def trial_kind(cell: StudyRun) -> str:
    """What a run is for, by the third part of its name: long, short, matched, tuned, trial."""
    return cell.name.split("-")[2]


def fit_rows(rows: Runs | DataError, method: IsoflopMethod = SHOWN) -> Fit:
    """The law of a step; DataError where it has no rows."""
    if isinstance(rows, DataError):
        raise rows
    return Isoflop(method=method).fit(rows)


def steps_table(
    rows: Mapping[Step, Runs | DataError], fits: Mapping[Step, Fit | DataError]
) -> Table:
    """The exponent of the best size after each step, by each way of finding minima."""
    shown = []
    for step, fit in fits.items():
        row: dict[str, Any] = {
            "step": step.name, "what": step.what, "paper": step.paper,
        }  # fmt: skip
        if isinstance(fit, Fit):
            row |= {"a": fit_text(fit, "a"), "minima": len(minima_of(fit))}
            for method in METHODS:
                other = attempt(partial(fit_rows, rows[step], method))
                row[method] = None if isinstance(other, DataError) else other.exponents["a"]
        shown.append(row)
    columns = (
        Column("step", "step"),
        Column("what", "what it is"),
        Column("a", "a"),
        *(
            Column(method, f"a, {method}", "{:.2f}".format)
            for method in METHODS
            if method != SHOWN
        ),
        Column("minima", "minima"),
        Column("paper", "the paper's a", "{:.2f}".format),
    )
    return Table(
        columns,
        shown,
        "The exponent of the best size after each step: minima by a parabola through the"
        " runs about the best, with the 95% interval; by one through five sizes (local), and by"
        " a smooth curve through all (Akima), as the paper finds them. The paper's are those of"
        " its runs on RefinedWeb, fit again by that curve.",
    )


@styled()
def steps_figure(known: Mapping[Step, Fit], steps: Sequence[Step]) -> Figure:
    """The exponent after each step beside the paper's; best sizes by compute."""
    figure, (left, right) = panels(2, height=3.4)
    for step, fit in known.items():
        value, ends = fit.exponents["a"], fit.ci95.get("a")
        bars = [[value - ends[0]], [ends[1] - value]] if ends else None
        left.errorbar(
            [step.number], [value], bars, marker="o", color=step.colour, elinewidth=1.2
        )
    left.plot(
        [step.number + 0.18 for step in steps],
        [step.paper for step in steps],
        linestyle="none",
        marker="D",
        color=MUTED,
        markerfacecolor=PAPER,
        label="the paper's runs",
    )
    left.plot([], [], linestyle="none", marker="o", color=INK, label="these runs")
    left.set_xticks([s.number for s in steps], [f"{s.number}\n{s.title}" for s in steps])
    left.set(title="Exponent of the best size", ylabel="a in N* ~ C^a", xlim=(0.5, 5.5))
    left.set_ylim(*_within(left.get_ylim(), -0.2, 1.6))
    left.legend(loc="upper right")
    reference_lines(left, {"Kaplan": 0.73, "Chinchilla": 0.5})
    for step, fit in known.items():
        flops = np.array([budget.flops for budget in minima_of(fit)])
        right.plot(
            flops, [b.params for b in minima_of(fit)], "o", color=step.colour, markersize=3.5
        )
        right.plot(
            flops,
            fit.parameters["k_N"] * flops ** fit.parameters["a"],
            color=step.colour,
            label=step.name,
        )
    if found := [budget for fit in known.values() for budget in minima_of(fit)]:
        first, last = min(b.flops for b in found), max(b.flops for b in found)
        middle = np.exp(np.mean([np.log(budget.params) for budget in found]))
        slope = middle * (np.array([first, last]) / math.sqrt(first * last)) ** 0.5
        right.plot([first, last], slope, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2.5)))
    right.set(
        xscale="log", yscale="log", xlabel="training compute (FLOPs)", ylabel="parameters"
    )
    right.set_title("Best size")
    right.legend(loc="upper left")
    return figure


def _within(limits: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    return max(limits[0], low), min(limits[1], high)


@styled()
def isoflops_figure(known: Mapping[Step, Fit], rows: Mapping[Step, Runs | DataError]) -> Figure:
    """Loss by size at each budget, a panel a step."""
    figure, axes = panels(len(known), height=3.0, sharey=True)
    for at, (step, fit) in zip(axes, known.items(), strict=True):
        runs = rows[step]
        assert isinstance(runs, Runs) and runs.params_R is not None and runs.flops_R is not None
        minima = minima_of(fit)
        colours = colormaps["viridis_r"](np.linspace(0.1, 1, len(minima)))
        for rows_R in budgets(runs, 0.1):
            part = runs.take(rows_R)
            assert part.params_R is not None
            order_R = np.argsort(part.params_R)
            at.plot(part.params_R[order_R], part.loss_R[order_R], color=RULE, linewidth=0.8)
        for budget, colour in zip(minima, colours, strict=True):
            at.plot(budget.curve_params, budget.curve_loss, color=colour, linewidth=1)
            at.plot(budget.params_R, budget.loss_R, "o", color=colour, markersize=2)
            at.plot([budget.params], [budget.loss], "P", color=VERMILLION, markersize=5,
                    markeredgecolor=PAPER, markeredgewidth=0.5)  # fmt: skip
        at.set(xscale="log", title=step.name, xlabel="parameters")
    found = [budget.loss_R for fit in known.values() for budget in minima_of(fit)]
    lowest, highest = (
        min(loss_R.min() for loss_R in found),
        max(loss_R.max() for loss_R in found),
    )
    axes[0].set_ylim(lowest - 0.05 * (highest - lowest), highest + 0.05 * (highest - lowest))
    axes[0].set_ylabel("nats per token")
    return figure


def steps_sections(
    cells: Sequence[StudyRun],
    rows: Mapping[Step, Runs | DataError],
    fits: Mapping[Step, Fit | DataError],
) -> list[Section | None]:
    """The exponent after each step, and the curves whose minima it stands on."""
    known, steps = known_of(fits), tuple(fits)
    if not known:
        return []
    return [
        section(
            "The exponent after each step",
            Plot(
                "steps",
                steps_figure(known, steps),
                "Left: the exponent after each step, with its 95% interval, and what the"
                " paper's runs on RefinedWeb give. Right: the best size by compute, each as its"
                " step counts it, with the power law; the dashed line is C^0.5.",
            ),
            _exact_text(cells, steps[-1]),
        ),
        figure_section(
            "Loss by size at equal compute",
            "isoflops",
            isoflops_figure(known, rows),
            "Loss by size, a colour a budget, with the parabola whose minimum (+) is the best"
            " size. Budgets whose best size is the smallest or largest have none and are faint."
            " The first two panels are the same runs, counted without the head and with it.",
        ),
    ]


def known_of(fits: Mapping[Step, Fit | DataError]) -> dict[Step, Fit]:
    """The laws of the steps that have one."""
    return {step: fit for step, fit in fits.items() if isinstance(fit, Fit)}


def steps_answer(fits: Mapping[Step, Fit | DataError]) -> str:
    """The exponent after each step, and whether it moved by more than both intervals."""
    if not (known := known_of(fits)):
        return NO_LAW
    parts = [
        f"{fit_text(fit, 'a')} "
        + (
            f"in {step.title}'s setting"
            if step.number == 1
            else f"after step {step.number} ({step.title})"
        )
        for step, fit in known.items()
    ]
    text = f"The exponent of the best size is {together(parts)}."
    for one, other in itertools.pairwise(fits):
        if one in known and other in known:
            before, after = known[one], known[other]
            first, second = before.ci95.get("a"), after.ci95.get("a")
            if first and second:
                by = f"{after.exponents['a'] - before.exponents['a']:+.2f}".replace("-", "−")
                apart = second[1] < first[0] or first[1] < second[0]
                within = "beyond" if apart else "within"
                text += f" Step {other.number} moves it by {by}, {within} the intervals."
    return text


def _exact_text(cells: Sequence[StudyRun], step: Step) -> str | None:
    """A step's exponent by the ledger's count of FLOPs."""
    fit = attempt(lambda: fit_rows(rows_of(cells, step, exact=True)))
    if isinstance(fit, DataError):
        return None
    return (
        "All steps count C as 6 N D, as the paper does. By the ledger's exact count, which has"
        f" the attention scores too, step {step.number} gives {fit_text(fit, 'a')}."
    )


def trials_of_sizes(cells: Sequence[StudyRun]) -> list[Trials]:
    """The settings tried at each size that has any, against what the short runs have."""
    found = []
    for model in dict.fromkeys(cell.run.model for cell in cells if trial_kind(cell) == "trial"):
        by_kind: dict[str, list[StudyRun]] = {}
        for cell in cells:
            if cell.run.model == model:
                by_kind.setdefault(trial_kind(cell), []).append(cell)
        done = [(cell, cell.result) for cell in by_kind["trial"] if cell.result]
        if not done:
            continue
        first, before = done[0][1], None
        for cell in by_kind["short"]:
            if cell.result:
                # Read off the curve at as many tokens.
                loss = curve_of(cell).loss_at(first["tokens"])
                before = ("steps 1 to 4", _setting(cell), loss)
        found.append(
            Trials(
                f"{count(first['params_matmul'])} parameters",
                _setting(by_kind["tuned"][0]),
                {_setting(cell): float(result["validation_loss"]) for cell, result in done},
                len(by_kind["trial"]),
                show=str,
                user="step 5",
                setting="setting",
                unit="nats per token",
                before=before,
            )
        )
    return found


def _setting(cell: StudyRun) -> Setting:
    optimizer = cell.run.optimizer
    assert isinstance(optimizer, Adamw)
    return Setting(optimizer.learning_rate, cell.run.data.batch, optimizer.b2)
