"""`lm fit` and `lm compare`, as their user meets them."""

import contextlib
import csv
import io
import json
import os
import stat

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


def numbers(*arguments):
    """What a command prints with --json: JSON, and nothing else."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run(*arguments, "--json")
    return json.loads(out.getvalue(), parse_constant=pytest.fail)


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
    plot = tmp_path / "out.svg"
    options = ["--law", law, "--bootstrap", 60, "--predict", point]
    found = numbers("fit", table, *options, "--plot", plot)
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
    run("fit", table, *options)
    printed = capsys.readouterr().out
    assert f"{law} law" in printed and "objective" in printed
    assert {path.name for path in tmp_path.iterdir()} == {"out.svg"}


def test_the_numbers_are_those_of_the_law(capsys, tmp_path, of_one):
    """Fails when columns are exchanged on their way to the fit."""
    causal, point = of_one["causal"], "params=7e10,tokens=1.4e12"
    found = numbers("fit", causal, "--bootstrap", 0, "--predict", point)
    assert found["parameters"]["alpha"] == pytest.approx(BESIROGLU["alpha"], abs=0.03)
    assert found["parameters"]["E"] == pytest.approx(BESIROGLU["E"], abs=0.1)
    assert found["predictions"][0]["loss"] == pytest.approx(1.973, abs=0.05)
    assert found["ci95"] == {} and found["rows_used"] == 35
    assert found["certificate"]["positive_definite"]
    fixing = ["--fix", "E=1.8172", "alpha=0.3478"]
    fixed = numbers("fit", causal, "--bootstrap", 0, *fixing)["parameters"]
    assert fixed["E"] == pytest.approx(1.8172) and fixed["alpha"] == 0.3478
    bars = []
    for options in ([], ["--cluster", "flops"]):
        bars.append(numbers("fit", causal, "--bootstrap", 60, *options)["ci95"]["E"])
    assert bars[0] != bars[1]
    found = numbers("fit", causal, "--bootstrap", 0, "--drop-worst", 5)
    assert found["rows_used"] == 30


def test_groups_and_what_they_share(capsys, tmp_path, table):
    """Fails when groups are fit together, or --share leaves out its test."""
    plot = tmp_path / "out.png"
    found = numbers("fit", table, "--by", "objective", "--bootstrap", 20, "--plot", plot)
    assert set(found["groups"]) == {"causal", "masked"} and found["rows_used"] == 70
    apart = [group["parameters"]["E"] for group in found["groups"].values()]
    assert apart[0] != apart[1] and found["parameters"] == {}
    assert plot.read_bytes().startswith(b"\x89PNG")
    options = ["--share", "alpha", "--share", "beta", "--bootstrap", 20]
    found = numbers("fit", table, "--by", "objective", *options)
    alphas = {group["parameters"]["alpha"] for group in found["groups"].values()}
    assert alphas == {found["parameters"]["alpha"]}
    assert 0 < found["test"]["p"] <= 1 and found["test"]["shared"] == ["alpha", "beta"]
    run("fit", table, "--by", "objective", *options)
    assert "p = " in capsys.readouterr().out
    options = ["--by", "objective", "--by", "size", "--bootstrap", 0]
    assert len(numbers("fit", table, "--law", "envelope", *options)["groups"]) == 2 * 5


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
        (["--against", "params"], "for --law power or free-floor, not parametric"),
        (["--cluster", "run"], "no column run"),
        (["--law", "power", "--cluster", "size"], "resamples residuals, not rows"),
        (["--bootstrap", "-1"], "--bootstrap -1: must be >= 0"),
        (["--bootstrap", "99999999999"], "--bootstrap 99999999999: at most 100,000"),
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
    assert message in fails(capsys, "fit", table, "--bootstrap", 20, *options, "--json")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def plain():
    """Rows of a known law, runs of text: params, tokens, loss."""
    random = np.random.default_rng(0)
    return [
        [f"{N:.0f}", f"{D:.0f}", f"{loss:.6f}"]
        for N in np.geomspace(2e7, 1.4e9, 4)
        for D in N * np.array([5, 20, 80, 320])
        for loss in [parametric_loss(BESIROGLU, N, D) * np.exp(0.003 * random.normal())]
    ]


def write(path, rows, head="params,tokens,loss"):
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def fitted(path, *options):
    return numbers("fit", path, "--bootstrap", 0, *options)


@pytest.mark.parametrize("value", ["nan", "", "-2.5", "diverged"])
def test_f4_rows_without_a_loss_are_left_out_with_a_note(capsys, tmp_path, plain, value):
    """Fails when an unfinished or diverged run stops the fit, or goes without a word."""
    rows = [[*row[:2], value if i == 5 else row[2]] for i, row in enumerate(plain)]
    found = fitted(write(tmp_path / "runs.csv", rows))
    assert found["rows_used"] == 15
    assert any("1 of 16 rows left out: loss is no number" in w for w in found["warnings"])
    run("fit", tmp_path / "runs.csv", "--bootstrap", 0)
    assert "in row 6" in capsys.readouterr().out
    most = [[*row[:2], value if i < 9 else row[2]] for i, row in enumerate(plain)]
    said = fails(capsys, "fit", write(tmp_path / "runs.csv", most))
    assert "column loss, row 1" in said and "(9 such rows)" in said
    assert "no such file" in fails(capsys, "fit", tmp_path / "other.csv")
    assert "5 rows cannot fit 5" in fails(capsys, "fit", write(tmp_path / "r.csv", plain[:5]))
    said = fails(capsys, "fit", write(tmp_path / "r.csv", plain, "params,token,Loss"))
    assert "no column loss; did you mean Loss?" in said and "--loss COL" in said


@pytest.mark.parametrize(
    ("head", "value"), [("flops", ""), ("unique_tokens", ""), ("flops", 0)]
)
def test_f4_holes_that_the_law_does_not_need(tmp_path, plain, head, value):
    """Fails when a column that is not fit refuses the fit, or is given up unsaid."""
    rows = [[*row, value if i % 2 else 6e15] for i, row in enumerate(plain)]
    found = fitted(write(tmp_path / "runs.csv", rows, f"params,tokens,loss,{head}"))
    assert found["rows_used"] == 16
    assert any(f"column {head} is not used: row 2" in w for w in found["warnings"])


def test_f4_a_small_group_blocks_no_other(capsys, tmp_path, plain):
    """Fails when a group of few rows, or one without a split, refuses all."""
    rows = [[*row, "many"] for row in plain] + [[*row, "few"] for row in plain[:3]]
    path = write(tmp_path / "runs.csv", rows, "params,tokens,loss,variant")
    found = fitted(path, "--by", "variant", "--predict", "flops=1e19")
    assert found["rows_used"] == 16 and len(found["predictions"]) == 1
    assert any("few: left out: 3 rows cannot fit" in w for w in found["warnings"])
    one = [[*row[:2], row[2], "one size"] for row in grown(plain)]
    path = write(tmp_path / "runs.csv", rows[:16] + one, "params,tokens,loss,variant")
    found = fitted(path, "--by", "variant", "--predict", "flops=1e19")
    assert len(found["groups"]["many"]["predictions"]) == 1
    assert found["groups"]["one size"]["predictions"] == []
    assert any("one size: --predict flops=1e+19: these rows" in w for w in found["warnings"])


def grown(plain):
    """Eight rows of one size."""
    N, D = float(plain[0][0]), np.geomspace(1e8, 1e10, 8)
    return [[N, d, parametric_loss(BESIROGLU, N, d)] for d in D]


def test_f5_what_is_predicted_beyond_the_rows_is_said(capsys, tmp_path, plain):
    """Fails when 1e25 FLOPs are predicted from rows to 4e21 without a word."""
    path = write(tmp_path / "runs.csv", plain)
    found = fitted(path, "--predict", "flops=1e25")
    assert found["ranges"]["params"] == pytest.approx([2e7, 1.4e9])
    assert found["predictions"][0]["extrapolated"]["flops"] > 1000
    assert any("extrapolated, up to" in w for w in found["warnings"])
    run("fit", path, "--bootstrap", 0, "--predict", "flops=1e25")
    assert "flops ×" in " ".join(capsys.readouterr().out.split())
    assert "extrapolated" not in fitted(path, "--predict", "flops=1e20")["predictions"][0]


def test_f6_units_that_are_implausible_are_named_and_can_be_said(capsys, tmp_path, plain):
    """Fails when millions and billions are read as ones without a word."""
    scaled = [[float(row[0]) / 1e6, float(row[1]) / 1e9, row[2]] for row in plain]
    path = write(tmp_path / "runs.csv", scaled)
    said = fitted(path)["warnings"]
    assert any("--unit params=M" in w for w in said) and any("tokens is 0.1" in w for w in said)
    right = fitted(write(tmp_path / "right.csv", plain))
    found = fitted(path, "--unit", "params=M", "tokens=B")
    assert found["parameters"] == pytest.approx(right["parameters"], rel=1e-3)
    assert not any("unit" in w for w in found["warnings"] + right["warnings"])
    capsys.readouterr()
    for unit in ("params=X", "loss=M", "tokens"):
        assert f"--unit {unit}: write" in fails(capsys, "fit", path, "--unit", unit)


def test_f7_rows_that_stand_twice_count_once(tmp_path, plain):
    """Fails when a file joined to itself halves the intervals in silence."""
    once = fitted(write(tmp_path / "once.csv", plain), "--bootstrap", 60)
    twice = fitted(write(tmp_path / "twice.csv", plain * 2), "--bootstrap", 60)
    assert twice["ci95"] == once["ci95"]
    assert any("16 of 32 rows stand in the file before" in w for w in twice["warnings"])
    rows = [[*row, name] for name in "ab" for row in plain]
    copied = fitted(write(tmp_path / "twice.csv", rows, "params,tokens,loss,host"))
    assert any("16 rows are alike in loss, params, tokens" in w for w in copied["warnings"])


def test_a_table_is_not_written_over(capsys, tmp_path, plain):
    """Fails when --plot of the table's own path loses the runs."""
    path = write(tmp_path / "runs.csv", plain)
    before, link = path.read_text(), tmp_path / "runs.svg"
    link.symlink_to(path)
    assert "written over the file" in fails(capsys, "fit", path, "--plot", link)
    assert "written over the file" in fails(capsys, "compare", path, path, "--plot", link)
    folder = tmp_path / "results.csv"
    folder.write_text(before)
    link.unlink()
    link.symlink_to(folder)
    assert "written over the file" in fails(capsys, "compare", tmp_path, path, "--plot", link)
    assert path.read_text() == before == folder.read_text()


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_h1_what_is_no_file_stays_what_it_is(capsys, tmp_path, plain, command):
    """Fails when a pipe, or a device, is renamed over."""
    path = write(tmp_path / "runs.csv", plain)
    tables = [path] if command == "fit" else [path, path]
    pipe = tmp_path / "pipe.svg"
    os.mkfifo(pipe)
    said = fails(capsys, command, *tables, "--plot", pipe)
    assert f"--plot {pipe}: is there, and no file" in said
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_h1_what_a_link_leads_to_is_written(tmp_path, plain):
    """Fails when the link itself is renamed over and its end stays old, or a file is left."""
    path, link, end = (tmp_path / name for name in ("runs.csv", "link.svg", "end.svg"))
    end.write_text("old")
    link.symlink_to(end)
    run("fit", write(path, plain), "--bootstrap", 0, "--plot", link)
    assert link.is_symlink() and "<svg" in end.read_text()
    assert {each.name for each in tmp_path.iterdir()} == {"runs.csv", "link.svg", "end.svg"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fix", "E=1", "E=1.5"], "--fix: E is given twice (1, 1.5)"),
        (["--unit", "params=M", "--unit", "params=B"], "--unit: params is given twice"),
        (["--predict", "flops=1e21,flops=1e20"], "flops is given twice (1e+21, 1e+20)"),
        (["--law", "power", "--delta", "1"], "--delta: for --law parametric or data-const"),
        (["--tolerance", "0.5"], "--tolerance: for --law isoflop, not parametric"),
        (["--unique", "tokens"], "--unique: for --law data-constrained, not parametric"),
        (["--unit", "flops=M"], "--unit flops: there is no column of flops"),
        (["--bootstrap", "5"], "--bootstrap 5: intervals need 20 or more; 0: none"),
    ],
)
def test_h2_an_option_without_an_effect_is_refused(capsys, tmp_path, plain, options, says):
    """Fails when the last of two values wins, or an option is passed over, without a word."""
    path = write(tmp_path / "runs.csv", plain)
    usual = [] if "--bootstrap" in options else ["--bootstrap", 0]
    assert says in fails(capsys, "fit", path, *usual, *options)


