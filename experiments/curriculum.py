"""Is a model that learnt to be a GPT first a better BERT than one that was a BERT throughout?

One budget of tokens is parted: causal until a fraction of the steps is done, then masked at
40%. The variants switch at 0 (a BERT), 25, 50, 75 and 100% (a GPT); parameters and the
optimizer's state carry over, and one learning-rate schedule spans both phases.

Answers to two papers that disagree. Gisserot-Boukhlef et al. 2025 (arXiv:2507.00994) train
210M to 1B parameters from scratch on these five splits, and find that causal before masked
beats masked alone in fine-tuning under a fixed budget. Weller et al. 2025 (Ettin,
arXiv:2507.11412) go on with a trained decoder under the masked objective, and find it behind an
encoder of the same size that was masked from the start. The first part one budget in two; the
second add a short phase to a long one, whose learning rate has already decayed.

    python -m experiments.curriculum --scale laptop

    smoke   a minute            toys on bytes, to see that everything works
    laptop  5 minutes, 2 cores  0.2M parameters, 0.2M tokens of Python's library
    v5e-8   two days, 8 chips   85M parameters (BERT-base), 6.5B tokens of Wikipedia

A model predicts what its last phase trained it to: all variants but the last are scored by the
any-order bound, which is comparable among them; the GPT's number is exact, and stands for
another use. Expect little difference in the bound at a quarter and a loss of some hundredths of
a bit at later switches; and, at the laptop's scale, more roles found by the probe the longer a
model was a GPT, with the GPT throughout ahead. That may be because causal steps ask for every
token while few steps are taken; no variant tests it.
"""

import sys

from lm.objectives import Causal, Curriculum, Masked
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.figures import curves_figure, lines_of
from lm.study.grid import StudyRun, Variant
from lm.study.groups import BITS, PROBE, Group, Measure, best_of, gaps, groups_of, of_variant
from lm.study.report.figures import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER, signed
from lm.study.tables import main_table

BERT = Masked(rate=0.4)


def _variant(percent: int, colour: str) -> Variant:
    objective = Curriculum(then=BERT, switch=percent / 100)
    name = f"the one that switched at {percent}%"
    return Variant(f"GPT for {percent}%, then BERT", name, objective, colour)


VARIANTS = {
    "switch000": Variant("BERT, 40%", "the BERT throughout", BERT, VERMILLION),
    "switch025": _variant(25, ORANGE),
    "switch050": _variant(50, GREEN),
    "switch075": _variant(75, PURPLE),
    "switch100": Variant("GPT", "the GPT throughout", Causal(), BLUE),
}
PLANS = {
    "smoke": scales.SMOKE._replace(only=("switch000", "switch050", "switch100")),
    "laptop": scales.LAPTOP,
    "v5e-8": scales.V5E_8,
}
SCALES = tuple(PLANS)
EFFORT = scales.EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by run name: every switch for every seed."""
    return PLANS[scale].runs(VARIANTS)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    throughout = of_variant(groups, VARIANTS["switch000"])
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="A GPT first, then a BERT",
        answer=_answer(groups),
        table=main_table(groups, throughout, "the BERT throughout"),
        sections=[
            sections.figure_section(
                "By the fraction of training that was causal",
                "by_switch",
                curves_figure(
                    {"": (BLUE, {_switch(group): group for group in groups})},
                    "fraction of training before the switch (%)",
                    sections.windows_of(groups),
                ),
                "Left: bits per byte of the held-out text; hollow marks are any-order bounds,"
                " the filled one (a GPT throughout) is exact, a different number."
                f" {sections.PROBED}",
            ),
            sections.fractions_section(
                lines_of(groups),
                "What models that were causal first say of masked tokens, by fraction masked.",
            ),
            sections.equal_section(
                groups,
                (throughout or groups)[0],
                "Tokens are equal; predictions and FLOPs are not, as a causal step asks for"
                " every token. The masked phase is the shorter the later the switch.",
            ),
            sections.limits(
                cells,
                groups,
                "All variants are trained from scratch on one schedule. Nothing is said of a"
                " model whose causal training had ended and decayed, as in Ettin, nor of longer"
                " budgets than this, where the first paper finds its gains.",
            ),
        ]
        if groups
        else [],
    )


def _answer(groups: list[Group]) -> str:
    measures = (
        (BITS, "bits per byte (its any-order bound)"),
        (PROBE, "roles found by the probe"),
    )
    told = [_compare(groups, measure, what) for measure, what in measures]
    return " ".join(filter(None, told)) or NO_ANSWER


def _compare(groups: list[Group], measure: Measure, what: str) -> str:
    """The best of the curricula against masked throughout, by one measure."""
    throughout = of_variant(groups, VARIANTS["switch000"])
    ranked = best_of([g for g in groups if isinstance(g.objective, Curriculum)], measure)
    if not throughout or ranked is None:
        return ""
    best = ranked[0]
    # The spread over seeds is pooled over all variants, as in the table.
    gap = gaps(groups, throughout[0], measure).get(best.name)
    if gap is None:
        return ""
    verdict = "makes no difference beyond the error"
    if gap.beyond:
        verdict = "is better" if gap.value * measure.better > 0 else "is worse"
    return (
        f"In {what}, the best switch, at {_switch(best):.0f}%, {verdict}:"
        f" {signed(gap, measure)} against the BERT throughout."
    )


def _switch(group: Group) -> float:
    return float(
        next(name for name, variant in VARIANTS.items() if variant == group.variant)[-3:]
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
