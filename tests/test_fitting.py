"""`lm fit` and `lm compare`, as their user meets them."""

import csv
import json

import numpy as np
import pytest

from lm.cli import main
from lm.scaling.laws import BESIROGLU, MUENNIGHOFF, data_constrained_loss, parametric_loss

KEYS = {
    "law",
    "parameters",
    "exponents",
    "objective",
    "ci95",
    "predictions",
    "warnings",
    "rows_used",
    "groups",
}


COLUMNS = ("objective", "size", "params", "tokens", "unique_tokens", "flops", "loss")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file of two objectives' runs, some repeating their data, with budgets of five sizes."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("runs") / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for objective, factor in (("causal", 1.0), ("masked", 1.08)):
            for C in np.geomspace(1e18, 1e21, 7):
                for step in range(-2, 3):
                    N = 0.07 * C**0.51 * 1.9**step
                    D = C / 6 / N
                    U = D / (1 + 30 * (step % 2))
                    loss = factor * float(data_constrained_loss(MUENNIGHOFF, N, D, U))
                    loss *= np.exp(0.002 * random.normal())
                    if objective == "causal":
                        loss = float(parametric_loss(BESIROGLU, N, D)) * np.exp(
                            0.002 * random.normal()
                        )
                    writer.writerow([objective, step, N, D, U, C, loss])
    return path


@pytest.fixture(scope="module")
def of_one(table):
    """Files of the same runs, an objective each, by its name."""
    head, *rows = table.read_text().splitlines()
    files = {}
    for name in ("causal", "masked"):
        files[name] = table.with_name(f"{name}.csv")
        files[name].write_text("\n".join([head, *(row for row in rows if name in row)]))
    return files


def run(*arguments):
    main([str(argument) for argument in arguments])


def fails(capsys, *arguments):
    """The one line of a command that cannot go on."""
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("lm: ") and said.err.count("\n") == 1
    return said.err


SURFACE = ["E", "A", "B", "alpha", "beta"]
LINES = ["k_N", "k_D", "k_L", "a", "b", "x"]


@pytest.mark.parametrize(
    ("law", "parameters", "point"),
    [
        ("parametric", SURFACE, "flops=5.76e23"),
        ("data-constrained", [*SURFACE, "R_D", "R_N"], "flops=1e22,unique=1e10"),
        ("isoflop", LINES, "flops=5.76e23"),
        ("envelope", LINES, "flops=5.76e23"),
        ("power", LINES, "flops=5.76e23"),
    ],
)
def test_what_is_written(capsys, tmp_path, of_one, law, parameters, point):
    """Fails when a key is lost, an interval misses its value, or a figure is not drawn."""
    table = of_one["masked" if law == "data-constrained" else "causal"]
    out, plot = tmp_path / "out.json", tmp_path / "out.svg"
    options = ["--law", law, "--bootstrap", 60, "--predict", point]
    run("fit", table, *options, "--json", out, "--plot", plot)
    found = json.loads(out.read_text())
    assert set(found) >= KEYS
    assert found["law"] == law and found["groups"] == {}
    assert set(found["parameters"]) == set(parameters)
    assert {"a", "b"} <= set(found["exponents"])
    values = found["parameters"] | found["exponents"]
    assert found["ci95"]
    for name, (low, high) in found["ci95"].items():
        assert low <= values[name] * (1 + 1e-9) and values[name] <= high * (1 + 1e-9)
    (prediction,) = found["predictions"]
    assert {"flops", "params", "tokens", "loss"} <= set(prediction)
    assert {"params", "tokens", "loss"} <= set(prediction["ci95"])
    # Letters are paths, beside comments that hold the text.
    units = ("passes",) if law == "data-constrained" else ("(FLOPs)", "parameters", "tokens")
    assert all(unit in plot.read_text() for unit in units)
    printed = capsys.readouterr().out
    assert f"{law} law" in printed and "objective" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"out.json", "out.svg"}


