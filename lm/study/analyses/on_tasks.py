"""How the runs of a study do at tasks: asked once, kept in a file, drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from lm.distributed import hosts
from lm.evaluate.tasks.base import Candidate
from lm.evaluate.tasks.candidate import ModelCandidate
from lm.evaluate.tasks.metrics import Estimate, estimate, mean
from lm.evaluate.tasks.result import TaskResult
from lm.evaluate.tasks.sitting import Sheet, sit
from lm.output.files import write_whole
from lm.output.numbers import count, percent
from lm.results import Kind
from lm.study.figures import ticks
from lm.study.grid import StudyRun, Variant, size_text
from lm.study.groups import Group, by_size
from lm.study.report.figures import MARKERS, MUTED, PAPER, panels, reference_lines, styled
from lm.study.report.values import Column, Table
from lm.train.load import load_model

TASKS = "tasks.json"
"""Where results are kept, beside the runs."""


class Sitting(NamedTuple):
    """What a run, or something that is no run, did at a task by a scorer."""

    run: str
    task: str
    scorer: str
    """The name of the scorer, as command lines have it."""
    result: TaskResult
    trained: bool = True
    """Whether it is a run of the study."""


def ask_runs(
    cells: Sequence[StudyRun],
    sheets: Sequence[Sheet],
    scorers: Callable[[StudyRun], Sequence[str | None]],
    directory: Path,
    others: Mapping[str, Candidate] = {},
) -> None:
    """Every finished run sits every task by every scorer; so do others, by their names.

    A scorer of None is for tasks that ask for no likelihoods, as `ModelCandidate.of` has it.
    """
    found = []
    for cell in cells:
        if cell.result is None:
            continue
        model = load_model(cell.directory)
        for scorer in scorers(cell):
            candidate = ModelCandidate.of(model, scorer)
            for sheet in sheets:
                kept = cell.directory / "eval"
                result = sit(candidate, sheet, model=cell.name, kept=kept)
                by = scorer or candidate.scorer
                found.append(Sitting(cell.name, sheet.name, by, result))
    for name, other in others.items():
        for sheet in sheets:
            result = sit(other, sheet, model=name, kept=directory / "others")
            found.append(Sitting(name, sheet.name, other.scorer, result, trained=False))
    if hosts.is_first():
        write_whole(directory / TASKS, msgspec.json.encode(found).decode())


def read_answers(directory: Path) -> list[Sitting]:
    """What `ask_runs` kept; nothing, where it was not called."""
    file = directory / TASKS
    return msgspec.json.decode(file.read_bytes(), type=list[Sitting]) if file.exists() else []


def with_answers(cells: Sequence[StudyRun], answers: Sequence[Sitting]) -> list[StudyRun]:
    """The runs with the headline of each task by each scorer among their results."""
    found: dict[str, dict[str, float]] = {}
    for answer in answers:
        of = found.setdefault(answer.run, {})
        of[f"{answer.task}_{answer.scorer}"] = answer.result.value
    return [
        cell._replace(result=cell.result and {**cell.result, **found.get(cell.name, {})})
        for cell in cells
    ]


def over_seeds(
    group: Group, answers: Sequence[Sitting], task: str, scorer: str
) -> Estimate | None:
    """A group's headline at a task: the mean over its runs, with an interval over both.

    Items are drawn, and runs where there are several; None where nobody was asked.
    """
    names = {cell.name for cell in group.cells}
    found = [
        answer.result.array
        for answer in answers
        if answer.run in names and (answer.task, answer.scorer) == (task, scorer)
    ]
    if not found:
        return None
    # What is right is the first column of choices; seeds of demonstrations are as many.
    return estimate(mean(0), np.concatenate(found)[:, :, :1])


def draw_line(
    axes: Axes,
    variant: Variant,
    points: Mapping[float, Estimate],
    *,
    marker: str = "o",
    hollow: bool = False,
    linestyle: str = "-",
) -> None:
    """Accuracies in percent against a number, with their 95% intervals."""
    places = sorted(points)
    values = 100 * np.array([points[x].value for x in places])
    low = 100 * np.array([points[x].low for x in places])
    high = 100 * np.array([points[x].high for x in places])
    axes.errorbar(
        places,
        values,
        [np.maximum(values - low, 0), np.maximum(high - values, 0)],
        color=variant.colour,
        marker=marker,
        markerfacecolor=PAPER if hollow else variant.colour,
        linestyle=linestyle,
        elinewidth=1,
    )


def by_scorer(group: Group, answers: Sequence[Sitting]) -> dict[str, tuple[Kind, Estimate]]:
    """What each scorer finds of a group at the study's one task, and what it is."""
    found = {}
    for answer in apart(group, answers):
        known = over_seeds(group, answers, answer.task, answer.scorer)
        if known is not None:
            found[answer.scorer] = answer.result.kind, known
    return found


def apart(group: Group, answers: Sequence[Sitting]) -> list[Sitting]:
    """The answers of a group's first run."""
    return [answer for answer in answers if answer.run == group.cells[0].name]


