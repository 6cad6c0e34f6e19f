"""Trained models whose weights are rounded to few bits in several ways, and scored again."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from lm.data import vocabulary_size
from lm.evaluate.effort import Effort
from lm.evaluate.scoring import score_by, valid
from lm.output.numbers import decimals
from lm.quantization import Quantization, Storage
from lm.quantization.scheme import Method
from lm.results import Score
from lm.study.analyses.parts import Contrast, starred
from lm.study.grid import StudyRun, Variant
from lm.study.groups import Gap, Group
from lm.study.report.figures import BLUE, INK, MARKERS, PAPER, VERMILLION, panels, styled
from lm.study.report.values import Column, Table
from lm.study.sentences import NO_ANSWER, signed_text
from lm.train.load import ModelWithText
from lm.train.quantize import quantized_params, split_rows

NAME = "bits"
"""Of the file beside a run that holds the scores."""
METHODS: dict[Method, tuple[str, str]] = {
    "nearest": ("to nearest", BLUE),
    "gptq": ("GPTQ", VERMILLION),
}
"""What figures call them, and their colours."""
FLOAT = Variant("float32", "float32", None, INK)  # type: ignore[arg-type] # of any objective


class Kept(NamedTuple):
    """A way to keep the weights of the layers."""

    key: str
    quantization: Quantization
    variant: Variant


def ways(bits: Iterable[Any], group: int) -> tuple[Kept, ...]:
    """Each method at each number of bits: 8 by channel, fewer in groups."""
    found = []
    for method, (label, colour) in METHODS.items():
        for each in bits:
            size = None if each == 8 else group
            quantization = Quantization(bits=each, group=size, method=method)
            title = f"int{each}, {label}"
            variant = FLOAT._replace(label=title, name=title, colour=colour)
            found.append(Kept(f"int{each}_{method}", quantization, variant))
    return tuple(found)


def scores(trained: ModelWithText, *, effort: Effort, kept: Sequence[Kept]) -> dict[str, Score]:
    """The bits per byte of a model's held-out text by the way its weights are kept.

    GPTQ calibrates by rows of the text that it was trained on. All are scored by one scorer
    under the same masks.
    """
    run, tokens = trained.run, trained.tokens
    scorer = next(iter(valid(run, effort).values()))
    found = {FLOAT.name: score_by(trained, scorer, effort)}
    rows = split_rows(run, tokens.train)
    given = run, trained.program, trained.params, tokens.tokenizer.vocabulary
    for each in kept:
        params = quantized_params(*given, each.quantization, rows)
        found[each.key] = score_by(replace(trained, params=params), scorer, effort)
    return found


def contrast(title: str, group: Group, kept: Sequence[Kept]) -> Contrast:
    """A model's own runs in each way to keep their weights, against themselves in float32.

    `group` has the scores among its results.
    """
    found = [_scored(group, FLOAT.name, FLOAT)]
    found += [_scored(group, each.key, each.variant) for each in kept]
    return Contrast(title, [one for one in found if one.results], FLOAT)


def _scored(group: Group, key: str, variant: Variant) -> Group:
    """A group whose results are one of its scores."""
    cells = []
    for cell in group.cells:
        result: dict[str, Any] | None = None
        if cell.result is not None and key in cell.result:
            nats, sizes = cell.result[f"{key}_documents"]
            result = {**cell.result, "bits_per_byte": cell.result[key]}
            result |= {"document_nats": nats, "document_bytes": sizes}
        cells.append(cell._replace(result=result))
    return group._replace(name=f"{group.name} {key}", variant=variant, cells=tuple(cells))


def storage(cell: StudyRun, quantization: Quantization) -> Storage:
    """What the parameters of a run's model take."""
    shapes = cell.run.model.shapes(vocabulary_size(cell.run.data.tokenizer))
    return quantization.storage(cell.run.model, shapes)


