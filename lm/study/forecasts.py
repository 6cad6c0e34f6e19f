"""What a study's law says of runs still to come, kept, and held to how they came out."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from lm.config import UserError
from lm.cost import ledger
from lm.data import vocabulary_size
from lm.run import identity_digest
from lm.scaling.base import Interval, Law
from lm.scaling.fit import with_floor_checked
from lm.scaling.forecast import predictions_at
from lm.scaling.table import DataError
from lm.study import laws
from lm.study.grid import StudyRun, variant_of


class StudyLaw(NamedTuple):
    """The law of loss that a study declares as `LAW`, and which of its runs are of it."""

    law: Law
    """Of size and data, so that it says the loss of every run."""
    holds: Callable[[StudyRun], bool]


class RunForecast(msgspec.Struct, frozen=True):
    """What is said of one run before it is trained."""

    name: str
    settings: str
    """The digest of its identity."""
    params: float
    tokens: float
    flops: float
    loss: float
    """In bits per byte, as the study scores its runs."""
    ci95: Interval | None
    """For this one run, not for the law's mean; None where rows do not identify the law."""


class ForecastFile(msgspec.Struct, frozen=True, kw_only=True):
    """A forecast as it is kept: made of finished runs, of runs that had not begun."""

    study: str
    scale: str
    made: str
    """When, in UTC."""
    law: str
    parameters: dict[str, dict[str, float]]
    """By variant."""
    fitted: tuple[str, ...]
    """The finished runs that the laws were fit to."""
    warnings: tuple[str, ...]
    runs: tuple[RunForecast, ...]
    digest: str = ""
    """Of all else; `settle` takes no file whose digest is another."""

    def sealed(self) -> "ForecastFile":
        """The same with its digest."""
        return msgspec.structs.replace(self, digest=self._digest())

    def _digest(self) -> str:
        plain = msgspec.json.encode(msgspec.structs.replace(self, digest=""), order="sorted")
        return hashlib.sha256(plain).hexdigest()


class Settled(NamedTuple):
    """A forecast of one run, and the loss that it came to."""

    forecast: RunForecast
    measured: float

    @property
    def error(self) -> float:
        """How far it was: ln of the forecast less ln of what was measured."""
        return float(np.log(self.forecast.loss) - np.log(self.measured))

    @property
    def inside(self) -> bool | None:
        """Whether it lies within its interval; None, where it has none."""
        if self.forecast.ci95 is None:
            return None
        low, high = self.forecast.ci95
        return low <= self.measured <= high


def foretell(
    declared: StudyLaw,
    cells: Sequence[StudyRun],
    *,
    study: str,
    scale: str,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ForecastFile:
    """The forecast of all runs that have not begun, from those that are finished.

    Each variant has a law of its own. Raises UserError where no run is to come, or none of
    them has a law.
    """
    ours = [cell for cell in cells if declared.holds(cell)]
    to_come = [cell for cell in ours if not cell.result and not _begun(cell.directory)]
    if not to_come:
        raise UserError(f"{study}/{scale}: no run is still to come: nothing to forecast")
    parameters, warnings = dict[str, dict[str, float]](), list[str]()
    fitted, found = list[str](), list[RunForecast]()
    for variant in dict.fromkeys(map(variant_of, to_come)):
        done = [cell for cell in ours if cell.result and variant_of(cell) == variant]
        try:
            runs = laws.runs_of([cell.result for cell in done if cell.result])
            fit = with_floor_checked(declared.law.fit(runs, bootstrap=bootstrap, seed=seed))
        except DataError as error:
            warnings.append(f"{variant}: no forecast: {error}")
            continue
        places = [_place(cell) for cell in to_come if variant_of(cell) == variant]
        known = {name: np.array([at[name] for at in places]) for name in ("params", "tokens")}
        losses, ends = predictions_at(fit, runs, known, seed=seed)
        of_variant = [cell for cell in to_come if variant_of(cell) == variant]
        found += [
            RunForecast(cell.name, identity_digest(cell.run), **at, loss=float(loss), ci95=both)
            for cell, at, loss, both in zip(of_variant, places, losses, ends, strict=True)
        ]
        parameters[variant] = dict(fit.parameters)
        fitted += [cell.name for cell in done]
        warnings += [f"{variant}: {warning}" for warning in fit.warnings]
    if not found:
        raise UserError(f"{study}/{scale}: {warnings[0]}")
    return ForecastFile(
        study=study,
        scale=scale,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        law=str(declared.law),
        parameters=parameters,
        fitted=tuple(fitted),
        warnings=tuple(warnings),
        runs=tuple(found),
    ).sealed()


def read_forecast(path: Path) -> ForecastFile:
    """A forecast that is as it was made; raises UserError where it is not."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=ForecastFile)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no forecast of lm predict: {error}") from None
    if found.sealed().digest != found.digest:
        raise UserError(f"{path}: its digest does not fit: it was changed after it was made")
    return found


def settled(forecast: ForecastFile, cells: Iterable[StudyRun]) -> list[Settled]:
    """The runs that have finished since, with what was said of them.

    Raises UserError where a run is not the one that was forecast: its settings are others, or
    files of it are older than the forecast.
    """
    by_name: Mapping[str, StudyRun] = {cell.name: cell for cell in cells}
    made = datetime.fromisoformat(forecast.made).timestamp()
    found = []
    for said in forecast.runs:
        cell = by_name.get(said.name)
        if cell is None or identity_digest(cell.run) != said.settings:
            raise UserError(
                f"run {said.name}: {'no run' if cell is None else 'another run'} of"
                f" {forecast.study}/{forecast.scale} now than the one that was forecast"
            )
        if any(path.stat().st_mtime < made for path in _files(cell.directory)):
            raise UserError(
                f"run {said.name}: has files from before {forecast.made}: it existed when its"
                " forecast was made"
            )
        if cell.result:
            found.append(Settled(said, float(cell.result["bits_per_byte"])))
    return found


def _place(cell: StudyRun) -> dict[str, float]:
    """What the run will be, by the ledger: size in matrix products, tokens, FLOPs."""
    size = vocabulary_size(cell.run.data.tokenizer)
    cost, params = ledger.cost(cell.run, size), ledger.parameters(cell.run, size).matmul
    return {"params": float(params), "tokens": float(cost.tokens), "flops": float(cost.flops)}


def _begun(directory: Path) -> bool:
    return any(True for _ in _files(directory))


def _files(directory: Path) -> Iterable[Path]:
    return (path for path in directory.rglob("*") if path.is_file())
