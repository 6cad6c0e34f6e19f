"""Which steps lead from Kaplan's best model sizes to Chinchilla's, on runs of one's own?

Answers to: Porian et al. 2024 (arXiv:2406.19146), figure 1 and table 2. Kaplan et al. 2020
(arXiv:2001.08361) have N* ~ C^0.73, Hoffmann et al. 2022 (arXiv:2203.15556) N* ~ C^0.5. The
paper goes from one to the other in five steps, and so does this study, on small models:

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
                                 FLOPs, on C4 (c4/en, which TFDS prepares); a plan by FLOPs
                                 (`--cost v5e-16`), without scoring

As long as the rate does not decay, one run of a size gives its loss at every budget, from its
validations along the way; Kaplan's cosine ended far beyond the budgets that were read, which a
constant rate comes to. The trials that step 5 rests on are runs of the study, at two sizes.

Expect the exponent to fall most where the head is counted, since small models are mostly head.
The others matter where warm-up is long and where one batch is too large for small models; at
the laptop's scale each may be within its error.
"""

import sys
from functools import partial

from msgspec.structs import replace

from lm.data import Bytes, Data, SentencePiece
from lm.evaluate.scoring import Effort
from lm.optimizer import Adamw, Cosine, WarmupStableDecay
from lm.output.numbers import count
from lm.run import Run
from lm.scaling.laws import FLOPS_PER_PARAMETER_AND_TOKEN as SIX
from lm.study import runner, scales, sections, tables
from lm.study.analyses import steps
from lm.study.analyses.isoflops import INTERVALS
from lm.study.analyses.steps import Recipe, Setting
from lm.study.grid import GPT, Scale, StudyRun, flops_text, matmul_parameters
from lm.study.groups import results_of
from lm.study.laws import attempt
from lm.study.report.values import Report
from lm.study.scales import deep, wide

