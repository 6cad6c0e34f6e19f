"""Text in rows of a given length is scored alike by any model, whoever made its tokenizer."""

import copy
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from lm.cli import main
from lm.config import UserError
from lm.data import Bytes
from lm.evaluate.given_text import cut_of, score_text, with_text
from lm.evaluate.windows import Windows
from lm.model import Transformer
from lm.model.positions import Learned
from lm.objectives import Causal, Masked
from lm.run import Run
from lm.train.load import load_model
from tests.makers import save_untrained

TEXT = "one two three, four"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models that nobody trained, and two files."""
    folder = tmp_path_factory.mktemp("rows")
    for kind, objective in (("gpt", Causal()), ("bert", Masked(rate=0.3))):
        model = Transformer(depth=1, width=16, heads=2)
        save_untrained(folder / kind, objective, model, length=32)
    (folder / "gpt-again").symlink_to(folder / "gpt")
    (folder / "a.txt").write_text(TEXT)
    (folder / "b.txt").write_text("é" * 40)
    return folder


def nats_after(model, starts):
    """Nats of each token of a.txt after bos and the tokens from a start on, by hand."""
    ids = model.tokenizer.encode(TEXT)
    rows, segments = np.zeros((2, len(ids), 9), int)
    for at, start in enumerate(starts):
        seen = [model.tokenizer.vocabulary.bos, *ids[start:at]]
        rows[at, : len(seen)], segments[at, : len(seen)] = seen, 1
    nats_BLV = -np.asarray(jax.nn.log_softmax(model.logits(rows, segments)))
    return sum(nats_BLV[at, at - start, ids[at]] for at, start in enumerate(starts))


def test_rows_of_a_length_are_scored_as_by_hand(folder):
    """Fails if a token of a row is scored without the bos token before it, or two times."""
    model = load_model(folder / "gpt")
    found = score_text(model, [folder / "a.txt"], length=8)["chain_rule"]
    by_hand = nats_after(model, [at // 8 * 8 for at in range(19)])
    assert found.nats == pytest.approx(by_hand, rel=1e-5)
    assert (found.bytes, found.tokens, found.layout_bits) == (19, 19, None)
    assert (found.length, found.stride, found.lossy) == (8, None, None)
    bos = model.tokenizer.vocabulary.bos
    assert (found.prefix.id, found.prefix.token) == (bos, "<bos>")


def test_a_stride_scores_each_token_once_after_all_that_its_row_has(folder):
    """Fails if a stride scores a token twice, or after less than is there."""
    model = load_model(folder / "gpt")
    # Rows of 8 begin 3 apart: the first that holds a token scores it.
    by_hand = nats_after(model, [3 * max(0, -(-(at - 7) // 3)) for at in range(19)])
    found = score_text(model, [folder / "a.txt"], length=8, stride=3)
    assert list(found) == ["chain_rule"]
    score = found["chain_rule"]
    assert score.nats == pytest.approx(by_hand, rel=1e-5) and score.bytes == score.tokens == 19
    whole = score_text(model, [folder / "a.txt"], length=8, stride=8)["chain_rule"]
    assert whole.nats == score_text(model, [folder / "a.txt"], length=8)["chain_rule"].nats


def test_documents_share_no_row_of_a_length(folder):
    """Fails if a row goes on with the next file, or bytes go to the file before."""
    files = [folder / "a.txt", folder / "b.txt"]
    found = []
    for kind in ("gpt", "bert"):
        there = with_text(load_model(folder / kind), files, length=16)
        found.append(Windows.of(there, there.tokens.validation, None))
    windows = found[0]
    assert [row.max() for row in windows.text.documents_RL] == [0] * 2 + [1] * 5
    assert windows.text.bytes_RL.sum(axis=1).tolist() == [16, 3, *[16] * 5]
    assert windows.tokens_RL.shape == (7, 17) and (windows.tokens_RL[:, 0] == 2).all()
    # So that scores are paired by document.
    assert windows.same_as(found[1])
    few = Windows.of(there, there.tokens.validation, 3)
    assert len(few.tokens_RL) == 3 and not windows.same_as(few)


def test_a_foreign_tokenizer_tells_where_a_text_ends(folder):
    """Fails if the end of a foreign text is scored, or an encoder of others is not shown it."""
    models = {kind: load_model(folder / kind) for kind in ("gpt", "bert")}
    for kind, model in models.items():
        tokenizer = copy.copy(model.tokenizer)
        tokenizer.vocabulary = replace(tokenizer.vocabulary, eos_counts=False)
        tokenizer.lossy = "letters are lower-cased"
        foreign = replace(model, tokenizer=tokenizer)
        there = with_text(foreign, [folder / "a.txt"])
        windows = Windows.of(there, there.tokens.validation, None)
        around = [tokenizer.vocabulary.eos] if kind == "bert" else []
        assert windows.cut.length == 32 - 1 - len(around)
        ids = tokenizer.encode((folder / "a.txt").read_text())
        assert windows.tokens_RL.tolist() == [[tokenizer.vocabulary.bos, *ids, *around]]
        (score, *_) = score_text(foreign, [folder / "a.txt"]).values()
        assert score.tokens == 19 and score.lossy is None  # of this text nothing is lost
    tokenizer.decode = lambda ids: "one two three, FOUR"
    (score, *_) = score_text(foreign, [folder / "a.txt"]).values()
    assert score.lossy == "letters are lower-cased"


def test_what_makes_no_windows_is_one_line(folder, capsys):
    text = ["--text", str(folder / "a.txt")]
    for model, options, why in (
        ("gpt", ["--stride", "4", *text], "--stride 4: .*Give --length"),
        ("gpt", ["--length", "8", "--stride", "9", *text], "--stride 9: must be at most"),
        ("gpt", ["--length", "0", *text], "--length 0: must be > 0"),
        ("gpt", ["--length", "8"], "--length 8: name files with --text"),
        ("bert", ["--length", "8", "--stride", "4", *text], "bert: --stride 4: .*chain rule"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["score", str(folder / model), *options])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(why, line), line
    learned = Run(model=Transformer(positions=Learned(length=32)))
    with pytest.raises(UserError, match=r"^--length 32: .* 32 positions.*at most 31"):
        cut_of(learned, Bytes().open(), length=32, stride=None)


def test_the_command_tells_its_windows(folder, capsys):
    """Fails if the windows, what stands before them or a lossy tokenizer goes unsaid."""
    text = ["--text", str(folder / "a.txt"), "--length", "8"]
    main(["score", str(folder / "gpt"), *text, "--stride", "4", "--json"])
    found = json.loads(capsys.readouterr().out)["scores"]["chain_rule"]
    told = {"prefix", "length", "stride", "lossy", "layout_bits", "nats", "tokens", "text_se"}
    assert told <= found.keys() and found["stride"] == 4 and found["layout_bits"] is None
    main(["score", str(folder / "gpt"), str(folder / "gpt-again"), *text])
    out = capsys.readouterr().out
    assert out.count("19 bytes in windows of at most 8 tokens, after <bos> (2)") == 2
    main(["score", str(folder / "gpt"), *text, "--precision", "bfloat16", "--json"])
    rounded = json.loads(capsys.readouterr().out)["scores"]["chain_rule"]["nats"]
    exact = score_text(load_model(folder / "gpt"), [folder / "a.txt"], length=8)["chain_rule"]
    assert rounded != exact.nats and rounded == pytest.approx(exact.nats, rel=0.02)


ASSETS, CORPORA = os.environ.get("YARDSTICK_ASSETS"), os.environ.get("YARDSTICK_CORPORA")


@pytest.mark.skipif(not (ASSETS and CORPORA), reason="YARDSTICK_ASSETS, YARDSTICK_CORPORA")
def test_a_published_model_has_its_known_score(tmp_path):
    """Fails if weights, tokens, windows or what stands before them are not as published."""
    text = (Path(CORPORA) / "wikitext-2" / "valid.txt").read_bytes()[:20_000]
    (tmp_path / "text.txt").write_bytes(text)
    model = load_model(Path(ASSETS) / "smollm2-135m-instruct")
    found = score_text(model, [tmp_path / "text.txt"], length=512)["chain_rule"]
    assert (found.tokens, found.bytes, found.prefix.id, found.lossy) == (5139, 20_000, 1, None)
    assert found.nats == pytest.approx(15_510.631, abs=0.05)
    assert found.bits_per_byte == pytest.approx(1.118856, abs=5e-6)
