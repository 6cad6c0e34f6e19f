"""Loss by size at equal compute: minima of budgets, their laws, and how these are shown."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lm.output.numbers import count, decimals, power
from lm.scaling.compare import Comparison, compare
from lm.scaling.fit import Fit
from lm.scaling.isoflop import METHODS, Budget, IsoflopMethod
from lm.scaling.table import Runs
from lm.study.grid import Variant
from lm.study.report.values import Column, Table
from lm.study.sentences import times_number, times_text

SHOWN: IsoflopMethod = METHODS[0]
"""How minima are found, a parabola through the runs about the best: nearest to the truth in the
benchmark `isoflop_methods`."""


def minima_of(fit: Fit) -> list[Budget]:
    """The budgets whose best size lies inside the sizes."""
    found: list[Budget] = fit.details["budgets"]
    return found


def compare_minima(first: Fit, second: Fit) -> Comparison:
    """The laws through the minima of two variants' budgets."""
    return compare(
        *(
            Runs(
                np.array([budget.loss for budget in minima_of(fit)]),
                params_R=np.array([budget.params for budget in minima_of(fit)]),
                flops_R=np.array([budget.flops for budget in minima_of(fit)]),
            )
            for fit in (first, second)
        )
    )


def multiplier_text(compared: Comparison, first: str, second: str) -> str:
    """The compute between the variants at the ends of what was measured."""
    said = [
        f"{times_number(point.multiplier)} times ({times_text(point.ci95)}) at"
        f" {power(point.flops)} FLOPs"
        for point in (compared.points[0], compared.points[-1])
    ]
    text = f"For {first}'s loss {second} needs {' and '.join(said)}"
    if beyond := sum(point.extrapolated for point in compared.points):
        text += (
            ", all of it by drawing its law on: it has measured no such loss"
            if beyond == len(compared.points)
            else f", by drawing its law on at {beyond} of {len(compared.points)} budgets"
        )
    return text + "."


def minima_table(
    shown: Mapping[str, Fit], variants: Mapping[str, Variant], caption: str
) -> Table | None:
    """The minima of each budget, the variants side by side, and how far the last lies above."""
    rows: dict[str, dict[str, Any]] = {}
    for name, fit in shown.items():
        for budget in minima_of(fit):
            row = rows.setdefault(power(budget.flops), {"flops": budget.flops})
            row |= {f"{name}_params": budget.params, f"{name}_tokens": budget.tokens}
            row |= {f"{name}_ratio": budget.tokens / budget.params, f"{name}_loss": budget.loss}
    first, *_, last = (f"{name}_loss" for name in variants)
    for row in rows.values():
        if first in row and last in row:
            row["gap"] = row[last] - row[first]
    columns = [Column("flops", "C", power)]
    for name, variant in variants.items():
        columns += [
            Column(f"{name}_params", f"{variant.label}: N*", count),
            Column(f"{name}_tokens", "D*", count),
            Column(f"{name}_ratio", "D*/N*", "{:.0f}".format),
            Column(f"{name}_loss", "bits per byte", decimals),
        ]
    found = sorted(rows.values(), key=lambda row: float(row["flops"]))
    return Table((*columns, Column("gap", "above", decimals)), found, caption) if rows else None
