"""Which steps lead from Kaplan's best model sizes to Chinchilla's, on runs of one's own?

Answers to: Porian et al. 2024 (arXiv:2406.19146), figure 1 and table 2. Kaplan et al. 2020
(arXiv:2001.08361) have N* ~ C^0.73, Hoffmann et al. 2022 (arXiv:2203.15556) N* ~ C^0.5. The
paper goes from one to the other in five steps, and so does this study, with models that a
laptop trains:

    1  Kaplan's setting: N and C = 6 N D without the head, a warm-up of as many tokens for every
       size, a learning rate that has not decayed where the loss is read
    2  the same runs, with the head's parameters in N and C
    3  a warm-up of as many tokens as the model has parameters
    4  a cosine that ends where the loss is read: a run for each budget and size
    5  the rate, batch and beta2 of adamw tuned by size, with a constant rate again

    python -m experiments.kaplan_or_chinchilla --scale laptop

    smoke   a minute             toys on bytes, to see that everything works
    laptop  20 minutes, 2 cores  eight sizes of 4.5k to 0.1M parameters with the head, budgets
                                 up to 2e11 FLOPs, Python's library in 1,024 pieces
    v5e-16  21 hours, 16 chips   eight sizes of 8M to 0.2B parameters, budgets up to 3e18
                                 FLOPs, on C4 (c4/en, which TFDS prepares)

The last line is a plan by FLOPs, at 40% of the chips' peak and without scoring, as printed by
`python -m experiments.kaplan_or_chinchilla --scale v5e-16 --cost v5e-16`.

One run of a size gives its loss at every budget, from its validations along the way, as long as
the rate does not decay: steps 1, 2, 3 and 5 are read off such curves, and steps 1 and 2 are two
counts of the same runs. Kaplan's cosine ended far beyond the budgets that were read; a constant
rate is what that comes to. The trials that step 5 rests on are cells of the study: a star about
one setting, at two sizes.

Expect the exponent to fall most where the head is counted, since small models are mostly head.
The others matter where warm-up is long against a run and where one batch is too large for small
models; at the laptop's scale each may be within its error.
"""

import itertools
import math
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from lm.cost.budget import batch_and_rate
from lm.data import Bytes, Data, SentencePiece, Stdlib, Tfds, vocabulary_size
from lm.evaluate.scoring import Effort
from lm.model import Transformer
from lm.optimizer import Adamw, Cosine, WarmupStableDecay
from lm.output.numbers import count, decimals
from lm.run import Run
from lm.scaling.fit import Fit
from lm.scaling.isoflop import METHODS, Budget, Method, budgets, fit_isoflop
from lm.scaling.laws import FLOPS_PER_PARAMETER_AND_TOKEN as SIX
from lm.scaling.table import DataError, Runs
from lm.study import runner
from lm.study.common import study_report
from lm.study.fits import (
    NO_ANSWER,
    attempt,
    cells_table,
    doubts_table,
    exponent_text,
    section,
)
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
from lm.study.report.values import Column, Plot, Report, Section, Table
from lm.study.runner import Cell
from lm.study.seeds import together
from lm.train.trackers.jsonl import read_metrics


class Setting(NamedTuple):
    """What is tuned in step 5."""

    learning_rate: float
    rows: int
    """Of a batch."""
    b2: float


Curve = Literal["long", "short", "tuned"]
"""Runs at a constant rate: long or short warm-up, and the latter with tuned settings."""


