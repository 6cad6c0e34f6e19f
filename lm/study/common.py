"""What studies of several arms at several sizes share: their grid, checks, tables, figures."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, Locator, LogLocator, NullLocator

from lm.config import read_json
from lm.evaluate.bits import sums_se
from lm.model import Model
from lm.objectives import Masked, Objective
from lm.output.numbers import count, decimals, duration, percent, power
from lm.results import compared
from lm.run import same_result
from lm.study.report.figures import (
    INK,
    MARKERS,
    MUTED,
    PAPER,
    RULE,
    panels,
    reference_lines,
    styled,
)
from lm.study.report.values import Column, Guesses, Place, Report, Section, Table
from lm.study.runner import Cell
from lm.train.directory import environments
from lm.train.trackers.jsonl import read_metrics

Result = Mapping[str, Any]
"""A finished cell by column name: a `lm.results.Result`, and what a study adds."""
Rows = Mapping[str, Mapping[str, Cell]]
"""Cells that are compared, by arm, in rows of one size (and seed) each, by its name."""


class Arm(NamedTuple):
    """One way of training: what figures and sentences call it, its objective, its colour."""

    label: str
    name: str
    objective: Objective
    colour: str


class Grid(NamedTuple):
    """The cells of a study by size (parameters without the embedding, ascending) and arm."""

    arms: Mapping[str, Arm]
    """By the name that the cells' names begin with; the others are compared to the first."""
    all: dict[int, dict[str, Cell]]
    finished: dict[int, dict[str, Result]]
    """The results; sizes without one are left out."""

    @staticmethod
    def of(cells: Sequence[Cell], arms: Mapping[str, Arm]) -> "Grid":
        """Sorts cells into the grid."""
        table: dict[int, dict[str, Cell]] = {
            size: {} for size in sorted({parameters(cell.run.model) for cell in cells})
        }
        for arm in arms:
            for cell in cells:
                if arm_of(cell) == arm:
                    table[parameters(cell.run.model)][arm] = cell
        finished = {
            size: {arm: cell.result for arm, cell in row.items() if cell.result is not None}
            for size, row in table.items()
        }
        return Grid(arms, table, {size: row for size, row in finished.items() if row})

    @property
    def compared(self) -> Rows:
        """The arms of each size."""
        return {size_text(size): row for size, row in self.all.items()}

    @property
    def reference(self) -> str:
        """The first arm."""
        return next(iter(self.arms))

    @property
    def best(self) -> tuple[int, dict[str, Result]]:
        """The largest size that can be compared, else that with the most arms."""
        sizes = list(self.finished)
        complete = [
            s for s in sizes if len(row := self.finished[s]) > 1 and self.reference in row
        ]
        size = complete[-1] if complete else max(sizes, key=lambda s: len(self.finished[s]))
        return size, self.finished[size]

    @property
    def baselines(self) -> dict[str, float]:
        """What predictors without a network need; the text is the same for all cells."""
        found = [r["baselines"] for row in self.finished.values() for r in row.values()]
        return dict(found[0]) if found else {}

    @property
    def probes(self) -> dict[tuple[int, str], Result]:
        """The probes by size and arm, where there are any."""
        return {
            (size, arm): result["probe"]
            for size, row in self.finished.items()
            for arm, result in row.items()
            if result.get("probe")
        }


def difference(a: Result, b: Result) -> tuple[float, float | None]:
    """How many bits per byte `a` lies above `b`, and its error, paired over documents.

    >>> a = {"bits_per_byte": 2.0, "scorer": "x", "document_bytes": [1, 1],
    ...      "document_nats": [math.log(2), 3 * math.log(2)]}
    >>> b = a | {"bits_per_byte": 1.0, "document_nats": [0.0, 2 * math.log(2)]}
    >>> above, error = difference(a, b)
    >>> round(above, 6), round(error, 6)
    (1.0, 0.0)
    """
    above = a["bits_per_byte"] - b["bits_per_byte"]
    sums = [(result["document_nats"], result["document_bytes"]) for result in (a, b)]
    error = sums_se(sums[:1], sums[1:])
    return above, error and error / math.log(2)


def probe_difference(a: Result, b: Result) -> tuple[float, float | None]:
    """How much more of the labels `a`'s probe finds than `b`'s, paired over documents."""
    probes = a["probe"], b["probe"]
    above = a["probe_accuracy"] - b["probe_accuracy"]
    sums = [(probe["document_right"], probe["document_tokens"]) for probe in probes]
    return above, sums_se(sums[:1], sums[1:])


