"""Command lines and settings drawn at random: none is a traceback, a hang or another exit code.

`make test` draws a few hundred, `make test-all` ten thousand, and a hundred as processes, which
are asked to end at a random moment. A failure names its seed, which draws the same again.
"""

import contextlib
import importlib
import io
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import pytest

from lm import cli
from lm.config import describe, dump, override
from lm.distributed import signals
from lm.distributed.process import Parser
from lm.run import Run
from lm.scaling.catalog import LAWS
from lm.study import runner
from lm.train.train import train_run
from tpu import __main__ as tpu

ROOT = Path(__file__).parents[2]
TINY = (
    *("data.tokenizer.type=bytes", "data.length=16", "data.batch=8", "data.validation=0.3"),
    *("model.depth=1", "model.width=8", "model.heads=2", "precision=float32"),
    *("tokens=256", "evaluations=1", "evaluation_rows=8"),
)
"""Settings of a run that takes a second or two, and compiles the same program as the others."""

PATHS = ("absent", "a/b/c", "", ".", "..", "é€", "x" * 300, "folder", "empty", "noise", "pipe")
NUMBERS = ("nan", "inf", "-inf", "-1", "0", "-0.0", "1e18", "1e300", "1e400", "1e-400", "0x10")
WORDS = (
    "",
    " ",
    "none",
    "null",
    "true",
    "[]",
    "{}",
    '""',
    "[1,2",
    '{"a":1}',
    "é",
    "\0",
    "\x1b[1m",
)
MORE = (
    "\ud800",
    "💥",
    "=",
    "a=b",
    "--",
    "-",
    "-x",
    "--help",
    "[red]",
    "%s",
    "{0}",
    "9" * 400,
    "a\nb",
    "1_0",
)
KINDS = (
    *("masked", "spans", "curriculum", "mixture", "diffusion", "muon", "adafactor", "cosine"),
    *("hmm", "text", "stdlib", "bytes", "sentencepiece", "word", "block", "splash", "swiglu"),
)
LISTS = (
    *('["pipe"]', '["noise"]', '["link"]', '["empty"]', '["folder/*"]', '["/dev/null"]'),
    *('["*"]', '["run.json"]', "[0.5,0.5]", '[{"objective": {"type": "spans"}}]', "[1,null]"),
)
HOSTILE = (*PATHS, *NUMBERS, *WORDS, *MORE, *KINDS, *LISTS)

FIELDS = (
    "",
    *sorted(
        {
            re.sub(r"type=\w+", "type", line.split()[0])
            for line in describe(Run).splitlines()
            if line[:1].strip()
        }
    ),
)
"""Every field that there is, as `lm train --help` lists them."""
DAMAGE = {"nothing": b"", "object": b"{}", "list": b"[]", "number": b"1", "noise": b"\xff{\0"}
DAMAGED = ("config.json", "data.json", "result.json", "metrics.jsonl", "environment.json")
DIRECTORIES = (
    *("causal", "masked") * 6,
    *(f"hurt/{file}-{what}" for file in (*DAMAGED, "checkpoints") for what in DAMAGE),
)
"""Two trained runs, and copies of one in which a file is not what it was."""
TABLES = ("good.csv", "holes.csv", "nan.csv", "words.csv", "header.csv", "rows.json", "empty")

SHEETS = (
    *("pairs.json", "words.json", "alike.json") * 4,
    "own.json",
    "sst2",
    "blimp",
    "run.json",
)
"""Tasks: three that can be sat, one whose items are missing, and what is none."""


