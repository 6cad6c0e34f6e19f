"""Does the gain from more data flatten earlier for a BERT than for a GPT?

Answers to: nobody's table. Hoffmann et al. 2022 (arXiv:2203.15556), equation 2, has the loss
fall as E + B / D^beta in the tokens D, for causal models; Nie et al. 2024 (arXiv:2410.18514)
and Ni et al. 2025 (arXiv:2510.03280) fit masked diffusion by compute. This study asks for beta
of each objective on the same text, and whether they differ.

    python -m experiments.data_growth --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  16 minutes, 2 cores  0.1M parameters, 26k to 0.8M tokens of a known source
    v5e-16  3 hours, 16 chips    85M parameters, 52M to 1.7B tokens of Wikipedia, 1.3e19 FLOPs

The laptop's time is that of cores which other programs used as well.
The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.data_growth --scale v5e-16 --cost v5e-16

Every run reads new text once, with a schedule of its own length. What a size cannot learn is in
E, as there is one size: it is not the entropy of the text, though no E can be below that. The
GPT's bits per byte are exact and those of the BERT at all rates a bound; the BERT at 15% has
hardly learnt what a bound asks, and is compared in its own loss.

Expect the BERT to need more tokens to begin, to gain more at each doubling once it has, and a
beta that is not known to differ.
"""

import sys
from collections.abc import Sequence

from msgspec.structs import replace

from lm.output.numbers import count, decimals, with_error
from lm.run import Run
from lm.scaling.fit import Fit
from lm.scaling.joint import Joint
from lm.study import runner, scales, sections, tables
from lm.study.analyses.growth import OWN, UNITS, Growth, gains_of, gains_table, growth_figure
from lm.study.checks import variant_rows
from lm.study.grid import ANY_ORDER, BERT, GPT, GPT_AND_BERTS, Scale, Size, StudyRun, size_text
from lm.study.groups import BITS, Group, all_results, groups_of
from lm.study.laws import difference_of, least_of
from lm.study.report.values import Plot, Report, Section
from lm.study.sentences import NO_LAW, number_text, signed_text, together

