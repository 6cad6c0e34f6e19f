"""`lm ...`: composes the rooms into commands."""

import argparse
import importlib
import itertools
import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text as RichText

from lm.config import UserError, describe, override, parse
from lm.data import Data, open_tokens
from lm.run import Run, read_run, validate
from lm.start import Parser, one_line_errors, prepare_machine
from lm.train.fit import Evaluator, fit, load

FITTING = {
    "fit": "fit a scaling law to a table of runs",
    "compare": "how many times the compute one arm needs for another's loss",
}
"""Commands of lm/fitting.py."""


def main(arguments: list[str] | None = None) -> None:
    """The console command `lm`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in FITTING:
        from lm import fitting  # scipy and matplotlib, for which no other command should wait

        return fitting.main(arguments)
    parser = Parser(prog="lm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    train = commands.add_parser(
        "train",
        help="train a run: RUN.json, or STUDY[/SCALE]:CELL",
        description="Trains a run, from its newest checkpoint if it has one.",
        epilog="fields, as field.path=value:\n\n" + describe(Run),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "run", help="a JSON file, STUDY:CELL, STUDY/SCALE:CELL, or - for defaults"
    )
    train.add_argument("--dir", metavar="DIR", help="run directory (default: runs/NAME)")
    train.add_argument("overrides", nargs="*", metavar="field.path=value")

    score = commands.add_parser("score", help="score a trained run in bits per byte")
    score.add_argument("directory", metavar="RUN_DIR", type=Path)
    score.add_argument("--json", action="store_true", help="print everything as JSON")

    say = commands.add_parser(
        "say", help='continue a text, or fill its blanks: lm say RUN_DIR "x = ___(y)"'
    )
    say.add_argument("directory", metavar="RUN_DIR", type=Path)
    say.add_argument(
        "text", help="each ___ is one hidden piece; a causal model continues the text"
    )
    say.add_argument("--count", type=int, default=64, help="pieces to add, at most (causal)")
    say.add_argument("--temperature", type=float, help="0 takes the likeliest piece")
    say.add_argument("--top-k", type=int, help="draw from this many likeliest pieces only")
    say.add_argument("--seed", type=int, default=0)

    show = commands.add_parser("show", help="show how things look inside")
    things = show.add_subparsers(dest="thing", required=True, metavar="thing")
    tokens = things.add_parser(
        "tokens", help="the pieces of a text, with ids and bytes a token"
    )
    tokens.add_argument("text")
    tokens.add_argument("--run", metavar="RUN_DIR", type=Path, help="with this run's tokenizer")
    tokens.add_argument("overrides", nargs="*", metavar="field.path=value", help="of the data")

    for name, purpose in FITTING.items():
        commands.add_parser(name, help=purpose)

    given, rest = parser.parse_known_args(arguments)
    if "overrides" in given and not any(text.startswith("-") for text in rest):
        given.overrides += rest  # argparse itself takes none that follow an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with one_line_errors():
        match given.command:
            case "train":
                _train(given.run, given.dir, given.overrides)
            case "score":
                _score(given.directory, as_json=given.json)
            case "say":
                _say(given)
            case "show":
                _show_tokens(given.text, given.run, given.overrides)


def _train(name: str, directory: str | None, overrides: list[str]) -> None:
    if "=" in name:
        overrides, name = [name, *overrides], "-"
    run, default, evaluator = _find_run(name)
    run = validate(override(run, overrides))
    prepare_machine()
    target = Path(directory) if directory else Path("runs") / default
    result = fit(run, target, evaluate=evaluator)
    print(json.dumps(result, indent=2))


def _find_run(name: str) -> tuple[Run, str, Evaluator | None]:
    """The run that a file or STUDY[/SCALE]:CELL names, and where it goes by default.

    A study's cell goes where the study looks for it, and is asked what the study asks.
    """
    if name == "-":
        return Run(), "default", None
    path = Path(name)
    if path.is_file():
        return parse(Run, path.read_bytes(), name), path.stem, None
    if ":" not in name:
        raise UserError(f"{name}: no such file; give a RUN.json or STUDY:CELL")
    from lm.evaluate import evaluate
    from lm.study import chosen, effort_of

    study_name, _, cell = name.partition(":")
    study_name, _, scale = study_name.partition("/")
    sys.path.insert(0, str(Path.cwd()))
    try:
        study: Any = importlib.import_module(f"experiments.{study_name}")
    except ModuleNotFoundError as error:
        if error.name not in ("experiments", f"experiments.{study_name}"):
            raise
        study = None
    if not hasattr(study, "runs"):
        raise UserError(
            f"study {study_name}: there is no study experiments/{study_name}.py here;"
            " `python -m experiments` lists the studies"
        )
    scale = scale or study.SCALES[0]
    if scale not in study.SCALES:
        raise UserError(f"scale {scale}: {study_name} has {', '.join(study.SCALES)}")
    runs = study.runs(scale)
    evaluator = partial(evaluate, effort=effort_of(study, scale))
    return runs[chosen(runs, [cell])[0]], f"{study_name}/{scale}/{cell}", evaluator


def _score(directory: Path, *, as_json: bool) -> None:
    from lm.evaluate import evaluate

    prepare_machine()
    found = evaluate(load(directory))
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console(highlight=False)
    for name, score in found["scores"].items():
        noise = "" if score["mc_se"] is None else f"  mc_se {score['mc_se']:.4f}"
        console.print(
            f"{name:<12} {score['bits_per_byte']:.4f} bits per byte  {score['kind']:<13}"
            f"{noise}  text_se {score['text_se']:.4f}"
        )
    for share, score in found["error_by_share"].items():
        console.print(
            f"{float(share):>5.0%} hidden {score['bits_per_byte']:.4f} bits per hidden byte"
        )
    if found["probe"]:
        probe = found["probe"]
        console.print(
            f"probe        {probe['accuracy']:.3f} of roles right  (piece alone"
            f" {probe['piece_accuracy']:.3f}, majority {probe['majority_accuracy']:.3f})"
        )
    for name, value in found["baselines"].items():
        console.print(f"{name:<18} {value:.4f} bits per byte")


def _say(given: argparse.Namespace) -> None:
    from lm.evaluate import is_causal
    from lm.score import say

    for option, least in (("temperature", 0), ("top_k", 1), ("count", 0), ("seed", 0)):
        value = getattr(given, option)
        if value is not None and not least <= value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be >= {least}")
    prepare_machine()
    trained = load(given.directory)
    tokenizer, length = trained.tokens.tokenizer, trained.run.data.length
    if is_causal(trained):
        if "___" in given.text:
            raise UserError(
                "a causal model continues a text, it cannot fill ___; use a masked run"
            )
        (said,) = say.generate(
            trained.program.body,
            trained.params,
            [tokenizer.encode(given.text).tolist()],
            count=given.count,
            temperature=1.0 if given.temperature is None else given.temperature,
            top_k=given.top_k,
            seed=given.seed,
            vocabulary=tokenizer.vocabulary,
            length=length,
        )
        _print_said([(False, given.text), (True, tokenizer.decode(said))])
        return
    if "___" not in given.text:
        raise UserError("a masked model fills blanks: put ___ where a piece is to be found")
    parts = [tokenizer.encode(part).tolist() for part in given.text.split("___")]
    tokens = parts[0]
    for part in parts[1:]:
        tokens = [*tokens, tokenizer.vocabulary.mask, *part]
    filled = say.fill(
        trained.program.body,
        trained.params,
        tokens,
        temperature=given.temperature or 0.0,
        top_k=given.top_k,
        seed=given.seed,
        vocabulary=tokenizer.vocabulary,
        length=length,
    )
    pairs = zip(tokens, filled, strict=True)
    runs = itertools.groupby(pairs, lambda pair: pair[0] == tokenizer.vocabulary.mask)
    # Pieces are decoded together, as several may make up one character.
    _print_said([(new, tokenizer.decode([now for _, now in run])) for new, run in runs])


def _print_said(parts: list[tuple[bool, str]]) -> None:
    """Prints the text as it is, with what the model said set off on a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:  # rich would expand tabs and drop some controls
        print("".join(text for _, text in parts))
        return
    styled = [(text, "bold green" if said else "") for said, text in parts]
    console.print(RichText.assemble(*styled), soft_wrap=True)