def test_h2_a_unit_in_cells_and_another_on_the_command_line(capsys, tmp_path, plain):
    """Fails when 10M read in millions is 1e13."""
    rows = [[f"{float(row[0]) / 1e6}M", *row[1:]] for row in plain]
    said = fails(capsys, "fit", write(tmp_path / "runs.csv", rows), "--unit", "params=M")
    assert "column params, row 1:" in said and "says its own unit" in said


def test_h3_rows_are_counted_as_the_file_has_them(capsys, tmp_path, plain):
    """Fails when rows that stand twice shift the numbers of those after them."""
    rows = [*plain[:2], plain[0], [1e8, 1e9, "nan"], *plain[2:]]
    path = write(tmp_path / "runs.csv", rows)
    assert any("in row 4 (nan)" in said for said in fitted(path)["warnings"])
    variants = [["a", *row] for row in plain] + [["b", *row] for row in rows]
    path = write(tmp_path / "variants.csv", variants, "variant,params,tokens,loss")
    run("compare", path, "--by", "variant", "--groups", "a", "b", "--bootstrap", 0)
    assert "in row 4 of b's (nan)" in capsys.readouterr().out


def test_h4_groups_are_told_apart_and_named(tmp_path, plain):
    """Fails when a group without a name is not in the JSON, or two groups' rows are joined."""
    names = [("", "a,b", "c"), ("x", "a", "b,c")]
    rows = [
        [*each, *row[:2], float(row[2]) + i] for i, each in enumerate(names) for row in plain
    ]
    text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows)
    path = tmp_path / "runs.csv"
    path.write_text(f"variant,first,second,params,tokens,loss\n{text}\n")
    assert set(fitted(path, "--by", "variant")["groups"]) == {"(blank)", "x"}
    both = fitted(path, "--by", "first", "second")["groups"]
    assert {name: one["rows_used"] for name, one in both.items()} == {
        '"a,b",c': 16,
        'a,"b,c"': 16,
    }


