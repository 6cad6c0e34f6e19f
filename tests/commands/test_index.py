"""`lm index` and `lm search`, as their user meets them."""

import json
import sys
from pathlib import Path

import pytest

from lm.cli import main

TEXTS = {
    "water.txt": "Ships float on water.\n\nA keel keeps ships upright.\n",
    "fire.md": "# Fire\n\nFire needs air, fuel and heat.\n",
}
QUESTIONS = [
    {"question": "What keeps ships upright?", "answered_by": ["water.txt"]},
    {"question": "What needs fuel?", "answered_by": ["fire.md"]},
    {"question": "Who paints zebras?", "kind": "far"},
    {"question": "Who sells umbrellas?", "kind": "far"},
]


@pytest.fixture(autouse=True)
def texts(monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text)
    lines = map(json.dumps, QUESTIONS)
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    return folder


def test_an_index_is_made_searched_measured_and_changed(capsys):
    """Fails if a command says another thing than what was done."""
    main(["index", "texts", "made", "--bm25", "--tokens", "9"])
    assert capsys.readouterr().out.startswith("files: 2 added\npassages: ")
    main(["search", "made", "What keeps ships upright?", "-k", "1"])
    said = capsys.readouterr().out
    assert said.startswith("1. texts/water.txt:1-3  (words ")
    assert "something supports an answer: overlap 1.000 >= 0.480" in said
    main(["search", "made", "Who paints zebras?", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert not found["supported"] and found["sources"] == []
    main(["search", "made", "--questions", "questions.jsonl", "--keep"])
    assert "2 questions that a file answers, 2 others" in capsys.readouterr().out
    main(["search", "made", "upright", "--json"])
    rule = json.loads(capsys.readouterr().out)["rule"]
    assert rule["by"] == "overlap" and rule["least"] != 0.48
    main(["index", "texts/fire.md", "made", "--delete", "--json"])
    assert json.loads(capsys.readouterr().out)["done"]["deleted"] == 1
    main(["index", "texts", "made"])
    assert capsys.readouterr().out.startswith("files: 1 added, 1 unchanged\n")
    main(["index", "made"])
    assert capsys.readouterr().out.startswith("files: none\n")
    main(["search", "made", "upright", "--json"])
    assert json.loads(capsys.readouterr().out)["rule"] == rule


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("index texts made", "made: an index is of --model MODEL or --bm25, and none is there"),
        ("index nowhere made --bm25", "nowhere: no such file or directory"),
        ("index made", "made: there is no such index; name the files to make one of"),
        ("index made --delete", "--delete: name the files that it is to take out"),
        ("index texts texts --bm25", "texts: it is there, and no index"),
        ("index texts no/made --bm25", "no/made: there is no directory no"),
        ("index texts made --bm25 --pooling mean", "--pooling mean: an index of words has no"),
        ("index texts made --bm25 --tokens 0", "--tokens 0: at least 1"),
        ("index texts made --model texts", "texts: "),
        ("search made keel", "made: no index: there is no such folder"),
        ("search texts keel", "texts: no index: it has no manifest.json"),
        ("search made", "give a QUERY, or --questions FILE"),
        ("search made keel -k 0", "-k 0: must be >= 1"),
        ("search made keel --keep", "--keep: with --questions FILE"),
    ],
)
def test_what_cannot_be_is_one_line(command, said, capsys):
    """Fails if it is a traceback, or leaves a folder."""
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and error.startswith(f"lm: {said}")
    assert not Path("made").exists()


@pytest.mark.parametrize("missing", ["bm25s", "pypdf"])
def test_what_is_not_installed_is_said_in_one_line(missing, monkeypatch, capsys):
    """Fails if the extra is not named."""
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "pypdf":
        Path("texts/a.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(SystemExit) as ended:
        main(["index", "texts", "made", "--bm25"])
    assert ended.value.code == 2
    assert "pip install yardstick-lm[retrieval]" in capsys.readouterr().err
    assert not Path("made").exists()
