"""The command line, as its user meets it: what is refused, help, and training."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from experiments import bert_vs_gpt
from lm.cli import main
from lm.config import dump
from lm.data import Bytes, Data, Hmm, SentencePiece, Stdlib, Text, Tfds
from lm.distributed.process import one_line_errors
from lm.model import Transformer
from lm.objectives import Objective
from lm.optimizer import Optimizer, Schedule
from lm.results import Result
from lm.run import Run
from tests.commands.console import refused, said
from tests.makers import result

pytestmark = pytest.mark.usefixtures("as_a_process")


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
    assert result["steps"] == 16
    assert result == json.loads((tmp_path / "out" / "result.json").read_text())

    def read_again(data):
        raise AssertionError("a finished run reads no data")

    monkeypatch.setattr("lm.train.directory.open_tokens", read_again)
    assert said(capsys, *arguments) == first
    lines = dict(line.split() for line in said(capsys, *arguments[:-1]).splitlines())
    assert lines["steps"] == "16" and lines["batches_digest"] == result["batches_digest"]


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