# Tables


def main_table(grid: Grid) -> Table:
    """All finished cells, a row each."""
    rows = [
        {
            **result,
            "arm": grid.arms[arm].label,
            "size": size,
            "sampled": result["mc_se"] if result["kind"] != "exact" else None,
        }
        for size, row in grid.finished.items()
        for arm, result in row.items()
    ]
    columns = (
        Column("size", "size", size_text),
        Column("arm", "trained as"),
        Column("bits_per_byte", "bits per byte", decimals, error="text_se"),
        Column("sampled", "± masks", decimals),
        Column("kind", "which is"),
        Column("layout_bits", "of it layout", decimals),
        Column("probe_accuracy", "probe", percent, error="probe_se"),
        Column("validation_loss", "own loss", decimals),
        Column("predicted_targets", "predicted", count),
        Column("flops", "FLOPs", power),
        Column("device_seconds", "device time", duration),
    )
    return Table(
        columns,
        rows,
        "All finished cells. Size counts parameters without the embedding; ± is the standard"
        " error over documents, “± masks” that of the masks drawn; “of it layout” is what the"
        " length model pays for the ends of documents, which a BERT is shown and a GPT predicts"
        " itself (there it is in the text's bits); the probe is the share of"
        " tokens whose role is found; own loss is the objective's, in nats per predicted"
        " piece, and does not compare between arms; predicted counts the targets in training.",
    )


def equal_table(rows: Rows, between: str = "between the arms of a size") -> Table:
    """What was to be equal between the arms, and whether it is."""
    columns = (
        Column("what", between),
        Column("verdict", "equal"),
        Column("detail", "value"),
    )
    caption = (
        "What was to be equal, checked from the results. The batches' digest is computed on"
        " device over every global batch, in order."
    )
    return Table(columns, _checks(rows), caption)


def spent_table(grid: Grid) -> Table:
    """What the arms of the largest size used, and its share of what the reference used."""
    size, row = grid.best
    reference = row.get(grid.reference)
    rows = []
    for key, column in compared("spent").items():
        texts = {arm: column.show(result[key]) for arm, result in row.items()}
        if reference:
            texts = {
                arm: f"{text} ({row[arm][key] / reference[key]:.0%})"
                for arm, text in texts.items()
            }
        rows.append({"what": column.title} | texts)
    columns = (
        Column("what", f"at {size_text(size)} parameters"),
        *(Column(arm, grid.arms[arm].label) for arm in row),
    )
    caption = (
        "What follows from the objective and is not equal. Slots are prediction positions that"
        " the head computes, used or not; 6ND is the usual shorthand for FLOPs."
    )
    return Table(columns, rows, caption)


def violations(rows: Rows) -> tuple[str, ...]:
    """Warnings about what was to be equal and is not."""
    broken = [check for check in _checks(rows) if check["verdict"] == "no"]
    return tuple(
        f"Not equal between the arms, though it was to be: {check['what']} ({check['detail']})."
        for check in broken
    )


def missing(cells: Sequence[Cell]) -> tuple[str, ...]:
    """A warning about cells that are not finished."""
    names = [cell.name for cell in cells if cell.result is None]
    if not names:
        return ()
    return (
        f"Not finished, and left out of every comparison: {len(names)} of {len(cells)} cells"
        f" ({', '.join(names)}). The same command goes on where it stopped.",
    )


def _checks(rows: Rows) -> list[dict[str, str]]:
    """What is to be equal between the cells of each row, whether it is, and the values."""
    finished = {name: [c for c in row.values() if c.result] for name, row in rows.items()}
    finished = {name: row for name, row in finished.items() if row}
    several = any(len(row) > 1 for row in finished.values())
    checks = []
    for key, column in compared("equal").items():
        values = {
            name: list(dict.fromkeys((cell.result or {})[key] for cell in row))
            for name, row in finished.items()
        }
        equal = all(len(found) == 1 for found in values.values())
        texts: dict[str, list[str]] = {}
        for name, found in values.items():
            texts.setdefault(" ≠ ".join(map(column.show, found)), []).append(name)
        if len(texts) == 1:
            detail = next(iter(texts))
        else:
            detail = "; ".join(f"{text} at {', '.join(at)}" for text, at in texts.items())
        verdict = _verdict(equal, several)
        checks.append({"what": column.title, "verdict": verdict, "detail": detail})
    fields = sorted(
        {
            name
            for row in rows.values()
            for cell in row.values()
            for name in same_result(next(iter(row.values())).run, cell.run)
        }
        - {"objective"}
    )
    detail = f"differ: {', '.join(fields)}" if fields else "only the objective differs"
    verdict = _verdict(not fields, several)
    return [*checks, {"what": "all other settings", "verdict": verdict, "detail": detail}]


