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
                                 up to 2e11 FLOPs, Python's library in 1,024 tokens
    v5e-16  21 hours, 16 chips   eight sizes of 8M to 0.2B parameters, budgets up to 3e18
                                 FLOPs, on C4 (c4/en, which TFDS prepares)

The last line is a plan by FLOPs, at 40% of the chips' peak and without scoring, as printed by
`python -m experiments.kaplan_or_chinchilla --scale v5e-16 --cost v5e-16`.

One run of a size gives its loss at every budget, from its validations along the way, as long as
the rate does not decay: steps 1, 2, 3 and 5 are read off such curves, and steps 1 and 2 are two
counts of the same runs. Kaplan's cosine ended far beyond the budgets that were read; a constant
rate is what that comes to. The trials that step 5 rests on are runs of the study: a star about
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
from typing import NamedTuple

from msgspec.structs import replace

from lm.cost.budget import batch_and_rate
from lm.data import Bytes, Data, SentencePiece
from lm.evaluate.scoring import Effort
from lm.optimizer import Adamw, Cosine, WarmupStableDecay
from lm.output.numbers import count
from lm.run import Run
from lm.scaling.fit import Fit
from lm.scaling.laws import FLOPS_PER_PARAMETER_AND_TOKEN as SIX
from lm.scaling.table import DataError
from lm.study import runner, scales
from lm.study.analyses.steps import (
    Step,
    fit_rows,
    isoflops_figure,
    rows_of,
    steps_figure,
    steps_table,
    trial_kind,
)
from lm.study.curves import curve_of
from lm.study.grid import GPT, Scale, Size, StudyRun, flops_text, matmul_parameters
from lm.study.groups import results_of
from lm.study.laws import Trials, attempt
from lm.study.report.figures import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from lm.study.report.values import Plot, Report
from lm.study.sections import figure_section, report_of, section, trials_section
from lm.study.sentences import NO_LAW, exponent_text, together
from lm.study.tables import doubts_table, runs_table


class Setting(NamedTuple):
    """What is tuned in step 5."""

    learning_rate: float
    rows: int
    """Of a batch."""
    b2: float

    def __str__(self) -> str:
        return f"rate {self.learning_rate:g}, {self.rows} rows, beta2 {self.b2:g}"


class Steps(NamedTuple):
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


def _wide(*widths: int) -> tuple[Size, ...]:
    return tuple(Size(2, width) for width in widths)


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


def _published(size: Size) -> Setting:
    """Porian et al.'s settings by size; beta2 is larger where batches are small."""
    tokens, rate = batch_and_rate(matmul_parameters(size.model, scales.C4))
    rows = 2 ** round(math.log2(tokens / scales.C4.length))
    return Setting(float(f"{rate:.2g}"), rows, 0.99 if tokens < 2**17 else 0.95)


