"""Variants that differ in a part of the model or of its data: each against one of them."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from lm.config import read_json
from lm.distributed import hosts
from lm.output.files import write_whole
from lm.output.numbers import count, decimals, power
from lm.output.plain import to_json
from lm.results import Score
from lm.scaling.fit import Interval
from lm.study.checks import RunsByGroup
from lm.study.grid import StudyRun, Variant, size_text
from lm.study.groups import BITS, Gap, Group, Measure, all_results, best_of, gaps, of_variant
from lm.study.report.figures import INK, PAPER, panels, styled
from lm.study.report.values import Column, Row, Section, Table
from lm.study.sections import EQUAL
from lm.study.sentences import NO_ANSWER, signed_text, together
from lm.study.tables import equal_table
from lm.train.load import ModelWithText, load_run


class Contrast(NamedTuple):
    """Variants that compare: trained alike but for a part, and asked for the same number."""

    title: str
    """What they have in common, in a word or two: GPTs."""
    groups: Sequence[Group]
    reference: Variant
    """Whom the others are compared with."""
    measure: Measure = BITS
    unit: str = "bits per byte"

    @property
    def known(self) -> list[Group]:
        """Those whose number is known."""
        return [g for g in self.groups if g.mean(self.measure.key) is not None]

    @property
    def first(self) -> Group | None:
        """The reference, where it is finished."""
        return next(iter(of_variant(self.known, self.reference)), None)

    @property
    def above(self) -> dict[str, Gap]:
        """How far each other lies above the reference, by the group's name."""
        return {} if self.first is None else gaps(self.known, self.first, self.measure)


def gap_text(gap: Gap) -> str:
    """A difference with its sign and its 95% interval, paired by seed and document.

    >>> gap_text(Gap(-0.5, 0.1, None, 0.25)), gap_text(Gap(0.5, None, None, math.inf))
    ('−0.500 (95%: −0.750 to −0.250)', '+0.500 (no interval)')
    """
    ends: Interval | None = (gap.value - gap.limit, gap.value + gap.limit)
    return signed_text(gap.value, ends if math.isfinite(gap.limit) else None, digits=3)


def starred(gap: Gap) -> str:
    """The same for tables, whose titles say of which level the interval is.

    >>> starred(Gap(-0.5, 0.1, None, 0.25)), starred(Gap(0.1, 0.1, None, 0.25))
    ('−0.500 (−0.750 to −0.250)*', '+0.100 (−0.150 to +0.350)')
    """
    return gap_text(gap).replace("95%: ", "") + ("*" if gap.beyond else "")


def contrasts_answer(contrasts: Sequence[Contrast]) -> str:
    """Who needs least and who differs from the reference in each contrast, beyond the error."""
    return " ".join(filter(None, map(_contrast_answer, contrasts))) or NO_ANSWER


def _contrast_answer(contrast: Contrast) -> str:
    first, ranked = contrast.first, best_of(contrast.known, contrast.measure)
    if first is None or ranked is None or not (above := contrast.above):
        return ""
    best, close = ranked
    labels = {group.name: group.variant.label for group in contrast.known}
    if close:
        tied = {group.name for group in (best, *close)}
        names = [label for name, label in labels.items() if name in tied]
        text = f"{contrast.title}: the errors do not tell who is best of {together(names)}."
    else:
        text = f"{contrast.title}: best is {best.variant.label}, beyond the error."
    far = sorted((gap, labels[name]) for name, gap in above.items() if gap.beyond)
    told = [(gap.value < 0, f"{who} by {gap_text(gap)}") for gap, who in far]
    sides = [
        f"{side}: {together(found)}"
        for side, less in (("better", True), ("worse", False))
        if (found := [text for below, text in told if below == less])
    ]
    if not sides:
        return f"{text} No difference to {first.variant.label} is beyond the error."
    return f"{text} Against {first.variant.label}, in {contrast.unit}, {'; '.join(sides)}."


def contrasts_table(contrasts: Sequence[Contrast], what: str) -> Table:
    """A row a variant of each contrast: its number, and how far it lies above the reference.

    `what` names the part that is varied, for the column's title.
    """
    rows = []
    for contrast in contrasts:
        measure, above = contrast.measure, contrast.above
        for group in contrast.known:
            gap = above.get(group.name)
            rows.append(
                {
                    "contrast": contrast.title,
                    "what": group.variant.label,
                    "params": group.mean("params_non_embedding"),
                    "value": group.mean(measure.key),
                    "value_seeds": group.seeds_se(measure.key),
                    "value_text": group.text_se(measure),
                    "kind": group.kind if measure is BITS else None,
                    "above": gap and starred(gap),
                    "flops": group.mean("flops"),
                }
            )
    units: dict[str, list[str]] = {}
    for contrast in contrasts:
        units.setdefault(contrast.unit, []).append(contrast.title)
    several = [f"{unit} ({together(titles)})" for unit, titles in units.items()]
    number = next(iter(units)) if len(units) == 1 else "number"
    columns = (
        Column("contrast", ""),
        Column("what", what),
        Column("params", "parameters", count),
        Column("value", f"{number} ± seeds", decimals, error="value_seeds"),
        Column("value_text", "± text", decimals),
        *([Column("kind", "which is")] if any(row["kind"] for row in rows) else []),
        Column("above", "above the reference (95%)"),
        Column("flops", "FLOPs", power),
    )
    labels = {contrast.title: contrast.reference.label for contrast in contrasts}
    if len(references := set(labels.values())) > 1:
        references = {f"{label} ({title})" for title, label in labels.items()}
    return Table(
        columns,
        rows,
        "Means over seeds. “± seeds” is the standard error over seeds, “± text” that over"
        f" held-out documents. “Above the reference”, which is {together(sorted(references))},"
        " is paired by seed and document, with its 95% interval; the seeds' spread is pooled"
        " over those that compare. An asterisk stands where the interval leaves out 0."
        " Parameters are those without the embedding."
        + (f" Numbers are in {together(several)}." if len(units) > 1 else ""),
    )


