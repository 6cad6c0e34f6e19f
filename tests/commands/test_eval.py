"""`lm eval`: tables and JSON of what models can do, and each refusal in a line."""

import json
import shutil
import sys

import pytest

import lm
from lm.cli import main
from lm.model import Transformer
from lm.objectives import Causal, Classify, Masked
from lm.train.load import load_model
from tests.makers import save_untrained

MODELS = {"gpt": Causal(), "bert": Masked(), "classes": Classify(classes=2)}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, objective in MODELS.items():
        model = Transformer(depth=1, width=16, heads=2)
        save_untrained(folder / name, objective, model, length=24)
    return folder


@pytest.fixture
def world(untrained, tmp_path, monkeypatch):
    """Models and two tasks, in the working directory."""
    shutil.copytree(untrained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("YARDSTICK_TASKS", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)  # nothing asks the network
    monkeypatch.setattr("lm.evaluate.tasks.metrics.RESAMPLES", 50)
    monkeypatch.setattr("lm.evaluate.tasks.rows.WIDTHS", [24])  # a program a scorer
    pairs = [{"better": f"ab {n}", "worse": f"ba{n}", "kind": "xy"[n % 2]} for n in range(6)]
    choices = [
        {"query": "x " * (3 * n), "choices": ["a", "b"], "gold": n % 2} for n in range(6)
    ]
    alike = [{"sentence1": "a", "sentence2": "b" * n, "score": n} for n in range(1, 5)]
    for name, items, fields in (
        ("order", pairs, {"type": "pairs", "group": ["kind"]}),
        ("pick", choices, {"type": "choice"}),
        ("alike", alike, {"type": "similarity"}),
    ):
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (tmp_path / f"{name}.jsonl").write_text(lines)
        task = fields | {"files": [f"{name}.jsonl"]}
        (tmp_path / f"{name}.json").write_text(json.dumps(task))
    return tmp_path


def said(capsys, *arguments):
    main(["eval", *map(str, arguments)])
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The one line that a command ends with."""
    with pytest.raises(SystemExit) as exit_:
        main(["eval", *map(str, arguments)])
    lines = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2 and lines and lines[-1].startswith("lm: "), lines
    return lines[-1]


def test_a_table_a_task(world, capsys):
    """Fails if a model, its scorer, interval, the difference, a part or how it was asked is
    left out, or results are not kept beside each model.
    """
    out = said(capsys, "gpt", "bert", "--tasks", "order.json", "pick.json")
    flat = " ".join(out.split())
    assert "order: 6 items" in flat and "pick: 6 items" in flat
    for words in ("above the first", "chain rule", "order from left to right", "chance"):
        assert words in flat
    assert "pseudo-likelihood from left to right within words" in flat
    assert "no likelihood" in flat and "after <bos> (2)" in flat
    assert "prompt '{query}| {choice}'" in flat
    rows = [line.split() for line in out.splitlines()]
    (part,) = [row for row in rows if row[:1] == ["x"]]
    assert len(part) == 5 and part[-1] == "3"  # a number for each result, and of how many
    # 24 positions, bos, and an answer of two: contexts of 17 letters fit and of 23 do not.
    assert "2 items cut, by" in flat
    assert flat.count("1: after <bos> (2)") == 2
    assert len(list((world / "gpt" / "eval").iterdir())) == 2
    assert len(list((world / "bert" / "eval").iterdir())) == 4
    # What is kept beside a model does not keep it from being one.
    assert load_model(world / "gpt").predicts == {"next"}
    assert lm.load_model("bert").predicts == {"masked"}


def test_json_is_what_is_kept(world, capsys):
    """Fails if a field is lost, another task's is given, or a second call asks again."""
    arguments = ("gpt", "--tasks", "order.json", "--json", "--out", "results/new")
    found = json.loads(said(capsys, *arguments))
    assert list(found) == ["order"]
    (result,) = found["order"]
    assert result["task"] == "order" and result["model"] == "gpt" and result["asked"] == 6
    assert result["low"] <= result["value"] <= result["high"]
    assert set(result["groups"]) == {"x", "y"} and result["kind"] == "exact"
    assert result["columns"] == []
    (path,) = (world / "results" / "new").iterdir()
    kept = json.loads(path.read_text())
    assert len(kept["columns"][0]) == 6 and kept["value"] == result["value"]
    assert not (world / "gpt" / "eval").exists()
    kept["value"] = 0.25  # what is kept is not asked again
    path.write_text(json.dumps(kept))
    assert json.loads(said(capsys, *arguments))["order"][0]["value"] == 0.25


def test_equal_models_do_not_differ(world, capsys):
    """Fails if two models of one folder of results share a file, or are not paired."""
    shutil.copytree(world / "gpt", world / "twin")
    out = said(capsys, "gpt", "twin", "--tasks", "pick.json", "--out", "results")
    assert "+0.0000 (+0.0000 to +0.0000)" in " ".join(out.split())


def test_options_reach_the_model(world, capsys):
    """Fails if an option is taken and not used."""
    asked = ("gpt", "--tasks", "pick.json", "--json")
    usual = json.loads(said(capsys, *asked))["pick"][0]
    for options, field, wanted in (
        (("--items", "2"), "asked", 2),
        (("--shots", "1", "--seeds", "3", "4"), "seeds", [3, 4]),
        (("--calibrate", "N/A"), "calibration", "N/A"),
        (("--prefix", "eos"), "around", "after <eos> (3)"),
        (("--prefix", "none"), "around", "the first token unscored"),
        (("--prefix", "q"), "around", "after q (121)"),
    ):
        found = json.loads(said(capsys, *asked, *options))["pick"][0]
        assert found[field] == wanted != usual[field]
    found = json.loads(said(capsys, "bert", *asked[1:], "--scorer", "pseudo-all"))["pick"]
    assert [each["scorer"] for each in found] == ["pseudo-likelihood of all tokens"]
    alike = ("classes", "--tasks", "alike.json", "--json")
    mean, first = (
        json.loads(said(capsys, *alike, *more))["alike"][0]
        for more in ((), ("--pool", "first"))
    )
    assert mean["metric"] == "spearman" and mean["metrics"] != first["metrics"]
    assert len(list((world / "gpt" / "eval").iterdir())) == 7


def test_what_cannot_be_asked_is_one_line(world, capsys, monkeypatch):
    """Fails if a mistake is a traceback, is found after minutes, or says no way out."""
    gpt, bert = ("gpt", "--tasks", "order.json"), ("bert", "--tasks", "order.json")
    (world / "other").mkdir()
    shutil.copy(world / "order.json", world / "other" / "order.json")
    shutil.copy(world / "order.jsonl", world / "other" / "order.jsonl")
    monkeypatch.setattr(
        "lm.train.load.load_model", lambda *_, **__: pytest.fail("it was loaded")
    )
    for arguments, why in (
        (("gpt", "--tasks", "ordr"), "ordr: no such task; a JSON file of one's own, or"),
        (("gpt", "--tasks", "none.json"), "none.json: No such file"),
        (
            ("gpt", "--tasks", "blimp"),
            "; name the folder that has it with --data or YARDSTICK_TASKS",
        ),
        (("gpt", "--tasks", "blimp", "--data", "other"), "nothing in other; name the folder"),
        (("gpt", "--tasks", "blimp", "--data", "absent"), "absent: no such file"),
        (("absent", "--tasks", "order.json"), "absent: no such file"),
        ((*gpt, "--scorer", "magic"), "--scorer magic: no such scorer; one of chain-rule"),
        ((*bert, "--scorer", "chain-rule"), "--scorer chain-rule: not valid for this model"),
        (("classes", "--tasks", "order.json"), "order: the model predicts no tokens"),
        ((*gpt, "--items", "0"), "--items 0: must be > 0"),
        ((*gpt, "--shots", "-1"), "--shots -1: must be >= 0"),
        ((*gpt, "--seeds", "-1"), "--seeds -1: must be >= 0"),
        ((*gpt, "other/order.json"), "--tasks: order is the name of two"),
    ):
        line = refused(capsys, *arguments)
        assert why in line, line


def test_what_the_loaded_model_cannot_is_one_line(world, capsys):
    """Fails if what only the model itself knows is a traceback, or leaves a file behind."""
    for arguments, why in (
        (("gpt", "--tasks", "order.json", "--prefix", "zz"), "--prefix zz: no such token"),
        (("bert", "--tasks", "order.json", "--prefix", "none"), "--prefix none: the model"),
        (("gpt", "--tasks", "order.json", "--shots", "1"), "stand alone"),
        (("gpt", "--tasks", "pick.json", "--shots", "6"), "shots=6: there are 6 items to"),
        (("gpt", "--tasks", "pick.json", "--out", "order.json"), "order.json: File exists"),
    ):
        line = refused(capsys, *arguments)
        assert why in line, line
    found = [*world.glob("*/eval/*")]
    assert not found


def test_a_folder_that_is_not_to_be_written_is_one_line(world, capsys, monkeypatch):
    """Fails if a published model in a folder of others is a traceback."""

    def locked(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", locked)
    line = refused(capsys, "gpt", "--tasks", "order.json")
    assert "gpt/eval: Permission denied; name another folder for results with --out" in line


def test_bm25_stands_beside_a_model_that_ranks(world, capsys, monkeypatch):
    """Fails if counted words are no rival, or a library that is not there is a traceback."""
    texts = ("flow of air", "heat in wings", "shock waves")
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    for name in ("q", "d"):
        (world / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (world / "j").write_text("1 0 1\n2 1 1\n3 2 1\n")
    files = {"files": ["q.jsonl"], "documents": ["d.jsonl"], "judgements": ["j"]}
    (world / "find.json").write_text(json.dumps({"type": "retrieval", **files}))
    out = said(capsys, "bert", "--tasks", "find.json")
    (line,) = [line for line in out.splitlines() if "BM25" in line]
    assert "bm25" in line and "1.0000" in line and "ndcg_10" in out
    monkeypatch.setitem(sys.modules, "bm25s", None)
    main(["eval", "bert", "--tasks", "find.json"])
    told = capsys.readouterr()
    assert "BM25" not in told.out and "bert" in told.out
    assert told.err.startswith("lm: BM25 is left out: bm25s is not installed: pip install")
