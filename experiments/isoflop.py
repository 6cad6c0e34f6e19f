"""How are size and data best split as compute grows, for a GPT and for a BERT?

Answers to: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.2, figure 3 and table 2, where
approach 2 (isoFLOP curves) gives N* ~ C^0.49 and D* ~ C^0.51 for causal models. For masked ones
there is Nie et al. 2024 (arXiv:2410.18514), figure 2: a masked diffusion model has the same
exponents and needs 16 times the compute. Here both are trained at the same budgets of exact
FLOPs on the same text, and scored in the same unit.

    python -m experiments.isoflop --scale laptop

    smoke        a minute            toys on bytes, to see that everything works
    laptop       15 min., 2 cores    four budgets of 2e10 to 4e11 FLOPs, five sizes or six, 2.4k
                                     to 0.11M parameters with the head, on bytes of Python's
                                     library
    workstation  2.5 hours, 2 cores  six budgets of 1e11 to 4e13 FLOPs, five sizes each, 4k to
                                     1.6M parameters with the head, three seeds of the third, on
                                     bytes of English
    v5e-16       33 hours, 16 chips  five budgets of 1e17 to 1e19 FLOPs, five sizes each, 12M to
                                     1.1B parameters with the head, on C4 (c4/en, which TFDS
                                     prepares); a plan by FLOPs (`--cost v5e-16`), without
                                     scoring

What is fitted is bits per byte of held-out text, for the BERT the bound over all decoding
orders: the objectives' own losses do not compare. Its masking rate is drawn for each row, as
the bound asks for all rates. Learning rates are tuned by the same number of trials for each
variant, at one budget and size, which are runs of the study; other sizes have that rate times
(N / N tuned)^(-1/3) (Porian et al. 2024).

Expect parabolas whose minima move to larger models with compute, for the GPT about as C^0.5,
and wide intervals, as they stand on four minima and one seed. At the laptop's scale the BERT
has hardly begun to use what it sees, so that its minima say how many steps that takes rather
than how size and data trade.
"""

import sys

from msgspec.structs import replace

from lm.cost import ledger
from lm.data import Bytes, Data, Stdlib, vocabulary_size
from lm.evaluate.scoring import Effort
from lm.objectives import Masked
from lm.objectives.masked import Drawn
from lm.optimizer import Cosine
from lm.output.numbers import count
from lm.run import Run
from lm.scaling.parametric import Parametric
from lm.study import grid, laws, runner, scales, sections, tables
from lm.study.analyses import isoflops
from lm.study.forecasts import StudyLaw
from lm.study.grid import Scale, Size, StudyRun
from lm.study.groups import results_of
from lm.study.report.values import Report
from lm.study.scales import deep, wide