def others_of(answers: Sequence[Sitting]) -> list[Sitting]:
    """The answers of those that are no run."""
    return [answer for answer in answers if not answer.trained]


def accuracy_table(groups: Sequence[Group], answers: Sequence[Sitting]) -> Table:
    """A row a group and scorer, and one for each of those that are no run."""
    rows = [
        {
            "who": group.variant.label,
            "size": size_text(group.size),
            "tokens": count(group.tokens),
            "scorer": scorer.replace("_", " "),
            "kind": kind,
            **found,
        }
        for group in groups
        for scorer, (kind, found) in by_scorer(group, answers).items()
    ]
    rows += [
        {
            "who": answer.run,
            "scorer": answer.scorer,
            "kind": answer.result.kind,
            **{name: answer.result[name] for name in ("value", "low", "high")},
        }
        for answer in others_of(answers)
    ]
    if answers:
        first = answers[0].result
        rows += [{"who": name, "value": value} for name, value in first.baselines.items()]
    columns = (
        Column("who", "who"),
        Column("size", "size"),
        Column("tokens", "tokens"),
        Column("scorer", "scorer"),
        Column("kind", "which is"),
        Column("value", "accuracy", percent),
        Column("low", "95% from", percent),
        Column("high", "to", percent),
    )
    return Table(columns, rows)


@styled()
def tokens_figure(
    groups: Sequence[Group], answers: Sequence[Sitting], published: Mapping[str, float]
) -> Figure:
    """Accuracy against tokens, a panel a size, a line each scorer of each variant."""
    sizes = by_size(groups)
    scored = {group.name: by_scorer(group, answers) for group in groups}
    figure, axes = panels(len(sizes), height=3.4, sharey=True)
    tokens = sorted({group.tokens for group in groups})
    for panel, (size, members) in zip(axes, sizes.items(), strict=True):
        for order, variant in enumerate(dict.fromkeys(group.variant for group in members)):
            of = [group for group in members if group.variant == variant]
            for number, scorer in enumerate(scored[of[0].name]):
                points, kind = {}, "exact"
                for group in of:
                    if found := scored[group.name].get(scorer):
                        nudge = 1 + 0.04 * (order - 1) + 0.012 * number
                        kind, points[group.tokens * nudge] = found
                draw_line(
                    panel,
                    variant,
                    points,
                    marker="x" if kind == "no likelihood" else "o",
                    hollow=kind == "bound",
                    linestyle="-" if kind == "exact" else ":",
                )
        panel.set_xscale("log")
        ticks(panel.xaxis, FixedLocator(tokens), count)
        panel.set_xlim(tokens[0] / 1.5, tokens[-1] * 1.5)
        panel.set(title=size_text(size), xlabel="tokens")
    axes[0].set_ylabel("% of pairs told apart")
    low, high = axes[0].get_ylim()
    axes[0].set_ylim(min(low, 49), max(high, 71))
    lines = {f"{name}, published": 100 * value for name, value in published.items()}
    for answer in others_of(answers):
        lines[answer.run] = 100 * answer.result.value
    reference_lines(axes[-1], lines)
    variants = dict.fromkeys(group.variant for group in groups)
    figure.legend(
        handles=[Line2D([], [], color=v.colour, marker="o", label=v.label) for v in variants],
        loc="outside upper left",
        ncols=4,
    )
    return figure


@styled()
def parts_figure(groups: Sequence[Group], answers: Sequence[Sitting]) -> Figure:
    """Accuracy by phenomenon, a row each; for a variant its best and its worst scorer."""
    parts: dict[str, float] = {}
    series = []
    for group in groups:
        mine = sorted(apart(group, answers), key=lambda answer: answer.result.value)
        # One that is asked by one scorer has no other.
        for answer, hollow in [(mine[-1], False), (mine[0], True)][: len(mine)]:
            values = {
                name: 100 * part.value
                for name, part in answer.result.groups.items()
                if "/" not in name
            }
            label = f"{group.variant.label}, {answer.scorer.replace('_', ' ')}"
            series.append((label, group.variant.colour, hollow, values))
            parts |= values
    for answer in others_of(answers)[-1:]:
        values = {n: 100 * p.value for n, p in answer.result.groups.items() if "/" not in n}
        series.append((answer.run, MUTED, False, values))
    rows = sorted(parts, key=lambda name: -parts[name])
    figure, (axes,) = panels(1, height=1.4 + 0.25 * len(rows))
    for order, (label, colour, hollow, values) in enumerate(series):
        axes.plot(
            [values[name] for name in rows],
            [rows.index(name) + 0.09 * (order - len(series) / 2) for name in rows],
            color=colour,
            marker=MARKERS[order % len(MARKERS)],
            markerfacecolor=PAPER if hollow else colour,
            linestyle="none",
            label=label,
        )
    axes.axvline(50, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2.5)))
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("% of pairs told apart")
    figure.legend(loc="outside upper left", ncols=3)
    return figure