def test_h5_rows_of_several_kinds_in_one_law_are_said(capsys, table, of_one):
    """Fails when one law is drawn through a GPT's and a BERT's losses without a word."""
    alone = "--bootstrap", 0
    run("fit", table, *alone)
    said = capsys.readouterr().out
    assert "rows of 2 kinds of objective (causal, masked) are fit as one: --by obj" in said
    run("compare", table, of_one["causal"], *alone)
    assert "rows of 2 kinds of objective" in capsys.readouterr().out
    run("fit", table, "--by", "objective", *alone)
    run("compare", of_one["causal"], of_one["masked"], *alone)
    assert "kinds of objective" not in capsys.readouterr().out


@pytest.mark.parametrize("law", ["isoflop", "envelope"])
def test_h7_a_range_is_of_the_runs_that_a_law_is_of(capsys, tmp_path, law):
    """Fails when budgets that are left out count as rows: a law of 4e20 ends not at 1e22."""
    rows = []
    for C in np.geomspace(1e18, 1e22, 9):
        best = 0.07 * C**0.51
        # The larger budgets have sizes on one side of the best, each worse than any before.
        left_out = C > 5e20
        for step in np.arange(5) + 1 if left_out else np.arange(5) - 2:
            N = best * 2.0**-step
            loss = float(parametric_loss(BESIROGLU, N, C / 6 / N)) + 2 * left_out
            rows.append([N, C / 6 / N, C, loss])
    path = write(tmp_path / "runs.csv", rows, "params,tokens,flops,loss")
    found = fitted(path, "--law", law, "--predict", "flops=1e22")
    assert found["ranges"]["flops"] == pytest.approx((1e18, 10**20.5))
    assert found["predictions"][0]["extrapolated"]["flops"] == pytest.approx(31.6)
    run("fit", path, "--bootstrap", 0, "--law", law, "--predict", "flops=1e22")
    assert "flops 1e+18 to 3.16e+20" in capsys.readouterr().out