DEEP = tuple(Size(depth, 64 * depth, depth) for depth in (3, 4, 6, 8, 10, 12, 14, 16))
PLANS = {
    "smoke": Scale(
        Data(tokenizer=Bytes(), length=64, batch=4),
        sizes=_wide(8, 12, 16),
        tokens=(10_000,),
        settings={"evaluation_rows": 16},
    ),
    "laptop": Scale(
        replace(scales.LAPTOP.data, tokenizer=SentencePiece(size=1024), length=64),
        sizes=_wide(4, 6, 8, 12, 16, 24, 32, 48),
        tokens=(2_400_000,),
        settings={"evaluation_rows": 128},
    ),
    "v5e-16": Scale(
        scales.C4,
        sizes=DEEP,
        tokens=(20_000_000_000,),
        settings={"evaluation_rows": 1024, "remat": "block"},
    ),
}
"""The tokens are the most that a curve has."""
# fmt: off
STEPS_OF = {
    "smoke": Steps(
        most=4e8, warmup=4096, evaluations=8,
        base=Setting(1e-2, 4, 0.95),
        tuned=(Setting(2e-2, 2, 0.99),) * 3,
        trials={1: (Setting(1e-2, 2, 0.99), Setting(2e-2, 2, 0.99))},
        matched={2e8: range(3), 4e8: range(3)},
    ),
    "laptop": Steps(
        most=2e11, warmup=150_000, evaluations=40,
        base=Setting(5e-3, 16, 0.95),
        tuned=(Setting(1e-2, 8, 0.99),) * 8,
        trials={2: _star(1e-2, 8, 0.95, 0.99), 5: _star(1e-2, 8, 0.95, 0.99)},
        matched={
            1.5e10: range(5), 4e10: range(6), 6e10: range(1, 6), 9e10: range(2, 7),
            1.35e11: range(2, 7), 2e11: range(3, 8),
        },
    ),
    "v5e-16": Steps(
        most=3e18, warmup=1_500_000_000, evaluations=64,
        base=Setting(3e-3, 256, 0.95),
        tuned=tuple(map(_published, DEEP)),
        trials={at: _star(*_published(DEEP[at])[:2], 0.95, 0.99) for at in (1, 4)},
        matched={
            3e16: range(4), 1e17: range(5), 3e17: range(1, 6), 1e18: range(2, 7),
            3e18: range(3, 8),
        },
    ),
}
# fmt: on
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, probe_tokens=1),
    "laptop": Effort(rows=128, probe_tokens=1),
    "v5e-16": Effort(rows=4096, probe_tokens=1),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: trials, curves of steps 1 to 3, runs of step 4, step 5."""
    plan, steps, found = PLANS[scale], STEPS_OF[scale], dict[str, Run]()
    params = [matmul_parameters(size.model, plan.data) for size in plan.sizes]
    curves = [min(plan.tokens[0], round(steps.most / (SIX * each))) for each in params]

    def add(
        what: str, at: int, setting: Setting, tokens: int, warmup: int, decay: bool = False
    ) -> None:
        part = min(1.0, warmup / tokens)
        constant = WarmupStableDecay(warmup=part, decay=0.0)
        once = decay or what.startswith("trial")
        found[f"causal-{count(params[at])}-{what}-seed0"] = plan.run(
            GPT,
            plan.sizes[at],
            tokens,
            data=replace(plan.data, batch=setting.rows),
            optimizer=Adamw(learning_rate=setting.learning_rate, b2=setting.b2),
            schedule=Cosine(warmup=part, final=0.0) if decay else constant,
            evaluations=1 if once else steps.evaluations,
        )

    for at, tried in steps.trials.items():
        for each in tried:
            rate, rows, b2 = each
            name = f"trial-lr{rate:g}-b{rows}-beta{b2:g}"
            add(name, at, each, 20 * params[at], params[at])
    for at, tokens in enumerate(curves):
        add("long", at, steps.base, tokens, steps.warmup)
    for at, tokens in enumerate(curves):
        add("short", at, steps.base, tokens, params[at])
    for flops, sizes in steps.matched.items():
        name = f"matched-{flops_text(flops).replace('.0e', 'e')}"
        for at in sizes:
            tokens = round(flops / (SIX * params[at]))
            add(name, at, steps.base, tokens, params[at], decay=True)
    for at, tokens in enumerate(curves):
        add("tuned", at, steps.tuned[at], tokens, params[at])
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    rows = {step: attempt(partial(rows_of, cells, step)) for step in STEPS}
    fits = {step: attempt(partial(fit_rows, rows[step])) for step in STEPS}
    known = {step: fit for step, fit in fits.items() if isinstance(fit, Fit)}
    trials = _trials(cells)
    return report_of(
        sys.modules[__name__],
        cells,
        title="From Kaplan's exponent to Chinchilla's, in five steps",
        answer=_answer(known),
        details=(
            "a is the exponent of the best size, N* ~ C^a. After it stands the 95% interval of"
            " 1,000 resamples of how minima scatter about their line, widened by Student's t"
            " where they are few. Minima of a step are read off the same few runs, so that what"
            " one run has by chance is in several of them, and in no interval.",
        ),
        table=steps_table(rows, fits),
        sections=(
            section(
                "The exponent after each step",
                Plot(
                    "steps",
                    steps_figure(known, STEPS),
                    "Left: the exponent after each step, with its 95% interval, and what the"
                    " paper's runs on RefinedWeb give. Right: the best size by compute, each as"
                    " its step counts it, with the power law; the dashed line is C^0.5.",
                ),
                _exact_text(cells),
            )
            if known
            else None,
            figure_section(
                "Loss by size at equal compute",
                "isoflops",
                isoflops_figure(known, rows) if known else None,
                "Loss by size, a colour a budget, with the parabola whose minimum (+)"
                " is the best size. Budgets whose best size is the smallest or largest"
                " have none and are faint. The first two panels are the same runs, counted"
                " without the head and with it.",
            ),
            trials_section(
                "What was tuned",
                trials,
                "Settings of adamw that were tried, at 20 tokens a parameter and a constant"
                " rate: a star about one setting in the rate, the batch and beta2.",
            ),
            section(
                "What this does and does not show",
                *_limits(cells),
                doubts_table(
                    {f"{step.number} {step.title}": fit for step, fit in fits.items()},
                    "What the fits themselves warn of.",
                ),
            ),
            section("The runs", runs_table(cells, "All finished runs.")),
        ),
        warnings=[each.verdict for each in trials if each.contrary],
    )


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
# fmt: on


def _answer(known: Mapping[Step, Fit]) -> str:
    if not known:
        return NO_LAW
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


def _exact_text(cells: list[StudyRun]) -> str | None:
    """The last step's exponent by the ledger's count of FLOPs."""
    fit = attempt(lambda: fit_rows(rows_of(cells, STEPS[-1], exact=True)))
    if isinstance(fit, DataError):
        return None
    return (
        "All steps count C as 6 N D, as the paper does. By the ledger's exact count, which has"
        f" the attention scores too, step 5 gives {exponent_text(fit, 'a')}."
    )


def _limits(cells: list[StudyRun]) -> list[str]:
    if not (done := results_of(cells)):
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


def _trials(cells: list[StudyRun]) -> list[Trials]:
    """The settings tried at each size that has any, against what steps 1 to 4 have."""
    found = []
    models = dict.fromkeys(cell.run.model for cell in cells if trial_kind(cell) == "trial")
    for model in models:
        by_kind: dict[str, list[StudyRun]] = {}
        for cell in cells:
            if cell.run.model == model:
                by_kind.setdefault(trial_kind(cell), []).append(cell)
        done = [cell for cell in by_kind["trial"] if cell.result]
        if not done:
            continue
        before, results = None, results_of(done)
        for cell in by_kind["short"]:
            if cell.result:
                # Read off step 3's curve at as many tokens.
                loss = curve_of(cell).loss_at(results[0]["tokens"])
                before = ("steps 1 to 4", _setting(cell), loss)
        found.append(
            Trials(
                f"{count(results[0]['params_matmul'])} parameters",
                _setting(by_kind["tuned"][0]),
                {
                    _setting(c): float(r["validation_loss"])
                    for c, r in zip(done, results, strict=True)
                },
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


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
