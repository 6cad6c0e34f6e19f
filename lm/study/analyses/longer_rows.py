"""Models in rows longer than those that they were trained on: the same text, cut into fewer."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import scipy.stats
from matplotlib.figure import Figure

from lm.data import n_rows
from lm.evaluate.effort import Effort
from lm.evaluate.scoring import score_of, valid
from lm.evaluate.windows import Windows
from lm.output.numbers import decimals
from lm.results import Score
from lm.study.analyses.parts import Contrast, asked, gap_text, starred
from lm.study.grid import StudyRun
from lm.study.groups import Gap, Group, Measure
from lm.study.report.figures import MARKERS, MUTED, PAPER, panels, styled
from lm.study.report.values import Column, Table
from lm.study.sentences import together
from lm.train.load import ModelWithText

NAME = "longer_rows"
"""Of the file beside a run that holds the scores."""
TIMES = (1, 2, 4)
"""How many times as long as rows in training windows are, each dividing the last."""


def longer_rows(trained: ModelWithText, *, effort: Effort, rows: int) -> dict[str, Score]:
    """Scores of one text in windows of each length, by key; none where there are no places.

    The text is that of `rows` of the longest windows, evenly spaced, which windows of L + 1
    positions, 2 L + 1 and 4 L + 1 hold whole, as each begins on the last token of the one
    before.
    """
    split, most = trained.tokens.validation, TIMES[-1]
    whole = n_rows(split, _at(trained, most).run.data.length) - 1  # the last one has padding
    chosen_R = np.unique(np.linspace(0, whole - 1, min(rows, whole)).astype(int))
    found = {}
    for times in TIMES:
        there = _at(trained, times)
        length, longest = there.run.data.length, there.run.model.longest
        if longest is not None and length > longest:
            continue
        each = most // times
        index_R = (each * chosen_R[:, None] + np.arange(each)).ravel()
        scorer = next(iter(valid(there.run, effort).values()))
        windows = Windows.at(there, split, index_R)
        found[_key(times)] = score_of(there, scorer, windows, replicates=effort.replicates)
    return found


def _at(trained: ModelWithText, times: int) -> ModelWithText:
    """The model with rows so many times as long, and as many positions in a batch."""
    data = trained.run.data
    data = msgspec.structs.replace(
        data, length=1 + times * (data.length - 1), batch=max(1, data.batch // times)
    )
    return replace(trained, run=msgspec.structs.replace(trained.run, data=data))


def _key(times: int) -> str:
    return f"bits_at_{times}x"


def with_changes(cells: Sequence[StudyRun]) -> list[StudyRun]:
    """The runs, whose results have the scores, with how far each lies above the first."""
    found = []
    for cell in cells:
        result, more = cell.result, dict[str, object]()
        for times in TIMES[1:]:
            if result is None or _key(times) not in result:
                continue
            here, first = _key(times), _key(1)
            sums = zip(result[f"{here}_documents"][0], result[f"{first}_documents"][0],
                       strict=True)  # fmt: skip
            more[f"{here}_more"] = result[here] - result[first]
            sizes = result[f"{here}_documents"][1]
            more[f"{here}_more_documents"] = [a - b for a, b in sums], sizes
        found.append(cell._replace(result=result and {**result, **more}))
    return found


def change(times: int) -> Measure:
    """How many bits per byte more a model needs in windows so many times as long."""
    return asked(f"{_key(times)}_more")


def changes(groups: Sequence[Group], times: int) -> dict[str, Gap]:
    """Each group's change, with the errors of its own runs: by the group's name.

    The spread over seeds is pooled over the groups, whose means are taken out.
    """
    measure = change(times)
    values = {group.name: list(group.values(measure.key).values()) for group in groups}
    values = {name: of for name, of in values.items() if of}
    freedom = sum(len(of) - 1 for of in values.values())
    squares = sum(float(np.square(np.array(of) - np.mean(of)).sum()) for of in values.values())
    found = {}
    for group in groups:
        if not (of := values.get(group.name)):
            continue
        seeds = math.sqrt(squares / freedom / len(of)) if freedom else None
        text = group.text_se(measure)
        errors = [] if seeds is None else [float(scipy.stats.t.ppf(0.975, freedom)) * seeds]
        errors += [] if text is None else [1.96 * text]
        limit = math.hypot(*errors) if errors else math.inf
        found[group.name] = Gap(float(np.mean(of)), seeds, text, limit)
    return found


def changes_answer(contrasts: Sequence[Contrast]) -> str:
    """Who gets better and who worse in the longest windows, beyond the error."""
    told = []
    for contrast in contrasts:
        found = changes(contrast.groups, TIMES[-1])
        labels = {group.name: group.variant.label for group in contrast.groups}
        sides = [
            f"{side} with {together(who)}"
            for side, sign in (("better", -1), ("worse", 1))
            if (who := [f"{labels[name]} ({gap_text(gap)})" for name, gap in found.items()
                        if gap.beyond and sign * gap.value > 0])
        ]  # fmt: skip
        if sides:
            told.append(f"{contrast.title} become {'; '.join(sides)}.")
        elif found:
            told.append(f"{contrast.title} change with no kind beyond the error.")
    if not told:
        return ""
    return f"In windows {TIMES[-1]} times as long as in training: {' '.join(told)}"


def changes_table(contrasts: Sequence[Contrast]) -> Table:
    """A row a variant: its bits per byte in windows of each length, and the change."""
    rows = []
    for contrast in contrasts:
        found = changes(contrast.groups, TIMES[-1])
        for group in contrast.groups:
            gap = found.get(group.name)
            row: dict[str, Any] = {"contrast": contrast.title, "what": group.variant.label}
            for key in map(_key, TIMES):
                row |= {key: group.mean(key), f"{key}_se": group.error(asked(key))}
            row["change"] = gap and starred(gap)
            rows.append(row)
    columns = (
        Column("contrast", ""),
        Column("what", "positions"),
        *(Column(_key(t), f"{t}×", decimals, error=f"{_key(t)}_se") for t in TIMES),
        Column("change", f"{TIMES[-1]}× above 1× (95%)"),
    )
    return Table(
        columns,
        rows,
        "Bits per byte of one held-out text in windows as long as in training and longer;"
        " after ± one standard error over seeds and documents. The change is paired by seed and"
        " document, with its 95% interval, the seeds' spread pooled over the kinds; an asterisk"
        " where that leaves out 0. The learned table has no places for longer rows.",
    )


@styled()
def changes_figure(contrasts: Sequence[Contrast]) -> Figure | None:
    """The change by how many times as long windows are; None if nobody was asked."""
    shown = [contrast for contrast in contrasts if changes(contrast.groups, TIMES[-1])]
    if not shown:
        return None
    figure, axes = panels(len(shown), height=3.2)
    for panel, contrast in zip(axes, shown, strict=True):
        found = {times: changes(contrast.groups, times) for times in TIMES[1:]}
        panel.axhline(0, color=MUTED, linewidth=0.8)
        for order, group in enumerate(contrast.groups):
            there = {times: of[group.name] for times, of in found.items() if group.name in of}
            if not there:
                continue
            bars = [gap.limit if math.isfinite(gap.limit) else 0.0 for gap in there.values()]
            panel.errorbar(
                [1, *there],
                [0.0, *(gap.value for gap in there.values())],
                [0.0, *bars],
                color=group.variant.colour,
                marker=MARKERS[order % len(MARKERS)],
                markerfacecolor=PAPER,
                label=group.variant.label,
                elinewidth=1,
            )
        panel.set(title=contrast.title, xscale="log", xlabel="times as long as in training")
        panel.set_xticks(TIMES, [f"{times}×" for times in TIMES])
        panel.set_xticks([], minor=True)
    axes[0].set_ylabel("bits per byte more than at 1×")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=6)
    return figure