class World(NamedTuple):
    """Files that command lines name: `causal` and `masked` are trained runs."""

    folder: Path
    settings: tuple[str, ...]
    """Overrides of a tiny run on a corpus that is here."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A folder of good and odd files."""
    folder = tmp_path_factory.mktemp("fuzz")
    corpus = folder / "corpus"
    corpus.mkdir()
    words = random.Random(0)
    for number in range(20):
        text = " ".join(words.choices(("one", "two", "three", "four"), k=40))
        (corpus / f"{number}.txt").write_text(text)
    paths = json.dumps([f"{corpus}/*.txt"])
    settings = ("data.corpus.type=text", f"data.corpus.paths={paths}", *TINY)
    run = override(Run(), settings)
    train_run(run, folder / "causal")
    train_run(override(run, ["objective.type=masked"]), folder / "masked")
    for file in DAMAGED:
        for what, content in DAMAGE.items():
            copy = shutil.copytree(folder / "causal", folder / "hurt" / f"{file}-{what}")
            (copy / file).write_bytes(content)
    for what, content in DAMAGE.items():
        copy = shutil.copytree(folder / "causal", folder / "hurt" / f"checkpoints-{what}")
        for path in (copy / "checkpoints").rglob("*"):
            if path.is_file() and words.random() < 0.5:
                path.write_bytes(content)
    (folder / "run.json").write_text(dump(run))
    for name, task, item in (
        ("pairs", {"type": "pairs"}, {"better": "one two", "worse": "two one"}),
        ("words", {"type": "last_word"}, {"context": "one", "continuation": "two"}),
        ("alike", {"type": "similarity"}, {"sentence1": "a", "sentence2": "b", "score": 1}),
        ("own", {"type": "choice", "prompt": "{absent}"}, {"query": "one", "gold": 3}),
    ):
        (folder / f"{name}.jsonl").write_text((json.dumps(item) + "\n") * 3)
        (folder / f"{name}.json").write_text(json.dumps(task | {"files": [f"{name}.jsonl"]}))
    recipe = {
        "sources": [{"name": "own", "corpus": {"type": "shards", "paths": ["pairs.jsonl"]}}],
        "steps": [{"type": "c4"}, {"type": "exact"}],
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "noise").write_bytes(bytes(words.choices(range(256), k=500)))
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("nowhere")
    rows = [(p, t, 1.7 + 400 / p**0.34 + 400 / t**0.28) for p in (1e6, 1e7, 1e8, 1e9)
            for t in (1e8, 1e9, 1e10)]  # fmt: skip
    head = "params,tokens,flops,loss,variant"
    lines = [f"{p},{t},{6 * p * t},{loss},{'ab'[n % 2]}" for n, (p, t, loss) in enumerate(rows)]
    (folder / "good.csv").write_text("\n".join([head, *lines]))
    (folder / "holes.csv").write_text("\n".join([head, *lines[:6], "1e6,,,3,a", ",,,,"]))
    (folder / "nan.csv").write_text("\n".join([head, *lines[:6], "1e6,nan,inf,-1,b"]))
    (folder / "words.csv").write_text(f"{head}\nmany,few,é,?,!\n")
    (folder / "header.csv").write_text(head)
    (folder / "rows.json").write_text('[{"params": 1, "tokens": [2], "loss": {"a": 3}}]')
    return World(folder, settings)


def command(draw: random.Random, world: World) -> list[str]:
    """A command line: most often a legal one of which something is spoilt."""
    weights = {
        **{"train": 6, "score": 3, "generate": 3, "audit": 2, "tokens": 4, "prove": 2},
        **{"plan": 2, "fit": 5, "compare": 3, "budget": 4, "study": 4, "tpu": 4},
        **{"index": 2, "search": 2},
        **{"vectors": 2, "quantize": 2, "predict": 2, "settle": 2},
        **{"count": 2, "data": 2, "export": 2, "import": 2, "reference": 1, "eval": 3, "": 1},
    }
    name = draw.choices(list(weights), list(weights.values()))[0]
    if not name and draw.random() < 0.7:
        name = "serve"
    legal = {
        "train": lambda: ["run.json", "--dir", draw.choice((*("causal",) * 9, "runs/new"))],
        "score": lambda: [draw.choice(DIRECTORIES), "--rows", "2", "--json"],
        "generate": lambda: [
            draw.choice(DIRECTORIES),
            draw.choice(("one", "o___e")),
            "--count",
            "2",
        ],
        "eval": lambda: [
            draw.choice(DIRECTORIES),
            *("--tasks", draw.choice(SHEETS), "--items", "2"),
            *draw.choice(((), ("--data", "folder"), ("--json",), ("--shots", "1"))),
        ],
        "vectors": lambda: [
            draw.choice((*DIRECTORIES, *TABLES)),
            *draw.choice((("--near", "one"), ("--tasks", "good.csv"), ("--json",))),
        ],
        "export": lambda: [
            draw.choice(DIRECTORIES),
            draw.choice(("absent", "causal")),
        ],
        "data": lambda: [
            draw.choice(("prepare", "report")),
            draw.choice(("recipe.json", *DIRECTORIES)),
            *draw.choice(((), ("cleaned",), ("causal",), ("cleaned", "--workers", "1"))),
        ],
        "import": lambda: [draw.choice(DIRECTORIES), draw.choice(("absent", "causal"))],
        "reference": lambda: [draw.choice(DIRECTORIES)],
        "audit": lambda: [draw.choice(DIRECTORIES), draw.choice(DIRECTORIES)],
        "tokens": lambda: [
            draw.choice(("one", *WORDS)),
            "--model",
            draw.choice(DIRECTORIES),
        ],
        "prove": lambda: ["-", "objective.type=none"],
        "plan": lambda: ["-", "--slice", "v9-0"],
        "fit": lambda: [draw.choice(TABLES), "--bootstrap", "0", "--law", draw.choice([*LAWS])],
        "compare": lambda: [draw.choice(TABLES), "--by", "variant", "--bootstrap", "0"],
        "predict": lambda: [draw.choice(STUDIES), "--out", "forecast.json"],
        "settle": lambda: [draw.choice(("rows.json", "run.json", *DIRECTORIES))],
        "budget": lambda: ["--flops", draw.choice(("1e18", "1e20")), "--rungs", "2"],
        "quantize": lambda: [
            draw.choice(DIRECTORIES),
            "made",
            "--bits",
            draw.choice(("8", "4")),
        ],
        "count": lambda: [
            draw.choice(("operator:matmul", "math:gcd", "operator:nosuch")),
            *("float32[4,5]", "int32[5,6]"),
        ],
        "study": lambda: [draw.choice(STUDIES), "--cost", draw.choice(("v5e-8", "h100-8"))],
        "tpu": lambda: ["manifest", "bert_vs_gpt", "--scale", "smoke", "--kind", "slurm"],
        # Of a model that is not there, or it would serve for ever.
        "serve": lambda: ["absent", "--host", draw.choice(("0.0.0.0", "127.0.0.1"))],
        "index": lambda: [*draw.choice((("corpus/1.txt",), ("noise",), ())), "made", "--bm25"],
        "search": lambda: [draw.choice(("made", "causal")), draw.choice(("one", *WORDS))],
        "": list,
    }[name]()
    line = [name, *legal]
    if name == "train":
        line += [*world.settings[2:], f"seed={draw.randrange(3)}"]
    # What is legal takes its time where a model is at work, so that most of it is spoilt.
    slow = name in ("train", "score", "generate", "eval") and draw.random() < 0.95
    for _ in range(draw.choice((1, 1, 2, 3) if slow else (0, 1, 1, 2, 3))):
        line = draw.choice(SPOIL)(draw, line) if line else []
    return line


