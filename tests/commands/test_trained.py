"""The commands that are given trained runs: score, audit, generate, tokens."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest

from lm.cli import main
from lm.commands.score import ORDER_ROWS
from lm.config import dump, override
from lm.data import Bytes, Data, Text
from lm.evaluate.scorers.fixed_order import FixedOrder
from lm.evaluate.scorers.pseudo import Pseudo
from lm.model import Transformer
from lm.optimizer import Adamw
from lm.run import Run
from lm.train.train import train_run
from tests.commands.console import refused, said
from tests.makers import score as score_of

pytestmark = pytest.mark.usefixtures("as_a_process")

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A run of a second on made-up sentences; test_evaluate compiles the same program."""
    random_ = random.Random(0)
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(30):
        text = " ".join(random_.choices(WORDS, k=random_.randint(20, 60)))
        (folder / f"{number}.txt").write_text(text)
    return Run(
        data=Data(
            corpus=Text(paths=(f"{folder}/*.txt",)),
            tokenizer=Bytes(),
            length=64,
            batch=32,
            validation=0.2,
        ),
        model=Transformer(depth=1, width=32, heads=2),
        optimizer=Adamw(learning_rate=1e-2),
        tokens=8 * 32 * 64,
        precision="float32",
        evaluations=1,
    )