class Plan(NamedTuple):
    """What a scale trains."""

    data: Data
    sizes: tuple[Transformer, ...]
    """Ascending."""
    most: float
    """FLOPs of a curve, by 6 N D with the head in N."""
    tokens: int
    """Tokens of a curve at most."""
    warmup: int
    """Tokens of the long warm-up."""
    base: Setting
    tuned: tuple[Setting, ...]
    """What each size has in step 5."""
    trials: Mapping[int, tuple[Setting, ...]]
    """What was tried, by the number of the size."""
    matched: Mapping[float, tuple[int, ...]]
    """The numbers of the sizes of step 4, by FLOPs of the same count."""
    evaluations: int
    """Times that a curve is validated, evenly spaced."""
    settings: dict[str, Any]
    """Further fields of the runs."""

    def runs(self) -> dict[str, Run]:
        """The runs by cell name."""
        found = {}
        for size, settings in self.trials.items():
            for setting in settings:
                found[self.trial_name(size, setting)] = self._trial(size, setting)
        for curve in ("long", "short"):
            for size in range(len(self.sizes)):
                found[self.name(size, curve)] = self._curve(size, curve, self.base)
        for flops, sizes in self.matched.items():
            for size in sizes:
                budget = f"f{flops:.1e}".replace("+", "").replace(".0e", "e")
                found[self.name(size, f"matched-{budget}")] = self._matched(size, flops)
        for size, setting in enumerate(self.tuned):
            found[self.name(size, "tuned")] = self._curve(size, "short", setting)
        return found

    def name(self, size: int, what: str) -> str:
        """The name of a cell."""
        return f"causal-{count(self.params(size))}-{what}-seed0"

    def trial_name(self, size: int, setting: Setting) -> str:
        """The name of the cell that tries a setting."""
        rate, rows, b2 = setting
        return self.name(size, f"trial-lr{rate:g}-b{rows}-beta{b2:g}")

    def params(self, size: int) -> int:
        """Parameters in matrix products, the head's among them."""
        matrices = self.sizes[size].matrices(vocabulary_size(self.data.tokenizer))
        return sum(matrices.values())

    def _curve(self, size: int, curve: Literal["long", "short"], setting: Setting) -> Run:
        tokens = min(self.tokens, round(self.most / (SIX * self.params(size))))
        run = self._run(size, setting, tokens, self.evaluations)
        warmup = self.warmup if curve == "long" else self.params(size)
        return self._constant(run, warmup)

    def _trial(self, size: int, setting: Setting) -> Run:
        run = self._run(size, setting, 20 * self.params(size), 1)
        return self._constant(run, self.params(size))

    def _matched(self, size: int, flops: float) -> Run:
        run = self._run(size, self.base, round(flops / (SIX * self.params(size))), 1)
        share = min(1.0, self.params(size) / run.tokens)
        return msgspec.structs.replace(run, schedule=Cosine(warmup=share, final=0.0))

    def _constant(self, run: Run, warmup: int) -> Run:
        schedule = WarmupStableDecay(warmup=min(1.0, warmup / run.tokens), decay=0.0)
        return msgspec.structs.replace(run, schedule=schedule)

    def _run(self, size: int, setting: Setting, tokens: int, evaluations: int) -> Run:
        return Run(
            data=msgspec.structs.replace(self.data, batch=setting.rows),
            model=self.sizes[size],
            optimizer=Adamw(learning_rate=setting.learning_rate, b2=setting.b2),
            tokens=tokens,
            evaluations=evaluations,
            **self.settings,
        )


def _wide(*widths: int) -> tuple[Transformer, ...]:
    return tuple(Transformer(depth=2, width=width, heads=1) for width in widths)


