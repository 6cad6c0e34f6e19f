"""How near do a GPT and a BERT come to a source whose truth is known, as models and data grow?

The text is drawn from a hidden Markov source, so the probability of every text, of every masked
token given the others, and of every hidden state is known (Rabiner 1989). A model's bits per
byte can then be held to the least that any model needs for the same documents, its error at
every fraction masked to the least error under the same masks, and the probe to the best that
can be named from what a position sees. A second source draws documents of random lengths, which
windows cut: there a masked model is shown where documents end, a GPT has to predict it, and no
number may lie below the truth either.

Answers to: nobody's table. Papers that compare causal and masked models (Sahoo et al. 2024,
arXiv:2406.07524; Nie et al. 2024, arXiv:2410.18514) do so on text whose entropy is not known,
so a gap between two losses may be the models' or the scorers'. Here the scorers have no excuse.

    python -m experiments.known_truth --scale laptop

    smoke   a minute             toys, to see that everything works
    laptop  14 minutes, 2 cores  25k to 0.4M parameters, 0.1M to 0.9M tokens
    v5e-8   a day, 8 chips       25M and 85M parameters, up to 2B tokens of a larger source

Expect all variants above the truth and none below it by more than twice its error, the GPT
nearest. A bound of a model that has learnt the source is no looser than the truth itself, as
all orders agree there: what a BERT lacks here it lacks as a model.
"""

import sys
from collections.abc import Sequence

from msgspec.structs import replace

from lm.data import Hmm
from lm.evaluate.scoring import Effort
from lm.output.numbers import count, decimals, percent, with_error
from lm.run import Run
from lm.study import runner, sections
from lm.study.analyses.truth import ABOVE, gap_figure, states_figure, truth_table, with_truth
from lm.study.grid import GPT_AND_BERTS, Scale, Size, StudyRun, size_text
from lm.study.groups import Group, groups_of
from lm.study.report.values import Plot, Report, Section
from lm.study.scales import SMOKE_SOURCE, source_data
from lm.study.sentences import NO_ANSWER

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
    cells = [cell._replace(result=with_truth(cell.result)) for cell in cells]
    known = list(groups_of(cells, VARIANTS | RANDOM).values())
    groups = [group for group in known if group.variant in VARIANTS.values()]
    random = [group for group in known if group.variant in RANDOM.values()]
    top = max(((group.size, group.tokens) for group in groups), default=None)
    best = [group for group in groups if (group.size, group.tokens) == top]
    found: list[Section | None] = []
    if groups:
        found = [
            sections.section(
                "From above, and how near",
                "The truth is what the source itself needs for the same documents, by the"
                " forward algorithm. For the source all orders of unmasking a text agree,"
                " so the least any-order bound is the same number, and both kinds of model"
                " are held to it.",
                Plot(
                    "above_truth",
                    gap_figure(groups),
                    "Bits per byte above the truth: left by training tokens, at the largest"
                    " size; right by size, at the most tokens. Bars are one standard error,"
                    " over seeds and over documents (paired with the truth) together.",
                ),
            ),
            sections.fractions_section(
                {group.variant.label: (group.variant.colour, group) for group in best},
                "What is masked in part of a row can be foretold by forward-backward, with the"
                " other masked tokens summed out. No model does better, under the same masks.",
                heading="At every fraction masked",
                caption="Bits per byte of the masked tokens when a fraction of the row is"
                " masked, at the largest size, mean over seeds; in black what the source"
                " needs.",
                truth=True,
            ),
            _states(groups, best),
            _random_lengths(random),
            sections.equal_section(
                best,
                best[0],
                "Variants of one size and one number of tokens read the same rows in the same"
                " order from the same initial values; the table above is of the largest ones.",
            ),
            _limits(cells, groups),
        ]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        best,
        title="Against a known truth",
        answer=_answer(known, best),
        table=truth_table(groups),
        sections=found,
    )


def _answer(groups: Sequence[Group], best: Sequence[Group]) -> str:
    known = [group for group in best if group.mean("above_truth") is not None]
    if not known:
        return NO_ANSWER
    parts = [
        f"{g.variant.name} {with_error(g.mean('above_truth') or 0.0, g.error(ABOVE))}"
        for g in known
    ]
    text = (
        f"At {size_text(known[0].size)} parameters and {count(known[0].tokens)} tokens,"
        f" above the {decimals(known[0].mean('truth_bits_per_byte') or 0.0)} bits per byte"
        f" that the source needs, lie: {', '.join(parts)}."
    )
    below = [
        group.name
        for group in groups
        if (group.mean("above_truth") or 0.0) < -2 * (group.error(ABOVE) or 0.0)
    ]
    return text + (
        " No model, at any size, lies below the truth by more than twice its error."
        if not below
        else " Below the truth by more than twice their error, which no honest scorer allows:"
        f" {', '.join(below)}."
    )


def _states(groups: Sequence[Group], best: Sequence[Group]) -> Section | None:
    known = [group for group in best if group.mean("probe_accuracy") is not None]
    if not known:
        return None
    found = [
        f"{group.variant.name} {percent(group.mean('probe_accuracy') or 0.0)} of at most"
        f" {percent(group.mean('truth_probe_accuracy') or 0.0)}"
        for group in known
    ]
    return sections.section(
        "The hidden states",
        "A linear probe reads the source's hidden state off the frozen states of the last"
        f" layer, with nothing masked: {', '.join(found)}. A GPT sees less, so less can be"
        " known at its place; what it lacks of that is its own.",
        Plot(
            "states",
            states_figure([group for group in groups if group.size == best[0].size]),
            "Hidden states found by the probe, by training tokens at the largest size;"
            " dashed lines are what the best guess from the same context finds.",
        ),
    )


def _random_lengths(groups: Sequence[Group]) -> Section | None:
    """What models of documents of random lengths need, with what the layout costs."""
    source = groups[0].run.data.corpus if groups else None
    if not isinstance(source, Hmm):
        return None
    return sections.section(
        "Documents of random lengths",
        f"The same tables, but a document ends after each symbol with probability 1 in"
        f" {source.length}, and rows cut documents where they end. The truth is then that"
        " of the text in each window, and of where its documents end. Were the places that"
        " a BERT is shown given to it for nothing, its numbers could fall below the truth.",
        truth_table(groups, layout=True),
    )


def _limits(cells: Sequence[StudyRun], groups: Sequence[Group]) -> Section | None:
    source, rate = cells[0].run.data.corpus, groups[0].mean("entropy_rate")
    told = f", whose entropy rate is {decimals(rate)} bits per symbol" if rate else ""
    return sections.section(
        "What this does and does not show",
        "It shows that the scorers are honest, and how fast models of this size learn one"
        f" source of {source.states if isinstance(source, Hmm) else 'no'} hidden states{told}."
        " It is not language: what must be remembered of a text fits into one state, so nothing"
        " is said of long-range structure, and the order of variants may be another on text."
        " One learning rate serves all variants and was tuned for none; how far a variant still"
        " lies above the truth is a matter of its training too. Other seeds of the source are"
        " other tables, some of them easier. With two seeds of training, errors over seeds are"
        " rough.",
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
