"""Should 15% of the tokens be masked, and does the best fraction grow with the model?

Answers to: Wettig et al. 2023 (arXiv:2202.08005), figure 1 and table 1, where models of
BERT-large's size fine-tune better at 40% than at 15% and still well at 80%, and larger models
want higher rates. They mask a token by the mask token alone, without BERT's 80/10/10 (their
released models have it in the name where it is used), and so do these variants; `mask_recipe`
is about the difference.

    python -m experiments.mask_rate --scale laptop

    smoke   a minute            toys on bytes, to see that everything works
    laptop  9 minutes, 2 cores  0.06M and 0.4M parameters, 0.2M tokens of Python's library
    v5e-8   9 days, 8 chips     25M and 302M parameters (BERT-large), 6.5B tokens of Wikipedia

Each variant is scored by its any-order bound, which is a mean over all fractions masked, and at
fixed ones. Expect rates near a half to have the lowest bound, as a low rate has never
seen most of what the bound asks for, and each rate to be best near itself on the curve. The
bound's best rate is thus no advice for fine-tuning; the probe's is nearer to that.
"""

import sys

from lm.objectives import Masked
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.figures import curves_figure
from lm.study.grid import Size, StudyRun, Variant, size_text
from lm.study.groups import BITS, PROBE, Group, best_of, by_size, gaps, groups_of, of_variant
from lm.study.report.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER, signed, winner
from lm.study.tables import main_table

RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
ON_CURVE = {0.05: SKY, 0.15: BLUE, 0.3: GREEN, 0.4: ORANGE, 0.6: VERMILLION, 0.8: PURPLE}


def _variant(rate: float) -> Variant:
    objective = Masked(rate=rate, mask=1.0, random=0.0)
    return Variant(f"BERT, {rate:.0%}", f"the BERT trained at {rate:.0%}", objective, BLUE)


VARIANTS = {f"masked{round(100 * rate):02}": _variant(rate) for rate in RATES}
USUAL = VARIANTS["masked15"]
PLANS = {
    "smoke": scales.SMOKE._replace(
        sizes=(Size(1, 16), Size(1, 32)), only=("masked15", "masked40")
    ),
    "laptop": scales.LAPTOP._replace(sizes=(Size(2, 48), Size(4, 96, 2)), seeds=2),
    "v5e-8": scales.V5E_8._replace(sizes=(Size(8, 512, 8, 4e-3), Size(24, 1024, 16, 2e-3))),
}
SCALES = tuple(PLANS)
EFFORT = scales.EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by run name: every rate at every size for every seed."""
    return PLANS[scale].runs(VARIANTS)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    usual, sizes = of_variant(groups, USUAL), by_size(groups)
    large = sizes[max(sizes)] if sizes else []
    lines = {
        size_text(size): (colour, {100 * group.rate: group for group in found})
        for (size, found), colour in zip(sizes.items(), (VERMILLION, BLUE), strict=False)
    }
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="The fraction masked in masked language modelling",
        answer=" ".join(filter(None, map(_answer, sizes.values()))) or NO_ANSWER,
        table=main_table(groups, usual, "the rate of 15% at the same size"),
        sections=[
            sections.figure_section(
                "By the rate trained at",
                "by_rate",
                curves_figure(
                    lines, "fraction masked in training (%)", sections.windows_of(groups)
                ),
                "Left: the any-order bound of the held-out text by the fraction masked in"
                f" training. {sections.PROBED}",
            ),
            sections.fractions_section(
                {
                    f"{group.rate:.0%}": (ON_CURVE[group.rate], group)
                    for group in large
                    if group.rate in ON_CURVE
                },
                f"At {size_text(large[0].size)} parameters, by the rate trained at. All are"
                " asked for the same masked tokens, which are shown as the mask token.",
            ),
            sections.equal_section(groups, (usual or groups)[0]),
            sections.limits(
                cells,
                groups,
                "The any-order bound weighs all fractions masked alike, which favours models"
                " that saw many masked. It ranks predictors of whole texts, not encoders.",
            ),
        ]
        if groups
        else [],
    )


def _answer(groups: list[Group]) -> str:
    """What is best at one size, and how far from it 15% lies."""
    ranked = best_of(groups, BITS)
    if ranked is None or len(groups) < 2:
        return ""
    best = ranked[0]
    text = (
        f"At {size_text(best.size)} parameters the any-order bound is lowest at a rate of"
        f" {winner(groups, BITS, lambda group: f'{group.rate:.0%}')}"
    )
    found = gaps(groups, best, BITS)
    for group in of_variant(groups, USUAL):
        if group.name in found:
            text += f"; 15% lies {signed(found[group.name], BITS)} from the best"
    if probe := winner(groups, PROBE, lambda group: f"{group.rate:.0%}"):
        text += f". The probe finds most at {probe}"
    return text + "."


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