VARIANTS = GPT_AND_BERTS
PLANS = {
    "smoke": Scale(
        scales.SMOKE_SOURCE,
        sizes=(Size(1, 16),),
        tokens=(1024, 2048, 4096, 8192),
        settings={"evaluations": 1, "evaluation_rows": 32},
    ),
    "laptop": Scale(
        scales.FEW_ROWS,
        sizes=(Size(2, 64, 2),),
        tokens=tuple(25_600 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 1, "evaluation_rows": 1024},
    ),
    "v5e-16": Scale(
        replace(scales.WIKIPEDIA, batch=512),
        sizes=(Size(12, 768, 12, 3e-3),),
        tokens=tuple(50 * 2**20 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 4096, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.LAW_EFFORT
LOSSES = {
    BITS: ("Bits per byte", (GPT, ANY_ORDER)),
    OWN: ("Each objective’s own loss", (GPT, BERT, ANY_ORDER)),
}
"""The heading and the variants that are fit, by loss."""


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: each number of tokens in each variant, for every seed."""
    return PLANS[scale].runs(VARIANTS, once=True)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    growths = {
        loss: Growth.of(groups, loss, variants) for loss, (_, variants) in LOSSES.items()
    }
    found: list[Section | None] = []
    if groups:
        most = max(group.tokens for group in groups)
        rows = variant_rows([cell for cell in cells if cell.run.tokens == most])
        found = [
            *(_growth(groups, growth) for growth in growths.values()),
            sections.section(
                sections.EQUAL,
                tables.equal_table(rows, "at the most tokens, between the variants of a seed"),
                "At each number of tokens the variants read the same new text in the same"
                " order, from the same initial values, with one learning rate. How many"
                " targets they predict follows from the objective, and is in the table of all"
                " runs.",
            ),
            sections.limits(cells, groups, *_limits(cells)),
        ]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="What more data gains",
        answer=_answer(groups, growths[BITS]),
        details=_details(groups, growths[BITS]),
        table=tables.runs_table(
            cells,
            "All finished runs. D is read once; own loss is the objective’s, in nats per"
            " predicted token; ± is the standard error over held-out documents, which all"
            " runs share.",
        ),
        sections=found,
        compared=variant_rows(cells),
    )


def _answer(groups: Sequence[Group], growth: Growth) -> str:
    if not (betas := _betas_text(growth.free)):
        return NO_LAW
    text = (
        f"At {size_text(groups[0].size)} parameters the loss falls toward a floor as D^−β, with"
        f" {betas}."
    )
    last = [gains_of(groups, variant, BITS)[-1:] for variant in (GPT, ANY_ORDER)]
    if all(last):
        (one,), (other,) = last
        text += (
            f" The last doubling, from {count(one.tokens)} tokens, still gained the GPT"
            f" {with_error(one.gap.value, one.gap.error)} bits per byte and the BERT"
            f" {with_error(other.gap.value, other.gap.error)}."
        )
    return text


def _betas_text(laws: tables.FitsByName) -> str:
    """Both betas, their difference, and what it says; "" where one is not known."""
    ours, theirs = laws.get(GPT.label), laws.get(ANY_ORDER.label)
    if not (isinstance(ours, Fit) and isinstance(theirs, Fit)):
        return ""
    apart, ends = difference_of(ours, theirs, "beta")
    said = (
        "which does not tell them apart"
        if ends is None or ends[0] <= 0 <= ends[1]
        else f"so the BERT’s gain flattens {'earlier' if apart > 0 else 'later'}"
    )
    one, other = (number_text(f.parameters["beta"], f.ci95.get("beta")) for f in (ours, theirs))
    return (
        f"β {one} for {GPT.name} and {other} for {ANY_ORDER.name}, a difference of"
        f" {signed_text(apart, ends)}, {said}"
    )


def _details(groups: Sequence[Group], growth: Growth) -> list[str]:
    found, joint = [], growth.joint
    if isinstance(joint, Joint) and joint.p is not None:
        found.append(
            f"One β for both variants, {joint.fits['first'].parameters['beta']:.2f}, "
            + ("fits worse than" if joint.p < 0.05 else "is not shown to fit worse than")
            + " one for each: groups that share it differ as much with a probability of"
            f" {joint.p:.2g} (likelihood ratio, its distribution simulated)."
        )
    truth = least_of(all_results(groups))
    if truth and (betas := _betas_text(growth.held)):
        floors = [
            f"{number_text(fit.parameters['E'], fit.ci95.get('E'))} of {variant.name}"
            for variant in growth.variants
            if isinstance(fit := growth.free[variant.label], Fit)
        ]
        found.append(
            f"The source itself needs {decimals(truth)} bits per byte for the same documents,"
            f" and no model can need less; the laws find floors of {together(floors)}. With"
            f" the floor held at the source’s, which says that this size could learn all"
            f" of it, {betas}."
        )
    return found


def _limits(cells: Sequence[StudyRun]) -> tuple[str, ...]:
    budgets = sorted({cell.run.tokens for cell in cells})
    return (
        f"Exponents come from {len(budgets)} numbers of tokens that span a factor of"
        f" {budgets[-1] / budgets[0]:.0f}. E, B and β make up for each other over such a span:"
        " their intervals, from resampled runs, hold if the law does, and that the loss goes on"
        " as a power of D beyond the last number is not shown. A model that has not begun to"
        " learn from context at the fewest tokens does not follow a power there, and bends β.",
        "A β says how the gain shrinks, not who is ahead: the variant with the larger β may"
        " gain more at every doubling shown. A bound may fall faster than an exact number as"
        " the orders it averages come to agree.",
    )


def _growth(groups: Sequence[Group], growth: Growth) -> Section | None:
    loss, unit = growth.loss, UNITS[growth.loss]
    fits = dict(growth.free) | {f"{label}, E held": fit for label, fit in growth.held.items()}
    joint = growth.joint
    return sections.section(
        LOSSES[loss][0],
        Plot(
            f"growth_{loss.key}",
            growth_figure(groups, growth),
            f"Left: {unit} by tokens, a mark a run, and the law of each variant with its 95%"
            " band; a dashed line is what the source itself needs. Right: what each doubling"
            " gained, means over seeds with one standard error, and what the law says it gains,"
            " which no longer knows E: a straight line of slope −β.",
        ),
        tables.parameters_table(
            fits,
            ("E", "B", "beta"),
            f"L = E + B / D^beta, with L in {unit}: 95% intervals of 1,000 resamples of the"
            " runs. B is at one token, far from all runs.",
            "trained as",
        ),
        f"For {GPT.name} and {ANY_ORDER.name} one β has p = {joint.p:.2g}."
        if isinstance(joint, Joint) and loss == OWN
        else None,
        gains_table(groups, growth),
        tables.doubts_table(fits, "What these runs cannot tell, in the words of the fits."),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