def _verdict(equal: bool, compared: bool) -> str:
    if not equal:
        return "no"
    return "yes" if compared else "one arm only"


def guesses(grid: Grid) -> tuple[str, tuple[Guesses, ...]]:
    """What the largest finished model of each arm says of a passage, and the passage's name."""
    groups: dict[tuple[tuple[Place, ...], str], dict[str, Any]] = {}
    document = ""
    for arm in grid.arms:
        sizes = [size for size, row in grid.finished.items() if arm in row]
        says = grid.finished[sizes[-1]][arm].get("says") if sizes else None
        if not says or not says["pieces"]:
            continue
        document = says["document"]
        places = tuple(Place(piece["before"], piece["truth"]) for piece in says["pieces"])
        label = f"{grid.arms[arm].label}, {size_text(sizes[-1])}"
        groups.setdefault((places, says["after"]), {})[label] = [
            [(text, share) for text, share in piece["likeliest"]] for piece in says["pieces"]
        ]
    found = (Guesses(places, after, said) for (places, after), said in groups.items())
    return document, tuple(found)


# Figures


@styled()
def bits_figure(grid: Grid) -> Figure:
    """Bits per byte by size, and how far above the reference arm."""
    figure, (left, right) = panels(2, height=3.5)
    bits = []
    for nudge, arm in enumerate(grid.arms, -1):
        rows = {size: row[arm] for size, row in grid.finished.items() if arm in row}
        points = [
            (size, result["bits_per_byte"], result["text_se"]) for size, result in rows.items()
        ]
        hollow = any(result["kind"] != "exact" for result in rows.values())
        _points(left, grid.arms[arm], points, nudge, hollow=hollow)
        bits += [result["bits_per_byte"] for result in rows.values()]
        paired = [
            (size, *difference(result, grid.finished[size][grid.reference]))
            for size, result in rows.items()
            if arm != grid.reference and grid.reference in grid.finished[size]
        ]
        _points(right, grid.arms[arm], paired, nudge, hollow=True)
    references = {name: grid.baselines[name] for name in COMPRESSORS if name in grid.baselines}
    low, high = min([*bits, *references.values()]), max([*bits, *references.values()])
    left.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    name, colour = grid.arms[grid.reference].label, grid.arms[grid.reference].colour
    right.axhline(0, color=colour, linewidth=1.2)
    right.annotate(
        name, (1, 0), (-2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", color=colour, ha="right", va="bottom",
    )  # fmt: skip
    for axes in (left, right):
        _size_axis(axes, grid)
    left.set(title="Held-out text", ylabel="bits per byte")
    right.set(title=f"Above the {name}", ylabel=f"bits per byte more than the {name}")
    right.set_ylim(min(0, right.get_ylim()[0]) - 0.05)
    reference_lines(left, references)
    figure.legend(
        handles=_arm_handles(grid, bounds="hollow"), loc="outside upper left", ncols=3
    )
    return figure


@styled()
def loss_figure(grid: Grid) -> Figure | None:
    """Training and validation loss against tokens and FLOPs; None if nothing was trained."""
    figure, (left, right) = panels(2, height=3.3, sharey=True)
    lowest, highest = math.inf, -math.inf
    for order, (size, row) in enumerate(grid.all.items()):
        for arm, cell in row.items():
            curve, look = _curve(cell), _look(grid, size, arm)
            tokens = cell.run.data.batch * cell.run.data.length
            scales = {left: tokens}
            if result := cell.result:
                scales[right] = result["flops"] / result["steps"]
            for axes, each in scales.items():
                axes.plot(curve.steps * each, curve.losses, **look, alpha=0.85)
                axes.plot(
                    curve.validated * each,
                    curve.validation,
                    linestyle="none",
                    marker=MARKERS[order],
                    markersize=3.6,
                    color=grid.arms[arm].colour,
                    markerfacecolor=PAPER,
                    markeredgewidth=0.9,
                )
            # The first steps, all near the logarithm of the vocabulary, would squeeze the rest.
            late = curve.losses[len(curve.losses) // 20 :]
            if late.size:
                lowest, highest = min(lowest, late.min()), max(highest, late.max())
    for axes, name in ((left, "training tokens"), (right, "training FLOPs")):
        axes.set_xscale("log")
        axes.set_xlabel(name)
    ticks(left.xaxis, LogLocator(subs=(1, 3)), count)
    right.xaxis.set_minor_locator(NullLocator())
    if lowest > highest:
        return None
    margin = 0.05 * (highest - lowest)
    left.set_ylim(lowest - margin, highest + margin)
    left.set(title="By tokens read", ylabel="nats per predicted piece")
    right.set(title="By arithmetic")
    handles = [*_arm_handles(grid, marker="none"), *_size_handles(grid)]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure


@styled()
def share_figure(grid: Grid) -> Figure:
    """Error of the hidden pieces against the share hidden."""
    figure, (axes,) = panels(1, height=3.3)
    shown: dict[str, None] = {}
    for order, (size, row) in enumerate(grid.finished.items()):
        for arm, result in row.items():
            if not (shares := result.get("error_by_share")):
                continue
            shown[arm] = None
            points = sorted((float(share), score) for share, score in shares.items())
            axes.errorbar(
                [100 * share for share, _ in points],
                [score["bits_per_byte"] for _, score in points],
                [score["mc_se"] or 0 for _, score in points],
                **_look(grid, size, arm),
                marker=MARKERS[order],
                elinewidth=0.9,
            )
    for arm in shown:
        objective, colour = grid.arms[arm].objective, grid.arms[arm].colour
        if isinstance(objective, Masked) and isinstance(objective.rate, float):
            axes.axvline(100 * objective.rate, color=colour, linewidth=0.8, linestyle=":")
            axes.annotate(
                "trained here", (100 * objective.rate, 1), (4, -2), va="top", color=colour,
                xycoords=("data", "axes fraction"), textcoords="offset points",
            )  # fmt: skip
    axes.set(
        xlabel="share of the row that is hidden (%)",
        ylabel="bits per byte of the hidden pieces",
    )
    axes.set_xlim(0, 102)
    lines = {name: grid.baselines[name] for name in _FLOORS if name in grid.baselines}
    if lines:
        low, high = axes.get_ylim()
        axes.set_ylim(low, max(high, 1.04 * max(lines.values())))
    reference_lines(axes, lines)
    handles = [*_arm_handles(grid, marker="none", arms=list(shown)), *_size_handles(grid)]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure


@styled()
def probe_figure(grid: Grid) -> Figure:
    """Probe accuracy by size, and recall by role."""
    probed = grid.probes
    figure, (left, right) = panels(2, height=3.9, width_ratios=(1, 1.05))
    for nudge, arm in enumerate(grid.arms, -1):
        points = [
            (size, 100 * probed[size, arm]["accuracy"], 100 * probed[size, arm]["accuracy_se"])
            for size in grid.finished
            if (size, arm) in probed
        ]
        _points(left, grid.arms[arm], points, nudge)
    first = next(iter(probed.values()))
    floor = {
        "most frequent role": 100 * first["majority_accuracy"],
        "by the piece alone": 100 * first["piece_accuracy"],
    }
    low, high = left.get_ylim()
    left.set_ylim(min(low, *floor.values()) - 3, max(high, *floor.values()) + 2)
    left.set(title="Roles found", ylabel="% of tokens")
    _size_axis(left, grid)

    size = grid.best[0]
    recalls = {arm: probed[size, arm]["recall"] for arm in grid.arms if (size, arm) in probed}
    roles = sorted(
        {role for recall in recalls.values() for role in recall},
        key=lambda role: np.mean([recall.get(role, 0) for recall in recalls.values()]),
    )
    for place, role in enumerate(roles):
        ends = [100 * recall[role] for recall in recalls.values() if role in recall]
        right.plot((min(ends), max(ends)), (place, place), color=RULE, linewidth=2, zorder=1)
    for arm, recall in recalls.items():
        shown = [role for role in roles if role in recall]
        right.plot(
            [100 * recall[role] for role in shown],
            [roles.index(role) for role in shown],
            linestyle="none",
            marker="o",
            color=grid.arms[arm].colour,
        )
    right.yaxis.set_major_locator(FixedLocator(range(len(roles))))
    right.set_yticklabels(roles)
    right.grid(axis="y", visible=False)
    right.tick_params(axis="y", length=0)
    right.set(title=f"By role, {size_text(size)}", xlabel="% of the role's tokens")
    right.set_ylim(-0.7, len(roles) - 0.3)
    reference_lines(left, floor)
    figure.legend(handles=_arm_handles(grid), loc="outside upper left", ncols=3)
    return figure


def _points(
    axes: Axes,
    arm: Arm,
    points: Sequence[tuple[float, float, float | None]],
    nudge: int,
    *,
    hollow: bool = False,
) -> None:
    """Values by size with error bars; arms stand a little apart, so that bars do not hide."""
    if not points:
        return
    sizes, values, errors = zip(*points, strict=True)
    axes.errorbar(
        [size * 1.025**nudge for size in sizes],
        values,
        [error if error is not None and math.isfinite(error) else 0 for error in errors],
        color=arm.colour,
        marker="o",
        markersize=5,
        markerfacecolor=PAPER if hollow else arm.colour,
        markeredgewidth=1.2,
        elinewidth=1,
    )


def _size_axis(axes: Axes, grid: Grid) -> None:
    sizes = list(grid.finished)
    axes.set_xscale("log")
    ticks(axes.xaxis, FixedLocator(sizes), size_text)
    axes.set_xlim(sizes[0] / 1.35, sizes[-1] * 1.35)
    axes.set_xlabel("parameters without the embedding")


def ticks(axis: Axis, locator: Locator, show: Callable[[float], str]) -> None:
    """Ticks at these places alone, shown so."""
    axis.set_major_locator(locator)
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))


