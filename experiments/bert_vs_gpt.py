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
    workstation  3 hours, 2 cores    0.8M and 1.8M parameters, 4M tokens of English, three
                                     seeds; `YARDSTICK_CORPORA` holds a folder `english`
    overnight    90 min., 2 cores    4.7M parameters, 8M tokens of English, one seed
    v5e-8        two days, 8 chips   25M, 85M and 302M parameters (BERT-base and -large),
                                     6.5B tokens of Wikipedia (wiki40b/en, which TFDS prepares
                                     once, for which it needs apache-beam)

Expect the GPT ahead in bits per byte by more than half a bit at both CPU scales, and below
gzip and xz on whole files at the workstation's (1.7 against 3.0 and 3.0). At the laptop's it is
ahead in the probe too, though it sees one side only: a BERT at 15% has been asked a seventh of
its questions. Expect a fixed rate ahead of all rates where little is masked and behind where
all is.
"""

import sys

from msgspec.structs import replace

from lm.data import Bytes, Data, SentencePiece, Stdlib
from lm.evaluate.scoring import Effort
from lm.output.numbers import count
from lm.run import Run
from lm.study import figures, runner, scales, sections, tables
from lm.study.analyses import contest
from lm.study.checks import seed_rows
from lm.study.grid import GPT, GPT_AND_BERTS, Scale, Size, StudyRun, size_text
from lm.study.groups import groups_of, of_variant
from lm.study.report.values import Plot, Report

VARIANTS = GPT_AND_BERTS
_ENGLISH = Scale(
    replace(scales.ENGLISH, length=256, batch=16),
    settings={"evaluations": 8, "evaluation_rows": 256},
)
PLANS = {
    "smoke": Scale(
        Data(tokenizer=Bytes(), length=64, batch=16),
        sizes=(Size(1, 32), Size(2, 64)),
        tokens=(24_576,),
        settings={"evaluations": 2, "evaluation_rows": 16},
    ),
    "laptop": Scale(
        Data(
            corpus=Stdlib(),
            tokenizer=SentencePiece(size=2048),
            length=256,
            batch=8,
            validation=0.05,
        ),
        sizes=(Size(4, 64), Size(4, 128, 2)),
        tokens=(600_000,),
        settings={"evaluations": 5, "evaluation_rows": 64},
    ),
    "workstation": _ENGLISH._replace(
        sizes=(Size(4, 128, 2), Size(4, 192, 3, 8e-3)), tokens=(4_000_000,), seeds=3
    ),
    "overnight": _ENGLISH._replace(sizes=(Size(6, 256, 4, 6e-3),), tokens=(8_000_000,)),
    "v5e-8": scales.V5E_8._replace(
        data=replace(scales.V5E_8.data, length=1024, batch=512),
        sizes=(Size(8, 512, 8, 4e-3), Size(12, 768, 12, 3e-3), Size(24, 1024, 16, 2e-3)),
        seeds=1,
        settings={**scales.V5E_8.settings, "microbatches": 2},
    ),
}
SCALES = tuple(PLANS)
EFFORT = scales.EFFORT | {
    "laptop": Effort(samples=2, curve_rows=32),
    "workstation": Effort(rows=512),
    "overnight": Effort(rows=512),
}


def runs(scale: str) -> dict[str, Run]:
    """The runs by name, the smallest models first, all variants of a size together."""
    return PLANS[scale].runs(VARIANTS)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    groups = list(groups_of(cells, VARIANTS).values())
    best = contest.largest(groups)
    first = next(iter(of_variant(best, GPT) or best), None)
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="BERT against GPT on the same bytes",
        answer=contest.contest_answer(best),
        details=(
            f"This is at {size_text(first.size)} parameters (without the embedding) after"
            f" {count(first.run.tokens)} training tokens. After ± stands one standard error,"
            " paired in differences, over the held-out documents"
            + (
                " and seeds."
                if len(first.results) > 1
                else ". There is one seed, so how much trainings differ among themselves is not"
                " in it."
            ),
        )
        if first
        else (),
        table=tables.main_table(groups, of_variant(groups, GPT), "the GPT of the same size"),
        sections=[
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
                    " error over documents, and over seeds where there are several; on the"
                    " right of the paired difference.",
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
            contest.bound_section(groups, best),
            sections.probe_section("Who represents better", groups, first.size),
            sections.section(
                sections.EQUAL,
                tables.equal_table(seed_rows(groups)),
                tables.spent_table(best, first),
                "The learning rate and all other settings are one choice per size, from a few"
                " short runs of the GPT and of the BERT at all rates, and not tuned for each"
                " variant. Equal tokens are not equal predictions: the comparison is at equal"
                " data read, and the figure of losses against FLOPs shows the other side.",
            ),
            sections.at_work_section(groups),
        ]
        if first
        else [],
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
