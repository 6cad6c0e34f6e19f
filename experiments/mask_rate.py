"""Should 15% of the pieces be hidden, and does the best share grow with the model?

Answers to: Wettig et al. 2023 (arXiv:2202.08005), figure 1 and table 1, where models of
BERT-large's size fine-tune better at 40% than at 15% and still well at 80%, and larger models
want higher rates. They hide a piece by the mask piece alone, without BERT's 80/10/10 (their
released models have it in the name where it is used), and so do these arms; `mask_recipe` is
about the difference.

    python -m experiments.mask_rate --scale laptop

    smoke   a minute            toys on bytes, to see that everything works
    laptop  9 minutes, 2 cores  0.06M and 0.4M parameters, 0.2M tokens of Python's library
    v5e-8   9 days, 8 chips     25M and 302M parameters (BERT-large), 6.5B tokens of Wikipedia

Each arm is scored by its any-order bound, which is a mean over all shares hidden, and at fixed
shares hidden. Expect rates near a half to have the lowest bound, as a low rate has never seen
most of what the bound asks for, and each rate to be best near itself on the curve. The bound's
best rate is thus no advice for fine-tuning; the probe's is nearer to that.
"""

import sys

from lm.objectives import Masked
from lm.run import Run
from lm.study import runner
from lm.study.common import Arm, size_text
from lm.study.plans import (
    EFFORT,
    LAPTOP,
    SMOKE,
    V5E_8,
    Size,
)
from lm.study.report.figures import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from lm.study.report.values import Plot, Report, Section
from lm.study.runner import Cell
from lm.study.sections import (
    BARS,
    NO_ANSWER,
    baselines_of,
    curves_figure,
    equal_section,
    limits,
    main_table,
    report_of,
    shares_section,
)
from lm.study.seeds import (
    BITS,
    PROBE,
    Group,
    best_of,
    gaps,
    groups_of,
    signed,
    winner,
)

__all__ = ["EFFORT", "SCALES", "report", "runs"]

RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
ON_CURVE = {0.05: SKY, 0.15: BLUE, 0.3: GREEN, 0.4: ORANGE, 0.6: VERMILLION, 0.8: PURPLE}


def _arm(rate: float) -> Arm:
    objective = Masked(rate=rate, mask=1.0, random=0.0)
    return Arm(f"BERT, {rate:.0%}", f"the BERT trained at {rate:.0%}", objective, BLUE)


ARMS = {f"masked{round(100 * rate):02}": _arm(rate) for rate in RATES}
USUAL = ARMS["masked15"]
PLANS = {
    "smoke": SMOKE._replace(
        sizes=(Size(1, 16, 1, 1e-2), Size(1, 32, 1, 1e-2)), only=("masked15", "masked40")
    ),
    "laptop": LAPTOP._replace(sizes=(Size(2, 48, 1, 1e-2), Size(4, 96, 2, 1e-2)), seeds=2),
    "v5e-8": V5E_8._replace(sizes=(Size(8, 512, 8, 4e-3), Size(24, 1024, 16, 2e-3))),
}
SCALES = tuple(PLANS)


def runs(scale: str) -> dict[str, Run]:
    """The runs by cell name: every rate at every size for every seed."""
    return PLANS[scale].runs(ARMS)


def report(cells: list[Cell]) -> Report:
    """What the finished cells say; what is missing is named."""
    groups = list(groups_of(cells, ARMS).values())
    usual = [group for group in groups if group.arm == USUAL]
    sizes = _by_size(groups)
    sections: list[Section | None] = []
    if groups:
        large = sizes[max(sizes)]
        sections = [
            Section("By the rate trained at", (_curves(groups),)),
            shares_section(
                {f"{_rate(g):.0%}": (ON_CURVE[_rate(g)], g) for g in large
                 if _rate(g) in ON_CURVE},
                f"At {size_text(max(sizes))} parameters, by the rate trained at. All are"
                " asked for the same hidden pieces, which are shown as the mask piece.",
            ),
            equal_section(groups, (usual or groups)[0]),
            limits(
                cells,
                groups,
                "The any-order bound weighs all shares hidden alike, which favours models that"
                " saw many hidden. It ranks predictors of whole texts, not encoders.",
            ),
        ]  # fmt: skip
    return report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="The share hidden in masked language modelling",
        answer=" ".join(filter(None, map(_answer, sizes.values()))) or NO_ANSWER,
        table=main_table(groups, usual, "the rate of 15% at the same size"),
        sections=sections,
    )


def _answer(groups: list[Group]) -> str:
    """What is best at one size, and how far from it 15% lies."""
    ranked = best_of(groups, BITS)
    if ranked is None or len(groups) < 2:
        return ""
    best = ranked[0]
    text = (
        f"At {size_text(best.size)} parameters the any-order bound is lowest at a rate of"
        f" {winner(groups, BITS, lambda group: f'{_rate(group):.0%}')}"
    )
    found = gaps(groups, best, BITS)
    for group in groups:
        if group.arm == USUAL and group.name in found:
            text += f"; 15% lies {signed(found[group.name], BITS)} from the best"
    if probe := winner(groups, PROBE, lambda group: f"{_rate(group):.0%}"):
        text += f". The probe finds most at {probe}"
    return text + "."


def _curves(groups: list[Group]) -> Plot:
    lines = {
        size_text(size): (colour, {100 * _rate(group): group for group in found})
        for (size, found), colour in zip(
            _by_size(groups).items(), (VERMILLION, BLUE), strict=False
        )
    }
    return Plot(
        "by_rate",
        curves_figure(lines, "share hidden in training (%)", baselines_of(groups)),
        "Left: the any-order bound of the held-out text by the share hidden in training. Right:"
        f" the share of tokens whose role the probe finds, with nothing hidden. {BARS}",
    )


def _by_size(groups: list[Group]) -> dict[int, list[Group]]:
    return {
        size: [group for group in groups if group.size == size]
        for size in sorted({group.size for group in groups})
    }


def _rate(group: Group) -> float:
    assert isinstance(group.arm.objective, Masked)
    assert isinstance(group.arm.objective.rate, float)
    return group.arm.objective.rate


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