@pytest.fixture(scope="module")
def causal(run, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "causal"
    train_run(run, directory)
    return directory


@pytest.fixture(scope="module")
def masked(run, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "masked"
    train_run(override(run, ["objective.type=masked"]), directory)
    return directory


def test_a_model_is_asked_only_for_what_it_can_do(capsys, causal, masked):
    """Fails if a causal model is given blanks, or a masked one none, or more than it sees."""
    assert "continues a text" in refused(capsys, "generate", str(causal), "one ___")
    assert "put ___" in refused(capsys, "generate", str(masked), "one two")
    assert "at most 63" in refused(capsys, "generate", str(masked), "one two " * 8 + "___")


def test_a_span_model_is_not_asked_to_generate_anything(capsys, run, tmp_path):
    """Fails if it is taken for a masked or a causal model, or loaded first."""
    settings = tmp_path / "spans" / "config.json"
    settings.parent.mkdir()
    spans = ["objective.type=spans", "data.tokenizer.sentinels=8"]
    settings.write_text(dump(override(run, spans)))
    for text in ("one ___", "one"):
        assert "neither continues a text nor fills" in refused(
            capsys, "generate", "spans", text
        )


def test_score_prints_each_scorer_with_its_kind_and_errors(capsys, causal, masked):
    """Fails if a bound could be read as exact, or an error is left out."""
    number = r"\d\.\d{4}"
    exact = said(capsys, "score", str(causal))
    assert re.search(
        rf"^chain-rule +{number} bits per byte +exact +layout 0.0000 .*text_se {number}$",
        exact,
        re.M,
    )
    bound = said(capsys, "score", str(masked))
    for name, kind in (("any-order", "bound"), ("pseudo", "no likelihood")):
        line = rf"^{name} +{number} bits per byte +{kind} +layout {number}"
        assert re.search(rf"{line} +mc_se {number} +text_se {number}$", bound, re.M)
    assert re.search(rf"^ *100% masked {number} bits per masked byte$", bound, re.M)
    for text in (exact, bound):
        assert re.search(rf"^gzip, by window +{number} bits per byte$", text, re.M)


def test_a_scorer_that_is_not_valid_is_refused_with_the_reason(capsys, causal, masked):
    """Fails if it is left out silently, asked all the same, or the valid ones are not named."""
    line = refused(capsys, "score", str(masked), "--scorer", "chain-rule")
    assert "needs a model that was trained to predict which token is next" in line
    assert "any-order, pseudo, left-to-right, random-order, confident-first" in line
    line = refused(capsys, "score", str(causal), str(causal), "--scorer", "left-to-right")
    assert "was trained to predict which tokens are masked; valid for" in line
    assert line.endswith(": chain-rule")
    both = ["score", str(causal), str(masked), "--scorer", "any-order", "--scorer"]
    assert "--scorer spans: valid for none" in refused(
        capsys, *both, "chain-rule", "--scorer", "spans"
    )
    assert "no such scorer; one of chain-rule" in refused(capsys, *both, "chain_ruel")


def test_several_runs_are_a_table_with_a_row_a_run_and_scorer(capsys, causal, masked):
    """Fails if a run or scorer is left out, or a kind or an error is in the wrong column."""
    out = said(capsys, "score", str(causal), str(masked), "--rows", "9")
    title, *rows = (re.split("  +", line) for line in out.splitlines())
    assert title == ["run", "scorer", "kind", "bits per byte", "layout", "mc_se", "text_se"]
    assert [row[:3] for row in rows] == [
        [str(causal), "chain-rule", "exact"],
        [str(masked), "any-order", "bound"],
        [str(masked), "pseudo", "no likelihood"],
    ]
    assert [len(row) for row in rows] == [7] * 3
    assert rows[0][4] == rows[0][5] == "0.0000" < min(rows[1][4:6])


def test_two_objectives_are_proven_to_have_seen_the_same_rows(capsys, causal, masked):
    """Fails if what is masked is in the chain, or a step's digest is not recorded."""
    with pytest.raises(SystemExit) as exit_:
        main(["audit", str(causal), str(masked)])
    assert exit_.value.code == 0
    digest = json.loads((causal / "result.json").read_text())["batches_digest"]
    assert f"the same batches in all 8 steps: {digest}" in capsys.readouterr().out


def test_an_audit_as_json_says_what_the_text_says(capsys, causal, masked):
    """Fails if the exit code is another, or --json prints the text as well."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(["audit", str(causal), str(masked), "--json"])
    assert exit_.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"] and found["steps"] == 8 and found["parted"] is None


def test_another_seed_is_proven_to_part_at_the_first_step(capsys, run, causal, tmp_path):
    """Fails if the exit code does not tell, or the seed does not reach the batches."""
    train_run(override(run, ["seed=1"]), tmp_path / "other")
    with pytest.raises(SystemExit) as exit_:
        main(["audit", str(causal), "other"])
    assert exit_.value.code == 1
    assert "part at step 1: seed is 0 and 1" in capsys.readouterr().out


def test_what_is_scored_is_what_was_asked_for(capsys, masked, monkeypatch):
    """Fails if the block, the number of windows or the error to reach goes astray."""
    given = []

    def note(trained, scorer, effort):
        given.append((scorer, effort.orders, effort.curve_rows, effort.mc_se))
        return score_of(layout_bits=0.5, text_se=None, kind=scorer.kind, block=scorer.block)

    monkeypatch.setattr("lm.evaluate.scoring.score_by", note)
    ask = ["score", str(masked), "--scorer", "left-to-right"]
    assert re.fullmatch(
        r"left-to-right +2.0000 bits per byte +exact +layout 0.5000 +mc_se 0.0000\n",
        said(capsys, *ask),
    )
    options = ["--block", "8", "--rows", "3", "--mc-se", "0.01", "--scorer", "pseudo", "--json"]
    found = json.loads(said(capsys, *ask, *options))["scores"]
    assert found["left_to_right"]["block"] == 8
    assert found["pseudo"]["text_se"] is None
    assert given == [
        (FixedOrder("left to right", 1), ORDER_ROWS, 128, None),
        (FixedOrder("left to right", 8), 3, 3, 0.01),
        (Pseudo(8), 3, 3, 0.01),
    ]


def test_runs_are_paired_on_the_same_windows_only(capsys, causal, masked):
    """Fails if the difference is the wrong way round, has no error, or texts may differ."""
    runs = ["score", str(causal), str(masked), "--paired"]
    first, second = json.loads(said(capsys, *runs, "--json")).values()
    above = second["above"]
    assert above["bits_per_byte"] == pytest.approx(
        second["bits_per_byte"] - first["bits_per_byte"]
    )
    assert above["mc_se"] == second["mc_se"] > first["mc_se"] == 0
    assert 0 < above["text_se"] < 0.5
    assert "above" not in first
    out = said(capsys, *runs).splitlines()
    assert re.split("  +", out[2].rstrip())[3:] == [
        f"{second['bits_per_byte']:.4f}",
        f"{second['layout_bits']:.4f}",
        f"{above['bits_per_byte']:+.4f}",
        f"{above['mc_se']:.4f}",
        f"{above['text_se']:.4f}",
    ]
    order = ["--scorer", "chain-rule", "--scorer", "left-to-right", "--block", "63"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*runs, *order])
    assert "not scored on the same windows" in capsys.readouterr().err


def test_score_as_json_is_json_and_nothing_else(capsys, causal):
    """Fails if anything else is printed, or a value is one that JSON does not have."""
    text = said(capsys, "score", str(causal), "--json")
    found = json.loads(text, parse_constant=pytest.fail)
    assert found["kind"] == "exact"
    assert found["scores"]["chain_rule"]["bits_per_byte"] == found["bits_per_byte"]


TRICKY = "[red]one[/] :smile: é 한\ttwo  \r" + "three " * 4
"""What printing could change: rich's markup and emoji names, characters of several tokens in
bytes, tabs, controls, and more than a console's width."""


def test_generate_fills_each_blank_and_leaves_the_rest_alone(capsys, masked):
    """Fails if text is decoded token by token, wrapped, or taken for markup."""
    out = said(capsys, "generate", str(masked), f"___{TRICKY}___ ___")
    assert re.fullmatch(rf"(.){re.escape(TRICKY)}(.) (.)\n", out, re.S)
    assert out == said(capsys, "generate", str(masked), f"___{TRICKY}___ ___", "--seed", "7")
    drawn = [
        said(
            capsys, "generate", str(masked), "___ ______", "--temperature", "9", "--seed", seed
        )
        for seed in "123"
    ]
    assert len(set(drawn)) > 1


def test_generate_continues_a_text_the_same_way_with_the_same_seed(capsys, causal):
    """Fails if the seed is not used, the text changed, or more is said than was asked for."""

    def more(*options: str) -> str:
        out = said(capsys, "generate", str(causal), TRICKY, "--count", "8", *options)
        assert out.startswith(TRICKY)
        return out.removeprefix(TRICKY).removesuffix("\n")

    assert more("--seed", "3") == more("--seed", "3")
    assert len({more("--seed", seed) for seed in "34"}) > 1
    assert more("--temperature", "0", "--seed", "1") == more("--top-k", "1", "--seed", "2")
    assert len(more()) <= 8
    assert more("--count", "0") == ""


def test_small_a_text_may_hold_what_else_stands_for_a_masked_token(capsys, causal, masked):
    """Fails if ___ cannot be text: of a causal model's prompt, or beside another mark."""
    out = said(capsys, "generate", str(causal), "one ___ two", "--blank", "?", "--count", "2")
    assert out.startswith("one ___ two")
    out = said(capsys, "generate", str(masked), "one ___ ??", "--blank", "?")
    assert re.fullmatch(r"one ___ ..\n", out, re.S) and "?" not in out
    assert "put ? where" in refused(capsys, "generate", str(masked), "___", "--blank", "?")
    assert "cannot be empty" in refused(capsys, "generate", str(masked), "___", "--blank", "")


def test_small_generate_reads_no_corpus(capsys, run, causal, tmp_path, monkeypatch):
    """Fails if the corpus is opened for its tokenizer, which is known by its digest."""
    text = said(capsys, "generate", str(causal), "one", "--temperature", "0")
    shown = said(capsys, "tokens", "one", "--model", str(causal))
    monkeypatch.setattr(Text, "read", lambda _: pytest.fail("read"))
    monkeypatch.setattr("lm.data.survey", lambda *_: pytest.fail("surveyed"))
    monkeypatch.setattr("lm.data.open_store", lambda *_: pytest.fail("checked"))
    assert said(capsys, "generate", str(causal), "one", "--temperature", "0") == text
    assert said(capsys, "tokens", "one", "--model", str(causal)) == shown


def test_small_generate_refuses_another_tokenizer_than_the_runs(capsys, causal, tmp_path):
    """Fails if ids of one tokenizer are read by another."""
    copy = shutil.copytree(causal, tmp_path / "copy")
    path = copy / "tokenizer" / "tokenizer.facts.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"digest": "0" * 64}))
    assert "damaged, or of another tokenizer" in refused(capsys, "generate", "copy", "one")


@pytest.mark.parametrize("content", ["{}", "[]", "1"])
def test_oneline_facts_that_are_not_in_data_json_are_one_line(
    capsys, causal, tmp_path, content
):
    """Fails if JSON of another shape is a traceback: found by a random command line."""
    copy = shutil.copytree(causal, tmp_path / "copy")
    (copy / "data.json").write_text(content)
    for arguments in (["audit", str(causal), "copy"], ["score", "copy"]):
        assert "data.json: damaged" in refused(capsys, *arguments)


def test_generate_sets_off_what_is_new_on_a_terminal(capsys, causal, monkeypatch):
    """Fails if the colour is lost, on the wrong part, or the line is broken by the console."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    text = "[b]one two three four five six seven "
    out = said(capsys, "generate", str(causal), text, "--temperature", "0", "--count", "5")
    # As it comes, part by part.
    assert re.fullmatch(rf"{re.escape(text)}(\x1b\[1;32m[^\x1b]+\x1b\[0m)+\n", out, re.S)


def test_tokens_prints_tokens_ids_and_bytes_a_token(capsys, causal):
    """Fails if a count is wrong, or a token is masked by a control or by markup."""
    shown, ids, summary = said(
        capsys, "tokens", "[red]\té\x1b", "--model", str(causal)
    ).splitlines()
    assert shown == "[red]→‹c3›‹a9›‹1b›"
    assert list(map(int, ids.split())) == [4 + byte for byte in "[red]\té\x1b".encode()]
    assert summary == "9 bytes, 9 tokens, 1.00 bytes a token, vocabulary 260"


def test_tokens_learns_the_tokenizer_that_overrides_ask_for(capsys, run):
    """Fails if overrides of the data are ignored, or long texts are wrapped or cut."""
    paths = json.dumps(run.data.corpus.paths)
    text = "one two three " * 20 + "   "
    shown, ids, summary = said(
        capsys, "tokens", text, "corpus.type=text", f"corpus.paths={paths}",
        "tokenizer.type=sentencepiece", "tokenizer.size=300", "validation=0.3",
    ).splitlines()  # fmt: skip
    assert shown == text
    count = len(ids.split())
    assert count < len(text) * 2 / 3
    rate = f"{len(text) / count:.2f}"
    assert summary == f"283 bytes, {count} tokens, {rate} bytes a token, vocabulary 300"
