"""The `lm` commands, as their user meets them."""

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import jax
import msgspec
import pytest

from experiments import bert_vs_gpt
from lm.cli import main
from lm.commands.score import ORDER_ROWS
from lm.config import dump, override
from lm.data import Bytes, Data, Hmm, SentencePiece, Stdlib, Text, Tfds
from lm.distributed.process import one_line_errors
from lm.evaluate.scorers.fixed_order import FixedOrder
from lm.evaluate.scorers.pseudo import Pseudo
from lm.model import Transformer
from lm.objectives import Objective
from lm.optimizer import Adamw, Optimizer, Schedule
from lm.results import Result
from lm.run import Run
from lm.train.train import train_run
from tests.makers import result
from tests.makers import score as score_of

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(autouse=True)
def _leave_no_trace(monkeypatch, tmp_path):
    """Commands set up the process that they are, and the process is pytest's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    yield
    jax.config.update(name, before)


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


def said(capsys, *arguments: str) -> str:
    """What a command prints."""
    capsys.readouterr()
    main(list(arguments))
    return capsys.readouterr().out


def refused(capsys, *arguments: str) -> str:
    """The one line with which a command is refused; nothing may be written."""
    there = sorted(Path.cwd().rglob("*"))
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    out, err = capsys.readouterr()
    assert exit_.value.code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("lm: ")
    assert sorted(Path.cwd().rglob("*")) == there
    return line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "-", "model.dept=3"], "did you mean model.depth?"),
        (["train", "model.dept=3"], "did you mean model.depth?"),
        (["train", "-", "objective.type=maskd"], "did you mean masked?"),
        (["train", "-", "objective.rate=0.3"], "add objective.type=masked"),
        (["train", "-", "model.depth=none"], "model.depth: expected int >= 1"),
        (["train", "-", "nonsense"], "write field.path=value"),
        (["train", "-", "corpus.paths=a\nb"], "did you mean data.corpus"),
        (["train", "nowhere.json"], "directory; give a RUN.json or STUDY:RUN"),
        (["prove", "."], ".: a directory; give its config.json, or STUDY:RUN"),
        (["score", "."], ".: not a run directory, it has no config.json"),
        (["train", "bert_vs_gtp:x"], "no study experiments/bert_vs_gtp.py"),
        (["train", "common:x"], "no study experiments/common.py"),
        (["train", "__main__:x"], "no study"),
        (["train", ":x"], "no study"),
        (["train", "no.such:x"], "no study"),
        (["plan", ".", "--slice", "v5e-8"], "no study"),
        (["train", "bert_vs_gpt/smok:x"], "scale smok: bert_vs_gpt has smoke, laptop"),
        (["train", "bert_vs_gpt:causal-nope"], "nearest: causal-"),
        (["train", "\udcff.json"], "not UTF-8"),
        (["train", "-", "data.corpus.name=\ud800"], "not UTF-8"),
        (["train"], "arguments are required: run"),
        (["train", "-", "--dri", "x"], "unrecognized arguments: --dri x"),
        (["train", "-", "mesh.fsdp=3"], "mesh: fsdp 3"),
        (["generate", "nowhere", "text", "a=b"], "unrecognized arguments: a=b"),
        (["score", "nowhere", "--rows", "0"], "--rows 0: must be > 0"),
        (["score", "nowhere", "--mc-se", "nan"], "--mc-se nan: must be > 0"),
        (["score", "nowhere", "--block", "2"], "--block 2: name the order"),
        (["score", "nowhere", "--paired"], "--paired: give the run to compare with"),
        (["generate", "nowhere", "\udcff"], "not UTF-8"),
        (["generate", "nowhere", "text", "--count", "few"], "invalid int value: 'few'"),
        (["generate", "nowhere", "text", "--count", "-1"], "--count -1: must be >= 0"),
        (["generate", "nowhere", "text", "--seed", "-1"], "--seed -1: must be >= 0"),
        (["generate", "nowhere", "text", "--seed", str(2**31)], "must be < 2**31"),
        (["score", "nowhere", "nowhere", "--paired"], "--paired: give the run to compare with"),
        (["generate", "nowhere", "text", "--top-k", "0"], "--top-k 0: must be >= 1"),
        (
            ["generate", "nowhere", "text", "--temperature", "-0.1"],
            "--temperature -0.1: must be",
        ),
        (["generate", "nowhere", "text", "--temperature", "nan"], "--temperature nan: must be"),
        (["generate", "nowhere", "text", "--temperature", "inf"], "--temperature inf: must be"),
        (["audit", "nowhere"], "arguments are required: RUN_DIR"),
        (["tokens", "text", "tokenizer.type=byte"], "did you mean bytes?"),
        (["tokens", "\ud83d"], "not UTF-8"),
        (["budget", "--flops", "1e18", "--law", "\0"], "zero byte"),
        (["shwo"], "invalid choice: 'shwo'"),
        (["--json", "audit", "nowhere", "nowhere"], "unrecognized arguments: --json"),
        ([], "arguments are required: command"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(capsys, arguments, part):
    """Fails if an error is not a UserError, or a value is checked after something is made."""
    assert part in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "nowhere"],
        ["prove", "nowhere"],
        ["score", "nowhere"],
        ["generate", "nowhere", "text"],
        ["export", "nowhere", "folder"],
        ["audit", "nowhere", "nowhere"],
        ["tokens", "text", "--model", "nowhere"],
        ["compare", "nowhere", "nowhere"],
        ["fit", "nowhere"],
    ],
)
def test_what_is_not_there_is_said_in_the_same_words(capsys, arguments):
    """Fails if a command has words of its own for it."""
    assert "nowhere: no such file or directory" in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "expected an object"),
        (b'{"modle": {}}', "modle={}: no such field; did you mean model?"),
        (b'{"model": {"type": "transformer", "depth": "four"}}', "model.depth=four"),
        (b'{"model": {"type": "transformer", "heads": 3}}', "model.heads=3"),
    ],
)
def test_a_file_that_is_no_run_is_refused_by_name(capsys, tmp_path, content, part):
    """Fails if the file is decoded or read where errors are not caught."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    line = refused(capsys, "train", "run.json")
    assert part in line


