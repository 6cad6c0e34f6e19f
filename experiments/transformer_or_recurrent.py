"""Does a transformer predict better than recurrent and convolutional models, or just sooner?

A transformer, an LSTM, a gated dilated convolution and a linear recurrence (RG-LRU) share all
but what mixes positions: the ends, the norms, the MLP, the depth. Each has the width at which
its parameters come nearest to the transformer's. Causal and masked at all rates, each at the
best of a few learning rates, they read the same rows, and are scored in bits per byte.

Answers to: Vaswani et al. 2017 (arXiv:1706.03762), table 2, where a transformer translates two
to three BLEU better than recurrent and convolutional networks, at a seventh and a third of
their training FLOPs; Kaplan et al. 2020 (arXiv:2001.08361), figure 7, where LSTMs keep up with
transformers on the first hundred tokens of a context and not after; De et al. 2024
(arXiv:2402.19427), section 3, where models of RG-LRU alone lie a little behind transformers.

    python -m experiments.transformer_or_recurrent --scale laptop

    smoke   3 minutes            toys on bytes, to see that everything works
    laptop  20 minutes, 2 cores  0.2M parameters, 0.2M tokens of Python's library
    v5e-8   3 days, 8 chips      85M parameters (BERT-base), 6.5B tokens of Wikipedia

Seconds are of CPUs, on which a loop over positions costs little. So the steps of the largest
scale are planned for its TPU as well, which takes its compiler some minutes more; where none is
installed, the report says so. A plan's floors count products, memory and networks, and not how
long a loop of 512 turns waits between them: an LSTM's real step there is longer. Expect small
gaps in bits, as rows of 128 tokens are where recurrences keep up, and the LSTM slowest.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec.structs import replace as changed

from lm.model import Convolution, LinearRecurrence, Lstm, Model
from lm.objectives import AnyOrder, Causal, Objective
from lm.run import Run
from lm.study import runner, scales, sections
from lm.study.analyses import architectures
from lm.study.figures import dots_figure
from lm.study.grid import Size, StudyRun, Variant, parameters, scale_of, size_text
from lm.study.groups import BITS, Group, groups_of
from lm.study.report.figures import BLUE, GREEN, ORANGE, VERMILLION
from lm.study.report.values import Report
from lm.study.sentences import NO_ANSWER, together, winner
from lm.study.tables import main_table

KINDS = {
    "transformer": ("transformer", BLUE),
    "lstm": ("LSTM", VERMILLION),
    "convolution": ("convolution", GREEN),
    "recurrence": ("linear recurrence", ORANGE),
}
OBJECTIVES: dict[str, Objective] = {"causal": Causal(), "masked": AnyOrder()}
VARIANTS = {
    f"{kind}_{how}": Variant(f"{label}, {how}", f"the {how} {label}", objective, colour)
    for how, objective in OBJECTIVES.items()
    for kind, (label, colour) in KINDS.items()
}
PLANS = {
    "smoke": scales.SMOKE._replace(sizes=(Size(2, 32, 2),), seeds=1),
    "laptop": scales.LAPTOP._replace(sizes=(Size(4, 64, 2),), seeds=2),
    "v5e-8": scales.V5E_8,
}
RATES = {"laptop": (5e-3, 1.5e-2)}
"""Learning rates that each variant is trained at; elsewhere that of the size alone."""
WIDTHS = {
    "smoke": {"lstm_causal": 28, "lstm_masked": 30, "convolution": 26, "recurrence": 32},
    "laptop": {"lstm_causal": 56, "lstm_masked": 60, "convolution": 54, "recurrence": 64},
    "v5e-8": {"lstm_causal": 672, "lstm_masked": 704, "convolution": 640, "recurrence": 800},
}
"""Those at which parameters come nearest to the transformer's, by `lm.model.matched`."""
MULTIPLE = {"v5e-8": 32}
"""Widths are multiples of this, elsewhere of 2."""
SCALES = tuple(PLANS)
EFFORT = scales.EFFORT | {"laptop": replace(scales.EFFORT["laptop"], rows=64)}
SLICE = "v5e-8"


def runs(scale: str) -> dict[str, Run]:
    """The runs by name: every variant at every learning rate, for every seed."""
    plan, found = PLANS[scale], {}
    for rate in RATES.get(scale, (plan.sizes[0].learning_rate,)):
        size = plan.sizes[0]._replace(learning_rate=rate)
        for name, run in plan._replace(sizes=(size,)).runs(VARIANTS).items():
            variant, rest = name.split("-", 1)
            model = _model(variant, size, WIDTHS[scale])
            found[f"{variant}-r{rate:g}-{rest}"] = changed(run, model=model)
    return found


def _model(variant: str, size: Size, widths: dict[str, int]) -> Model:
    kind, how = variant.split("_")
    if kind == "transformer":
        return size.model
    depth, width = size.depth, widths.get(variant) or widths[kind]
    match kind:
        case "lstm":  # of one cell, as it is known, where rows are read from the left alone
            return Lstm(depth=depth, width=width, cells=1 if how == "causal" else 2)
        case "convolution":
            return Convolution(depth=depth, width=width)
        case _:
            cells = 16 if width > 256 else 4
            return LinearRecurrence(depth=depth, width=width, cells=cells)