DRAWN = Masked(rate=Drawn(low=0.1, high=1.0), mask=1.0, random=0.0)
BERT = grid.ANY_ORDER._replace(name="the BERT", objective=DRAWN)
VARIANTS = {"causal": grid.GPT, "masked": BERT}
PUBLISHED = 0.5
"""About what Hoffmann et al. find for a."""
PLANS = {
    "smoke": Scale(
        Data(tokenizer=Bytes(), length=64, batch=4),
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        Data(corpus=Stdlib(), tokenizer=Bytes(), length=128, batch=4, validation=0.05),
        settings={"evaluations": 1, "evaluation_rows": 32},
    ),
    "workstation": Scale(
        replace(scales.ENGLISH, tokenizer=Bytes(), batch=16),
        seeds=3,
        settings={"evaluations": 1, "evaluation_rows": 64},
    ),
    "v5e-16": Scale(scales.C4, settings=dict(scales.V5E_8.settings) | {"evaluations": 8}),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, curve_rows=4, probe_tokens=1),
    "laptop": Effort(rows=256, samples=4, curve_rows=8, probe_tokens=1),
    "workstation": Effort(rows=512, samples=4, curve_rows=8, probe_tokens=1),
    "v5e-16": Effort(rows=4096, curve_rows=256, probe_tokens=1),
}
BUDGETS = {
    "smoke": {2e8: wide(8, 12, 16), 4e8: wide(8, 12, 16)},
    "laptop": {
        2e10: wide(6, 8, 12, 16, 24, 32),
        5e10: wide(8, 12, 16, 24, 32),
        1.4e11: wide(12, 16, 24, 32, 48),
        4e11: wide(16, 24, 32, 48, 64),
    },
    "workstation": {
        1e11: wide(8, 12, 16, 24, 32),
        3e11: wide(12, 16, 24, 32, 48),
        1e12: wide(24, 32, 48, 64, 96),
        3e12: wide(32, 48, 64, 96, 128),
        1e13: wide(48, 64, 96, 128, 192),
        4e13: wide(64, 96, 128, 192, 256),
    },
    "v5e-16": {
        1e17: deep(4, 6, 8, 10, 12),
        3e17: deep(6, 8, 10, 12, 14),
        1e18: deep(8, 10, 12, 16, 20),
        3e18: deep(10, 12, 16, 20, 24),
        1e19: deep(12, 16, 20, 24, 28),
    },
}
"""Sizes by FLOPs; of the one in the middle all seeds are trained, of others the first."""
TRIALS = {
    "smoke": (4e8, wide(12)[0], (1e-2, 2e-2), {"causal": 1e-2, "masked": 1e-2}),
    "laptop": (5e10, wide(16)[0], (1e-2, 2e-2, 4e-2, 8e-2), {"causal": 4e-2, "masked": 1e-2}),
    "workstation": (
        1e12,
        wide(48)[0],
        (5e-3, 1e-2, 2e-2, 4e-2),
        {"causal": 2e-2, "masked": 1e-2},
    ),
    "v5e-16": (1e18, deep(12)[0], (1e-3, 2e-3, 4e-3, 8e-3), {"causal": 2e-3, "masked": 2e-3}),
}
"""Budget and size at which learning rates are tried, which, and what each variant has there."""


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every budget and size in each variant, and the trials."""
    plan, (budget, trial, rates, used), found = PLANS[scale], TRIALS[scale], dict[str, Run]()
    tokens = vocabulary_size(plan.data.tokenizer)

    def add(
        variant: str, flops: float, size: Size, rate: float, more: str = "", seed: int = 0
    ) -> None:
        tuned = size._replace(learning_rate=rate)
        run = plan.run(VARIANTS[variant], tuned, 1, seed=seed, schedule=Cosine(warmup=0.1))
        params = count(grid.matmul_parameters(size.model, plan.data))
        name = (
            f"{variant}-{params}-{grid.flops_text(flops).replace('.0e', 'e')}-{more}seed{seed}"
        )
        found[name] = replace(run, tokens=ledger.tokens_for(run, tokens, flops))

    tried = grid.matmul_parameters(trial.model, plan.data)
    for variant in VARIANTS:
        for flops, sizes in BUDGETS[scale].items():
            for at, size in enumerate(sizes):
                params = grid.matmul_parameters(size.model, plan.data)
                rate = laws.rate_at(params, used[variant], tried)
                for seed in range(plan.seeds if at == len(sizes) // 2 else 1):
                    add(variant, flops, size, rate, seed=seed)
        for rate in rates:
            if rate != used[variant]:
                add(variant, budget, trial, rate, f"lr{rate:g}-")
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    valleys = isoflops.Valleys.of([c for c in cells if not _is_trial(c)], VARIANTS)
    trials = []
    for name, variant in VARIANTS.items():
        ours = [cell for cell in cells if grid.variant_of(cell) == name]
        each = laws.trials_of(ours, [cell for cell in ours if _is_trial(cell)], variant.name)
        trials += [each] if each else []
    return sections.report_of(
        sys.modules[__name__],
        cells,
        title="Size and data at equal compute, for a GPT and a BERT",
        answer=isoflops.valleys_answer(valleys),
        details=(
            "N counts the parameters in matrix products, the head's among them, D the tokens"
            f" read, and C the exact FLOPs of training. {isoflops.INTERVALS}",
        ),
        table=tables.runs_table(cells, ", those that try a learning rate among them"),
        sections=(
            *isoflops.valley_sections(valleys, PUBLISHED),
            sections.trials_section(
                "Learning rates",
                trials,
                "Bits per byte of the learning rates tried, at one budget and size. “Used” is"
                " what the grid has there; other sizes have it times (N / N tuned)^(−1/3).",
            ),
            sections.section(
                "What this does and does not show",
                *_limits(cells),
                tables.doubts_table(valleys.named),
            ),
        ),
        warnings=[each.verdict for each in trials if each.contrary],
    )


def _is_trial(cell: StudyRun) -> bool:
    return "-lr" in cell.name


LAW = StudyLaw(Parametric(), lambda cell: not _is_trial(cell))
"""By which `lm predict` says what the runs of larger budgets will come to."""


def _limits(cells: list[StudyRun]) -> list[str]:
    done = results_of(cells)
    sizes = sorted(result["params_matmul"] for result in done)
    flops = sorted(result["flops"] for result in done)
    return [
        f"It shows where the loss of models of {count(sizes[0])} to {count(sizes[-1])}"
        f" parameters is least over a {flops[-1] / flops[0]:.0f}-fold range of compute, on one"
        " text, with a learning rate tuned at one place and one seed of most sizes. So short a"
        " range is no forecast for a thousand times the compute: published ones span a hundred"
        " to ten thousand. The intervals hold how minima scatter about their line, and not what"
        " another seed, another rule for the rate or another batch size would move.",
        "Runs have a few hundred to a few thousand steps, so that best sizes say as much about"
        " how many steps an optimizer needs as about what data is worth; above all for the"
        " BERT, whose loss stays near that of a model without context until it has found out"
        " how to use what it sees. Its bits per byte are an upper bound, and how far that lies"
        " above the best order's code length is not known, so that the multiplier counts the"
        " bound's slack as compute.",
    ]


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
