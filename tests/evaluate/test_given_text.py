"""Any text is scored by any model, and a model that goes elsewhere scores it alike."""

import json
import math
from dataclasses import replace

import pytest

import lm
from lm.cli import main
from lm.config import UserError, override
from lm.evaluate.effort import USUAL
from lm.evaluate.given_text import score_text, with_text
from lm.evaluate.scoring import score_by, valid
from lm.train.load import load_model, load_run, save_model


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    for kind, objective in (("gpt", "causal"), ("bert", "masked")):
        lm.train_run(override(run, [f"objective.type={objective}"]), folder / kind)
        save_model(load_model(folder / kind), folder / f"{kind}-artifact")
    (folder / "a.txt").write_text("one two three, four")
    (folder / "b.txt").write_text("é" * 40)
    return folder


def test_held_out_text_given_as_files_scores_as_held_out(folder):
    """Fails if windows, bytes or the layout of given files are other than of a corpus."""
    trained = load_run(folder / "gpt")
    split = trained.tokens.validation
    files = []
    for number in range(len(split.ids)):
        files.append(folder / f"held-out-{number}.txt")
        files[-1].write_text(split.text(number))
    for kind in ("gpt", "bert"):
        own = load_run(folder / kind)
        for name, scorer in valid(own.run).items():
            if scorer.only_by_name:
                continue
            given = score_text(load_model(folder / f"{kind}-artifact"), files)[name]
            expected = score_by(own, scorer, USUAL)
            # Batches have other sizes, and so products another order.
            assert given.bits_per_byte == pytest.approx(expected.bits_per_byte, rel=1e-6)
            assert given.layout_bits == expected.layout_bits
            assert given.document_bytes == expected.document_bytes


def test_bytes_are_those_of_the_text_and_documents_are_files(folder):
    score = score_text(load_model(folder / "gpt"), [folder / "a.txt", folder / "b.txt"])[
        "chain_rule"
    ]
    assert score.document_bytes == (19, 80) and score.bytes == 99
    assert score.bits_per_byte == pytest.approx(score.nats / math.log(2) / 99)
    assert score.text_se is not None


def test_a_model_of_unknown_lengths_pays_nothing_and_says_so(folder):
    """Fails if a foreign masked model's layout is paid for, or taken for none."""
    model = load_model(folder / "bert")
    known = score_text(model, [folder / "a.txt"])["any_order"]
    unknown = score_text(replace(model, lengths=None), [folder / "a.txt"])["any_order"]
    assert known.layout_bits and unknown.layout_bits is None
    assert unknown.bits_per_byte == pytest.approx(known.bits_per_byte - known.layout_bits)


def test_files_that_cannot_be_scored_are_one_line(folder, tmp_path):
    model = load_model(folder / "gpt")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, why in (
        ("none.txt", "No such file"),
        ("empty.txt", "it is empty"),
        ("latin.txt", "not UTF-8"),
    ):
        with pytest.raises(UserError, match=f"^--text .*{name}: {why}"):
            with_text(model, [tmp_path / name])


def test_the_command_scores_text_by_runs_and_artifacts(folder, capsys):
    """Fails if --text is not read, or its JSON has another form than README's."""
    text = str(folder / "a.txt")
    main(["score", str(folder / "gpt-artifact"), "--text", text, "--json"])
    found = json.loads(capsys.readouterr().out)["scores"]["chain_rule"]
    assert found["bytes"] == 19 and found["kind"] == "exact" and found["layout_bits"] == 0
    main(["score", str(folder / "gpt"), str(folder / "bert-artifact"), "--text", text])
    out = capsys.readouterr().out
    assert "chain-rule" in out and "any-order" in out
    with pytest.raises(SystemExit):
        main(["score", str(folder / "gpt-artifact")])
    assert "name files with --text" in capsys.readouterr().err


def test_a_model_that_was_exported_generates_and_shows_its_tokens(folder, capsys, tmp_path):
    main(["export", str(folder / "gpt"), str(tmp_path / "model")])
    assert "step 16 of 16" in capsys.readouterr().out
    for path in (folder / "gpt", tmp_path / "model"):
        main(["generate", str(path), "one ", "--temperature", "0", "--count", "5"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("one ")
    assert lm.generate_text(
        lm.load_model(tmp_path / "model"), "one ", count=5, temperature=0
    ) == first.removeprefix("one ")
    main(["tokens", "one", "--model", str(tmp_path / "model")])
    assert "3 bytes, 3 tokens" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["export", str(folder / "gpt"), str(tmp_path / "model")])
    assert "not an empty folder" in capsys.readouterr().err