def _star(rate: float, rows: int, b2: float, other: float) -> tuple[Setting, ...]:
    """A setting, and others that differ in the rate, the batch or beta2."""
    return (
        Setting(rate, rows, b2),
        Setting(rate / 2, rows, b2),
        Setting(rate * 2, rows, b2),
        Setting(rate, rows // 2, b2),
        Setting(rate, rows * 2, b2),
        Setting(rate, rows, other),
        Setting(rate, rows // 2, other),
    )


def _published(params: float, length: int) -> Setting:
    """Porian et al.'s settings by size; beta2 is larger where batches are small."""
    tokens, rate = batch_and_rate(params)
    rows = 2 ** round(math.log2(tokens / length))
    return Setting(float(f"{rate:.2g}"), rows, 0.99 if tokens < 2**17 else 0.95)


_DEEP = tuple(Transformer(depth=d, width=64 * d, heads=d) for d in (3, 4, 6, 8, 10, 12, 14, 16))
_DEEP_PARAMS = tuple(sum(size.matrices(32_768).values()) for size in _DEEP)

PLANS = {
    "smoke": Plan(
        Data(tokenizer=Bytes(), length=64, batch=4),
        _wide(8, 12, 16),
        most=4e8,
        tokens=10_000,
        warmup=4096,
        base=Setting(1e-2, 4, 0.95),
        tuned=(Setting(2e-2, 2, 0.99),) * 3,
        trials={1: (Setting(1e-2, 2, 0.99), Setting(2e-2, 2, 0.99))},
        matched={2e8: (0, 1, 2), 4e8: (0, 1, 2)},
        evaluations=8,
        settings={"evaluation_rows": 16},
    ),
    "laptop": Plan(
        Data(
            corpus=Stdlib(),
            tokenizer=SentencePiece(size=1024),
            length=64,
            batch=16,
            validation=0.05,
        ),
        _wide(4, 6, 8, 12, 16, 24, 32, 48),
        most=2e11,
        tokens=2_400_000,
        warmup=150_000,
        base=Setting(5e-3, 16, 0.95),
        tuned=(Setting(1e-2, 8, 0.99),) * 8,
        trials={2: _star(1e-2, 8, 0.95, 0.99), 5: _star(1e-2, 8, 0.95, 0.99)},
        matched={
            1.5e10: (0, 1, 2, 3, 4),
            4e10: (0, 1, 2, 3, 4, 5),
            6e10: (1, 2, 3, 4, 5),
            9e10: (2, 3, 4, 5, 6),
            1.35e11: (2, 3, 4, 5, 6),
            2e11: (3, 4, 5, 6, 7),
        },
        evaluations=40,
        settings={"evaluation_rows": 128},
    ),
    "v5e-16": Plan(
        Data(
            corpus=Tfds(name="c4/en", split="train[:15%]"),
            tokenizer=SentencePiece(kind="unigram", size=32_768),
            length=1024,
            batch=256,
            validation=0.0002,
        ),
        _DEEP,
        most=3e18,
        tokens=20_000_000_000,
        warmup=1_500_000_000,
        base=Setting(3e-3, 256, 0.95),
        tuned=tuple(_published(params, 1024) for params in _DEEP_PARAMS),
        trials={
            number: _star(*_published(_DEEP_PARAMS[number], 1024)[:2], 0.95, 0.99)
            for number in (1, 4)
        },
        matched={
            3e16: (0, 1, 2, 3),
            1e17: (0, 1, 2, 3, 4),
            3e17: (1, 2, 3, 4, 5),
            1e18: (2, 3, 4, 5, 6),
            3e18: (3, 4, 5, 6, 7),
        },
        evaluations=64,
        settings={"evaluation_rows": 1024, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, probe_tokens=1),
    "laptop": Effort(rows=128, probe_tokens=1),
    "v5e-16": Effort(rows=4096, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: trials, curves of steps 1 to 3, runs of step 4, step 5."""
    return PLANS[scale].runs()


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    rows = {step: attempt(partial(_rows, cells, step)) for step in STEPS}
    fits = {step: attempt(partial(_fit, rows[step], SHOWN)) for step in STEPS}
    known = {step: fit for step, fit in fits.items() if isinstance(fit, Fit)}
    trials = _trials(cells)
    named = {f"{step.number} {step.title}": fit for step, fit in fits.items()}
    return study_report(
        sys.modules[__name__],
        cells,
        title="From Kaplan's exponent to Chinchilla's, in five steps",
        answer=_answer(known) or NO_ANSWER,
        details=(
            "a is the exponent of the best size, N* ~ C^a. After it stands the 95% interval of"
            " 1,000 resamples of how minima scatter about their line, widened by Student's t"
            " where they are few. Minima of a step are read off the same few runs, so that what"
            " one run has by chance is in several of them, and in no interval.",
        ),
        table=_steps_table(rows, fits),
        sections=(
            section(
                "The exponent after each step",
                Plot(
                    "steps",
                    _steps_figure(known),
                    "Left: the exponent after each step, with its 95% interval, and what the"
                    " paper's runs on RefinedWeb give. Right: the best size by compute, each as"
                    " its step counts it, with the power law; the dashed line is C^0.5.",
                ),
                _exact_text(cells),
            )
            if known
            else None,
            section(
                "Loss by size at equal compute",
                Plot(
                    "isoflops",
                    _isoflops_figure(known, rows),
                    "Loss by size, a colour a budget, with the parabola whose minimum (+)"
                    " is the best size. Budgets whose best size is the smallest or largest"
                    " have none and are faint. The first two panels are the same runs, counted"
                    " without the head and with it.",
                ),
            )
            if known
            else None,
            _trials_section(trials),
            section(
                "What this does and does not show",
                *_limits(cells),
                doubts_table(named, "What the fits themselves warn of."),
            ),
            section("The cells", cells_table(cells, "All finished cells.")),
        ),
        warnings=tuple(each.verdict for each in trials if each.best and each.best != each.used),
    )


# The five steps


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


STEPS = (
    Step(
        1,
        "Kaplan",
        "counts without the head, long warm-up, no decay",
        "long",
        "params_non_embedding",
        0.834,
        PURPLE,
    ),
    Step(2, "head", "the same runs, the head counted", "long", "params_matmul", 0.701, BLUE),
    Step(
        3,
        "warm-up",
        "as many tokens of warm-up as parameters",
        "short",
        "params_matmul",
        0.604,
        ORANGE,
    ),
    Step(
        4,
        "decay",
        "a cosine to the end of each budget",
        "matched",
        "params_matmul",
        0.571,
        GREEN,
    ),
    Step(
        5,
        "tuned",
        "rate, batch and beta2 tuned, no decay",
        "tuned",
        "params_matmul",
        0.497,
        VERMILLION,
    ),
)
SHOWN: Method = METHODS[0]
"""How minima are found: nearest to the truth in `isoflop_methods`; the paper's way is akima."""


def _rows(cells: list[Cell], step: Step, *, exact: bool = False) -> Runs:
    """The losses of a step by size and budget, counted as it counts.

    With `exact`, compute is the ledger's count, of attention scores too.
    """
    found = [cell for cell in cells if _kind(cell) == step.runs and cell.result]
    tracks = [_track(cell, step.params, exact=exact) for cell in found]
    if step.runs == "matched":
        last = [
            (t.loss_T[-1], t.params, t.tokens_T[-1], t.each * t.tokens_T[-1]) for t in tracks
        ]
        return _table(last)
    points = []
    for flops in 2.0 ** np.arange(20, 80):
        at = [(track, flops / track.each) for track in tracks]
        there = [(t, d) for t, d in at if t.tokens_T[0] <= d <= t.tokens_T[-1]]
        # Fewer sizes draw no curve that one could look for a minimum on.
        if len(there) >= 4:
            points += [
                (track.loss(tokens), track.params, tokens, flops) for track, tokens in there
            ]
    return _table(points)


def _table(points: list[tuple[float, float, float, float]]) -> Runs:
    if not points:
        raise DataError("no finished cells, or too few sizes")
    loss_R, params_R, tokens_R, flops_R = np.array(points, float).T
    return Runs(loss_R, params_R=params_R, tokens_R=tokens_R, flops_R=flops_R)


class Track(NamedTuple):
    """How the loss of a run fell."""

    params: float
    each: float
    """FLOPs of a token."""
    tokens_T: np.ndarray
    loss_T: np.ndarray

    def loss(self, tokens: float) -> float:
        """Between validations, by a line in logarithms."""
        places = np.log(tokens), np.log(self.tokens_T), np.log(self.loss_T)
        return float(np.exp(np.interp(*places)))


def _track(cell: Cell, params: str, *, exact: bool = False) -> Track:
    assert cell.result is not None
    records = [r for r in read_metrics(cell.directory) if "validation_loss" in r]
    number = float(cell.result[params])
    return Track(
        number,
        cell.result["flops"] / cell.result["tokens"] if exact else SIX * number,
        np.array([r["step"] * cell.run.data.batch * cell.run.data.length for r in records]),
        np.array([r["validation_loss"] for r in records]),
    )


def _fit(rows: Runs | DataError, method: Method) -> Fit:
    if isinstance(rows, DataError):
        raise rows
    return fit_isoflop(rows, method=method)


def _kind(cell: Cell) -> str:
    """What a cell is for: long, short, matched, tuned or trial."""
    return cell.name.split("-")[2]


# Sentences


def _answer(known: Mapping[Step, Fit]) -> str:
    if not known:
        return ""
    parts = [
        f"{exponent_text(fit, 'a')} "
        + (
            "in Kaplan's setting"
            if step.number == 1
            else f"after step {step.number} ({step.title})"
        )
        for step, fit in known.items()
    ]
    text = f"The exponent of the best size is {together(parts)}."
    for one, other in itertools.pairwise(STEPS):
        if one in known and other in known and (moved := _moved(known[one], known[other])):
            text += f" Step {other.number} {moved}."
    return text


def _moved(before: Fit, after: Fit) -> str:
    """Whether a step moved the exponent by more than both intervals; "" where there is none."""
    ends = before.ci95.get("a"), after.ci95.get("a")
    if ends[0] is None or ends[1] is None:
        return ""
    by = f"{after.exponents['a'] - before.exponents['a']:+.2f}".replace("-", "−")
    apart = ends[1][1] < ends[0][0] or ends[0][1] < ends[1][0]
    return f"moves it by {by}, {'beyond' if apart else 'within'} the intervals"


def _exact_text(cells: list[Cell]) -> str | None:
    """The last step's exponent by the ledger's count of FLOPs."""
    step = STEPS[-1]
    fit = attempt(lambda: fit_isoflop(_rows(cells, step, exact=True), method=SHOWN))
    if isinstance(fit, DataError):
        return None
    return (
        "All steps count C as 6 N D, as the paper does. By the ledger's exact count, which has"
        f" the attention scores too, step 5 gives {exponent_text(fit, 'a')}."
    )


def _limits(cells: list[Cell]) -> list[str]:
    done = [cell.result for cell in cells if cell.result]
    if not done:
        return []
    sizes = sorted({result["params_matmul"] for result in done})
    return [
        f"It shows what each step does to the best size of models of {count(sizes[0])} to"
        f" {count(sizes[-1])} parameters, with one seed, on one text. The paper's models have"
        " 5M to 901M and its budgets span four decades; here they span one or two, so that"
        " exponents are less certain than their intervals, and where two steps differ by less"
        " than the methods of finding minima do, no order of them is shown.",
        "The head matters at this scale as it does at the paper's, as both ranges begin where"
        " it is most of the model. The warm-up's length and the settings before tuning are"
        " choices of this study, made so that they stand to its runs as Kaplan's stood to"
        " theirs: with other choices steps 3 and 5 would be larger or smaller. What is read is"
        " the loss of held-out text at every step, where the paper has the training loss at"
        " the first.",
    ]


# Tables and figures


def _steps_table(
    rows: Mapping[Step, Runs | DataError], fits: Mapping[Step, Fit | DataError]
) -> Table:
    shown = []
    for step, fit in fits.items():
        row: dict[str, Any] = {
            "step": f"{step.number} {step.title}", "what": step.what, "paper": step.paper,
        }  # fmt: skip
        if isinstance(fit, Fit):
            row |= {"a": exponent_text(fit, "a"), "minima": len(fit.details["budgets"])}
            for method in METHODS:
                other = attempt(partial(_fit, rows[step], method))
                row[method] = None if isinstance(other, DataError) else other.exponents["a"]
        shown.append(row)
    columns = (
        Column("step", "step"),
        Column("what", "what it is"),
        Column("a", "a"),
        *(Column(method, f"a, {method}", _two) for method in METHODS if method != SHOWN),
        Column("minima", "minima"),
        Column("paper", "the paper's a", _two),
    )
    return Table(
        columns,
        shown,
        "The exponent of the best size after each step: minima by a parabola through the"
        " runs about the best, with the 95% interval; by one through five sizes (local), and by"
        " a smooth curve through all (Akima), as the paper finds them. The paper's are those of"
        " its runs on RefinedWeb, fit again by that curve.",
    )


def _two(number: float) -> str:
    return f"{number:.2f}"


@styled()
def _steps_figure(known: Mapping[Step, Fit]) -> Figure:
    """The exponent after each step beside the paper's; best sizes by compute."""
    figure, (left, right) = panels(2, height=3.4)
    for step, fit in known.items():
        value, ends = fit.exponents["a"], fit.ci95.get("a")
        bars = [[value - ends[0]], [ends[1] - value]] if ends else None
        left.errorbar(
            [step.number], [value], bars, marker="o", color=step.colour, elinewidth=1.2
        )
    left.plot(
        [step.number + 0.18 for step in STEPS],
        [step.paper for step in STEPS],
        linestyle="none",
        marker="D",
        color=MUTED,
        markerfacecolor=PAPER,
        label="the paper's runs",
    )
    left.plot([], [], linestyle="none", marker="o", color=INK, label="these runs")
    left.set_xticks([s.number for s in STEPS], [f"{s.number}\n{s.title}" for s in STEPS])
    left.set(title="Exponent of the best size", ylabel="a in N* ~ C^a", xlim=(0.5, 5.5))
    left.set_ylim(*_within(left.get_ylim(), -0.2, 1.6))
    left.legend(loc="upper right")
    reference_lines(left, {"Kaplan": 0.73, "Chinchilla": 0.5})
    for step, fit in known.items():
        budgets: list[Budget] = fit.details["budgets"]
        flops = np.array([budget.flops for budget in budgets])
        right.plot(flops, [b.params for b in budgets], "o", color=step.colour, markersize=3.5)
        right.plot(
            flops,
            fit.parameters["k_N"] * flops ** fit.parameters["a"],
            color=step.colour,
            label=f"{step.number} {step.title}",
        )
    if known:
        first = min(b.flops for fit in known.values() for b in fit.details["budgets"])
        last = max(b.flops for fit in known.values() for b in fit.details["budgets"])
        middle = np.exp(
            np.mean([np.log(b.params) for f in known.values() for b in f.details["budgets"]])
        )
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
def _isoflops_figure(
    known: Mapping[Step, Fit], rows: Mapping[Step, Runs | DataError]
) -> Figure:
    """Loss by size at each budget, a panel a step."""
    figure, axes = panels(len(known), height=3.0, sharey=True)
    for at, (step, fit) in zip(axes, known.items(), strict=True):
        runs = rows[step]
        assert isinstance(runs, Runs) and runs.params_R is not None and runs.flops_R is not None
        minima: list[Budget] = fit.details["budgets"]
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
        at.set(xscale="log", title=f"{step.number} {step.title}", xlabel="parameters")
    lowest = min(
        budget.loss_R.min() for fit in known.values() for budget in fit.details["budgets"]
    )
    highest = max(
        budget.loss_R.max() for fit in known.values() for budget in fit.details["budgets"]
    )
    axes[0].set_ylim(lowest - 0.05 * (highest - lowest), highest + 0.05 * (highest - lowest))
    axes[0].set_ylabel("nats per piece")
    return figure


# The trials of step 5


class Trial(NamedTuple):
    """The settings tried at one size."""

    params: int
    found: dict[Setting, float]
    """Loss at the end by setting, of those that are finished."""
    planned: int
    base: tuple[Setting, float] | None
    """What steps 1 to 4 have, read off step 3's curve at as many tokens."""
    used: Setting
    """What step 5 has."""

    @property
    def best(self) -> Setting | None:
        """The setting with the lowest loss; None before all trials are finished."""
        done = len(self.found) == self.planned
        return min(self.found, key=self.found.__getitem__) if done else None

    @property
    def verdict(self) -> str:
        """Whether the trials bear out what step 5 has, in a sentence."""
        if self.best is None:
            return f"The trials at {count(self.params)} parameters are not finished."
        text = f"At {count(self.params)} parameters the best of {self.planned} is "
        text += _setting_text(self.best)
        if self.best == self.used:
            text += ", which step 5 has"
        else:
            text += f", where step 5 has {_setting_text(self.used)}"
            if self.used in self.found:
                above = self.found[self.used] - self.found[self.best]
                text += f", {above:.3f} nats worse"
        if self.base:
            text += (
                f"; it is {self.base[1] - self.found[self.best]:.3f} nats below steps 1 to 4's"
            )
        return text + "."


def _trials(cells: list[Cell]) -> list[Trial]:
    by_model: dict[Any, list[Cell]] = {}
    for cell in cells:
        if _kind(cell) == "trial":
            by_model.setdefault(cell.run.model, []).append(cell)
    found = []
    for model, tried in by_model.items():
        tuned = [c for c in cells if c.run.model == model and _kind(c) == "tuned"]
        short = [c for c in cells if c.run.model == model and _kind(c) == "short" and c.result]
        losses = {_setting(c): float(c.result["validation_loss"]) for c in tried if c.result}
        results = [c.result for c in tried if c.result]
        if not results:
            continue
        base = None
        if short:
            track = _track(short[0], "params_matmul")
            base = _setting(short[0]), track.loss(results[0]["tokens"])
        found.append(
            Trial(results[0]["params_matmul"], losses, len(tried), base, _setting(tuned[0]))
        )
    return found


def _note(setting: Setting, trial: Trial) -> str:
    notes = {"step 5": trial.used, "best": trial.best}
    return ", ".join(note for note, which in notes.items() if which == setting)


def _setting(cell: Cell) -> Setting:
    optimizer = cell.run.optimizer
    assert isinstance(optimizer, Adamw)
    return Setting(optimizer.learning_rate, cell.run.data.batch, optimizer.b2)


def _setting_text(setting: Setting) -> str:
    return f"rate {setting.learning_rate:g}, {setting.rows} rows, beta2 {setting.b2:g}"


def _trials_section(trials: list[Trial]) -> Section | None:
    if not trials:
        return None
    rows = [
        {
            "params": each.params,
            "rate": f"{setting.learning_rate:g}",
            "rows": setting.rows,
            "b2": f"{setting.b2:g}",
            "loss": loss,
            "note": note,
        }
        for each in trials
        for setting, loss, note in [
            *([(*each.base, "steps 1 to 4")] if each.base else []),
            *((s, loss, _note(s, each)) for s, loss in each.found.items()),
        ]
    ]
    columns = (
        Column("params", "N", count),
        Column("rate", "rate"),
        Column("rows", "rows"),
        Column("b2", "beta2"),
        Column("loss", "nats per piece", decimals),
        Column("note", ""),
    )
    table = Table(
        columns,
        rows,
        "Settings of adamw that were tried, at 20 tokens a parameter and a constant rate: a"
        " star about one setting in the rate, the batch and beta2.",
    )
    return section("What was tuned", " ".join(each.verdict for each in trials), table)


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
