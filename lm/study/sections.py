"""What reports over several seeds show: tables, figures, what was equal, what it shows."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lm.output.numbers import count, decimals, duration, percent, power
from lm.study.common import (
    equal_table,
    size_text,
    study_report,
    violations,
)
from lm.study.report.figures import MARKERS, MUTED, PAPER, panels, reference_lines, styled
from lm.study.report.values import Column, Plot, Report, Section, Table
from lm.study.runner import Cell
from lm.study.seeds import BITS, PROBE, Gap, Group, Measure, gaps, signed, together

# Tables


def main_table(groups: Sequence[Group], reference: Sequence[Group], what: str) -> Table:
    """A row a group, and how far each lies above the reference of its size and budget.

    `what` names the reference in the caption.
    """
    found: dict[str, Gap] = {}
    for other in reference:
        for budget in {group.budget for group in groups}:
            peers = [g for g in groups if (g.size, g.budget) == (other.size, budget)]
            found |= gaps(peers, other, BITS)
    rows = []
    for group in groups:
        gap = found.get(group.name)
        masks = [r["mc_se"] for r in group.results.values() if r.get("mc_se") is not None]
        rows.append(
            {
                "size": group.size,
                "arm": group.arm.label,
                "budget": group.budget,
                "tokens": group.mean("tokens"),
                "seeds": len(group.results),
                "bits": group.mean("bits_per_byte"),
                "bits_seeds": group.seeds_se("bits_per_byte"),
                "bits_text": group.text_se(BITS),
                "bits_masks": float(np.mean(masks))
                if masks and group.kind != "exact"
                else None,
                "kind": group.kind,
                "layout": group.mean("layout_bits"),
                "above": gap and signed(gap, BITS) + ("*" if gap.beyond else ""),
                "probe": group.mean("probe_accuracy"),
                "probe_seeds": group.seeds_se("probe_accuracy"),
                "probe_text": group.text_se(PROBE),
                "loss": group.mean("validation_loss"),
            }
        )
    columns = (
        *([Column("size", "size", size_text)] if len({g.size for g in groups}) > 1 else []),
        Column("arm", "trained as"),
        *([Column("tokens", "tokens", count)] if len({g.budget for g in groups}) > 1 else []),
        Column("seeds", "seeds"),
        Column("bits", "bits per byte ± seeds", decimals, error="bits_seeds"),
        Column("bits_text", "± text", decimals),
        Column("bits_masks", "± masks", decimals),
        Column("kind", "which is"),
        Column("layout", "of it layout", decimals),
        Column("above", "above"),
        Column("probe", "probe ± seeds", percent, error="probe_seeds"),
        Column("probe_text", "± text", percent),
        Column("loss", "own loss", decimals),
    )
    return Table(
        columns,
        rows,
        "Means over seeds. “± seeds” is the standard error over seeds (data order, masks and"
        " initial values), “± text” that over held-out documents, which all seeds share, and"
        " “± masks” that of the masks drawn in scoring one model, which is a part of “± text”."
        " “Of it layout” is what the length model pays for the ends of documents, which a BERT"
        " is shown and a GPT predicts itself."
        f" “Above” is the difference to {what}, paired by seed and by document, with"
        " both errors together and an asterisk where it is beyond the error: where its 95%"
        " interval leaves out 0, with the seeds' spread pooled over the arms. The probe is the"
        " share of tokens whose role is found; own loss is the objective's, in nats per"
        " predicted piece, and does not compare between arms.",
    )


def spent_table(groups: Sequence[Group], reference: Group) -> Table:
    """What each group used, as a mean over seeds, and its share of what the reference used."""
    shown: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("tokens", "tokens", count),
        ("predicted_targets", "predicted targets", count),
        ("slots", "slots", count),
        ("flops", "FLOPs", power),
        ("device_seconds", "device time", duration),
    )
    rows = [
        {"arm": group.arm.label, "size": group.size}
        | {
            key: f"{show(mine)} ({mine / theirs:.0%})"
            for key, _, show in shown
            if (mine := group.mean(key)) is not None and (theirs := reference.mean(key))
        }
        for group in groups
    ]
    columns = (
        *([Column("size", "size", size_text)] if len({g.size for g in groups}) > 1 else []),
        Column("arm", "trained as"),
        *(Column(key, title) for key, title, _ in shown),
    )
    caption = (
        f"What a run of each arm used, and its share of what {reference.arm.name} used. Slots"
        " are prediction positions that the head computes, used or not."
    )
    return Table(columns, rows, caption)


def seed_rows(groups: Iterable[Group]) -> dict[str, dict[str, Cell]]:
    """The cells that are compared: those of one size and one seed, by group."""
    rows: dict[str, dict[str, Cell]] = {}
    for group in groups:
        for cell in group.cells:
            row = f"{size_text(group.size)}, seed {cell.run.seed}"
            rows.setdefault(row, {})[group.name] = cell
    return rows


def equal_section(groups: Sequence[Group], reference: Group, *blocks: str | Table) -> Section:
    """What was held equal, and what was not."""
    table = equal_table(seed_rows(groups), "between the arms of a size and seed")
    return Section(
        "What was held equal, and what was not",
        (table, spent_table(groups, reference), *blocks),
    )


def limits(cells: Sequence[Cell], groups: Sequence[Group], *more: str) -> Section:
    """What the result does and does not show, from what was trained."""
    run, sizes = cells[0].run, sorted({group.size for group in groups})
    seeds = sorted({len(group.results) for group in groups})
    results = [result for group in groups for result in group.results.values()]
    tokens = sorted({result["tokens"] for result in results})
    documents = len(results[0].get("document_bytes") or ())
    few = (
        "With one seed, how much trainings differ among themselves is in none of the errors."
        if seeds == [1]
        else f"Each arm has {' or '.join(map(str, seeds))} seeds, so the errors over seeds are"
        " rough, and of many differences at 95% one in twenty is beyond the error by chance."
    )
    return Section(
        "What this does and does not show",
        (
            "It shows what these objectives do to models of"
            f" {together([size_text(size) for size in sizes])} parameters (without the"
            f" embedding) after {' to '.join(_ends(tokens))} training tokens of"
            f" {run.data.corpus.title},"
            f" scored on {documents} held-out documents, with one"
            " learning rate for all arms of a size, which was not tuned for any of them. An"
            " order of arms at this scale is not their order at another: what is behind after"
            " few tokens may only be slower. A difference that is not beyond the error is not"
            f" shown to be zero. {few}",
            "The probe reads the role of a token in Python source off frozen states. It is no"
            " fine-tuning on a language task, which is what the papers measure."
            if any(result.get("probe") for result in results)
            else "The text has no labels, so nothing is said of what the models represent.",
            *more,
        ),
    )


def _ends(tokens: Sequence[int]) -> list[str]:
    return list(dict.fromkeys((count(tokens[0]), count(tokens[-1]))))


def report_of(
    study: ModuleType,
    cells: Sequence[Cell],
    groups: Sequence[Group],
    *,
    title: str,
    answer: str,
    table: Table,
    sections: Sequence[Section | None],
) -> Report:
    """The report of a study, with what is missing and what is not equal at its top.

    `groups` are those that were to be equal in all but the objective.
    """
    return study_report(
        study,
        cells,
        title=title,
        answer=answer,
        details=_details(groups),
        table=table,
        sections=sections,
        warnings=violations(seed_rows(groups)),
    )


NO_ANSWER = "There is no answer yet: no two arms that could be compared are finished."


def _details(groups: Sequence[Group]) -> tuple[str, ...]:
    if not groups:
        return ()
    return (
        "After ± stands one standard error, over seeds and held-out documents together; a"
        " difference is called beyond the error where its 95% interval leaves out 0.",
    )


def baselines_of(groups: Sequence[Group]) -> dict[str, float]:
    """What compressors need for the same windows."""
    found = [r["baselines"] for g in groups for r in g.results.values() if r.get("baselines")]
    names = ("gzip, by window", "xz, by window")
    return {name: found[0][name] for name in names if found and name in found[0]}


# Figures


@styled()
def dots_figure(series: Mapping[str, tuple[str, Mapping[str, Group]]]) -> Figure:
    """Bits per byte and probe of each arm, a row each; `series` are colours and groups by row.

    Filled marks are exact, hollow ones bounds, crosses no likelihood.
    """
    rows = list(dict.fromkeys(row for _, found in series.values() for row in found))
    figure, both = panels(2, height=1.3 + 0.24 * len(rows), sharey=True)
    for axes, measure in zip(both, (BITS, PROBE), strict=True):
        scale = 100 if measure is PROBE else 1
        for order, (colour, found) in enumerate(series.values()):
            nudge = 0.17 * (order - (len(series) - 1) / 2)
            for row, group in found.items():
                if (value := group.mean(measure.key)) is None:
                    continue
                axes.errorbar(
                    [scale * value],
                    [rows.index(row) + nudge],
                    xerr=[scale * (group.error(measure) or 0.0)],
                    **_mark(group, measure, colour, MARKERS[order]),
                )
        axes.grid(axis="y", visible=False)
    left, right = both
    left.set_yticks(range(len(rows)), rows)
    left.set_ylim(len(rows) - 0.4, -0.6)
    left.set(title="Held-out text", xlabel="bits per byte")
    right.set(title="Roles found by the probe", xlabel="% of tokens")
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[order], linestyle="none", label=label)
        for order, (label, (colour, _)) in enumerate(series.items())
    ]
    kinds = {g.kind for _, found in series.values() for g in found.values()}
    figure.legend(
        handles=[*(handles if len(series) > 1 else []), *_kind_handles(kinds)],
        loc="outside upper left",
        ncols=5,
    )
    return figure


@styled()
def curves_figure(
    lines: Mapping[str, tuple[str, Mapping[float, Group]]],
    xlabel: str,
    baselines: Mapping[str, float],
) -> Figure:
    """Bits per byte and probe against a number; `lines` are colours and groups by it."""
    figure, both = panels(2, height=3.2)
    for axes, measure in zip(both, (BITS, PROBE), strict=True):
        scale = 100 if measure is PROBE else 1
        for order, (colour, found) in enumerate(lines.values()):
            there = {x: g for x, g in found.items() if g.mean(measure.key) is not None}
            # A line joins what compares: not bounds with exact numbers.
            kinds = {g.kind if measure is BITS else "" for g in there.values()}
            for kind in sorted(kinds):
                joined = {
                    x: scale * (g.mean(measure.key) or 0.0)
                    for x, g in there.items()
                    if measure is PROBE or g.kind == kind
                }
                axes.plot(list(joined), list(joined.values()), color=colour, zorder=1)
            for x, group in there.items():
                axes.errorbar(
                    [x],
                    [scale * (group.mean(measure.key) or 0.0)],
                    [scale * (group.error(measure) or 0.0)],
                    **_mark(group, measure, colour, MARKERS[order]),
                )
        axes.set_xlabel(xlabel)
    left, right = both
    left.set(title="Held-out text", ylabel="bits per byte")
    right.set(title="Roles found by the probe", ylabel="% of tokens")
    reference_lines(left, baselines)
    handles = [
        Line2D([], [], color=colour, marker=MARKERS[order], label=label)
        for order, (label, (colour, _)) in enumerate(lines.items())
    ]
    shown = {g.kind for _, found in lines.values() for g in found.values()}
    figure.legend(
        handles=[*(handles if len(lines) > 1 else []), *_kind_handles(shown)],
        loc="outside upper left",
        ncols=5,
    )
    return figure


@styled()
def shares_figure(lines: Mapping[str, tuple[str, Group]]) -> Figure | None:
    """Error of the hidden pieces against the share hidden; None if nobody was asked."""
    figure, (axes,) = panels(1, height=3.4)
    handles = []
    for order, (label, (colour, group)) in enumerate(lines.items()):
        found = [r["error_by_share"] for r in group.results.values() if r.get("error_by_share")]
        if not found:
            continue
        shares = sorted(found[0], key=float)
        values_SR = np.array([[r[share]["bits_per_byte"] for r in found] for share in shares])
        seeds_S = values_SR.std(axis=1, ddof=1) / math.sqrt(len(found)) if found[1:] else 0.0
        masks_S = [np.mean([r[share]["mc_se"] or 0.0 for r in found]) for share in shares]
        look: dict[str, Any] = {
            "color": colour,
            "marker": MARKERS[order % len(MARKERS)],
            "linestyle": "-" if order < len(MARKERS) else "--",
        }
        axes.errorbar(
            [100 * float(share) for share in shares],
            values_SR.mean(axis=1),
            np.hypot(seeds_S, masks_S),
            elinewidth=0.9,
            **look,
        )
        handles.append(Line2D([], [], label=label, **look))
    axes.set(
        xlabel="share of the row that is hidden (%)",
        ylabel="bits per byte of the hidden pieces",
    )
    axes.set_xlim(0, 102)
    figure.legend(handles=handles, loc="outside right upper")
    return figure if handles else None


def shares_section(lines: Mapping[str, tuple[str, Group]], text: str) -> Section | None:
    """The error at fixed shares hidden, if there is any."""
    figure = shares_figure(lines)
    if figure is None:
        return None
    caption = (
        "Bits per byte of the hidden pieces when a share of the row is hidden, means over"
        " seeds. The any-order bound is the mean of such a curve over all shares. Bars are one"
        " standard error: that over seeds and that of the masks drawn, together."
    )
    return Section(
        "The error at fixed shares hidden", (text, Plot("share_hidden", figure, caption))
    )


BARS = (
    "Bars are one standard error: that over seeds and that over held-out documents, together."
    " The documents are the same for all arms, so that differences are known better than the"
    " bars say; the table has them paired."
)
"""What captions of figures say of their bars."""


def _mark(group: Group, measure: Measure, colour: str, marker: str) -> dict[str, Any]:
    hollow = measure is BITS and group.kind == "bound"
    crossed = measure is BITS and group.kind not in ("exact", "bound")
    return {
        "color": colour,
        "marker": "x" if crossed else marker,
        "markersize": 5,
        "markerfacecolor": PAPER if hollow else colour,
        "markeredgewidth": 1.2,
        "elinewidth": 1,
        "linestyle": "none",
    }


def _kind_handles(kinds: set[str]) -> list[Line2D]:
    looks = {"exact": MUTED, "bound": PAPER}
    names = {"exact": "exact", "bound": "upper bound"}
    return [
        Line2D(
            [],
            [],
            color=MUTED,
            linestyle="none",
            marker="o" if kind in looks else "x",
            markerfacecolor=looks.get(kind, MUTED),
            label=names.get(kind, kind),
        )
        for kind in sorted(kinds)
    ]
