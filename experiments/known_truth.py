"""How near do a GPT and a BERT come to a source whose truth is known, as models and data grow?

The text is drawn from a hidden Markov source, so the probability of every text, of every masked
token given the others, and of every hidden state is known (Rabiner 1989): bits per byte, the
error at every fraction masked and the probe are each held to the best that is possible. A
second source draws documents of random lengths, which windows cut: there a masked model is
shown where documents end, a GPT must predict it, and no number may lie below the truth either.

Answers to: nobody's table. Papers that compare causal and masked models (Sahoo et al. 2024,
arXiv:2406.07524; Nie et al. 2024, arXiv:2410.18514) do so on text whose entropy is not known,
so a gap between two losses may be the models' or the scorers'. Here the scorers have no excuse.

    python -m experiments.known_truth --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  14 minutes, 2 cores  25k to 0.4M parameters, 0.1M to 0.9M tokens
    gpu     not timed, one H100  25M and 85M parameters, 10M and 40M tokens of a larger source
    v5e-8   a day, 8 chips       the same sizes, up to 2B tokens of that source

Expect all variants above the truth and none below it by more than twice its error, the GPT
nearest. A bound of a model that has learnt the source is no looser than the truth itself, as
all orders agree there: what a BERT lacks here it lacks as a model.
"""

import sys
from collections.abc import Sequence

from msgspec.structs import replace

from lm.data import Hmm
from lm.evaluate.scoring import Effort
from lm.output.numbers import decimals
from lm.run import Run
from lm.study import runner, sections
from lm.study.analyses import truth
from lm.study.grid import GPT_AND_BERTS, Scale, Size, StudyRun
from lm.study.groups import Group, groups_of
from lm.study.report.values import Report
from lm.study.scales import SMOKE_SOURCE, source_data

VARIANTS = GPT_AND_BERTS
RANDOM = {
    f"{name}_lengths": variant._replace(label=f"{variant.label}, random lengths")
    for name, variant in VARIANTS.items()
}
"""The same on documents of random lengths."""
PLANS = {
    "smoke": Scale(
        SMOKE_SOURCE,
        sizes=(Size(1, 16), Size(1, 32)),
        tokens=(4096, 8192),
        settings={"evaluations": 1, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        source_data(Hmm(), batch=32),
        sizes=(Size(2, 32), Size(2, 64, 2), Size(2, 128, 4)),
        tokens=(100_000, 300_000, 900_000),
        seeds=2,
        settings={"evaluations": 3, "evaluation_rows": 64},
    ),
    "gpu": Scale(
        source_data(Hmm(states=64, symbols=64, length=1021, documents=46_000), batch=64),
        sizes=(Size(8, 512, 8, 4e-3), Size(12, 768, 12, 3e-3)),
        tokens=(10_000_000, 40_000_000),
        settings={"evaluations": 4, "evaluation_rows": 128},
    ),
    "v5e-8": Scale(
        source_data(Hmm(states=64, symbols=64, length=1021, documents=2_200_000), batch=512),
        sizes=(Size(8, 512, 8, 4e-3), Size(12, 768, 12, 3e-3)),
        tokens=(200_000_000, 600_000_000, 2_000_000_000),
        seeds=2,
        settings={"evaluations": 16, "evaluation_rows": 512, "remat": "block"},
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=32, samples=2, replicates=2, curve_rows=16, probe_tokens=3_000),
    "laptop": Effort(rows=512, samples=4, replicates=2, curve_rows=128, probe_tokens=10_000),
    "gpu": Effort(rows=1024, curve_rows=256, probe_tokens=50_000),
    "v5e-8": Effort(rows=4096, curve_rows=1024, probe_tokens=100_000),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: all sizes at the most tokens, the largest at all of them.

    On random lengths the largest size is trained at the last budget but one.
    """
    plan = PLANS[scale]
    *few, most = plan.tokens
    source = plan.data.corpus
    assert isinstance(source, Hmm)
    largest = plan._replace(tokens=tuple(few), sizes=plan.sizes[-1:])
    # Two documents a row, on average.
    random = replace(source, lengths="geometric", length=source.length // 2)
    lengths = largest._replace(data=replace(plan.data, corpus=random), tokens=(few[-1],))
    return (
        largest.runs(VARIANTS)
        | plan._replace(tokens=(most,)).runs(VARIANTS)
        | lengths.runs(RANDOM)
    )


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    cells = [cell._replace(result=truth.with_truth(cell.result)) for cell in cells]
    known = list(groups_of(cells, VARIANTS | RANDOM).values())
    groups = [group for group in known if group.variant in VARIANTS.values()]
    random = [group for group in known if group.variant in RANDOM.values()]
    top = max(((group.size, group.tokens) for group in groups), default=None)
    best = [group for group in groups if (group.size, group.tokens) == top]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        best,
        title="Against a known truth",
        answer=truth.truth_answer(known, best),
        table=truth.truth_table(groups),
        sections=[
            *truth.truth_sections(groups, best),
            truth.lengths_section(random),
            sections.equal_section(
                best,
                best[0],
                "Variants of one size and one number of tokens read the same rows in the same"
                " order from the same initial values; the table above is of the largest ones.",
            ),
            sections.section("What this does and does not show", _limits(cells, groups)),
        ]
        if groups
        else [],
    )


def _limits(cells: Sequence[StudyRun], groups: Sequence[Group]) -> str:
    source, rate = cells[0].run.data.corpus, groups[0].mean("entropy_rate")
    told = f", whose entropy rate is {decimals(rate)} bits per symbol" if rate else ""
    return (
        "It shows that the scorers are honest, and how fast models of this size learn one"
        f" source of {source.states if isinstance(source, Hmm) else 'no'} hidden states{told}."
        " It is not language: what must be remembered of a text fits into one state, so nothing"
        " is said of long-range structure, and the order of variants may be another on text."
        " One learning rate serves all variants and was tuned for none; how far a variant still"
        " lies above the truth is a matter of its training too. Other seeds of the source are"
        " other tables, some of them easier. With two seeds of training, errors over seeds are"
        " rough."
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
