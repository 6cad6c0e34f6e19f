"""How many times may the same text be read, by a GPT and by a BERT?

Answers to: Muennighoff et al. 2023 (arXiv:2305.16264), figure 3 and equation 5, where the value
of a repeated token falls off exponentially, to nothing after R_D = 15 repeats or so, up to 4
epochs cost next to nothing, and all models are causal; and Prabhudesai et al. 2025
(arXiv:2507.15857) and Ni et al. 2025 (arXiv:2511.03276), by whom masked diffusion models bear
far more repeats (the former fit an R_D of about 500) and pass causal ones where text is scarce.

    python -m experiments.repeated_data --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  16 minutes, 2 cores  0.1M parameters, up to 32 epochs of a known source
    v5e-16  5 hours, 16 chips    85M parameters, up to 64 epochs of Wikipedia, 2.4e19 FLOPs

The laptop's time is that of cores which other programs used as well.

Each variant trains on so many tokens of text that is read once, and on as many of a part of it
that is read again and again; the first epoch is the same rows in the same order. A run that
ends worse than one of fewer epochs of the same text has overfit: the law knows no such thing,
and is fit to the best of a run and those that stopped before it.

The accelerator's line is what this prints, a plan by FLOPs that has not been run:

    python -m experiments.repeated_data --scale v5e-16 --cost v5e-16

Expect the GPT ahead wherever text is new, its loss to rise again after some ten epochs of
little text, and the BERT's to fall on: each epoch masks other tokens.
"""

import math
import sys
from collections.abc import Sequence

from msgspec.structs import replace

from lm.output.numbers import count
from lm.run import Run
from lm.scaling.fit import Fit
from lm.study import runner, scales, sections, tables
from lm.study.analyses import repeats
from lm.study.checks import variant_rows
from lm.study.grid import ANY_ORDER, GPT, Scale, Size, StudyRun, size_text
from lm.study.groups import BITS, Group, gaps, groups_of, of_variant
from lm.study.laws import attempt, interval_of
from lm.study.report.values import Column, Plot, Report, Row, Section
from lm.study.sentences import NO_LAW, short_text, signed, together

VARIANTS = {"causal": GPT, "any_order": ANY_ORDER}
PLANS = {
    "smoke": Scale(
        scales.SMOKE_SOURCE,
        sizes=(Size(1, 16),),
        tokens=(1024, 2048, 4096, 8192),
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        scales.FEW_ROWS,
        sizes=(Size(2, 64, 2),),
        tokens=tuple(25_600 * 2**k for k in range(5)),
        seeds=2,
        settings={"evaluations": 4, "evaluation_rows": 128},
    ),
    "v5e-16": Scale(
        replace(scales.WIKIPEDIA, batch=512),
        sizes=(Size(12, 768, 12, 3e-3),),
        tokens=tuple(50 * 2**20 * 2**k for k in range(6)),
        seeds=2,
        settings={"evaluations": 16, "evaluation_rows": 1024, "remat": "block"},
    ),
}
"""The tokens are those of text that is read once."""
REPEATED: dict[str, dict[int, tuple[int, ...]]] = {
    "smoke": {1024: (4096, 8192)},
    "laptop": {
        12_800: tuple(25_600 * 2**k for k in range(5)),
        51_200: (102_400, 409_600),
    },
    "v5e-16": {
        25 * 2**20: tuple(100 * 2**20 * 2**k for k in range(5)),
        100 * 2**20: (400 * 2**20, 1600 * 2**20),
    },
}
"""Tokens trained on, by how many of them are different."""
SCALES = tuple(PLANS)
EFFORT = scales.LAW_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: new text and repeated text in each variant, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    grid = [(tokens, (tokens,)) for tokens in plan.tokens]
    for unique, tokens in [*grid, *REPEATED[scale].items()]:
        data = replace(plan.data, unique=unique)
        for name, run in plan._replace(data=data, tokens=tokens).runs(VARIANTS).items():
            variant, size, *rest = name.split("-")
            found["-".join([variant, size, f"u{count(unique)}", *rest])] = run
    return found


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = sorted(groups_of(cells, VARIANTS).values(), key=lambda g: (g.unique, g.tokens))
    laws = {variant: attempt(repeats.law_of, groups, variant) for variant in VARIANTS.values()}
    found: list[Section | None] = []
    if groups:
        most = max((group.tokens, -group.unique) for group in groups)
        largest = [c for c in cells if (c.run.tokens, -(c.run.data.unique or 0)) == most]
        found = [
            _by_tokens(groups, laws),
            sections.section(
                "What repeats cost, and what they are worth",
                repeats.cost_table(groups, tuple(laws)),
                Plot(
                    "repeats",
                    repeats.repeats_figure(groups, laws),
                    "Left: bits per byte above a run of as many new tokens, means over seeds"
                    " with one standard error, on a scale that is linear about 0. Right: how"
                    " much new text the epochs are worth by the law, in units of the text that"
                    " is repeated, with its 95% band; dashed, if every epoch were new.",
                ),
            ),
            sections.section(
                sections.EQUAL,
                tables.equal_table(
                    variant_rows(largest), "at the most epochs, between the variants"
                ),
                "At each number of tokens and of different ones the variants read the same"
                " rows in the same order, from the same initial values; a run that repeats"
                " begins with the rows that the run of new text begins with. How many targets"
                " the variants predict follows from the objective, and is in the table of all"
                " runs.",
            ),
            sections.limits(cells, groups, *_limits(groups)),
        ]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="The same text again",
        answer=_answer(groups, laws),
        details=_details(groups, laws),
        table=tables.runs_table(
            [cell._replace(result=_with_epochs(cell.result)) for cell in cells],
            "All finished runs: U different tokens, read for so many epochs. Own loss is the"
            " objective’s, in nats per predicted token; ± is the standard error over held-out"
            " documents, which all runs share.",
            Column("unique_tokens", "U", count),
            Column("epochs", "epochs", "{:g}".format),
        ),
        sections=found,
        compared=variant_rows(cells),
    )


