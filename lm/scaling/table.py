"""Tables of runs: read from CSV, JSON or Parquet, and checked before anything is fit."""

import csv
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm.scaling.laws import FLOPS_PER_PARAMETER_AND_TOKEN

Columns = Mapping[str, Sequence[Any]]


class DataError(ValueError):
    """What is wrong with a table, in one line."""


@dataclass(frozen=True)
class Runs:
    """Finished runs, a number a row; what is None is not known. All of it is above zero."""

    loss_R: np.ndarray
    params_R: np.ndarray | None = None
    tokens_R: np.ndarray | None = None
    flops_R: np.ndarray | None = None
    unique_R: np.ndarray | None = None
    cluster_R: np.ndarray | None = None
    """Rows of one number are not independent and are drawn together: checkpoints of one run."""

    def __len__(self) -> int:
        return len(self.loss_R)

    def take(self, which: np.ndarray) -> "Runs":
        """The rows at these places, or where this is true."""
        optional = (self.params_R, self.tokens_R, self.flops_R, self.unique_R, self.cluster_R)
        taken = [None if values_R is None else values_R[which] for values_R in optional]
        return Runs(self.loss_R[which], *taken)

    @property
    def independent(self) -> int:
        """How many rows or clusters of rows there are."""
        return len(self) if self.cluster_R is None else len(np.unique(self.cluster_R))

    def without_worst(self, count: int) -> "Runs":
        """The runs but for those of highest loss, in their order (Besiroglu et al. drop 5).

        >>> Runs(np.array([3.0, 2.0, 4.0])).without_worst(1).loss_R.tolist()
        [3.0, 2.0]
        """
        best = np.argsort(self.loss_R, kind="stable")[: max(len(self) - count, 0)]
        return self.take(np.sort(best))

    def completed(self) -> "Runs":
        """The same with C = 6 N D solved for the one of the three that is not known.

        >>> runs = Runs(np.array([3.0]), params_R=np.array([1e6]), tokens_R=np.array([2e7]))
        >>> runs.completed().flops_R.tolist()
        [120000000000000.0]
        """
        k = FLOPS_PER_PARAMETER_AND_TOKEN
        match self.params_R, self.tokens_R, self.flops_R:
            case np.ndarray() as params_R, np.ndarray() as tokens_R, None:
                return replace(self, flops_R=k * params_R * tokens_R)
            case np.ndarray() as params_R, None, np.ndarray() as flops_R:
                return replace(self, tokens_R=flops_R / (k * params_R))
            case None, np.ndarray() as tokens_R, np.ndarray() as flops_R:
                return replace(self, params_R=flops_R / (k * tokens_R))
            case _:
                return self


def read(path: Path) -> dict[str, list[Any]]:
    """The columns of a .csv, .json, .jsonl or .parquet file; of a directory, its results.csv.

    Raises DataError, which does not name the file: who calls knows it.
    """
    if path.is_dir():
        path = path / "results.csv"
    if not path.is_file():
        raise DataError("no such file, nor a directory with a results.csv")
    try:
        match path.suffix:
            case ".csv":
                columns = _read_csv(path)
            case ".jsonl":
                columns = _of_rows(_json_lines(path))
            case ".json":
                columns = _of_rows(_json(path.read_text(encoding="utf-8"), "the file"))
            case ".parquet":
                columns = _read_parquet(path)
            case _:
                kinds = ".csv, .json, .jsonl and .parquet"
                raise DataError(f"is {path.suffix or 'of no known kind'}; reads {kinds}")
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text") from None
    if not columns or not next(iter(columns.values())):
        raise DataError("has no rows")
    return columns


def column(columns: Columns, name: str) -> Sequence[Any]:
    """A column; raises DataError with those that exist."""
    if name not in columns:
        near = difflib.get_close_matches(name, columns, 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"no column {name}{hint} (columns: {', '.join(columns)})")
    return columns[name]


def numbers(columns: Columns, name: str) -> np.ndarray:
    """A column of positive numbers; raises DataError with the first rows that hold none.

    >>> numbers({"loss": ["2.5", "-1"]}, "loss")
    Traceback (most recent call last):
    lm.scaling.table.DataError: column loss, row 2: -1 is not a number above 0
    """
    values = column(columns, name)
    parsed_R = np.array([_number(value) for value in values])
    wrong = np.flatnonzero(~(np.isfinite(parsed_R) & (parsed_R > 0)))
    if len(wrong):
        value = values[wrong[0]]
        shown = "nothing" if value is None or value == "" else str(value)[:40]
        more = f" ({len(wrong)} such rows)" if len(wrong) > 1 else ""
        raise DataError(
            f"column {name}, row {wrong[0] + 1}: {shown} is not a number above 0{more}"
        )
    return parsed_R


def groups(columns: Columns, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows that are alike in these columns, by their values, in order of appearance.

    >>> found = groups({"model": ["a", "b", "a"], "seed": [0, 0, 0]}, ["model", "seed"])
    >>> {name: rows_R.tolist() for name, rows_R in found.items()}
    {'a,0': [0, 2], 'b,0': [1]}
    """
    found: dict[str, list[int]] = {}
    for number, values in enumerate(
        zip(*(column(columns, name) for name in names), strict=True)
    ):
        found.setdefault(",".join(map(str, values)), []).append(number)
    return {name: np.array(rows) for name, rows in found.items()}


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        return {}
    header = [name.strip() for name in rows[0]]
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise DataError(f"row {number} has {len(row)} of {len(header)} columns")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}


def _json_lines(path: Path) -> list[Any]:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [_json(line, f"line {number}") for number, line in lines if line.strip()]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}") from None


def _of_rows(rows: Any) -> dict[str, list[Any]]:
    """Columns of a list of objects; what an object lacks is None."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("is not a list of objects, a run each")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    # tensorflow-datasets brings it; who installs this package without that may lack it.
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError:
        raise DataError("reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        columns: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
    except ArrowInvalid as error:
        raise DataError(f"not Parquet: {str(error).splitlines()[0]}") from None
    return columns