DEEP = deep(3, 4, 6, 8, 10, 12, 14, 16)
TUNED = tuple(Setting.published(size, scales.C4) for size in DEEP)
PLANS = {
    "smoke": Scale(
        Data(tokenizer=Bytes(), length=64, batch=4),
        sizes=wide(8, 12, 16),
        tokens=(10_000,),
        settings={"evaluation_rows": 16},
    ),
    "laptop": Scale(
        replace(scales.LAPTOP.data, tokenizer=SentencePiece(size=1024), length=64),
        sizes=wide(4, 6, 8, 12, 16, 24, 32, 48),
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
    "smoke": Recipe(
        most=4e8, warmup=4096, evaluations=8,
        base=Setting(1e-2, 4, 0.95),
        tuned=(Setting(2e-2, 2, 0.99),) * 3,
        trials={1: (Setting(1e-2, 2, 0.99), Setting(2e-2, 2, 0.99))},
        matched={2e8: range(3), 4e8: range(3)},
    ),
    "laptop": Recipe(
        most=2e11, warmup=150_000, evaluations=40,
        base=Setting(5e-3, 16, 0.95),
        tuned=(Setting(1e-2, 8, 0.99),) * 8,
        trials={2: Setting(1e-2, 8, 0.95).star(0.99), 5: Setting(1e-2, 8, 0.95).star(0.99)},
        matched={
            1.5e10: range(5), 4e10: range(6), 6e10: range(1, 6), 9e10: range(2, 7),
            1.35e11: range(2, 7), 2e11: range(3, 8),
        },
    ),
    "v5e-16": Recipe(
        most=3e18, warmup=1_500_000_000, evaluations=64,
        base=Setting(3e-3, 256, 0.95),
        tuned=TUNED,
        trials={at: TUNED[at]._replace(b2=0.95).star(0.99) for at in (1, 4)},
        matched={
            3e16: range(4), 1e17: range(5), 3e17: range(1, 6), 1e18: range(2, 7),
            3e18: range(3, 8),
        },
    ),
}
# fmt: on
SCALES = tuple(PLANS)
ROWS = {"smoke": 16, "laptop": 128, "v5e-16": 4096}
EFFORT = {scale: Effort(rows=rows, probe_tokens=1) for scale, rows in ROWS.items()}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: trials, curves of steps 1 to 3, runs of step 4, step 5."""
    plan, recipe, found = PLANS[scale], STEPS_OF[scale], dict[str, Run]()
    params = [matmul_parameters(size.model, plan.data) for size in plan.sizes]
    curves = [min(plan.tokens[0], round(recipe.most / (SIX * each))) for each in params]

    def add(
        what: str,
        at: int,
        setting: Setting,
        tokens: int,
        *,
        warmup: int = 0,
        once: bool = False,
    ) -> None:
        part = min(1.0, (warmup or params[at]) / tokens)
        constant = WarmupStableDecay(warmup=part, decay=0.0)
        decays = what.startswith("matched")
        found[f"causal-{count(params[at])}-{what}-seed0"] = plan.run(
            GPT,
            plan.sizes[at],
            tokens,
            data=replace(plan.data, batch=setting.rows),
            optimizer=Adamw(learning_rate=setting.learning_rate, b2=setting.b2),
            schedule=Cosine(warmup=part, final=0.0) if decays else constant,
            evaluations=1 if once else recipe.evaluations,
        )

    for at, tried in recipe.trials.items():
        for each in tried:
            name = f"trial-lr{each.learning_rate:g}-b{each.rows}-beta{each.b2:g}"
            add(name, at, each, 20 * params[at], once=True)
    for at, tokens in enumerate(curves):
        add("long", at, recipe.base, tokens, warmup=recipe.warmup)
    for at, tokens in enumerate(curves):
        add("short", at, recipe.base, tokens)
    for flops, sizes in recipe.matched.items():
        name = f"matched-{flops_text(flops).replace('.0e', 'e')}"
        for at in sizes:
            add(name, at, recipe.base, round(flops / (SIX * params[at])), once=True)
    for at, tokens in enumerate(curves):
        add("tuned", at, recipe.tuned[at], tokens)
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    rows = {step: attempt(partial(steps.rows_of, cells, step)) for step in steps.STEPS}
    fits = {step: attempt(partial(steps.fit_rows, rows[step])) for step in steps.STEPS}
    trials = steps.trials_of_sizes(cells)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        title="From Kaplan's exponent to Chinchilla's, in five steps",
        answer=steps.steps_answer(fits),
        details=(
            f"a is the exponent of the best size, N* ~ C^a. {INTERVALS} Minima of a step are"
            " read off the same few runs, so that what one run has by chance is in several of"
            " them, and in no interval.",
        ),
        table=steps.steps_table(rows, fits),
        sections=(
            *steps.steps_sections(cells, rows, fits),
            sections.trials_section(
                "What was tuned",
                trials,
                "Settings of adamw that were tried, at 20 tokens a parameter and a constant"
                " rate: a star about one setting in the rate, the batch and beta2.",
            ),
            sections.section(
                "What this does and does not show",
                *_limits(cells),
                tables.doubts_table({step.name: fit for step, fit in fits.items()}),
            ),
            sections.section("The runs", tables.runs_table(cells)),
        ),
        warnings=[each.verdict for each in trials if each.contrary],
    )


def _limits(cells: list[StudyRun]) -> tuple[str, str]:
    sizes = sorted({result["params_matmul"] for result in results_of(cells)})
    return (
        f"It shows what each step does to the best size of models of {count(sizes[0])} to"
        f" {count(sizes[-1])} parameters, with one seed, on one text. The paper's models have"
        " 5M to 901M and its budgets span four decades; here they span one or two, so that"
        " exponents are less certain than their intervals, and where two steps differ by less"
        " than the methods of finding minima do, no order of them is shown.",
        "The head matters here as it does in the paper, as both ranges begin where it is most"
        " of the model. The warm-up's length and the settings before tuning were chosen to"
        " stand to these runs as Kaplan's stood to theirs: others would make steps 3 and 5"
        " larger or smaller."
        " What is read is the loss of held-out text at every step, where the paper has the"
        " training loss at the first.",
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