def _show_tokens(text: str, directory: Path | None, overrides: list[str]) -> None:
    data = Data()
    if directory is not None:
        data = read_run(directory).data
    tokenizer = open_tokens(override(data, overrides)).tokenizer
    ids = tokenizer.encode(text).tolist()
    coloured, colours = RichText(), ("black on bright_cyan", "black on bright_yellow")
    for number, piece in enumerate(ids):
        shown = _visible(tokenizer.pieces[piece])
        coloured.append(shown, colours[number % 2])
        if shown.endswith("\n"):
            coloured.append("")
    console = Console(highlight=False)
    console.print(coloured, soft_wrap=True)
    console.print(" ".join(map(str, ids)), soft_wrap=True)
    size = len(text.encode())
    console.print(
        f"{size} bytes, {len(ids)} tokens, {size / max(len(ids), 1):.2f} bytes a token,"
        f" vocabulary {tokenizer.vocabulary.size}"
    )


def _visible(piece: bytes) -> str:
    r"""A piece as one can see it: line ends keep their effect, other controls are named.

    >>> _visible(b" a\n"), _visible(b"\xff"), _visible(b"\t")
    (' a⏎\n', '‹ff›', '→')
    """
    try:
        text = piece.decode()
    except UnicodeDecodeError:
        return "".join(f"‹{byte:02x}›" for byte in piece)
    text = text.replace("\n", "⏎\n").replace("\t", "→").replace("\r", "␍")
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", lambda c: f"‹{ord(c[0]):02x}›", text)