def test_the_numbers_are_those_of_the_law(capsys, tmp_path, of_one):
    """Fails when columns are exchanged on their way to the fit."""
    causal, out = of_one["causal"], tmp_path / "out.json"
    run(
        "fit", causal, "--bootstrap", 0, "--json", out, "--predict", "params=7e10,tokens=1.4e12"
    )
    found = json.loads(out.read_text())
    assert found["parameters"]["alpha"] == pytest.approx(BESIROGLU["alpha"], abs=0.03)
    assert found["parameters"]["E"] == pytest.approx(BESIROGLU["E"], abs=0.1)
    assert found["predictions"][0]["loss"] == pytest.approx(1.973, abs=0.05)
    assert found["ci95"] == {} and found["rows_used"] == 35
    assert found["certificate"]["positive_definite"]
    run("fit", causal, "--bootstrap", 0, "--json", out, "--fix", "E=1.8172", "alpha=0.3478")
    fixed = json.loads(out.read_text())["parameters"]
    assert fixed["E"] == pytest.approx(1.8172) and fixed["alpha"] == 0.3478
    bars = []
    for options in ([], ["--cluster", "flops"]):
        run("fit", causal, "--bootstrap", 60, "--json", out, *options)
        bars.append(json.loads(out.read_text())["ci95"]["E"])
    assert bars[0] != bars[1]
    run("fit", causal, "--bootstrap", 0, "--json", out, "--drop-worst", 5)
    assert json.loads(out.read_text())["rows_used"] == 30


def test_groups_and_what_they_share(capsys, tmp_path, table):
    """Fails when groups are fit together, or --share leaves out its test."""
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    run("fit", table, "--by", "objective", "--bootstrap", 20, "--json", out, "--plot", plot)
    found = json.loads(out.read_text())
    assert set(found["groups"]) == {"causal", "masked"} and found["rows_used"] == 70
    apart = [group["parameters"]["E"] for group in found["groups"].values()]
    assert apart[0] != apart[1] and found["parameters"] == {}
    assert plot.read_bytes().startswith(b"\x89PNG")
    options = ["--share", "alpha", "--share", "beta", "--bootstrap", 20]
    run("fit", table, "--by", "objective", *options, "--json", out)
    found = json.loads(out.read_text())
    alphas = {group["parameters"]["alpha"] for group in found["groups"].values()}
    assert alphas == {found["parameters"]["alpha"]}
    assert 0 < found["test"]["p"] <= 1 and found["test"]["shared"] == ["alpha", "beta"]
    assert "p = " in capsys.readouterr().out
    options = ["--by", "objective", "--by", "size", "--bootstrap", 0]
    run("fit", table, "--law", "envelope", *options, "--json", out)
    assert len(json.loads(out.read_text())["groups"]) == 2 * 5


def test_flops_that_are_not_known_are_said(capsys, tmp_path):
    """Fails when 6ND stands in without a word, or exact FLOPs that differ are ignored."""
    sizes = [(N, D) for N in np.geomspace(1e8, 1e9, 4) for D in np.geomspace(1e9, 1e11, 4)]
    rows = [f"{N},{D},{8 * N * D},{parametric_loss(BESIROGLU, N, D)}" for N, D in sizes]
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(["params,tokens,exact,loss", *rows]))
    run("fit", path, "--bootstrap", 0)
    assert "no column of flops: 6 × params × tokens stands in" in capsys.readouterr().out
    path.write_text("\n".join(["params,tokens,flops,loss", *rows]))
    run("fit", path, "--bootstrap", 0)
    assert "flops are 1.33 to 1.33 of 6 × params × tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--loss", "los"],
            "no column los; did you mean loss? (columns: objective, size, params",
        ),
        (["--by", "model"], "no column model"),
        (["--loss", "size"], "column size, row 1: -2 is not a number above 0"),
        (["--loss", "objective"], "column objective, row 1: causal is not a number"),
        (["--predict", "flops=many"], "flops=many: write NAME=NUMBER"),
        (["--predict", "compute=1e21"], "--predict compute=1e+21: write flops, params"),
        (["--predict", "params=1e9"], "predicts from flops, or from two of"),
        (["--predict", "flops=1e21,unique=1e9"], "use --law data-constrained"),
        (["--fix", "gamma=1"], "no such parameter; one of E, A, B, alpha, beta"),
        (["--fix", "E"], "E: write NAME=NUMBER"),
        (["--method", "hull"], "no method of --law parametric"),
        (["--law", "power", "--share", "E"], "for --law parametric"),
        (["--share", "E"], "two groups or more"),
        (["--law", "isoflop", "--fix", "E=1"], "has nothing to fix"),
        (["--against", "params"], "for --law power, not parametric"),
        (["--cluster", "run"], "no column run"),
        (["--law", "power", "--cluster", "size"], "resamples residuals, not rows"),
        (["--bootstrap", "-1"], "--bootstrap -1: must be >= 0"),
        (["--delta", "0"], "--delta 0.0: must be above 0"),
        (["--plot", "out.pdf"], "must end in .png or .svg"),
        (["--plot", "nowhere/out.png"], "there is no directory nowhere"),
        (["--drop-worst", "66"], "4 rows cannot fit 5 parameters"),
    ],
)
def test_one_line_says_what_is_wrong(
    capsys, tmp_path, monkeypatch, table, of_one, options, message
):
    """Fails when an error has a traceback, or leaves a file behind."""
    table = of_one["causal"] if "--predict" in options else table
    monkeypatch.chdir(tmp_path)
    options = [*options, *([] if "--plot" in options else ["--plot", "out.png"])]
    arguments = ["fit", table, "--bootstrap", 5, *options, "--json", "out.json"]
    assert message in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["nan", "", "-2.5"])
