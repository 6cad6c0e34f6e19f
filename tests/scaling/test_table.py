"""Tables of every kind are read alike; what is wrong with one is said in a line."""

import json
import sys

import numpy as np
import pytest

from lm.scaling.table import DataError, Runs, column, groups, numbers, read

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