def _look(grid: Grid, size: int, arm: str) -> dict[str, Any]:
    """A colour an arm; the largest size has the solid line."""
    rank = list(grid.all)[::-1].index(size)
    return {"color": grid.arms[arm].colour, "linestyle": _DASHES[rank % len(_DASHES)]}


_DASHES = ("-", (0, (3.5, 1.6)), (0, (1, 1.2)))


def _arm_handles(
    grid: Grid,
    *,
    arms: Sequence[str] = (),
    marker: str = "o",
    bounds: Literal["filled", "hollow"] = "filled",
) -> list[Line2D]:
    """The legend's entries for arms, by default all that there are."""
    exact = {a: r["kind"] == "exact" for row in grid.finished.values() for a, r in row.items()}
    there = {arm for row in grid.all.values() for arm in row}
    handles = []
    for arm in arms or [arm for arm in grid.arms if arm in there]:
        colour = grid.arms[arm].colour
        filled = bounds == "filled" or exact.get(arm, True)
        face = colour if filled else PAPER
        handle = Line2D([], [], color=colour, marker=marker, markerfacecolor=face)
        handle.set_label(grid.arms[arm].label)
        handles.append(handle)
    return handles


def _size_handles(grid: Grid) -> list[Line2D]:
    return [
        Line2D(
            [],
            [],
            label=size_text(size),
            marker=MARKERS[order],
            markersize=3.6,
            markerfacecolor=PAPER,
            markeredgewidth=0.9,
            **_look(grid, size, grid.reference) | {"color": MUTED, "markeredgecolor": INK},
        )
        for order, size in enumerate(grid.all)
    ]


