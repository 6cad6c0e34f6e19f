"""What does a language model gain or lose by being trained as a BERT or as a GPT?

Three variants - causal (GPT), masked at 15% (BERT), masked at all rates - are trained from the
same initial values on the same batches, and all are scored in bits per byte of the same
held-out text. A linear probe then asks what their states represent, because predicting text
and representing it are different virtues.

Answers to: Devlin et al. 2019 (arXiv:1810.04805), table 5, where a left-to-right model of
BERT's size is behind in fine-tuning, and Wettig et al. 2023 (arXiv:2202.08005), figure 1, where
the best masking rate is not 15%. Neither compares how well the models predict, for want of a
common unit.

    python -m experiments.bert_vs_gpt --scale laptop

    smoke        a minute            two toys on bytes, to see that everything works
    laptop       5 minutes, 2 cores  0.2M and 0.8M parameters, 0.6M tokens of Python's library
    workstation  an hour, 2 cores    0.8M and 1.8M parameters, 4M tokens of the same
    v5e-8        two days, 8 chips   25M, 85M and 302M parameters (BERT-base and -large),
                                     6.5B tokens of Wikipedia (wiki40b/en, which TFDS prepares
                                     once, for which it needs apache-beam)

Expect the GPT ahead in bits per byte by more than half a bit at both CPU scales, and below
gzip and xz on whole files at the workstation's (1.4 against 2.2 and 2.1). At these budgets it
is ahead in the probe too, though it sees one side only: a BERT at 15% has been asked a seventh
of its questions. Expect a fixed rate ahead of all rates where little is masked and behind
where all is.
"""

import sys
from collections.abc import Sequence

from msgspec.structs import replace

from lm.data import Bytes, Data, SentencePiece, Stdlib
from lm.evaluate.scoring import Effort
from lm.output.numbers import count, decimals, with_error
from lm.run import Run
from lm.study import figures, runner, sections
from lm.study.checks import seed_rows
from lm.study.grid import BERT, GPT, GPT_AND_BERTS, Scale, Size, StudyRun, size_text
from lm.study.groups import (
    BITS,
    PROBE,
    Group,
    Measure,
    best_of,
    by_size,
    gaps,
    groups_of,
    of_variant,
)
from lm.study.report.values import Plot, Report, Section
from lm.study.scales import V5E_8
from lm.study.sentences import capital, value_text
from lm.study.tables import equal_table, main_table, spent_table

