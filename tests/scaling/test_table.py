"""Tables of every kind are read alike; what is wrong with one is said in a line."""

import json
import sys

import numpy as np
import pytest

from lm.scaling.table import DataError, Runs, column, groups, numbers, read, unit_of

ROWS = [{"params": 1e6, "loss": 3.5, "model": "a"}, {"params": 2e6, "loss": 3.0, "model": "b"}]


def test_every_kind_of_file_is_read_alike(tmp_path):
    """Fails when a reader loses a row, or columns of one that lacks some move."""
    (tmp_path / "t.csv").write_text("\ufeffparams,loss,model\n1e6,3.5,a\n\n2e6,3.0,b\n")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    (tmp_path / "t.json").write_text(json.dumps(ROWS))
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    (tmp_path / "results.csv").write_text((tmp_path / "t.csv").read_text())
    for name in ("t.csv", "t.jsonl", "t.json", "t.parquet", "."):
        columns = read(tmp_path / name)
        assert list(columns) == ["params", "loss", "model"]
        assert numbers(columns, "params").tolist() == [1e6, 2e6]
        assert numbers(columns, "loss").tolist() == [3.5, 3.0]
        assert {name: rows.tolist() for name, rows in groups(columns, ["model"]).items()} == {
            "a": [0],
            "b": [1],
        }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "has no rows"),
        ("t.csv", b"a,b\n", "has no rows"),
        ("t.csv", b"a,b\n1\n", "row 1 has 1 of 2 columns"),
        ("t.csv", b"a\n\xff\n", "not UTF-8"),
        ("t.jsonl", b'{"a": 1}\n{', "line 2 is not JSON"),
        ("t.jsonl", b"[1]\n", "not a list of objects"),
        ("t.json", b'{"a": 1}', "not a list of objects"),
        ("t.csv", b"loss,N,loss\n1,2,3\n", "column loss stands 2 times"),
        ("t.json", b'[{"loss": 1, "loss": 2}]', "name loss stands 2 times"),
        ("t.json", b'{"columns": "x", "data": 5}', "not a list of objects"),
        ("t.parquet", b"PAR", "not Parquet"),
        ("t.xlsx", b"", "is .xlsx; reads .csv"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, name, content, message):
    """Fails when a reader's own exception comes through."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_parquet_without_its_library(tmp_path, monkeypatch):
    """Fails when the import is at the top, or its error does not say what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.jsonl", "\ufeff" + "\n".join(map(json.dumps, ROWS))),
        (
            "t.json",
            json.dumps({n: {str(i): r[n] for i, r in enumerate(ROWS)} for n in ROWS[0]}),
        ),
        ("t.json", json.dumps({n: [r[n] for r in ROWS] for n in ROWS[0]})),
        ("t.json", json.dumps({"runs": ROWS})),
        ("t.json", json.dumps({"schema": {}, "data": ROWS})),
        (
            "t.json",
            json.dumps({"columns": list(ROWS[0]), "data": [list(r.values()) for r in ROWS]}),
        ),
        ("t.csv", "params;loss;model\n1e6;3,5;a\n2e6;3,0;b\n"),
        # Nothing failed without the next three (h13).
        ("t.csv", "params\tloss\tmodel\n1e6\t3.5\ta\n2e6\t3.0\tb\n"),
        ("t.json", json.dumps({str(i): row for i, row in enumerate(ROWS)})),
        (
            "t.json",
            '{"params": {"0": 1e6, "1": 2e6}, "loss": {"1": 3.0, "0": 3.5},'
            ' "model": {"1": "b", "0": "a"}}',
        ),
    ],
)
def test_small_tables_of_spreadsheets_and_pandas_are_read(tmp_path, name, text):
    """Fails when a BOM, an orient of pandas, or a decimal comma is an error, or misread."""
    (tmp_path / name).write_text(text)
    columns = read(tmp_path / name)
    assert numbers(columns, "params").tolist() == [1e6, 2e6]
    assert numbers(columns, "loss").tolist() == [3.5, 3.0]
    assert list(columns["model"]) == ["a", "b"]


def test_h13_columns_that_lack_rows_are_not_moved_together(tmp_path):
    """Fails if a column's third row is taken for its second, or lists of other lengths are."""
    (tmp_path / "t.json").write_text(
        '{"params": {"0": 1e6, "1": 2e6, "2": 3e6}, "loss": {"0": 3.5, "2": 2.5}}'
    )
    assert read(tmp_path / "t.json")["loss"] == [3.5, None, 2.5]
    (tmp_path / "t.json").write_text('{"params": [1e6, 2e6, 3e6], "loss": [3.5, 2.5]}')
    with pytest.raises(DataError, match="not a list of objects"):
        read(tmp_path / "t.json")


def test_small_nested_json_has_columns_with_points(tmp_path):
    """Fails when objects in objects are values, or the hint does not find a column in one."""
    rows = [{"config": {"params": 1e6}, "metrics": {"loss": 3.5}}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    columns = read(tmp_path / "t.json")
    assert numbers(columns, "config.params").tolist() == [1e6]
    with pytest.raises(DataError, match=r"did you mean metrics\.loss\?"):
        column(columns, "loss")
    with pytest.raises(DataError, match=r"did you mean Loss\?"):
        column({"Loss": []}, "loss")


def test_f6_suffixes_and_thousands_are_read():
    """Fails when 1.4B is no number, or 1,400,000 is 1.4."""
    values = ["1.4B", "1,400,000", "22M", "3k", 5]
    assert numbers({"N": values}, "N").tolist() == [1.4e9, 1.4e6, 2.2e7, 3e3, 5.0]
    with pytest.raises(DataError, match=r"row 1: 3,452 may be 3\.452 or 3452"):
        numbers({"loss": ["3,452", "2"]}, "loss")
    assert unit_of("PF-days") == pytest.approx(8.64e19)
    for text in ("X", "-1", "nan", "0"):
        with pytest.raises(ValueError, match=r"could not convert|^-1$|^nan$|^0$"):
            unit_of(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([2.0, -1.0], "row 2: -1.0 is not a number above 0$"),
        ([2.0, float("nan"), None], r"row 2: nan is not a number above 0 \(2 such rows\)"),
        (["2", ""], "row 2: nothing is not"),
        (["two", "3"], "row 1: two is not"),
        ([0, 1], "row 1: 0 is not"),
        (["inf", 1], "row 1: inf is not"),
    ],
)
def test_rows_that_hold_no_number(values, message):
    """Fails when such rows are dropped without a word, or fit."""
    with pytest.raises(DataError, match=message):
        numbers({"loss": values}, "loss")


def test_a_missing_column_names_those_that_exist():
    """Fails when one must open the file to see how its columns are called."""
    with pytest.raises(DataError, match=r"did you mean loss\? \(columns: params, loss\)"):
        column({"params": [], "loss": []}, "los")


def test_the_third_of_size_data_and_compute():
    """Fails when 6 is forgotten, or what is known is computed over."""
    N, D, C = np.array([1e6]), np.array([2e7]), np.array([1.2e14])
    loss = np.array([3.0])
    assert Runs(loss, N, D).completed().flops_R == C
    assert Runs(loss, N, flops_R=C).completed().tokens_R == D
    assert Runs(loss, tokens_R=D, flops_R=C).completed().params_R == N
    assert Runs(loss, N, D, 2 * C).completed().flops_R == 2 * C
    assert Runs(loss, N).completed().flops_R is None
