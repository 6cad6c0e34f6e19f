"""Does an encoder with a decoder predict better than one stack, and under which objective?

Two stacks and one are trained on the same rows of text to say spans that were removed, and to
say the end of a row given its beginning (the same objective with one span, half of the row).
The two have as many layers as the one together (two half stacks), or each (two whole stacks).
One stack is trained as a GPT and as a prefix model too. Whoever has the same objective has its
loss in common; all have the bits per byte of the second half of held-out windows, given the
first.

Answers to: Raffel et al. 2020 (arXiv:1910.10683), table 2, where an encoder-decoder trained on
spans transfers best, and a prefix model best of single stacks; Wang et al. 2022
(arXiv:2204.05832), by whom causal single stacks are best without tuning; and Tay et al. 2022
(UL2, arXiv:2205.05131), by whom the objective matters more than the architecture.

    python -m experiments.encoder_decoder_or_single_stack --scale laptop

    smoke        3 minutes        toys on bytes, to see that everything works
    laptop       half an hour     0.2M parameters, 0.6M tokens of Python's library
    workstation  not run          0.8M parameters, 4M tokens of Python's library
    v5e-8        a day, 8 chips   85M parameters (BERT-base), 6.5B tokens of Wikipedia

The accelerator's line is a plan by FLOPs, not run (`--cost v5e-8`).

Expect two stacks of as many layers each ahead of one at its objective, as they have nearly
twice the parameters at nearly its FLOPs; who was trained on ends of rows ahead of who was
trained on spans in second halves, and the GPT, whose every token is a target, ahead of both.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from lm.model import EncoderDecoder
from lm.objectives import Causal, Plain, Prefix, Spans
from lm.output.numbers import decimals
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import parts, second_half
from lm.study.analyses.parts import Contrast
from lm.study.grid import Scale, Size, StudyRun, Variant, scale_of
from lm.study.groups import Measure, groups_of
from lm.study.report.figures import BLUE, GREEN, ORANGE, VERMILLION
from lm.study.report.values import Report

END = Spans(rate=0.5, span=4096)
"""One span, as no row has room for another: the second half of a row, given the first."""
OBJECTIVES: dict[str, tuple[str, Plain, str]] = {
    "causal": ("as a GPT", Causal(), BLUE),
    "prefix": ("as a prefix model", Prefix(), GREEN),
    "spans": ("on spans", Spans(), VERMILLION),
    "end": ("on ends of rows", END, ORANGE),
}
STACKS = {
    "single": "one stack",
    "half": "two half stacks",
    "whole": "two whole stacks",
}
"""An encoder and a decoder have half of the one stack's layers each, or all of them each."""
VARIANTS = {
    f"{stack}_{name}": Variant(
        f"{label} {what}",
        f"{label} {what}",
        replace(objective, stack="encoder_decoder") if stack != "single" else objective,
        colour,
    )
    for name, (what, objective, colour) in OBJECTIVES.items()
    for stack, label in STACKS.items()
    if stack == "single" or isinstance(objective, Spans)
}
GPT = VARIANTS["single_causal"]
OWN = Measure("validation_loss", lambda result: None, -1, decimals)
"""The objective's own loss, which compares where the objective is the same."""
VARIED = ("model",)


def _scale(scale: Scale, sentinels: int, **fields: Any) -> Scale:
    """With sentinels in the tokenizer of all variants, as many as spans of a row need."""
    tokenizer = replace(scale.data.tokenizer, sentinels=sentinels)
    scale = scale._replace(data=replace(scale.data, tokenizer=tokenizer))
    return scale._replace(**fields)


PLANS = {
    "smoke": _scale(scales.SMOKE, 8, sizes=(Size(2, 32, 2),), seeds=1),
    "laptop": _scale(
        scales.LAPTOP._replace(data=replace(scales.LAPTOP.data, batch=8)),
        8,
        sizes=(Size(4, 64, 2),),
        tokens=(600_000,),
        settings={"evaluations": 2, "evaluation_rows": 256},
    ),
    "workstation": _scale(
        scales.LAPTOP,
        8,
        sizes=(Size(4, 128, 4),),
        tokens=(4_000_000,),
        settings={"evaluations": 8, "evaluation_rows": 512},
    ),
    "v5e-8": _scale(scales.V5E_8, 32),
}
SCALES = tuple(PLANS)
EFFORT = scales.PART_EFFORT


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every stack with every objective that it can have, for every seed."""
    plan, found = PLANS[scale], dict[str, Run]()
    (size,) = plan.sizes
    for name, run in plan.runs(VARIANTS).items():
        stack = name.partition("_")[0]
        depth = size.depth // 2 if stack == "half" else size.depth
        two = EncoderDecoder(depth=depth, width=size.width, heads=size.heads)
        found[name] = run if stack == "single" else replace(run, model=two)
    return found


def after(cells: list[StudyRun], directory: Path) -> None:
    """Asks all runs for the second half of held-out windows."""
    rows = EFFORT[scale_of(directory)].rows
    parts.ask(cells, second_half.NAME, partial(second_half.second_half, rows=rows))


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    cells = parts.with_scores(cells, second_half.NAME)
    groups = list(groups_of(cells, VARIANTS).values())
    halves = Contrast("Second halves", groups, GPT, second_half.MEASURE)
    whole = Contrast("Whole rows", groups, GPT)
    own = [
        Contrast(
            f"Own loss {OBJECTIVES[name][0]}",
            [group for group in groups if group.objective in (single, changed)],
            VARIANTS[f"single_{name}"],
            OWN,
            "nats a target",
        )
        for name in ("spans", "end")
        for single in [VARIANTS[f"single_{name}"].objective]
        for changed in [VARIANTS[f"whole_{name}"].objective]
    ]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Two stacks or one, by objective",
        answer=parts.contrasts_answer([*own, halves]),
        table=parts.contrasts_table([*own, halves, whole], "stack and objective"),
        sections=[
            sections.figure_section(
                "Stacks at the same objective",
                "own_loss",
                parts.contrasts_figure(own),
                "The objective's own loss on the same held-out rows with the same spans"
                f" removed. {parts.BARS}",
            ),
            sections.figure_section(
                "All in one unit",
                "bits",
                parts.contrasts_figure([halves, whole]),
                "Left: bits per byte of the second half of held-out windows, given the first."
                " Right: of whole windows, given nothing; a span model says each document"
                f" behind one sentinel. All are exact. {parts.BARS}",
            ),
            parts.equal_section(
                [halves],
                VARIED,
                "All read the same rows. How many tokens of them are targets follows from the"
                " objective (all of a row, half of it on average, half, or a sixth), and FLOPs"
                " from objective and stack: both are in the table.",
            ),
            parts.limits(
                [halves],
                "Python's source",
                "Who was trained on short spans was never asked for half of a row, and its"
                " number there shows that as much as what it knows. T5's case for two stacks"
                " and spans is fine-tuning, which is not asked here. A difference of stacks is"
                " one of parameters or of FLOPs too: half the layers each is near one stack in"
                " parameters (attention to the source is added), all layers each is near it in"
                " FLOPs.",
            ),
        ]
        if groups
        else [],
        compared=parts.contrast_rows([halves]),
        varied=VARIED,
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
