"""Tables of runs: read from CSV, JSON or Parquet, and checked before anything is fit."""

import csv
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lm.scaling.laws import FLOPS_PER_PARAMETER_AND_TOKEN

ColumnValues = Mapping[str, Sequence[Any]]


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

    def known(self, *names: str) -> tuple[np.ndarray, ...]:
        """These quantities, `params` and so on, all of which the rows must have."""
        found = [getattr(self, f"{name}_R") for name in names]
        assert all(values_R is not None for values_R in found), names
        return tuple(found)

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
        raise DataError("no file, nor a directory with a results.csv")
    try:
        match path.suffix:
            case ".csv":
                columns = _read_csv(path)
            case ".jsonl":
                columns = _of_rows(_json_lines(path))
            case ".json":
                columns = _of_json(_json(path.read_text(encoding="utf-8-sig"), "the file"))
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


def column(columns: ColumnValues, name: str) -> Sequence[Any]:
    """A column; raises DataError with those that exist."""
    if name not in columns:
        # Loss for loss, and metrics.loss for loss, are near although their letters are not.
        last = {key: key.rpartition(".")[2].casefold() for key in columns}
        near = [key for key in columns if last[key] == name.casefold()]
        near = near or difflib.get_close_matches(name, columns, 1, 0.6)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"no column {name}{hint} (columns: {', '.join(columns)})")
    return columns[name]


def numbers(columns: ColumnValues, name: str) -> np.ndarray:
    """A column of positive numbers; raises DataError with the first rows that hold none.

    >>> numbers({"loss": ["2.5", "-1"]}, "loss")
    Traceback (most recent call last):
    lm.scaling.table.DataError: column loss, row 2: -1 is not a number above 0
    """
    parsed_R = parsed(columns, name)
    wrong = np.flatnonzero(np.isnan(parsed_R))
    if len(wrong):
        value = columns[name][wrong[0]]
        shown = "nothing" if value is None or value == "" else str(value)[:40]
        more = f" ({len(wrong)} such rows)" if len(wrong) > 1 else ""
        raise DataError(
            f"column {name}, row {wrong[0] + 1}: {shown} is not a number above 0{more}"
        )
    return parsed_R


def parsed(columns: ColumnValues, name: str, unit: float = 1.0) -> np.ndarray:
    """A column's numbers above 0, in units of one, and nan where a row holds none.

    They may have thousands apart, a decimal comma, or the suffix k, M, B, G or T.

    >>> parsed({"N": ["1.4B", "1,400,000", 7, "", "-1"]}, "N").tolist()
    [1400000000.0, 1400000.0, 7.0, nan, nan]
    >>> parsed({"loss": ["3,1", "2,955"]}, "loss").tolist()
    [3.1, 2.955]
    """
    values = column(columns, name)
    texts = [value.strip() if isinstance(value, str) else value for value in values]
    commas = [text for text in texts if isinstance(text, str) and "," in text]
    grouped = all(_GROUPED.fullmatch(text) for text in commas)
    if commas and grouped and not any(text.count(",") > 1 or "." in text for text in commas):
        row = texts.index(commas[0]) + 1
        point = commas[0].replace(",", ".")
        raise DataError(
            f"column {name}, row {row}: {commas[0]} may be {point} or"
            f" {commas[0].replace(',', '')}: write it without a comma"
        )
    for row, text in enumerate(texts, 1):
        if unit != 1 and isinstance(text, str) and text[-1:] in _SUFFIXES:
            raise DataError(
                f"column {name}, row {row}: {text} says its own unit, and --unit another"
            )
    mark = "" if grouped else "."
    read_R = np.array(
        [_number(text.replace(",", mark) if isinstance(text, str) else text) for text in texts]
    )
    return np.where(np.isfinite(read_R) & (read_R > 0), read_R * unit, np.nan)