def _with_epochs(result: Row | None) -> Row | None:
    if result is None:
        return None
    return {**result, "epochs": result["tokens"] / result["unique_tokens"]}


def _answer(groups: Sequence[Group], laws: repeats.FitsByVariant) -> str:
    ours, theirs = laws.values()
    if not (isinstance(ours, Fit) and isinstance(theirs, Fit)):
        return NO_LAW
    epochs = max(group.epochs for group in groups)
    (value, ours_B), (other, theirs_B) = (
        repeats.worth_of(fit, epochs) for fit in (ours, theirs)
    )
    times, ends = other / value, None
    if ours.draws and theirs.draws:
        ends = interval_of(times, theirs_B / ours_B, min(ours.degrees, theirs.degrees))
    if ends is None or ends[0] <= 1 <= ends[1]:
        said = "which does not show that either bears more repeats"
    else:
        said = f"so the BERT bears {'more' if times > 1 else 'fewer'} repeats"
    return (
        f"At {size_text(groups[0].size)} parameters, {epochs} epochs are worth"
        f" {repeats.worth_text(ours, epochs)} readings of new text to {GPT.name} and"
        f" {repeats.worth_text(theirs, epochs)} to {ANY_ORDER.name}, {short_text(times, ends)}"
        f" times as many (with 95% intervals), {said}. R_D is {repeats.repeats_text(ours)} and"
        f" {repeats.repeats_text(theirs)}. {_least_text(groups)}"
    ).rstrip()


def _least_text(groups: Sequence[Group]) -> str:
    """What becomes of the least text, in sentences."""
    least = repeats.repeated_parts(groups)[:1]
    by_variant = [
        [g for g in of_variant(groups, variant) if g.unique in least]
        for variant in VARIANTS.values()
    ]
    if any(len(ours) < 2 for ours in by_variant):
        return ""
    told, best = [], []
    for ours in by_variant:
        best.append(min(ours, key=lambda group: group.mean(BITS.key) or math.inf))
        name, epochs = ours[0].variant.name, ours[-1].epochs
        text = f"{name} is best after {best[-1].epochs} of {epochs} epochs"
        if best[-1] is not ours[-1]:
            above = gaps(ours, best[-1], BITS)[ours[-1].name]
            text += f" ({signed(above, BITS)} after all of them)"
        told.append(text)
    # With new text beside them, whose seeds say how much trainings differ.
    gpt, bert = best
    new = [group for group in groups if group.epochs == 1 and group is not gpt]
    gap = gaps([bert, *new], gpt, BITS).get(bert.name)
    text = f"Of {count(least[0])} tokens {together(told)}."
    if gap is not None:
        text += (
            f" At its best the BERT lies {signed(gap, BITS)} bits per byte from the GPT’s best"
            f"{'' if gap.beyond else ', which is not beyond the error'}."
        )
    return text


def _details(groups: Sequence[Group], laws: repeats.FitsByVariant) -> tuple[str, ...]:
    if not any(isinstance(fit, Fit) for fit in laws.values()):
        return ()
    overfit = [
        f"{sum(result['bits_per_byte'] > least for result, least in both)} of {len(both)} of"
        f" {variant.name}"
        for variant in VARIANTS.values()
        if (both := repeats.best_so_far(of_variant(groups, variant)))
    ]
    return (
        "The law has no overfitting in it. Runs that ended above one of fewer epochs of the"
        f" same text ({together(overfit)}) count in it as if they had been stopped there.",
        *sections.errors_text(groups),
    )


def _limits(groups: Sequence[Group]) -> tuple[str, ...]:
    epochs = sorted({group.epochs for group in groups})
    return (
        f"R_D comes from {together([str(number) for number in epochs])} epochs. Where the loss"
        " still falls at the most of them as it does on new text, R_D is known from below alone"
        " and its upper end is the fit’s bound. R_D is a constant of a size, a text and a"
        " recipe: larger models overfit sooner, and dropout or a stronger decay of weights,"
        " which nobody tuned here, may bear more epochs.",
        "The BERT’s number is a bound, which says of a model at least what it knows; that the"
        " bound falls while the GPT’s exact number rises is no artefact of that, but how far"
        " apart they are is.",
    )


def _by_tokens(groups: Sequence[Group], laws: repeats.FitsByVariant) -> Section | None:
    fits = {variant.label: law for variant, law in laws.items()}
    return sections.section(
        "New text, and the same again",
        Plot(
            "by_tokens",
            repeats.tokens_figure(groups, laws),
            "Bits per byte by tokens trained on, a mark a run: of new text, and of a part of it"
            " that is read again. Hollow marks ended above a run of fewer epochs of the same"
            " text; of those beyond the frame the number is given. Lines are the law with its"
            " 95% band.",
        ),
        tables.parameters_table(
            fits,
            ("E", "B", "beta", "R_D"),
            "L = E + B / D′^beta with D′ = U (1 + R_D (1 − exp(−(D / U − 1) / R_D))), in bits"
            " per byte, by least squares of ln L: 95% intervals of 1,000 resamples of the"
            " runs. E is held at what the"
            " source itself needs, where that is known; else what the one size cannot learn is"
            " in it.",
            "trained as",
        ),
        tables.doubts_table(fits, "What these runs cannot tell, in the words of the fits."),
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
