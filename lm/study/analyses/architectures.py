"""Architectures of one size: how fast each learns by several clocks, and what a TPU takes."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from lm.config import UserError, read_json
from lm.output.files import write_whole
from lm.output.numbers import count, decimals, duration, power
from lm.plan.client import compiler
from lm.plan.machine import Machine, find_machine
from lm.plan.plan import plan
from lm.run import Run
from lm.study.curves import losses_of
from lm.study.grid import StudyRun, Variant, variant_of
from lm.study.groups import BITS, Group
from lm.study.report.figures import panels, styled
from lm.study.report.values import Column, Table

PLANNED = "planned.json"
"""The file of a study's directory with what was planned."""


def best_rates(groups: Sequence[Group]) -> list[Group]:
    """The groups of the learning rate at which each variant's bits per byte are fewest."""
    best: dict[Variant, Group] = {}
    for group in groups:
        known = best.get(group.variant)
        if known is None or _bits(group) < _bits(known):
            best[group.variant] = group
    return list(best.values())


def rates_table(groups: Sequence[Group]) -> Table | None:
    """Bits per byte of each variant at each learning rate; None if there is one rate."""
    rates = sorted({group.run.optimizer.learning_rate for group in groups})
    if len(rates) < 2:
        return None
    rows: dict[Variant, dict[str, Any]] = {}
    for group in groups:
        row = rows.setdefault(group.variant, {"variant": group.variant.label})
        row[f"{group.run.optimizer.learning_rate:g}"] = group.mean(BITS.key)
    columns = [Column(f"{rate:g}", f"{rate:g}", decimals) for rate in rates]
    caption = (
        "Bits per byte by learning rate, means over seeds. Elsewhere each variant stands with"
        " the rate that is best for it here: on the text that is reported, so that all are a"
        " little too good, alike."
    )
    return Table((Column("variant", "learning rate"), *columns), list(rows.values()), caption)


@styled()
def clocks_figure(groups: Sequence[Group]) -> Figure | None:
    """Training losses of the first seeds against tokens, FLOPs and seconds of devices.

    None where nothing was trained.
    """
    figure, three = panels(3, height=2.9, sharey=True)
    clocks = {"tokens": "training tokens", "flops": "FLOPs", "device_seconds": "seconds"}
    late = []
    for group in groups:
        cell = next(cell for cell in group.cells if cell.result is not None)
        result, losses = cell.result or {}, losses_of(cell)
        late.append(losses.trained[len(losses.trained) // 20 :])
        for axes, (key, title) in zip(three, clocks.items(), strict=True):
            each = result[key] / result["steps"]
            axes.plot(losses.steps * each, losses.trained, color=group.variant.colour)
            axes.set(xscale="log", xlabel=title)
            axes.xaxis.set_minor_locator(NullLocator())
    if not any(losses.size for losses in late):
        return None
    # The first steps, all near the logarithm of the vocabulary, would squeeze the rest.
    low, high = min(map(np.min, late)), max(map(np.max, late))
    three[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    three[0].set_ylabel("nats per predicted token")
    variants = [group.variant for group in groups]
    handles = [Line2D([], [], color=each.colour, label=each.label) for each in variants]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
    return figure


def keep_planned(runs: Mapping[str, Run], slice_: str, file: Path) -> None:
    """Plans a training step of each run on a slice, and keeps it as JSON by variant.

    What cannot be planned is kept as the reason, in a line.
    """
    if file.exists():
        return
    kept: dict[str, Any] = {}
    try:
        machine = find_machine(slice_, 1)
        with compiler(machine) as compiled:
            for name, run in runs.items():
                kept[name] = planned_step(run, machine, compiled)
    except UserError as error:
        kept["why"] = str(error)
    write_whole(file, json.dumps({"slice": slice_, "steps": kept}, indent=1))


def planned_step(run: Run, machine: Machine, compiled: Any) -> dict[str, Any]:
    """The floors of a training step on a machine in seconds, and its tokens a second."""
    found = plan(run, machine, compiled, wanted=["train"])
    ((_, step),) = found.train.items()
    seconds = machine.seconds(step)
    if math.isnan(seconds):
        return {"refused": step.refused}
    tokens = run.data.batch * run.data.length
    floors = machine.floors(step)
    return {
        "seconds": seconds,
        "bound": max(floors, key=lambda name: floors[name]),
        "tokens_per_second": tokens / seconds,
        "fits": found.fits(machine),
        **floors,
    }


def planned_of(cells: Sequence[StudyRun]) -> dict[str, Any]:
    """What `keep_planned` kept beside the runs; nothing where it was not asked."""
    file = cells[0].directory.parent / PLANNED
    found: dict[str, Any] = read_json(file) if file.exists() else {}
    return found


def speeds_table(
    groups: Sequence[Group], reference: Group, planned: Mapping[str, Any]
) -> Table:
    """Parameters, FLOPs, time here and planned time of each variant, by token."""
    steps = planned.get("steps", {})
    rows = []
    for group in groups:
        tokens, theirs = group.mean("tokens") or math.nan, reference.mean("device_seconds")
        seconds = group.mean("device_seconds") or math.nan
        row: dict[str, Any] = {
            "variant": group.variant.label,
            "rate": group.run.optimizer.learning_rate,
            "parameters": sum(group.run.model.parameters(0).values()),
            "width": group.run.model.width,
            "flops": (group.mean("flops") or math.nan) / tokens,
            "seconds": seconds,
            "times": seconds / theirs if theirs else None,
        }
        step = steps.get(variant_of(group.cells[0]), {})
        if "seconds" in step:
            row |= {"planned": step["tokens_per_second"], "bound": step["bound"]}
        elif "refused" in step:
            row["bound"] = step["refused"]
        rows.append(row)
    columns = [
        Column("variant", "variant"),
        Column("width", "width"),
        Column("parameters", "parameters", "{:,}".format),
        Column("rate", "rate", "{:g}".format),
        Column("flops", "FLOPs a token", power),
        Column("seconds", "device time", duration),
        Column("times", f"of {reference.variant.name}'s", "{:.2f}".format),
    ]
    if any("bound" in row for row in rows):
        columns.append(Column("planned", f"tokens/s on {planned['slice']}, at most", count))
        columns.append(Column("bound", "bound by"))
    caption = (
        "Parameters are those without the embedding. Device time is that of all training steps"
        " here, without compilation, and holds for a machine that did nothing else."
    )
    return Table(tuple(columns), rows, caption)


def _bits(group: Group) -> float:
    found = group.mean(BITS.key)
    return math.inf if found is None else found