def test_rows_without_a_loss_are_an_error(capsys, tmp_path, value):
    """Fails when they are left out without a word."""
    path = tmp_path / "runs.csv"
    path.write_text("params,tokens,loss\n" + "1e8,1e9,3.0\n" * 7 + f"1e8,1e9,{value}\n")
    assert "column loss, row 8" in fails(capsys, "fit", path)
    assert "no such file" in fails(capsys, "fit", tmp_path / "other.csv")
    path.write_text("params,tokens,loss\n" + "1e8,1e9,3.0\n" * 5)
    assert "5 rows cannot fit 5 parameters" in fails(capsys, "fit", path)
    path.write_text("params,loss\n" + "1e8,3.0\n" * 7)
    assert "no column tokens (columns: params, loss)" in fails(capsys, "fit", path)


def arms(path, handicap, **columns):
    rows = [["flops", "bits_per_byte", *columns]]
    for C in (1e15, 1e16, 1e17, 1e18):
        rows.append([C, 9 * (C / handicap) ** -0.05, *columns.values()])
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in rows))


def test_compare_two_study_folders(capsys, tmp_path):
    """Fails when arms are exchanged, or a bound is compared with an exact loss unsaid."""
    arms(tmp_path / "gpt" / "results.csv", 1.0, tokens=1e6, unique_bytes=5e5, kind="exact")
    arms(tmp_path / "bert" / "results.csv", 7.0, tokens=1e6, unique_bytes=6e5, kind="bound")
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    folders = tmp_path / "gpt", tmp_path / "bert" / "results.csv"
    run("compare", *folders, "--json", out, "--plot", plot)
    found = json.loads(out.read_text())
    assert [m["multiplier"] for m in found["multipliers"]] == pytest.approx([7.0] * 4)
    assert found["held_equal"] == ["tokens", "flops"]
    assert found["differ"] == {"unique_bytes": 1.2}
    assert plot.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "bert needs 7 times the compute of gpt" in printed.replace("7 to 7", "7")
    assert "not of one kind (gpt: exact, bert: bound)" in printed


def test_compare_two_groups_of_one_file(capsys, tmp_path):
    """Fails when rows of another group are in an arm."""
    path = tmp_path / "runs.csv"
    rows = [
        f"{model},{C},{9 * (C / handicap) ** -0.05}"
        for model, handicap in (("a", 1), ("b", 3), ("c", 90))
        for C in (1e15, 1e16, 1e17)
    ]
    path.write_text("\n".join(["model,flops,loss", *rows]))
    out = tmp_path / "out.json"
    run("compare", path, "--by", "model", "--groups", "b", "a", "--json", out)
    found = json.loads(out.read_text())
    assert [m["multiplier"] for m in found["multipliers"]] == pytest.approx([1 / 3] * 3)
    assert "a needs 0.333 to 0.333 times the compute of b" in capsys.readouterr().out
    said = fails(capsys, "compare", path, "--by", "model", "--groups", "b", "z")
    assert "column model has no z; it has a, b, c" in said
    assert "two files, or two groups" in fails(capsys, "compare", path)
    assert "no column flop" in fails(capsys, "compare", path, path, "--flops", "flop")
