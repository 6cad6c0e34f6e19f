"""One law in each group of a table's rows: its fits, and what they predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lm.scaling.base import Law
from lm.scaling.fit import Fit, predict, with_floor_checked
from lm.scaling.joint import Joint, fit_joint
from lm.scaling.table import DataError, Runs


@dataclass(frozen=True)
class Grouped:
    """The fits of groups, by their names; one that stands alone has the name ""."""

    fits: dict[str, Fit]
    failed: dict[str, str]
    """Groups whose rows do not do, and why."""
    joint: Joint | None = None
    """What they have in common, if that was asked for."""


def fit_groups(law: Law, parts: Mapping[str, Runs], *, bootstrap: int, seed: int) -> Grouped:
    """Fits a law to each group; raises DataError where none of them can be."""
    fits: dict[str, Fit] = {}
    failed: dict[str, str] = {}
    for name, part in parts.items():
        try:
            fits[name] = with_floor_checked(law.fit(part, bootstrap=bootstrap, seed=seed))
        except DataError as error:
            failed[name] = str(error)
    if not fits:
        name, why = next(iter(failed.items()))
        raise DataError(f"{name}: {why}" if name else why)
    return Grouped(fits, failed)


def fit_shared(
    parts: Mapping[str, Runs], shared: Sequence[str], *, delta: float, bootstrap: int, seed: int
) -> Grouped:
    """Fits one parametric law to all groups with these parameters in common, and tests that."""
    sizes = np.cumsum([0, *(len(part) for part in parts.values())])
    rows = {name: np.arange(sizes[i], sizes[i + 1]) for i, name in enumerate(parts)}
    first = next(iter(parts.values()))
    known = [field.name for field in fields(first) if getattr(first, field.name) is not None]
    together = {
        name: np.concatenate([getattr(part, name) for part in parts.values()]) for name in known
    }
    joint = fit_joint(
        Runs(**together), rows, shared, delta=delta, bootstrap=bootstrap, seed=seed
    )
    return Grouped(dict(joint.fits), {}, joint)


def predictions_of(
    fits: Mapping[str, Fit], points: Sequence[Mapping[str, float]]
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Every group's predictions, and what to say of groups that have none."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in fits}
    silent = []
    for point in points:
        for name, fit in fits.items():
            try:
                found[name].append(predict(fit, **point))
            except ValueError as error:
                shown = ",".join(f"{key}={value:g}" for key, value in point.items())
                silent.append(f"{name + ': ' if name else ''}--predict {shown}: {error}")
    return found, silent


def extrapolations(
    fits: Mapping[str, Fit], predictions: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[str]:
    """That a law is drawn on beyond its rows, once for each that is."""
    said = []
    for name, several in predictions.items():
        far: dict[str, float] = {}
        for row in several:
            for key, times in row.get("extrapolated", {}).items():
                far[key] = max(times, far.get(key, 0.0))
        if far:
            ranges = [
                f"{key} {fits[name].ranges[key][0]:.3g} to {fits[name].ranges[key][1]:.3g}"
                for key in far
            ]
            said.append(
                f"{name + ': ' if name else ''}extrapolated, up to {max(far.values()):g} times"
                f" beyond the rows ({', '.join(ranges)}): intervals are the law's, if it holds"
                " there"
            )
    return said