VARIANTS = GPT_AND_BERTS
PYTHON = Data(corpus=Stdlib(), tokenizer=SentencePiece(size=2048), length=256, batch=16)
PLANS = {
    "smoke": Scale(
        Data(tokenizer=Bytes(), length=64, batch=16),
        sizes=(Size(1, 32), Size(2, 64)),
        tokens=(24_576,),
        settings={"evaluations": 2, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        replace(PYTHON, batch=8, validation=0.05),
        sizes=(Size(4, 64), Size(4, 128, 2)),
        tokens=(600_000,),
        settings={"evaluations": 5, "evaluation_rows": 64},
    ),
    "workstation": Scale(
        PYTHON,
        sizes=(Size(4, 128, 2), Size(4, 192, 3, 8e-3)),
        tokens=(4_000_000,),
        settings={"evaluations": 16},
    ),
    "v5e-8": V5E_8._replace(
        data=replace(V5E_8.data, length=1024, batch=512),
        sizes=(Size(8, 512, 8, 4e-3), Size(12, 768, 12, 3e-3), Size(24, 1024, 16, 2e-3)),
        seeds=1,
    ),
}
SCALES = tuple(PLANS)
EFFORT = {
    "smoke": Effort(rows=16, samples=2, replicates=2, curve_rows=8, probe_tokens=3_000),
    "laptop": Effort(samples=2, curve_rows=32),
    "v5e-8": Effort(rows=4096, curve_rows=1024, probe_tokens=100_000),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name, the smallest models first, all variants of a size together."""
    return PLANS[scale].runs(VARIANTS)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    best, gpts = largest(groups), of_variant(groups, GPT)
    found: list[Section | None] = []
    if groups:
        first = (of_variant(best, GPT) or best)[0]
        found = [
            sections.section(
                "Who predicts better",
                "Bits per byte is the length of the held-out text when it is coded with the"
                " model, divided by the length of the text itself. For the GPT it is exact, by"
                " the chain rule. For a BERT it is an upper bound: the mean over random orders"
                " of unmasking the text. The mixture of all orders needs at most that, perhaps"
                " less, but cannot be computed.",
                Plot(
                    "bits_per_byte",
                    figures.bits_figure(groups, GPT, sections.compressors_of(groups)),
                    "Left: bits per byte of the held-out text by size; filled marks are exact,"
                    " hollow ones upper bounds; dashed lines are compressors on the same text,"
                    " by document and by windows as long as the models' context. Right: how far"
                    " each BERT's bound lies above the GPT of its size. Bars are one standard"
                    " error over documents, on the right of the paired difference.",
                ),
            ),
            sections.figure_section(
                "What training cost",
                "loss",
                figures.loss_figure(cells, VARIANTS),
                "Training loss (smoothed lines) and validation loss (marks) against tokens and"
                " against FLOPs of forward and backward matrix products. The losses are"
                " different quantities: the next token, 15% of the tokens given the rest, any"
                " fraction of them given the rest. Compare curves of one colour.",
                "All variants read the same tokens, but a BERT at 15% is asked for a seventh"
                " of the predictions and skips the vocabulary's matrix everywhere else.",
            ),
            sections.compressors_section(groups, first),
            _bound(groups, best),
            sections.probe_section("Who represents better", groups, best[0].size),
            sections.section(
                sections.EQUAL,
                equal_table(seed_rows(groups), "between the variants of a size"),
                spent_table(best, first),
                "The learning rate and all other settings are one choice per size, from a few"
                " short runs of the GPT and of the BERT at all rates, and not tuned for each"
                " variant. Equal tokens are not equal predictions: the comparison is at equal"
                " data read, and the figure of losses against FLOPs shows the other side.",
            ),
            sections.at_work_section(groups),
        ]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="BERT against GPT on the same bytes",
        answer=_answer(best),
        details=_details(best),
        table=main_table(groups, gpts, "the GPT of the same size"),
        sections=found,
    )


def largest(groups: Sequence[Group]) -> list[Group]:
    """The groups of the largest size with a GPT and a BERT, else of that with the most
    variants.
    """
    sizes = list(by_size(groups).values())
    whole = [found for found in sizes if found[1:] and of_variant(found, GPT)]
    return whole[-1] if whole else max(sizes, key=len, default=[])


def _answer(best: Sequence[Group]) -> str:
    berts = [group for group in best if group.variant != GPT]
    if not best:
        return "There is no answer yet: no run is finished."
    if not (of_variant(best, GPT) and berts):
        return "There is no answer yet: no size has both a GPT and a BERT that is finished."
    (gpt,) = of_variant(best, GPT)
    return f"{_compare(gpt, berts, BITS)} {_compare(gpt, berts, PROBE)}".strip()


def _compare(gpt: Group, berts: Sequence[Group], measure: Measure) -> str:
    """Who is better by a measure, the GPT or the best of the BERTs; "" if that is not known."""
    ranked = best_of(berts, measure)
    gap = ranked and gaps(berts, gpt, measure).get(ranked[0].name)
    if not (ranked and gap):
        return ""
    name, verb = ranked[0].variant.name, "predicts" if measure is BITS else "represents"
    ours, theirs = value_text(gpt, measure), value_text(ranked[0], measure)
    if gap.error is not None and not gap.beyond:
        said = f"Neither {verb} better beyond the error"
    elif gap.value * measure.better > 0:
        said = f"{capital(name)} {verb} better"
    else:
        far = ", as far as a BERT can be measured" if measure is BITS else ""
        said = f"The GPT {verb} better{far}"
    if measure is PROBE:
        return (
            f"{said}: a linear probe reads the role of {ours} of the tokens off the GPT's"
            f" states, and of {theirs} off those of {name}."
        )
    apart = with_error(abs(gap.value), gap.error)
    return (
        f"{said}: the GPT needs {ours} bits per byte of held-out text, {name} at most {theirs},"
        f" {apart} {'more' if gap.value > 0 else 'fewer'} on the same documents."
    )


def _details(best: Sequence[Group]) -> tuple[str, ...]:
    if not best:
        return ()
    return (
        f"This is at {size_text(best[0].size)} parameters (without the embedding) after"
        f" {count(best[0].run.tokens)} training tokens. After ± stands one standard error over"
        " the held-out documents, paired in differences. There is one seed, so how much"
        " trainings differ among themselves is not in it.",
    )


def _bound(groups: Sequence[Group], best: Sequence[Group]) -> Section | None:
    """The error by fraction masked, and what it says of the bound of the BERT at 15%."""
    floors = sections.baselines_of(groups, "uniform", "unigram")
    return sections.fractions_section(
        {group.label: (group.variant.colour, group) for group in groups},
        "The any-order bound is a mean over all fractions of masked tokens, from one token to"
        " the whole row, each as likely. A BERT trained at 15% has seen one of them. Its"
        " bound is valid: nobody who codes the text with this model in random orders needs"
        " more, given where documents begin and end, which a BERT sees and a GPT must predict"
        " (a few bits a document, in the BERT's favour). But it speaks of the model as a"
        " predictor of whole texts, a use that it was never trained for, and not of what it"
        " does at 15%, nor of what it represents. A high bound does not prove that the model"
        " cannot predict; another order, or a mixture of them, may do better.",
        *(
            _fixed_rate(group, floors.get("uniform"))
            for group in of_variant(best, BERT)
            if group.error_by_fraction()
        ),
        heading="What a fixed-rate BERT's bound says, and what it does not",
        floors=floors,
        trained_at=0.15,
    )


def _fixed_rate(group: Group, uniform: float | None) -> str:
    by_fraction = group.error_by_fraction()
    near, far = min(by_fraction, key=lambda fraction: abs(fraction - 0.15)), max(by_fraction)
    text = (
        f"The BERT trained at 15% needs {decimals(by_fraction[near])} bits per byte of the"
        f" masked tokens when {near:.0%} are masked, and {decimals(by_fraction[far])} when"
        f" {far:.0%} are"
    )
    if uniform is not None:
        relation = "worse" if by_fraction[far] > uniform else "still better"
        text += f", {relation} than guessing all tokens alike ({decimals(uniform)})"
    bound, layout = (group.mean(key) or 0.0 for key in ("bits_per_byte", "layout_bits"))
    text += f"; over all fractions that makes its bound of {decimals(bound)}"
    text += f", with {decimals(layout)} for where documents end."
    if (pseudo := group.score("pseudo")) is not None:
        text += (
            f" Its pseudo-likelihood, each token given all the others, is {decimals(pseudo)}"
            " bits per byte. That is no likelihood: each token is predicted by a model that has"
            " been shown what it is asked to code next, so the sum bounds nothing and may lie"
            " below the entropy of the text."
        )
    return text


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