os.environ["HF_HUB_OFFLINE"] = "1"  # what is drawn may be a name, and nothing is fetched here

STUDIES = ("bert_vs_gpt", "isoflop", "known_truth", "curriculum", "mask_rate")


def options_of(name: str) -> tuple[str, ...]:
    """The options of a command, as its parser has them."""
    parser = Parser(add_help=False)
    module = cli.MODULES.get(name, name)
    importlib.import_module(f"lm.commands.{module}").add_arguments(parser)
    return tuple(option for action in parser._actions for option in action.option_strings)


OPTIONS = {
    **{name: options_of(name) for name in cli.COMMANDS},
    "study": ("--scale", "--runs", "--run", "--report", "--cost", "--jobs"),
    "tpu": (
        "--scale",
        "--kind",
        "--slice",
        "--bucket",
        "--slices",
        "--spot",
        "--gpus",
        "--nodes",
    ),
}
EVERY = tuple({option: None for options in OPTIONS.values() for option in options})


def _override(draw: random.Random, line: list[str]) -> list[str]:
    field = draw.choice(FIELDS)
    if draw.random() < 0.3:
        field = "".join(draw.sample(field, len(field)))
    return [*line, f"{field}={draw.choice(HOSTILE)}"]


def _option(draw: random.Random, line: list[str]) -> list[str]:
    own = OPTIONS.get(line[0] if line else "") or EVERY
    option = draw.choice(own if draw.random() < 0.9 else EVERY)
    likely = (
        *TABLES,
        *DIRECTORIES,
        *LAWS,
        "variant",
        "loss",
        "flops=1e20",
        "E=0",
        "2",
        "1e3",
        "0.5",
    )
    return [*line, option, draw.choice(HOSTILE if draw.random() < 0.5 else likely)]


def _replace(draw: random.Random, line: list[str]) -> list[str]:
    at = draw.randrange(len(line))
    return [*line[:at], draw.choice(HOSTILE), *line[at + 1 :]]


def _drop(draw: random.Random, line: list[str]) -> list[str]:
    at = draw.randrange(len(line))
    # A run without its sizes, or without its corpus, is no longer tiny.
    return line if "=" in line[at] else [*line[:at], *line[at + 1 :]]


SPOIL: tuple[Callable[[random.Random, list[str]], list[str]], ...]
SPOIL = (_override, _override, _option, _option, _replace, _drop)


def entry(line: list[str]) -> None:
    """Calls what the console would."""
    if line[:1] == ["tpu"]:
        tpu.main(line[1:])
    elif line[:1] == ["study"]:
        name = line[1] if line[1:] and line[1] in STUDIES else STUDIES[0]
        # A line that has lost what it asked for would train a whole study, for minutes.
        asks = [] if any(word.startswith("--") for word in line[2:]) else ["--report"]
        runner.main(importlib.import_module(f"experiments.{name}"), line[2:] + asks)
    else:
        cli.main(line)


