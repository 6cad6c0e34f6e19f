"""The file of a law: what `lm fit --json` prints, and what is read of it to predict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lm.scaling.base import Interval
from lm.scaling.catalog import LAWS, law_of
from lm.scaling.fit import Fit
from lm.scaling.forecast import LawForecast
from lm.scaling.joint import Joint
from lm.scaling.table import DataError


def fit_report(
    fits: Mapping[str, Fit],
    predictions: Mapping[str, list[dict[str, Any]]],
    notes: Sequence[str],
    joint: Joint | None,
    forecasts: Mapping[str, Sequence[LawForecast]] | None = None,
) -> dict[str, Any]:
    """What --json writes; a law that stands alone is at the top, groups under their names."""
    seen = forecasts or {}
    each = {
        name: _one_report(fit, predictions[name])
        | ({"forecasts": [_of_forecast(one) for one in seen[name]]} if name in seen else {})
        for name, fit in fits.items()
    }
    first = next(iter(fits.values()))
    if len(each) == 1:
        top = next(iter(each.values()))
    else:
        shared = joint.shared if joint else ()
        top = {
            "parameters": {name: first.parameters[name] for name in shared},
            "exponents": {},
            "objective": joint.objective if joint else sum(f.objective for f in fits.values()),
            "ci95": {name: first.ci95[name] for name in shared if name in first.ci95},
            "predictions": [],
            "warnings": [f"{name}: {w}" for name, f in fits.items() for w in f.warnings],
            "rows_used": sum(fit.rows_used for fit in fits.values()),
        }
    found: dict[str, Any] = (
        {"law": str(first.law)} | top | {"warnings": [*notes, *top["warnings"]]}
    )
    found["groups"] = {name: one for name, one in each.items() if name}
    if joint:
        found["test"] = {
            "shared": list(joint.shared),
            "statistic": joint.statistic,
            "p": joint.p,
            "objective_separate": joint.objective_separate,
        }
    return found


def _one_report(fit: Fit, predictions: list[dict[str, Any]]) -> dict[str, Any]:
    found = {name: getattr(fit, name) for name in (*_KEPT, "exponents", "ci95")}
    found |= {"against": fit.law.against, "method": fit.law.method, "predictions": predictions}
    # What intervals of another prediction need, as `lm budget` makes.
    found["draws"] = {
        name: [float(f"{draw:.9g}") for draw in draws_B] for name, draws_B in fit.draws.items()
    }
    return found | ({"certificate": asdict(fit.certificate)} if fit.certificate else {})


def _of_forecast(forecast: LawForecast) -> dict[str, Any]:
    found = asdict(forecast)
    for miss, written in zip(forecast.misses, found["misses"], strict=True):
        written["inside"] = miss.inside
    return found


_KEPT = (
    *("parameters", "objective", "rows_used", "degrees", "fixed", "unidentified", "ranges"),
    "warnings",
)
"""What a file has of a `Fit` as it is."""


class SavedLaw(msgspec.Struct):
    """What `lm fit --json` writes of a law, as far as it is needed to predict."""

    parameters: dict[str, float]
    objective: float
    rows_used: int
    degrees: int = 0
    draws: dict[str, list[float]] = {}
    fixed: tuple[str, ...] = ()
    unidentified: tuple[str, ...] = ()
    ranges: dict[str, Interval] = {}
    against: str = "flops"
    method: str | None = None
    warnings: tuple[str, ...] = ()


class LawFile(SavedLaw, kw_only=True):
    """A file of it: one law, or several that stand in groups."""

    law: str
    groups: dict[str, SavedLaw] = {}


def read_law(path: Path, group: str | None) -> Fit:
    """The law of a file that `lm fit --json` printed; DataError where it is none."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError(f"{path}: not a file")
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=LawFile)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no file of lm fit --json: {error}") from None
    law: SavedLaw = saved
    names = ", ".join(saved.groups)
    if group is not None:
        if group not in saved.groups:
            raise DataError(f"--group {group}: {path} has {names or 'one law, and no groups'}")
        law = saved.groups[group]
    elif len(saved.groups) > 1:
        raise DataError(f"{path}: several laws; name one with --group: {names}")
    if saved.law not in LAWS:
        raise DataError(f"{path}: no law {saved.law}; one of {', '.join(LAWS)}")
    return Fit(
        law=law_of(saved.law, against=law.against, method=law.method),
        draws={name: np.array(draws) for name, draws in law.draws.items()},
        **{name: getattr(law, name) for name in _KEPT},
    )
