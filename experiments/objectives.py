"""Which objective predicts text best for its tokens, and which for its FLOPs?

Every objective that there is trains one model from the same initial values on the same rows:
once on as many tokens as the GPT, and once on as many as make its FLOPs equal to the GPT's (to
the nearest step, by `lm.cost.ledger`). All are scored in bits per byte of the same text.

Answers to: Raffel et al. 2020 (arXiv:1910.10683), section 3.3, Tay et al. 2023 (UL2,
arXiv:2205.05131), table 2, and Charpentier & Samuel 2024 (GPT-BERT, arXiv:2410.24159), which
rank objectives by fine-tuning; Sahoo et al. 2024 (arXiv:2406.07524), table 1, where diffusion
and causal models meet as perplexities, one of them a bound.

    python -m experiments.objectives --scale laptop

    smoke   5 minutes            toys on bytes, to see that everything works
    laptop  12 minutes, 2 cores  0.2M parameters, 0.2M tokens of Python's library
    v5e-8   8 days, 8 chips      85M parameters (BERT-base), 6.5B tokens of Wikipedia

A number is exact (chain rule), a bound (any order), or no likelihood, and the report says
which. Two exact numbers compare, and so do two bounds; an exact one below a bound shows only
how far the models' known code lengths lie apart. Expect the GPT ahead, mixtures with a causal
part next, and diffusion near the BERT at all rates, whose loss has the same expectation.
"""

import sys
from dataclasses import replace

from msgspec.structs import replace as changed

from lm.objectives import (
    AnyOrder,
    Curriculum,
    Diffusion,
    Masked,
    Mixture,
    Part,
    Prefix,
    Shifted,
    Spans,
)
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.figures import dots_figure, lines_of
from lm.study.grid import GPT, Scale, StudyRun, Variant, variant_of
from lm.study.groups import BITS, PROBE, Group, groups_of, of_variant
from lm.study.report.figures import BLUE, GREEN, INK, ORANGE, PURPLE, SKY, VERMILLION
from lm.study.report.values import Plot, Report
from lm.study.sentences import NO_ANSWER, winner
from lm.study.tables import main_table, pairs_table, scores_table

UL2 = Mixture(
    mixed=(
        Part(objective=Prefix()),
        Part(objective=Spans()),
        Part(objective=Spans(rate=0.5, span=16)),
    )
)
"""The kinds that UL2 mixes: a prefix, short spans, and long ones that leave half."""
VARIANTS = {
    "causal": GPT,
    "prefix": Variant("prefix", "the prefix model", Prefix(), BLUE),
    "masked15": Variant("BERT, 15%", "the BERT at 15%", Masked(), VERMILLION),
    "masked40": Variant("BERT, 40%", "the BERT at 40%", Masked(rate=0.4), ORANGE),
    "any_order": Variant("BERT, all rates", "the BERT at all rates", AnyOrder(), GREEN),
    "diffusion": Variant("diffusion", "diffusion", Diffusion(), SKY),
    "shifted": Variant("shifted, 15%", "the shifted BERT", Shifted(), PURPLE),
    "spans": Variant("spans (T5)", "span corruption", Spans(), INK),
    "gpt_bert": Variant("GPT-BERT", "GPT-BERT", Mixture(), BLUE),
    "ul2": Variant("UL2", "the mixture of UL2", UL2, INK),
    "curriculum": Variant("GPT, then BERT", "the curriculum", Curriculum(), INK),
}


def _scale(scale: Scale, sentinels: int, seeds: int) -> Scale:
    """With the sentinels that span corruption needs, in the tokenizer of all variants."""
    tokenizer = changed(scale.data.tokenizer, sentinels=sentinels)
    return scale._replace(data=changed(scale.data, tokenizer=tokenizer), seeds=seeds)


PLANS = {
    "smoke": _scale(scales.SMOKE, sentinels=8, seeds=1),
    "laptop": _scale(scales.LAPTOP, sentinels=8, seeds=2),
    "v5e-8": _scale(scales.V5E_8, sentinels=32, seeds=2),
}
SCALES = tuple(PLANS)
LAPTOP = scales.EFFORT["laptop"]
# On the same windows, so that a masked model's exact numbers stand beside the GPT's.
EFFORT = scales.EFFORT | {"laptop": replace(LAPTOP, orders=LAPTOP.rows, block=8)}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every variant at equal tokens and at equal FLOPs, for every
    seed.
    """
    return PLANS[scale].runs_at_flops(VARIANTS)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    tokens = [group for group in groups if group.budget.startswith("d")]
    flops = _at_equal_flops(cells, groups)
    causal = of_variant(groups, GPT)
    reference = "the GPT (variants with other tokens than its are at its FLOPs)"
    return sections.report_of(
        sys.modules[__name__],
        cells,
        tokens,
        title="All objectives in one unit",
        answer=_answer(tokens, flops),
        table=main_table(groups, causal, reference),
        sections=[
            sections.section(
                "The objectives side by side",
                Plot(
                    "objectives",
                    dots_figure(
                        {
                            "equal tokens": (BLUE, {g.variant.label: g for g in tokens}),
                            "equal FLOPs": (VERMILLION, {g.variant.label: g for g in flops}),
                        }
                    ),
                    "Left: bits per byte of the held-out text by each model's first valid"
                    f" scorer. {sections.PROBED}",
                ),
                "Below, all at equal tokens; eight tokens of a decoding order are taken at a"
                " time at the laptop's scale.",
                pairs_table(tokens),
                scores_table(tokens),
            ),
            sections.fractions_section(
                lines_of(tokens),
                "At equal tokens, for the models that answer what is masked.",
            ),
            sections.equal_section(
                tokens or groups, (causal or groups)[0], sections.equal_flops_text(flops, GPT)
            ),
            sections.limits(
                cells,
                groups,
                "An upper bound is the mean over random orders; the model's best order, or a"
                " mixture of all, may need less. A GPT's lead over a bound is thus a lead in"
                " what is known, not in what is. FLOPs are those of matrix products: two"
                " variants at equal FLOPs may differ in time and memory.",
            ),
        ]
        if groups
        else [],
    )


def _at_equal_flops(cells: list[StudyRun], groups: list[Group]) -> list[Group]:
    """The variants at the FLOPs of the GPT; for some, that is at equal tokens too."""
    apart = {variant_of(cell) for cell in cells if "-f" in cell.name}
    return [g for g in groups if g.budget[0] == "f" or variant_of(g.cells[0]) not in apart]


def _answer(tokens: list[Group], flops: list[Group]) -> str:
    told = []
    for found, equal in ((tokens, "tokens"), (flops, "FLOPs")):
        for kind, what in (("exact", "exact numbers"), ("bound", "upper bounds")):
            known = [group for group in found if group.kind == kind]
            if text := winner(known, BITS, lambda group: group.variant.name):
                told.append(f"At equal {equal}, the least of the {what} is that of {text}.")
        if text := winner(found, PROBE, lambda group: group.variant.name):
            told.append(f"The probe finds most at {text}.")
    return " ".join(told) or NO_ANSWER


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