class Hang(BaseException):
    """A command takes longer than anything that is drawn may."""


def outcome(line: list[str], seconds: int = 60) -> tuple[Any, str]:
    """Exit code and errors of a command line; the code is a traceback where it has none."""

    def hang(*_: object) -> None:
        raise Hang(f"still at work after {seconds} s")

    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(seconds)
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            warnings.simplefilter("ignore")  # they are said, and end nothing
            entry(line)
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        code = traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if code == signals.STOPPED:  # it was pytest that was asked to end
        raise KeyboardInterrupt
    return code or 0, err.getvalue()


def wrong(line: list[str], code: Any, err: str) -> str | None:
    """What a command must not do, if it did it."""
    if code not in (0, 1, 2, 75):
        return str(code)
    if code == 1 and line[:1] != ["audit"]:
        return f"exit code 1: {err}"
    last = next(reversed(err.splitlines()), "")
    if code == 2 and not re.match(r"(lm|tpu): ", last):
        return f"exit code 2, and not in one line: {err}"
    return None


@pytest.fixture
def here(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folder of odd files; commands set up the process, and the process is pytest's."""
    monkeypatch.chdir(world.folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    with warnings.catch_warnings():
        yield
    jax.config.update(name, before)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "seeds", [range(100), pytest.param(range(100, 10_000), marks=pytest.mark.slow)], ids=len
)
def test_fuzz_no_command_line_is_a_traceback_or_a_hang(world: World, seeds: range) -> None:
    """Fails if an error that a user can make is no UserError, or is found after hours."""
    log = os.environ.get("LM_FUZZ_LOG")
    found = []
    for seed in seeds:
        line = command(random.Random(seed), world)
        start = time.monotonic()
        code, err = outcome(line)
        if why := wrong(line, code, err):
            found.append(f"seed {seed}: {shlex.join(map(ascii, line))}\n{why}")
        if log:
            with open(log, "a") as file:
                shown = code if isinstance(code, int) else "TRACEBACK"
                seconds = time.monotonic() - start
                print(seed, shown, f"{seconds:.2f}", ascii(line), file=file)
                if why:
                    print(why, file=file)
    assert not found, f"{len(found)} of {len(seeds)}:\n\n" + "\n\n".join(found[:5])


def process(line: list[str], folder: Path) -> "subprocess.Popen[str]":
    """The same as a process, once it listens for SIGTERM, as the kernel says, or has ended."""
    program = ["-c", "from lm.cli import main; main()", *line]
    if line[:1] == ["tpu"]:
        program = ["-m", *line]
    elif line[:1] == ["study"]:
        program = ["-m", f"experiments.{STUDIES[0]}", *line[2:]]
    started = subprocess.Popen(
        [sys.executable, *program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    status = Path(f"/proc/{started.pid}/status")
    while started.poll() is None:
        if int(re.findall(r"SigCgt:\s(\w+)", status.read_text())[0], 16) >> 14 & 1:
            break
        time.sleep(0.01)
    return started


def passable(line: list[str]) -> bool:
    """Whether the system passes this on: no text with a zero byte in it is."""
    return all("\0" not in text and "\ud800" not in text for text in line)


@pytest.mark.parametrize(
    "seeds", [range(4), pytest.param(range(4, 100), marks=pytest.mark.slow)], ids=len
)
def test_fuzz_every_process_ends_when_it_is_asked_to(world: World, seeds: range) -> None:
    """Fails if one is deaf for more than a second, or its code is another."""
    for seed in seeds:
        draw = random.Random(seed)
        line = next(line for _ in range(99) if passable(line := command(draw, world)))
        started = process(line, world.folder)
        time.sleep(draw.random() * 3)
        started.terminate()
        try:
            _, err = started.communicate(timeout=signals.PATIENCE + 2)
        except subprocess.TimeoutExpired:
            started.kill()
            started.communicate()
            pytest.fail(f"seed {seed}: deaf: {line}")
        assert wrong(line, started.returncode, err) is None, f"seed {seed}: {line}\n{err}"


def test_fuzz_every_command_is_drawn(world: World) -> None:
    """Fails if a command is added that no random line has."""
    drawn = {line[0] for seed in range(300) if (line := command(random.Random(seed), world))}
    assert set(cli.COMMANDS) <= drawn


@pytest.mark.usefixtures("here")
def test_fuzz_an_empty_slice_is_not_trained_on() -> None:
    """Fails if `--cost ""` is taken for no --cost, and the study trains."""
    code, err = outcome(["study", "isoflop", "--cost", ""], seconds=20)
    assert code == 2 and err.startswith("lm: ")
