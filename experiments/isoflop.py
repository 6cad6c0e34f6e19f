"""How are size and data best split as compute grows, for a GPT and for a BERT?

Answers to: Hoffmann et al. 2022 (arXiv:2203.15556), section 3.2, figure 3 and table 2, where
approach 2 (isoFLOP curves) gives N* ~ C^0.49 and D* ~ C^0.51 for causal models. For masked ones
there is Nie et al. 2024 (arXiv:2410.18514), figure 2: a masked diffusion model has the same
exponents and needs 16 times the compute. Here both are trained at the same budgets of exact
FLOPs on the same text, and scored in the same unit.

    python -m experiments.isoflop --scale laptop

    smoke   a minute             toys on bytes, to see that everything works
    laptop  15 minutes, 2 cores  four budgets of 2e10 to 4e11 FLOPs, five sizes or six, 2.4k to
                                 0.11M parameters with the head, on bytes of Python's library
    v5e-16  33 hours, 16 chips   five budgets of 1e17 to 1e19 FLOPs, five sizes each, 12M to
                                 1.1B parameters with the head, on C4 (c4/en, which TFDS
                                 prepares)

The last line is a plan by FLOPs, at 40% of the chips' peak and without scoring, as printed by
`python -m experiments.isoflop --scale v5e-16 --cost v5e-16`.

What is fitted is bits per byte of held-out text, which for the BERT is the bound over all
decoding orders: the objectives' own losses do not compare. The BERT's masking rate is drawn
for each row, as the bound asks for all rates. Learning rates are tuned by the same number of
trials for each variant, at one budget and size; other sizes have the rate of that one times (N
/ N tuned)^(-1/3) (Porian et al. 2024). The trials are runs of the study, so its report can say
whether they bear out what this file has.

Expect parabolas whose minima move to larger models with compute, for the GPT about as C^0.5,
and wide intervals, as they stand on four minima and one seed. At the laptop's scale the BERT
has hardly begun to use what it sees, so that its minima say how many steps that takes rather
than how size and data trade.
"""

import math
import sys
from collections.abc import Mapping
from functools import partial

from msgspec.structs import replace

from lm.cost import ledger
from lm.data import Bytes, Data, Stdlib, vocabulary_size
from lm.evaluate.scoring import Effort
from lm.objectives import Masked
from lm.objectives.masked import Drawn
from lm.optimizer import Cosine
from lm.output.numbers import count, power
from lm.run import Run
from lm.scaling.compare import Comparison
from lm.scaling.fit import Fit
from lm.scaling.isoflop import METHODS, Isoflop
from lm.scaling.parametric import Parametric
from lm.scaling.table import DataError
from lm.study import laws, runner, scales, sections, tables
from lm.study.analyses import isoflops
from lm.study.grid import (
    ANY_ORDER,
    GPT,
    Scale,
    Size,
    StudyRun,
    flops_text,
    matmul_parameters,
    variant_of,
)
from lm.study.groups import results_of
from lm.study.laws import Trials, attempt
from lm.study.report.values import Report, Row, Section
from lm.study.sentences import NO_LAW, exponent_text

DRAWN = Masked(rate=Drawn(low=0.1, high=1.0), mask=1.0, random=0.0)
BERT = ANY_ORDER._replace(name="the BERT", objective=DRAWN)
VARIANTS = {"causal": GPT, "masked": BERT}
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
    "v5e-16": Scale(scales.C4, settings=dict(scales.V5E_8.settings) | {"evaluations": 8}),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, curve_rows=4, probe_tokens=1),
    "laptop": Effort(rows=256, samples=4, curve_rows=8, probe_tokens=1),
    "v5e-16": Effort(rows=4096, curve_rows=256, probe_tokens=1),
}