def test_a_run_without_a_checkpoint_and_a_file_for_a_directory(capsys, run, tmp_path):
    """Fails if a missing checkpoint is orbax's error, or making a directory is the system's."""
    settings = tmp_path / "empty" / "config.json"
    settings.parent.mkdir()
    settings.write_text(dump(run))
    for arguments in (["score", "empty"], ["generate", "empty", "text"]):
        assert "checkpoint" in refused(capsys, *arguments)
    line = refused(capsys, "train", "empty/config.json", "--dir", "empty/config.json")
    assert "there is a file of this name" in line
    settings.write_bytes(b"\xff")
    for arguments in (["score", "empty"], ["tokens", "text", "--model", "empty"]):
        assert "not JSON" in refused(capsys, *arguments)


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


def test_bytes_that_are_not_utf8_on_a_real_command_line(tmp_path):
    """Fails if surrogates get through to where text is encoded: as a process, argv is bytes."""
    command = [sys.executable, "-c", "from lm.cli import main; main()"]
    done = subprocess.run(
        [*command, "tokens", b"\xff"],
        capture_output=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr == b"lm: '\\udcff': not UTF-8; see lm --help\n"


def test_the_package_is_a_program_too():
    """Fails if `python -m lm` is another program than `lm`, or none."""
    command = [sys.executable, "-m", "lm", "shwo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "invalid choice: 'shwo'" in done.stderr


def test_help_lists_every_field_of_every_variant(capsys):
    """Fails if a variant's fields are left out, or those of nested settings."""
    with pytest.raises(SystemExit) as exit_:
        main(["train", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    variants = [*get_args(Objective), *get_args(Optimizer), *get_args(Schedule)]
    for struct in (*variants, Transformer, Stdlib, Text, Tfds, Hmm, Bytes, SentencePiece):
        assert f".type={struct.__struct_config__.tag}" in text
    for struct in (*variants, Transformer, Text, Tfds, Hmm, SentencePiece, Data, Run):
        for field in msgspec.structs.fields(struct):
            assert re.search(rf"^\s*(\w+\.)*{field.name}\b", text, re.M), (struct, field.name)


def test_train_takes_overrides_wherever_they_stand_and_does_not_train_twice(
    capsys, run, tmp_path, monkeypatch
):
    """Fails if overrides after an option are dropped, or a finished run is trained again."""
    (tmp_path / "mine.json").write_text(dump(run))
    arguments = ["train", "mine.json", "seed=5", "--dir", "out", "evaluation_rows=8", "--json"]
    first = said(capsys, *arguments)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (settings["seed"], settings["evaluation_rows"]) == (5, 8)
    result = json.loads(first)
    assert result["steps"] == 8
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())

    def read_again(data):
        raise AssertionError("a finished run reads no data")

    monkeypatch.setattr("lm.train.directory.open_tokens", read_again)
    assert said(capsys, *arguments) == first
    lines = dict(line.split() for line in said(capsys, *arguments[:-1]).splitlines())
    assert lines["steps"] == "8" and lines["batches_digest"] == result["batches_digest"]


def test_train_goes_where_the_study_looks_and_asks_what_it_asks(capsys, tmp_path, monkeypatch):
    """Fails if two runs or files share a directory, or a run is trained without scores."""
    given: list[tuple[Run, Path, Any]] = []

    def note(run: Run, directory: Path, *, evaluate: Any, evaluate_during: Any) -> Result:
        given.append((run, directory, evaluate and evaluate.keywords))
        return result()

    monkeypatch.setattr("lm.train.train.train_run", note)
    cell, expected = next(iter(bert_vs_gpt.runs("laptop").items()))
    (tmp_path / "a:b.json").write_text(dump(Run(seed=3)))
    for name in (f"bert_vs_gpt/laptop:{cell}", "a:b.json", "-"):
        said(capsys, "train", name)
    effort = {"effort": bert_vs_gpt.EFFORT["laptop"]}
    assert given == [
        (expected, Path("runs/bert_vs_gpt/laptop") / cell, effort),
        (Run(seed=3), Path("runs/a:b"), None),
        (Run(), Path("runs/default"), None),
    ]


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


def test_small_tokens_takes_fields_as_all_commands_do(capsys):
    """Fails if `data.` is refused, or must be written, or other fields are taken."""
    plain = said(capsys, "tokens", "one", "tokenizer.type=bytes")
    assert plain == said(capsys, "tokens", "one", "data.tokenizer.type=bytes")
    assert "no such field" in refused(capsys, "tokens", "one", "model.width=8")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_small_a_config_may_begin_with_a_byte_order_mark(capsys, tmp_path, encoding):
    """Fails if what editors on Windows write is no JSON; it is read as far as its mistake."""
    (tmp_path / "run.json").write_bytes('{"modle": {}}'.encode(encoding))
    assert "did you mean model?" in refused(capsys, "train", "run.json")


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


def test_a_disk_that_cannot_be_written_is_one_line(capsys):
    """Fails if the error of the system comes with a traceback, or a program's own is masked."""
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/config.json")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "lm: runs/x/config.json: No space left on device\n"
    with pytest.raises(FileNotFoundError), one_line_errors():
        raise FileNotFoundError(errno.ENOENT, "", "x")


def test_what_a_head_found_is_printed(capsys, tmp_path):
    """Fails if the accuracy of a classifier must be looked for in files."""
    rows = [{"text": f"{letter}{n}", "is": letter} for n in range(200) for letter in "ab"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    labels = ["data.corpus.label=is", 'data.corpus.classes=["a", "b"]', "data.packing=whole"]
    data = ["data.corpus.type=jsonl", f'data.corpus.paths=["{path}"]', *labels]
    rest = [
        "data.tokenizer.type=bytes",
        "data.length=32",
        "data.batch=8",
        "data.validation=0.2",
    ]
    model = ["model.depth=1", "model.width=16", "model.heads=2", "tokens=2000", "evaluations=1"]
    settings = ["objective.type=classify", *data, *rest, *model]
    out = said(capsys, "train", "-", *settings, "--dir", str(tmp_path / "run"))
    assert re.search(r"^validation_accuracy +[01](\.\d+)?$", out, re.M)