_GROUPED = re.compile(r"\d{1,3}(,\d{3})+(\.\d*)?")
_SUFFIXES = {"k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


def unit_of(text: str) -> float:
    """How much a unit such as M, B, GFLOP, PFLOP-days or 1e6 is; raises ValueError.

    >>> unit_of("M"), unit_of("GFLOP"), unit_of("1e6")
    (1000000.0, 1000000000.0, 1000000.0)
    """
    name, times = text.strip(), 1.0
    if name.lower().endswith(("-day", "-days")):
        name, times = name.rpartition("-")[0], 86_400.0
        name = f"{name[:1]}FLOP" if name.lower().endswith(("f", "flop/s", "flops")) else name
    for ending in ("FLOPs", "FLOP"):
        name = name.removesuffix(ending)
    known = _SUFFIXES | {"P": 1e15, "E": 1e18, "Z": 1e21, "": 1.0}
    value = known[name] if name in known else float(name)
    if not 0 < value < np.inf:
        raise ValueError(text)
    return value * times


def groups(columns: ColumnValues, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Rows that are alike in these columns, by their values, in order of appearance.

    >>> found = groups({"model": ["a", "b", "a"], "seed": [0, 0, 0]}, ["model", "seed"])
    >>> {name: rows_R.tolist() for name, rows_R in found.items()}
    {'a,0': [0, 2], 'b,0': [1]}
    >>> list(groups({"model": ["", "a,b"]}, ["model"]))
    ['(blank)', '"a,b"']
    """
    found: dict[str, list[int]] = {}
    for number, values in enumerate(
        zip(*(column(columns, name) for name in names), strict=True)
    ):
        found.setdefault(",".join(map(_name, values)), []).append(number)
    return {name: np.array(rows) for name, rows in found.items()}


def _name(value: Any) -> str:
    """A value as a part of a group's name: not empty, and told apart from two with a comma."""
    text = str(value)
    if value is None or not text.strip():
        return "(blank)"
    return f'"{text}"' if "," in text else text


def _number(value: Any) -> float:
    times = 1.0
    if isinstance(value, str) and value[-1:] in _SUFFIXES:
        value, times = value[:-1], _SUFFIXES[value[-1]]
    try:
        return float(value) * times
    except (TypeError, ValueError):
        return float("nan")


def _read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        # Where commas are decimal, spreadsheets put semicolons between columns.
        mark = ";" if ";" in head and "," not in head else "\t" if "\t" in head else ","
        rows = [row for row in csv.reader(file, delimiter=mark) if row]
    if not rows:
        return {}
    header = [name.strip() for name in rows[0]]
    _no_doubles(header, "column")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise DataError(f"row {number} has {len(row)} of {len(header)} columns")
    return {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}


def _json_lines(path: Path) -> list[Any]:
    lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
    return [_json(line, f"line {number}") for number, line in lines if line.strip()]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _no_doubles([name for name, _ in pairs], "name")
    return dict(pairs)


def _no_doubles(names: Sequence[str], what: str) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(f"{what} {twice[0]} stands {names.count(twice[0])} times: keep one")


def _of_json(value: Any) -> dict[str, list[Any]]:
    """ColumnValues of a list of objects, or of what pandas writes, whatever its `orient`.

    >>> by_column = {"loss": {"0": 3.5, "1": 3.0}}
    >>> split = {"columns": ["loss"], "index": [0, 1], "data": [[3.5], [3.0]]}
    >>> [_of_json(value) for value in (by_column, split, {"loss": [3.5, 3.0]})]
    [{'loss': [3.5, 3.0]}, {'loss': [3.5, 3.0]}, {'loss': [3.5, 3.0]}]
    """
    if isinstance(value, dict) and value:
        parts = list(value.values())
        listed = [isinstance(value.get(name), list) for name in ("columns", "data")]
        if all(listed) and all(isinstance(row, list) for row in value["data"]):
            value = [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]
        elif {"schema", "data"} <= set(value):
            value = value["data"]
        elif all(isinstance(part, list) for part in parts):
            if len(parts) == 1 and all(isinstance(row, dict) for row in parts[0]):
                value = parts[0]  # {"runs": [...]}
            elif len({len(part) for part in parts}) == 1:
                return value
        elif all(isinstance(part, dict) for part in parts):
            # By column, pandas' own way, rows are numbered; else each part is a run.
            by_column = all(str(key).isdigit() for part in parts for key in part)
            if by_column:
                keys = dict.fromkeys(key for part in parts for key in part)
                return {n: [part.get(key) for key in keys] for n, part in value.items()}
            value = parts
    return _of_rows(value)


def _flat(row: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """An object without objects in it: names joined by points."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def _of_rows(rows: Any) -> dict[str, list[Any]]:
    """ColumnValues of a list of objects; what an object lacks is None."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError("is not a list of objects, a run each")
    rows = [_flat(row) for row in rows]
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