def _wide(*widths: int) -> tuple[Size, ...]:
    """Two layers of these widths, with heads of 64 where that is possible: few shapes."""
    return tuple(Size(2, width, max(1, width // 64)) for width in widths)


def _deep(*depths: int) -> tuple[Size, ...]:
    """The shapes of `lm budget`: 64 times as wide as deep."""
    return tuple(Size(depth, 64 * depth, depth) for depth in depths)


BUDGETS = {
    "smoke": {2e8: _wide(8, 12, 16), 4e8: _wide(8, 12, 16)},
    "laptop": {
        2e10: _wide(6, 8, 12, 16, 24, 32),
        5e10: _wide(8, 12, 16, 24, 32),
        1.4e11: _wide(12, 16, 24, 32, 48),
        4e11: _wide(16, 24, 32, 48, 64),
    },
    "v5e-16": {
        1e17: _deep(4, 6, 8, 10, 12),
        3e17: _deep(6, 8, 10, 12, 14),
        1e18: _deep(8, 10, 12, 16, 20),
        3e18: _deep(10, 12, 16, 20, 24),
        1e19: _deep(12, 16, 20, 24, 28),
    },
}
"""Sizes by FLOPs."""
TRIALS = {
    "smoke": (4e8, _wide(12)[0], (1e-2, 2e-2), {"causal": 1e-2, "masked": 1e-2}),
    "laptop": (5e10, _wide(16)[0], (1e-2, 2e-2, 4e-2, 8e-2), {"causal": 4e-2, "masked": 1e-2}),
    "v5e-16": (1e18, _deep(12)[0], (1e-3, 2e-3, 4e-3, 8e-3), {"causal": 2e-3, "masked": 2e-3}),
}
"""Budget and size at which learning rates are tried, which, and what each variant has there."""


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every budget and size in each variant, and the trials."""
    plan, (budget, trial, rates, used), found = PLANS[scale], TRIALS[scale], dict[str, Run]()
    tokens = vocabulary_size(plan.data.tokenizer)

    def add(variant: str, flops: float, size: Size, rate: float, more: str = "") -> None:
        tuned = size._replace(learning_rate=rate)
        run = plan.run(VARIANTS[variant], tuned, 1, schedule=Cosine(warmup=0.1))
        params = count(matmul_parameters(size.model, plan.data))
        name = f"{variant}-{params}-{flops_text(flops).replace('.0e', 'e')}-{more}seed0"
        found[name] = replace(run, tokens=ledger.tokens_for(run, tokens, flops))

    tried = matmul_parameters(trial.model, plan.data)
    for variant in VARIANTS:
        for flops, sizes in BUDGETS[scale].items():
            for size in sizes:
                params = matmul_parameters(size.model, plan.data)
                add(variant, flops, size, laws.rate_at(params, used[variant], tried))
        for rate in rates:
            if rate != used[variant]:
                add(variant, budget, trial, rate, f"lr{rate:g}-")
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    results = {
        variant: results_of([c for c in cells if variant_of(c) == variant and not _is_trial(c)])
        for variant in VARIANTS
    }
    fits = {
        (variant, law): attempt(partial(_fit, found, law))
        for variant, found in results.items()
        for law in (*METHODS, "parametric")
    }
    shown = {
        variant: fits[variant, isoflops.SHOWN]
        for variant in VARIANTS
        if isinstance(fits[variant, isoflops.SHOWN], Fit)
    }
    surfaces = {a: fit for (a, law), fit in fits.items() if law == "parametric"}
    compared = (
        attempt(isoflops.compare_minima, *shown.values())
        if shown.keys() == VARIANTS.keys()
        else None
    )
    trials = [each for variant in VARIANTS if (each := _trials(cells, variant))]
    named = {f"{VARIANTS[variant].label}, {law}": fit for (variant, law), fit in fits.items()}
    return sections.report_of(
        sys.modules[__name__],
        cells,
        title="Size and data at equal compute, for a GPT and a BERT",
        answer=_answer(shown, compared) or NO_LAW,
        details=(
            "N counts the parameters in matrix products, the head's among them, D the tokens"
            " read, and C the exact FLOPs of training. After a number stands the 95% interval"
            " of 1,000 resamples, widened by Student's t where minima are few.",
        ),
        table=tables.runs_table(
            cells,
            "All finished runs, those that try a learning rate among them. N counts the"
            " parameters in matrix products; ± is the standard error over documents, which are"
            " the same for all; own loss is the objective's, in nats per predicted token, and"
            " does not compare between variants.",
        ),
        sections=(
            _law_section(
                "Loss by size at equal compute",
                "isoflop",
                shown,
                results,
                "Left: bits per byte of each budget by size, with a parabola in logarithms"
                " through the runs about the best, and its minimum. Right: the minima's sizes"
                " and data by compute, with power laws and their 95% bands.",
            ),
            sections.section(
                "How the best size and data grow",
                " ".join(
                    _agreement(fit, VARIANTS[variant].name) for variant, fit in shown.items()
                )
                or None,
                tables.laws_table(
                    named,
                    "Exponents by three ways to find the minimum of a budget (a parabola"
                    " through the runs about the best, one through five sizes, a curve through"
                    " all after Akima) and by a law of size and data fit to all runs. In"
                    " brackets 95% intervals. The number of doubts is that of the warnings"
                    " below.",
                    "variant and method",
                ),
            ),
            _law_section(
                "One law of size and data",
                "surface",
                surfaces,
                results,
                "L = E + A/N^α + B/D^β, fit to all runs. Left: the runs, with the loss of the"
                " best split, and where they lie in size and data, coloured by how far they are"
                " above the law. Right: the best size and data by compute, with 95% bands, and"
                " the residuals. The law splits compute by 6 N D, which the exact count exceeds"
                " by the attention scores.",
            ),
            _gap_section(shown, compared, _equal_text(cells)),
            sections.trials_section(
                "Learning rates",
                trials,
                "Bits per byte of the learning rates tried, at one budget and size. “Used” is"
                " what the grid has there; other sizes have it times (N / N tuned)^(−1/3).",
            ),
            _limits_section(cells, named),
        ),
        warnings=[each.verdict for each in trials if each.contrary],
    )


def _fit(found: list[Row], law: str) -> Fit:
    table = laws.runs_of(found)
    return Parametric().fit(table) if law == "parametric" else Isoflop(method=law).fit(table)  # type: ignore[arg-type]


def _equal_text(cells: list[StudyRun]) -> str:
    """What the variants had in common at each budget and size."""
    first, second = (
        {cell.name.partition("-")[2]: dict(cell.result) for cell in cells
         if variant_of(cell) == variant and cell.result and not _is_trial(cell)}
        for variant in VARIANTS
    )  # fmt: skip
    both = [(first[name], second[name]) for name in first if name in second]
    if not both:
        return ""
    flops = [(ours.pop("flops"), theirs.pop("flops")) for ours, theirs in both]
    apart = max(abs(math.log(ours / theirs)) for ours, theirs in flops)
    return (
        f"At each budget and size the FLOPs of the variants differ by {apart:.1%} at most, as"
        f" runs have whole steps. {laws.equal_text(*zip(*both, strict=True))}"
    )


def _is_trial(cell: StudyRun) -> bool:
    return "-lr" in cell.name


def _trials(cells: list[StudyRun], variant: str) -> Trials | None:
    """A variant's trials: those runs that are no more than that, and the grid's own beside."""
    ours = [cell for cell in cells if variant_of(cell) == variant]
    tried = [cell for cell in ours if _is_trial(cell)]
    places = [(cell.run.model, cell.run.tokens) for cell in tried]
    own = [c for c in ours if c not in tried and (c.run.model, c.run.tokens) in places]
    used = own and own[0].run.optimizer.learning_rate
    return laws.trials_of([*tried, *own], VARIANTS[variant].name, used) if used else None


def _answer(shown: Mapping[str, Fit], compared: Comparison | DataError | None) -> str:
    """How each variant's best size grows, and what compute lies between them."""
    if not shown:
        return ""
    flops = [budget.flops for fit in shown.values() for budget in isoflops.minima_of(fit)]
    parts = [
        f"{VARIANTS[variant].name} as C^{exponent_text(fit, 'a')}, its data as"
        f" C^{exponent_text(fit, 'b')}"
        for variant, fit in shown.items()
    ]
    text = (
        f"From {power(min(flops))} to {power(max(flops))} FLOPs the best size grows, for"
        f" {'; for '.join(parts)}."
    )
    ends = [fit.ci95.get("a") for fit in shown.values()]
    if len(ends) > 1 and ends[0] and ends[1]:
        apart = ends[0][1] < ends[1][0] or ends[1][1] < ends[0][0]
        text += (
            " The intervals do not overlap."
            if apart
            else " The intervals overlap, so that no difference of the exponents is shown."
        )
    if isinstance(compared, Comparison):
        text += f" {isoflops.multiplier_text(compared, GPT.name, BERT.name)}"
    return text


def _agreement(fit: Fit, name: str) -> str:
    """Whether an interval holds what was published."""
    if (ends := fit.ci95.get("a")) is None:
        return f"For {name} there are too few minima for an interval."
    verb = "holds" if ends[0] <= PUBLISHED <= ends[1] else "does not hold"
    return f"The interval of {name} {verb} the a of about {PUBLISHED:g} that was published."


def _law_section(
    heading: str,
    name: str,
    fits: tables.FitsByName,
    results: Mapping[str, list[Row]],
    caption: str,
) -> Section | None:
    return sections.section(
        heading,
        *(
            laws.law_plot(
                f"{name}_{variant}",
                {VARIANTS[variant].label: fit},
                {VARIANTS[variant].label: laws.runs_of(results[variant])},
                VARIANTS[variant].label
                + f"{':' if caption.startswith('L =') else '.'} {caption}",
            )
            for variant, fit in fits.items()
            if isinstance(fit, Fit)
        ),
    )


def _gap_section(
    shown: Mapping[str, Fit], compared: Comparison | DataError | None, equal: str
) -> Section | None:
    heading = "The compute between the objectives"
    minima = isoflops.minima_table(
        shown,
        VARIANTS,
        "The minima of the parabolas: best size and data, and bits per byte there, which are"
        " exact for the GPT and an upper bound for the BERT. A dash stands where the minimum is"
        " at an edge of the sizes. Above: how far the BERT's lies above the GPT's.",
    )
    if not isinstance(compared, Comparison):
        why = compared or "a variant has too few minima"
        return sections.section(heading, f"It is not known: {why}.", minima)
    return sections.section(
        heading,
        minima,
        laws.comparison_plot(
            "compute_multiplier",
            compared,
            [variant.label for variant in VARIANTS.values()],
            "Left: the minima of each variant's budgets, with power laws through them"
            f" and their 95% bands. Right: how many times the compute {BERT.label} needs for"
            f" the loss of {GPT.label}, with its 95% interval; hollow where the law is drawn"
            " on.",
        ),
        isoflops.multiplier_text(compared, GPT.name, BERT.name),
        equal,
    )


def _limits_section(cells: list[StudyRun], named: tables.FitsByName) -> Section | None:
    if not (done := results_of(cells)):
        return None
    sizes = sorted(result["params_matmul"] for result in done)
    flops = sorted(result["flops"] for result in done)
    return sections.section(
        "What this does and does not show",
        f"It shows where the loss of models of {count(sizes[0])} to {count(sizes[-1])}"
        f" parameters is least over a {flops[-1] / flops[0]:.0f}-fold range of compute, on one"
        " text, with one seed and a learning rate tuned at one place. Exponents of so short a"
        " range are no forecast for a thousand times the compute: published ones stand on"
        " ranges of a hundred to ten thousand. The intervals hold what minima scatter about"
        " their line. What another seed, another rule for the rate or another batch size would"
        " move all of them by is in none.",
        "At these budgets runs have a few hundred to a few thousand steps, so that best sizes"
        " say as much about how many steps an optimizer needs as about what data is worth;"
        " that is so above all for the BERT, whose loss stays near that of a model without"
        " context until it has found out how to use what it sees. Its bits per byte are an"
        " upper bound, and how far that lies above the text's code length by the best order is"
        " not known here, so that the multiplier counts the bound's slack as compute.",
        tables.doubts_table(
            named, "What the fits themselves warn of. Each is a reason to read on with care."
        ),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