def after(cells: list[StudyRun], directory: Path) -> None:
    """Plans the causal steps of the largest scale for its TPU, but where all are toys."""
    if scale_of(directory) != "smoke":
        first = {name.split("-")[0]: run for name, run in runs(SLICE).items() if run.seed == 0}
        causal = {name: run for name, run in first.items() if name.endswith("causal")}
        architectures.keep_planned(causal, SLICE, directory / architectures.PLANNED)


def report(cells: list[StudyRun]) -> Report:
    """What the finished runs say; what is missing is named."""
    size = parameters(PLANS[scale_of(cells[0].directory.parent)].sizes[0].model)
    # Sizes that are as near as widths allow are compared as one.
    tried = [group._replace(size=size) for group in groups_of(cells, VARIANTS).values()]
    groups = architectures.best_rates(tried)
    planned = architectures.planned_of(cells)
    parts = {how: [g for g in groups if g.objective == of] for how, of in OBJECTIVES.items()}
    tables = [
        main_table(found, _transformer(found), "the transformer of the same objective")
        for found in parts.values()
    ]
    return sections.report_of(
        sys.modules[__name__],
        cells,
        groups,
        title="Transformer or recurrent",
        answer=" ".join(filter(None, map(_answer, parts.values()))) or NO_ANSWER,
        table=replace(tables[0], rows=[row for table in tables for row in table.rows]),
        sections=[
            sections.figure_section(
                "Who predicts better",
                "architectures",
                dots_figure(
                    {
                        how: (colour, {_kind(g): g for g in parts[how]})
                        for how, colour in (("causal", BLUE), ("masked", VERMILLION))
                    }
                ),
                "Left: bits per byte of the held-out text, exact for causal models and a bound"
                f" for masked ones. {sections.PROBED}",
            ),
            *(
                sections.figure_section(
                    f"How fast they learn, {how}",
                    f"clocks_{how}",
                    architectures.clocks_figure(found) if found else None,
                    "Training loss (smoothed, of the first seed) by tokens, by FLOPs of forward"
                    " and backward matrix products, and by seconds of training steps.",
                )
                for how, found in parts.items()
            ),
            *(
                sections.section(
                    f"What a token costs, {how}",
                    architectures.speeds_table(found, first[0], planned)
                    if (first := _transformer(found))
                    else None,
                    _planned_text(planned) if how == "causal" else None,
                )
                for how, found in parts.items()
            ),
            sections.section(
                sections.EQUAL,
                "All variants read the same rows in the same order, with the same depth, MLP,"
                " norms, ends and optimizer. Widths differ, so that parameters without the"
                " embedding are as equal as widths allow; the embedding, and with it the head,"
                " is as wide as its model.",
                architectures.rates_table(tried),
            ),
            sections.limits(
                cells,
                groups,
                "Rows are short, which favours recurrences and convolutions: what they forget,"
                " or do not reach, is little. All kinds have the MLP of the transformer behind"
                " them, which the LSTMs of 2017 had not. Seconds are of these programs on these"
                " processors; a kernel that keeps an LSTM's matrix where it is used would be"
                " faster than a loop.",
            ),
        ]
        if groups
        else [],
        compared={},
    )


def _transformer(groups: list[Group]) -> list[Group]:
    return [group for group in groups if _kind(group) == "transformer"]


def _kind(group: Group) -> str:
    return group.variant.label.partition(",")[0]


def _answer(groups: list[Group]) -> str:
    """Who predicts best of one objective, and how long each takes to read the same text."""
    first = _transformer(groups)
    best = winner(groups, BITS, lambda group: group.variant.name)
    if not (first and best):
        return ""
    seconds = {group.variant.name: group.mean("device_seconds") or 0.0 for group in groups}
    theirs = seconds.pop(first[0].variant.name)
    times = [f"{each / theirs:.1f} times as long for {who}" for who, each in seconds.items()]
    return (
        f"The least bits per byte are those of {best}. Beside the transformer's, training steps"
        f" took {together(times)}."
    )


def _planned_text(planned: dict[str, Any]) -> str:
    if not planned:
        return "No step was planned for a TPU at this scale."
    if why := planned["steps"].get("why"):
        return f"No step could be planned for {planned['slice']}: {why}"
    return (
        f"Planned are the training steps of the scale {SLICE}, of models of"
        f" {size_text(parameters(PLANS[SLICE].sizes[0].model))} parameters, compiled for"
        f" {planned['slice']} by its own compiler. At most so many tokens a second, as a floor"
        " counts products, memory and networks, each at its maker's speed, and not how long a"
        " loop over positions waits between its turns."
    )


if __name__ == "__main__":
    runner.main(sys.modules[__name__])