class _Curve(NamedTuple):
    steps: np.ndarray
    losses: np.ndarray
    """Smoothed over a twenty-fifth of the run."""
    validated: np.ndarray
    validation: np.ndarray


def _curve(cell: Cell) -> _Curve:
    records = read_metrics(cell.directory)
    trained = [(r["step"], r["loss"]) for r in records if "loss" in r]
    validated = [(r["step"], r["validation_loss"]) for r in records if "validation_loss" in r]
    steps, losses = np.array(trained).reshape(-1, 2).T
    keep = 1 - 1 / max(1, len(losses) / 25)
    smooth, total, weight = np.zeros_like(losses), 0.0, 0.0
    for at, loss in enumerate(losses):
        total, weight = keep * total + loss, keep * weight + 1
        smooth[at] = total / weight
    return _Curve(steps, smooth, *np.array(validated).reshape(-1, 2).T)


# Small parts

COMPRESSORS = {
    "gzip, by document": "gzip by document",
    "xz, by document": "xz by document",
    "gzip, by window": "gzip by window",
    "xz, by window": "xz by window",
}
"""The baselines that figures and sentences name."""
_FLOORS: tuple[str, ...] = ("uniform", "unigram")


def arm_of(cell: Cell) -> str:
    """The name of a cell's arm."""
    return cell.name.split("-")[0]