def test_h6_no_multiplier_that_is_no_number(capsys, tmp_path):
    """Fails when a variant whose loss hardly falls needs inf times the compute: no JSON."""
    flops = np.geomspace(1e17, 1e20, 5).tolist()
    steep = write(tmp_path / "steep.csv", [[C, 20 * C**-0.05] for C in flops], "flops,loss")
    flat = write(
        tmp_path / "flat.csv", [[C, 3 - 1e-7 * i] for i, C in enumerate(flops)], "flops,loss"
    )
    said = fails(capsys, "compare", steep, flat, "--bootstrap", 0, "--json")
    assert "the second variant's loss hardly falls with compute" in said


def test_predictions_that_are_not_finite_are_refused(capsys, tmp_path):
    """Fails when a loss that rises gives a size of inf, which no JSON holds."""
    rows = [[N, D, 2 + 0.1 * i + 0.3 * j] for j, D in enumerate((1e9, 1e10))
            for i, N in enumerate((1e7, 1e8, 1e9))]  # fmt: skip
    path = write(tmp_path / "rising.csv", rows)
    options = ["--bootstrap", 0, "--predict", "flops=1e21", "--json"]
    assert "no best split" in fails(capsys, "fit", path, *options)


def variants(path, handicap, **columns):
    rows = [["flops", "bits_per_byte", *columns]]
    for C in (1e15, 1e16, 1e17, 1e18):
        rows.append([C, 9 * (C / handicap) ** -0.05, *columns.values()])
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(",".join(map(str, row)) for row in rows))