def bits_answer(contrasts: Sequence[Contrast], kept: Sequence[Kept]) -> str:
    """The fewest bits of each kind that cost less than a hundredth, and what they cost."""
    told = []
    for each in contrasts:
        above, first = each.above, each.first
        if first is None or not above:
            continue
        whole = first.mean("bits_per_byte") or math.nan
        cheap = [
            (storage(group.cells[0], way.quantization).bits_per_weight, way, gap)
            for group, way, gap in _by_way(each, kept, above)
            if (gap.value + gap.limit) < 0.01 * whole
        ]
        if not cheap:
            told.append(f"{each.title}: no way is shown to cost less than 1%.")
            continue
        bits, way, gap = min(cheap, key=lambda one: (one[0], one[2].value))
        ends = gap.value - gap.limit, gap.value + gap.limit
        told.append(
            f"{each.title}: {way.variant.label} ({bits:.3g} bits a weight) is the least that is"
            f" shown to cost under 1%: {signed_text(gap.value, ends, digits=4)} bits per byte"
            f" on {whole:.3f}."
        )
    return " ".join(told) or NO_ANSWER


def _by_way(
    each: Contrast, kept: Sequence[Kept], above: Mapping[str, Gap]
) -> list[tuple[Group, Kept, Gap]]:
    by_label = {group.variant.label: group for group in each.known}
    return [
        (by_label[way.variant.label], way, above[by_label[way.variant.label].name])
        for way in kept
        if way.variant.label in by_label and by_label[way.variant.label].name in above
    ]


def bits_table(contrasts: Sequence[Contrast], kept: Sequence[Kept]) -> Table:
    """A row a way and kind of model: what it takes, and what it costs."""
    rows = []
    for each in contrasts:
        if each.first is None:
            continue
        rows.append(_row(each, each.first) | {"weight": 32.0, "parameter": 32.0})
        for group, way, gap in _by_way(each, kept, each.above):
            found = storage(group.cells[0], way.quantization)
            whole = each.first.mean("bits_per_byte") or math.nan
            rows.append(
                _row(each, group)
                | {"weight": found.bits_per_weight, "parameter": found.bits_per_parameter}
                | {"above": starred(gap)}
                | {"part": f"{gap.value / whole:+z.2%}".replace("-", "−")}
            )
    columns = (
        Column("contrast", ""),
        Column("what", "weights"),
        Column("weight", "bits a weight", "{:.3g}".format),
        Column("parameter", "bits a parameter", "{:.3g}".format),
        Column("value", "bits per byte ± seeds", decimals, error="value_seeds"),
        Column("kind", "which is"),
        Column("above", "above float32 (95%)"),
        Column("part", "of it"),
    )
    return Table(
        columns,
        rows,
        "Bits a weight are of the layers' matrices with their scales, bits a parameter of the"
        " whole model, whose tables, norms and biases stay float32. Means over seeds; “above”"
        " is paired by seed, document and masks, with its 95% interval, the seeds' spread"
        " pooled over the ways of a kind; an asterisk where that leaves out 0.",
    )


def _row(each: Contrast, group: Group) -> dict[str, Any]:
    return {
        "contrast": each.title,
        "what": group.variant.label,
        "value": group.mean("bits_per_byte"),
        "value_seeds": group.seeds_se("bits_per_byte"),
        "kind": group.kind,
    }


@styled()
def bits_figure(contrasts: Sequence[Contrast], kept: Sequence[Kept]) -> Figure | None:
    """Bits per byte by bits a weight, a line a method; None if nobody was asked."""
    shown = [each for each in contrasts if each.above]
    if not shown:
        return None
    figure, axes = panels(len(shown), height=3.0)
    for panel, each in zip(axes, shown, strict=True):
        assert each.first is not None
        whole = each.first.mean("bits_per_byte") or math.nan
        panel.axhline(whole, color=INK, linewidth=0.8, label=FLOAT.label)
        for order, (method, (label, colour)) in enumerate(METHODS.items()):
            mine = [
                (storage(group.cells[0], way.quantization).bits_per_weight, gap)
                for group, way, gap in _by_way(each, kept, each.above)
                if way.quantization.method == method
            ]
            panel.errorbar(
                [bits for bits, _ in mine],
                [whole + gap.value for _, gap in mine],
                [gap.limit if math.isfinite(gap.limit) else 0.0 for _, gap in mine],
                color=colour,
                marker=MARKERS[order],
                markerfacecolor=PAPER,
                label=label,
                elinewidth=1,
            )
        panel.set(title=each.title, xscale="log", xlabel="bits a weight")
        panel.set_xticks([2, 3, 4, 6, 8], ["2", "3", "4", "6", "8"])
        panel.set_xticks([], minor=True)
    axes[0].set_ylabel("bits per byte")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    return figure