def parameters(model: Model) -> int:
    """Parameters without the embedding."""
    return sum(model.parameters(0).values())


def size_text(parameters: float) -> str:
    """A model size as cell names and axes give it: one digit, or two where one is 5% off.

    >>> size_text(790_000), size_text(1_770_000), size_text(302_000_000)
    ('0.8M', '1.8M', '302M')
    """
    one = float(f"{parameters:.0e}")
    return count(parameters, digits=1 if abs(one / parameters - 1) < 0.05 else 2)


def made(study: str, cells: Sequence[Cell]) -> dict[str, str]:
    """The command, and what the run directories say about machine and data."""
    scale, *changed = re.split("-(?=[0-9a-f]{6}$)", cells[0].directory.parent.name)
    command = f"python -m experiments.{study} --scale {scale}"
    made = {"command": command + (" with changed settings (config.json)" if changed else "")}
    return made | {key: _listed(values) for key, values in _circumstances(cells).items()}


def mixed(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Warnings about cells, or parts of one, that other code, devices or texts have made."""
    found = {
        key: values
        for key, values in _circumstances(cells).items()
        if key not in _BY_DESIGN and len(values) > 1
    }
    for cell in cells:
        if digest := (cell.result or {}).get("corpus_digest"):
            texts = found.setdefault(f"text of {cell.run.data.corpus}", {})
            texts.setdefault(f"{digest[:12]}…", []).append(cell.name)
    return tuple(
        f"Not the same for all cells: {key}: {_listed(values)}."
        for key, values in found.items()
        if len(values) > 1
    )


_BY_DESIGN = ("mesh", "hosts", "train", "validation")
"""What may differ between cells and change nothing, or follows from their settings."""


def _circumstances(cells: Sequence[Cell]) -> dict[str, dict[str, list[str]]]:
    """All that run directories say about machine, code and data: by key and value, which cells.

    A cell that went on elsewhere, or by other code, has several values.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for cell in [cell for cell in cells if cell.result] or cells:
        path = cell.directory / "data.json"
        data = [read_json(path)] if path.exists() else []
        for about in [*environments(cell.directory), *data]:
            for key, value in about.items():
                if isinstance(value, dict):
                    text = ", ".join(f"{_count(n)} {what}" for what, n in value.items())
                elif value is None or key == "step" or key.endswith("_digest"):
                    continue
                else:
                    text = str(value)
                names = found.setdefault(key, {}).setdefault(text, [])
                if cell.name not in names:
                    names.append(cell.name)
    return found


def _count(number: Any) -> str:
    """A number as it is said; whatever else is there by someone's hand, as it is."""
    return f"{number:,}" if isinstance(number, int) else str(number)


def _listed(values: Mapping[str, Sequence[str]]) -> str:
    """Values, and where there are several, which cells have each.

    >>> _listed({"a": ["x", "y"]}), _listed({"a": ["x"], "b": ["x", "y", "z", "w"]})
    ('a', 'a (x); b (4 cells)')
    """
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(
        f"{value} ({', '.join(names) if len(names) < 4 else f'{len(names)} cells'})"
        for value, names in values.items()
    )


def study_report(
    study: ModuleType,
    cells: Sequence[Cell],
    *,
    title: str,
    answer: str,
    details: Sequence[str] = (),
    table: Table,
    sections: Sequence[Section | None],
    warnings: Sequence[str] = (),
) -> Report:
    """The report of a study, with what is missing at its top."""
    return Report(
        title=title,
        question=(study.__doc__ or "").splitlines()[0],
        answer=answer,
        details=tuple(details),
        table=table,
        rows=[{"cell": c.name, "objective": arm_of(c), **(c.result or {})} for c in cells],
        sections=tuple(section for section in sections if section is not None),
        warnings=(*missing(cells), *mixed(cells), *warnings),
        made=made(Path(study.__file__ or "").stem, cells),
    )