@styled()
def contrasts_figure(contrasts: Sequence[Contrast]) -> Figure | None:
    """How far each variant lies above its contrast's reference; None if there is nobody."""
    shown = [(each, above) for each in contrasts if (above := each.above)]
    labels = [g.variant.label for each, above in shown for g in each.known if g.name in above]
    rows = list(dict.fromkeys(labels))
    if not rows:
        return None
    figure, axes = panels(len(shown), height=1.2 + 0.22 * len(rows), sharey=True)
    for panel, (contrast, above) in zip(axes, shown, strict=True):
        for group in contrast.known:
            if (gap := above.get(group.name)) is None:
                continue
            colour = group.variant.colour
            bar = gap.limit if math.isfinite(gap.limit) else 0.0
            panel.errorbar(
                [gap.value],
                [rows.index(group.variant.label)],
                xerr=[bar],
                color=colour,
                marker="o",
                markersize=5,
                markerfacecolor=colour if gap.beyond else PAPER,
                markeredgewidth=1.2,
                elinewidth=1,
            )
        panel.axvline(0, color=INK, linewidth=0.8)
        panel.grid(axis="y", visible=False)
        panel.set(title=contrast.title)
        panel.set_xlabel(f"{contrast.unit} more than\n{contrast.reference.label}")
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


BARS = (
    "Differences to the reference, to the left of 0 where a variant is better, with 95%"
    " intervals, paired by seed and by document. Filled where the interval leaves out 0."
)
"""What the caption of `contrasts_figure` says."""


def contrast_rows(contrasts: Sequence[Contrast]) -> RunsByGroup:
    """The runs that are compared: those of one contrast and seed, by group."""
    rows: dict[str, dict[str, StudyRun]] = {}
    for contrast in contrasts:
        for group in contrast.groups:
            for cell in group.cells:
                row = f"{contrast.title}, seed {cell.run.seed}"
                rows.setdefault(row, {})[group.name] = cell
    return rows


def equal_section(
    contrasts: Sequence[Contrast], varied: Collection[str], *blocks: str | Table
) -> Section:
    """What was held equal between the variants of a contrast, and what was not."""
    between = "between those that compare, by seed"
    return Section(EQUAL, (equal_table(contrast_rows(contrasts), between, varied), *blocks))


def limits(contrasts: Sequence[Contrast], what: str, *more: str) -> Section:
    """What such a comparison does and does not show; `what` says of which text."""
    groups = [group for contrast in contrasts for group in contrast.groups]
    results = all_results(groups)
    sizes = list(dict.fromkeys(size_text(r["params_non_embedding"]) for r in results))
    tokens = sorted({result["tokens"] for result in results})
    span = " to ".join(dict.fromkeys((count(tokens[0]), count(tokens[-1]))))
    seeds = sorted({len(group.results) for group in groups})
    few = (
        "With one seed, how much trainings differ among themselves is in none of the errors."
        if seeds == [1]
        else f"With {' or '.join(map(str, seeds))} seeds the errors are rough, and of many"
        " differences one in twenty is beyond the error by chance."
    )
    return Section(
        "What this does and does not show",
        (
            f"It shows what a part is worth to models of {together(sizes)} parameters (without"
            f" the embedding) after {span} tokens of {what}. All have one learning rate,"
            " schedule and initialization, tuned for none, so that a variant that is behind"
            " may only want others, or more tokens. A difference that is not beyond the error"
            f" is not shown to be zero. {few}",
            *more,
        ),
    )


# What is asked beyond the usual


def ask(
    cells: Sequence[StudyRun],
    name: str,
    questions: Callable[[ModelWithText], Mapping[str, Score]],
) -> None:
    """Scores every finished run in further ways, and keeps them beside it as NAME.json."""
    for cell in cells:
        kept, trained = cell.directory / f"{name}.json", cell.directory / "result.json"
        if cell.result is None:
            continue
        if kept.exists() and kept.stat().st_mtime >= trained.stat().st_mtime:
            continue
        found = to_json(dict(questions(load_run(cell.directory))))
        if hosts.is_first():
            write_whole(kept, found)


def with_scores(cells: Sequence[StudyRun], name: str) -> list[StudyRun]:
    """The runs with what `ask` kept among their results, as `asked` reads them."""
    found = []
    for cell in cells:
        kept = cell.directory / f"{name}.json"
        more: dict[str, object] = {}
        if cell.result is not None and kept.exists():
            for key, score in read_json(kept).items():
                sums = score["document_nats"], score["document_bytes"]
                more |= {key: score["bits_per_byte"], f"{key}_documents": sums}
        found.append(cell._replace(result=cell.result and {**cell.result, **more}))
    return found


def asked(key: str) -> Measure:
    """One of these scores as a measure, in bits per byte."""

    def by_document(result: Row) -> tuple[list[float], list[int]] | None:
        sums = result.get(f"{key}_documents")
        return sums and ([nats / math.log(2) for nats in sums[0]], sums[1])

    return Measure(key, by_document, -1, decimals)