def test_compare_two_study_folders(capsys, tmp_path):
    """Fails when variants are exchanged, or a bound is compared with an exact loss unsaid."""
    variants(tmp_path / "gpt" / "results.csv", 1.0, tokens=1e6, unique_bytes=5e5, kind="exact")
    variants(tmp_path / "bert" / "results.csv", 7.0, tokens=1e6, unique_bytes=6e5, kind="bound")
    plot = tmp_path / "out.png"
    folders = tmp_path / "gpt", tmp_path / "bert" / "results.csv"
    found = numbers("compare", *folders, "--plot", plot)
    assert [m["multiplier"] for m in found["multipliers"]] == pytest.approx([7.0] * 4)
    assert found["held_equal"] == ["tokens", "flops"]
    assert found["differ"] == {"unique_bytes": 1.2}
    assert plot.read_bytes().startswith(b"\x89PNG")
    run("compare", *folders)
    printed = capsys.readouterr().out
    assert "bert needs 7 times the compute of gpt" in printed.replace("7 to 7", "7")
    assert "not of one kind (gpt: exact, bert: bound)" in printed


def test_f8_variants_are_compared_in_one_kind_of_loss(capsys, tmp_path):
    """Fails when one file's loss is held against the other's bits per byte."""
    C = np.geomspace(1e15, 1e18, 4)
    ours = write(tmp_path / "a.csv", [[c, 9 * c**-0.05, 3 * c**-0.05] for c in C],
                 "flops,loss,bits_per_byte")  # fmt: skip
    theirs = write(tmp_path / "b.csv", [[c, 3 * (c / 4) ** -0.05] for c in C],
                   "flops,bits_per_byte")  # fmt: skip
    found = numbers("compare", ours, theirs)
    assert [m["multiplier"] for m in found["multipliers"]] == pytest.approx([4.0] * 4)
    run("compare", ours, theirs)
    assert "loss is column bits_per_byte" in capsys.readouterr().out
    only = write(tmp_path / "a.csv", [[c, 9 * c**-0.05] for c in C], "flops,loss")
    assert "a has loss, b has bits_per_byte" in fails(capsys, "compare", only, theirs)


def test_f8_seeds_are_averaged_where_no_column_says_sizes(capsys, tmp_path):
    """Fails when the best seed of each compute stands for a variant: a loss 2% too low."""
    rows = [[c, seed, 9 * c**-0.05 * (1.02 - 0.04 * seed)] for c in np.geomspace(1e15, 1e18, 4)
            for seed in (0, 1)]  # fmt: skip
    path = write(tmp_path / "a.csv", rows, "flops,seed,loss")
    losses = [m["loss"] for m in numbers("compare", path, path)["multipliers"]]
    assert losses[0] == pytest.approx(9 * 1e15**-0.05 * np.sqrt(1.02 * 0.98))


def test_compare_two_groups_of_one_file(capsys, tmp_path):
    """Fails when rows of another group are in a variant."""
    path = tmp_path / "runs.csv"
    rows = [
        f"{model},{C},{9 * (C / handicap) ** -0.05}"
        for model, handicap in (("a", 1), ("b", 3), ("c", 90))
        for C in (1e15, 1e16, 1e17)
    ]
    path.write_text("\n".join(["model,flops,loss", *rows]))
    groups = ["--by", "model", "--groups", "b", "a"]
    found = numbers("compare", path, *groups)
    assert [m["multiplier"] for m in found["multipliers"]] == pytest.approx([1 / 3] * 3)
    run("compare", path, *groups)
    assert "a needs 0.333 to 0.333 times the compute of b" in capsys.readouterr().out
    said = fails(capsys, "compare", path, "--by", "model", "--groups", "b", "z")
    assert "column model has no z; it has a, b, c" in said
    assert "two files, or two groups" in fails(capsys, "compare", path)
    assert "no column flop" in fails(capsys, "compare", path, path, "--flops", "flop")
