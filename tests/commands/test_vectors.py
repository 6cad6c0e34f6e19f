"""`lm vectors`: tables and JSON of what words' vectors know, and each refusal in a line."""

import json
import sys

import pytest

from lm.cli import main
from lm.commands.vectors import TASKS
from lm.evaluate.vectors import FILES
from lm.model import Transformer
from lm.objectives import Masked
from tests.makers import save_random

WORDS = {"king": (1, 1), "queen": (1, -1), "man": (0.2, 1), "woman": (0.2, -1), "it": (-1, 0.1)}


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    """A table of five words, a model, and files of pairs and analogies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("YARDSTICK_TASKS", raising=False)
    monkeypatch.setattr("lm.evaluate.tasks.metrics.RESAMPLES", 20)
    lines = [f"{word} {x} {y}\n" for word, (x, y) in WORDS.items()]
    (tmp_path / "five.txt").write_text("".join(lines))
    (tmp_path / "pairs.txt").write_text("King queen 5\nking\tman\t9\nit man 1\nking x 2\n")
    (tmp_path / "four.txt").write_text(": royal\nman king woman queen\nman king woman it\n")
    (tmp_path / "public" / "words").mkdir(parents=True)
    (tmp_path / "public" / "words" / "EN-RG-65.txt").write_text("king queen 1\n")
    return tmp_path


def said(capsys, *arguments):
    main(["vectors", *map(str, arguments)])
    return capsys.readouterr().out


def test_a_table_and_its_numbers(world, capsys):
    """Fails if a task, a neighbour or what is known is not printed, or --json is another."""
    asked = "five.txt", "--tasks", "pairs.txt", "four.txt", "--near", "king"
    flat = " ".join(said(capsys, *asked).split())
    assert "1: five.txt: 5 words in 2 numbers; others are not known" in flat
    assert "1 pairs 1.0000" in flat and "3 of 4" in flat
    assert "royal 0.5000" in flat and "1 of 2" in flat and "among words, 1: 5" in flat
    assert "near king 1 cosine 1 man" in flat
    found = json.loads(said(capsys, *asked, "--json"))
    (pairs,), (four,) = found["tasks"]["pairs"], found["tasks"]["four"]
    assert pairs["spearman"]["value"] == pytest.approx(1)
    assert (pairs["known"], pairs["asked"]) == (3, 4)
    assert four["sections"]["royal"]["right"] == 1 == four["total"]["right"]
    assert found["near"]["five.txt"]["king"][0]["word"] == "man"


def test_public_tasks_are_found_in_their_folder_and_models_beside_tables(world, capsys):
    """Fails if the folder's file is not read, or a model stands in for the table."""
    save_random(world / "bert", Masked(), Transformer(depth=1, width=16, heads=2))
    asked = "bert", "five.txt", "--tasks", "rg-65", "--data", "public", "--json"
    found = json.loads(said(capsys, *asked))["tasks"]["rg_65"]
    assert [each["table"] for each in found] == ["bert (input)", "five.txt"]
    assert [each["several"] for each in found] == [1, 0]
    assert [each["spearman"] for each in found] == [None, None]  # of one pair there is none


def test_the_help_names_the_public_tasks():
    """Fails if a task is added, and the help does not say so."""
    assert TASKS.replace("-", "_").split(", ") == list(FILES)


def test_what_cannot_be_asked_is_one_line(world, capsys):
    """Fails if a mistake is a traceback, or says no way out."""
    (world / "bad.txt").write_text("king queen\n")
    (world / "odd.txt").write_text("a b c d\na b c\n")
    (world / "more").mkdir()
    (world / "more" / "pairs.txt").write_text("king queen 1\n")
    for arguments, why in (
        (("absent", "--near", "king"), "absent: no such file or directory"),
        (("public", "--near", "king"), "public"),
        (("pairs.txt", "--near", "king"), "pairs.txt:1: "),
        (("five.txt", "--near", "kin"), "--near kin: no word of five.txt; it knows king"),
        (("five.txt", "--near", "\ud800"), "not UTF-8"),
        (("five.txt",), "no folder of tasks is named; name the one that has words/"),
        (("five.txt", "--data", "public"), "EN-WS-353-ALL.txt: No such file"),
        (("five.txt", "--tasks", "mem"), "mem: no such task; a file of one's own, or one of"),
        (("five.txt", "--tasks", "bad.txt"), "bad.txt:1: 'king queen'; must be two words and"),
        (("five.txt", "--tasks", "odd.txt"), "odd.txt:2: 'a b c'; must be the four words"),
        (("five.txt", "--tasks", "pairs.txt", "more/pairs.txt"), "pairs is the name of two"),
        (("five.txt", "--near", "king", "--count", "0"), "--count 0: must be > 0"),
        (("five.txt", "--near", "king", "--words", "0"), "--words 0: must be > 0"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main(["vectors", *arguments])
        lines = capsys.readouterr().err.splitlines()
        assert exit_.value.code == 2 and len(lines) == 1 and why in lines[0], lines
