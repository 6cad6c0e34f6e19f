"""`lm ...`: composes the rooms into commands."""

import argparse
import importlib
import itertools
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.config import UserError, describe, override, parse
from lm.distributed import signals
from lm.distributed.process import Parser, one_line_errors, prepare_machine

# All that takes jax, or other seconds, is imported where it is used: what ends the process is
# heard before, and neither --help nor a misspelt command waits for it.
if TYPE_CHECKING:
    from lm.evaluate.scorers.base import Scorer
    from lm.evaluate.scoring import Effort
    from lm.run import Run
    from lm.train.fit import Evaluator

FITTING = {
    "fit": "fit a scaling law to a table of runs",
    "compare": "how many times the compute one arm needs for another's loss",
}
"""Commands of lm/fitting.py."""
PLANNING = {"budget": "plan runs for a budget of FLOPs: sizes, tokens, steps, hours"}
"""The command of lm/budget.py."""


def main(arguments: list[str] | None = None) -> None:
    """The console command `lm`."""
    if arguments is None:
        signals.listen()
        arguments = sys.argv[1:]
    if arguments and arguments[0] in FITTING:
        from lm.commands import (
            fit as fitting,  # scipy and matplotlib, for which no other command should wait
        )

        return fitting.main(arguments)
    if arguments and arguments[0] in PLANNING:
        from lm.cost import budget

        return budget.main(arguments[1:])
    parser = _parser(arguments[:1])
    given, rest = parser.parse_known_args(arguments)
    if "overrides" in given and not any(text.startswith("-") for text in rest):
        given.overrides += rest  # argparse itself takes none that follow an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with one_line_errors():
        match given.command:
            case "train":
                _train(given.run, given.dir, given.overrides)
            case "prove":
                _prove(given.run, given.overrides)
            case "plan":
                _plan(given)
            case "score":
                _score(given)
            case "say":
                _say(given)
            case "audit":
                from lm.verify import batches as auditing

                a, b = given.directories
                found = auditing.audit(a, b)
                print(auditing.report(a, b, found))
                sys.exit(0 if found.same else 1)
            case "show":
                _show_tokens(given.text, given.run, given.overrides)


def _parser(command: list[str]) -> Parser:
    """All commands; what takes long to say, only of the one that is given."""
    parser = Parser(prog="lm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    train = commands.add_parser(
        "train",
        help="train a run: RUN.json, or STUDY[/SCALE]:CELL",
        description="Trains a run, from its newest checkpoint if it has one.",
        epilog=_fields() if command == ["train"] else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "run", help="a JSON file, STUDY:CELL, STUDY/SCALE:CELL, or - for defaults"
    )
    train.add_argument("--dir", metavar="DIR", help="run directory (default: runs/NAME)")
    train.add_argument("overrides", nargs="*", metavar="field.path=value")

    prove = commands.add_parser(
        "prove", help="prove that no prediction of a run depends on what it must not see"
    )
    prove.add_argument("run", help="as for train; of it, the objective and the kind of model")
    prove.add_argument("overrides", nargs="*", metavar="field.path=value")

    planning = commands.add_parser(
        "plan",
        help="what runs need and how long they take on a slice that you do not have",
        description="Compiles the steps of runs for a slice that need not be there: memory,"
        " products, traffic, collectives and the time of a step, a device each, and whether"
        " it fits.",
        epilog="lm train --help lists the fields that may follow, as model.depth=32.",
    )
    if command == ["plan"]:
        from lm.plan import plan

        plan.add_arguments(planning)

    score = commands.add_parser(
        "score",
        help="score trained runs in bits per byte",
        description="Scores a run by every scorer that is valid for it, or several in a table."
        " Orders of writing take many passes, and are asked for by name.",
    )
    score.add_argument("directories", metavar="RUN_DIR", type=Path, nargs="+")
    score.add_argument(
        "--scorer",
        metavar="NAME",
        action="append",
        default=[],
        help="only this one: chain-rule, spans, any-order, pseudo, or the exact likelihood of"
        " left-to-right, random-order, confident-first; may be given again",
    )
    score.add_argument(
        "--block", type=int, metavar="N", help="pieces that such an order uncovers at once (1)"
    )
    score.add_argument("--rows", type=int, metavar="N", help="score this many windows only")
    score.add_argument(
        "--mc-se", type=float, metavar="X", help="draw masks until their error is at most X"
    )
    score.add_argument(
        "--paired", action="store_true", help="differences to the first run, by document"
    )
    score.add_argument("--json", action="store_true", help="print everything as JSON")

    say = commands.add_parser(
        "say", help='continue a text, or fill its blanks: lm say RUN_DIR "x = ___(y)"'
    )
    say.add_argument("directory", metavar="RUN_DIR", type=Path)
    say.add_argument(
        "text",
        help="each ___ is one masked token; without any, a causal model continues the text",
    )
    say.add_argument(
        "--blank",
        default="___",
        metavar="MARK",
        help="what stands for a masked token (___); another, where the text has ___ itself",
    )
    say.add_argument("--count", type=int, default=64, help="pieces to add, at most (causal)")
    say.add_argument("--temperature", type=float, help="0 takes the likeliest piece")
    say.add_argument("--top-k", type=int, help="draw from this many likeliest pieces only")
    say.add_argument("--seed", type=int, default=0)

    audit = commands.add_parser(
        "audit",
        help="prove that two runs saw the same rows in the same order",
        description="Compares the digests of all batches that two runs trained on, whatever"
        " their objectives, meshes and restarts. Exit code 0: the same in every step; 1: not,"
        " and the first step is named in which they part or one ends.",
    )
    audit.add_argument("directories", metavar="RUN_DIR", type=Path, nargs=2)

    show = commands.add_parser("show", help="show how things look inside")
    things = show.add_subparsers(dest="thing", required=True, metavar="thing")
    tokens = things.add_parser(
        "tokens", help="the pieces of a text, with ids and bytes a token"
    )
    tokens.add_argument("text")
    tokens.add_argument("--run", metavar="RUN_DIR", type=Path, help="with this run's tokenizer")
    tokens.add_argument("overrides", nargs="*", metavar="field.path=value", help="of the data")

    for name, purpose in (FITTING | PLANNING).items():
        commands.add_parser(name, help=purpose)
    return parser


def _fields() -> str:
    from lm.run import Run

    return "fields, as field.path=value:\n\n" + describe(Run)


def _train(name: str, directory: str | None, overrides: list[str]) -> None:
    from lm.run import validate
    from lm.train.fit import fit

    if "=" in name:
        overrides, name = [name, *overrides], "-"
    run, default, evaluator = _find_run(name)
    run = validate(override(run, overrides))
    prepare_machine()
    target = Path(directory) if directory else Path("runs") / default
    result = fit(run, target, evaluate=evaluator)
    print(json.dumps(result, indent=2))


def _prove(name: str, overrides: list[str]) -> None:
    from rich.console import Console

    from lm.run import validate
    from lm.verify.leaks import prove_all

    if "=" in name:
        overrides, name = [name, *overrides], "-"
    run = validate(override(_find_run(name)[0], overrides))
    prepare_machine()
    prove_all(run.objective, run.model, Console(highlight=False), attention=run.attention)


def _find_run(name: str) -> tuple["Run", str, "Evaluator | None"]:
    """The run that a file or STUDY[/SCALE]:CELL names, and where it goes by default.

    A study's cell goes where the study looks for it, and is asked what the study asks.
    """
    from lm.run import Run

    if name == "-":
        return Run(), "default", None
    path = Path(name)
    if path.is_file():
        return parse(Run, path.read_bytes(), name), path.stem, None
    if ":" not in name:
        raise UserError(f"{name}: no such file; give a RUN.json or STUDY:CELL")
    from lm.evaluate.evaluate import evaluate
    from lm.study.runner import chosen, effort_of

    study_name, _, cell = name.partition(":")
    study_name, _, scale = study_name.partition("/")
    study = _find_study(study_name)
    scale = _scale_of(study, study_name, scale or study.SCALES[0])
    runs = study.runs(scale)
    evaluator = partial(evaluate, effort=effort_of(study, scale))
    return runs[chosen(runs, [cell])[0]], f"{study_name}/{scale}/{cell}", evaluator


def _find_study(name: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    study: Any = None
    try:
        if name.isidentifier():
            study = importlib.import_module(f"experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name not in ("experiments", f"experiments.{name}"):
            raise
    if not hasattr(study, "runs"):
        raise UserError(
            f"study {name}: there is no study experiments/{name}.py here;"
            " `python -m experiments` lists the studies"
        )
    return study


def _scale_of(study: Any, name: str, scale: str) -> str:
    if scale not in study.SCALES:
        raise UserError(f"scale {scale}: {name} has {', '.join(study.SCALES)}")
    return scale


def _plan(given: argparse.Namespace) -> None:
    from lm.plan import plan
    from lm.run import validate

    name, overrides, scale = given.run, given.overrides, given.scale
    if "=" in name:
        overrides, name = [name, *overrides], "-"
    if name == "-" or Path(name).is_file():
        if scale:
            raise UserError(f"--scale {scale}: of which study?")
        run, title, _ = _find_run(name)
        runs = {title: run}
    else:
        from lm.study.runner import chosen

        study_name, _, cell = name.partition(":")
        study_name, _, named = study_name.partition("/")
        study = _find_study(study_name)
        scale = _scale_of(study, study_name, scale or named or study.SCALES[-1])
        runs = study.runs(scale)
        runs = {cell: runs[cell] for cell in chosen(runs, [cell] if cell else None)}
    planned = {cell: validate(override(run, overrides)) for cell, run in runs.items()}
    plan.main(given, planned, scale)


def _score(given: argparse.Namespace) -> None:
    from lm.evaluate.evaluate import evaluate
    from lm.evaluate.scoring import Effort, plain, score_by
    from lm.train.load import load

    for option in ("block", "rows", "mc_se"):
        value = getattr(given, option)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be > 0")
    names = [name.replace("-", "_") for name in given.scorer]
    effort = Effort(mc_se=given.mc_se)
    if given.rows is not None:
        effort = replace(effort, rows=given.rows, share_rows=given.rows)
    if names:
        effort = replace(effort, orders=given.rows or ORDER_ROWS, block=given.block or 1)
    elif given.block is not None:
        raise UserError(f"--block {given.block}: name the order that it is of with --scorer")
    if given.paired and len(set(given.directories)) < 2:
        raise UserError("--paired: give the run to compare with, then those to compare")
    # Before anything is loaded, as a refusal after minutes of scoring would be too late.
    chosen = _chosen_scorers(given.directories, names, effort)
    prepare_machine()
    if given.paired:
        _print_paired(chosen, effort, as_json=given.json)
        return
    if not names and len(given.directories) == 1:
        found = evaluate(load(given.directories[0]), effort)
        print(json.dumps(found, indent=2)) if given.json else _print_found(found)
        return
    scores = {}
    for directory, by_name in chosen.items():
        trained = load(directory)
        scores[str(directory)] = {
            name: plain(score_by(trained, scorer, effort), scorer)
            for name, scorer in by_name.items()
        }
    if len(scores) == 1:
        (only,) = scores.values()
        print(json.dumps({"scores": only}, indent=2)) if given.json else _print_scores(only)
    elif given.json:
        print(json.dumps({run: {"scores": of} for run, of in scores.items()}, indent=2))
    else:
        rows = [
            (
                run,
                _dashed(name),
                score["kind"],
                f"{score['bits_per_byte']:.4f}",
                _layout(score),
                *_errors(score),
            )
            for run, of in scores.items()
            for name, score in of.items()
        ]
        _print_table(
            ("run", "scorer", "kind", "bits per byte", "layout", "mc_se", "text_se"), rows
        )


ORDER_ROWS = 16
"""Windows scored by an order of writing, of which each takes many passes, without --rows."""


def _chosen_scorers(
    directories: list[Path], names: list[str], effort: "Effort"
) -> dict[Path, dict[str, "Scorer"]]:
    """The named scorers that are valid for each run; if none is named, all but the orders.

    Raises UserError for a name that is valid for none of the runs, and for a run for which no
    name is valid.
    """
    from lm.evaluate.scorers.base import refuses
    from lm.evaluate.scorers.fixed_order import FixedOrder
    from lm.evaluate.scoring import scorers, valid
    from lm.run import read_run

    found: dict[Path, dict[str, Scorer]] = {}
    used: set[str] = set()
    for directory in directories:
        run = read_run(directory)
        there, answers = scorers(run, effort), run.objective.answers
        if unknown := [name for name in names if name not in there]:
            legal = ", ".join(map(_dashed, there))
            raise UserError(f"--scorer {_dashed(unknown[0])}: no such scorer; one of {legal}")
        asked = names or [
            n for n, scorer in there.items() if not isinstance(scorer, FixedOrder)
        ]
        fits = valid(run, effort)
        found[directory] = {name: fits[name] for name in asked if name in fits}
        used |= set(found[directory])
        if not fits:
            raise UserError(f"{directory}: no scorer is valid: it predicts no tokens")
        missing = [name for name in names if name not in fits]
        if not found[directory] or (missing and len(directories) == 1):
            raise UserError(
                f"--scorer {_dashed(missing[0])}: {refuses(there[missing[0]], answers)};"
                f" valid for {directory}: {', '.join(map(_dashed, fits))}"
            )
    if unused := [name for name in names if name not in used]:
        raise UserError(f"--scorer {_dashed(unused[0])}: valid for none of these runs")
    return found


def _print_paired(
    chosen: dict[Path, dict[str, "Scorer"]], effort: "Effort", *, as_json: bool
) -> None:
    """Each run's first scorer, and how far it lies above the first run's, by document."""
    from lm.evaluate.bits import paired
    from lm.evaluate.scoring import plain, score_by, windows_for
    from lm.train.load import load

    asked = {directory: next(iter(by_name.items())) for directory, by_name in chosen.items()}
    models = {directory: load(directory) for directory in asked}
    first, *others = asked
    windows = {d: windows_for(models[d], scorer, effort) for d, (_, scorer) in asked.items()}
    for directory in others:
        if not windows[directory].same_as(windows[first]):
            raise UserError(
                f"--paired: {directory} and {first} are not scored on the same windows of"
                " the same text; they need the same data, and --rows if their scorers differ"
            )
    scores = {d: score_by(models[d], scorer, effort) for d, (_, scorer) in asked.items()}
    found: dict[str, dict[str, Any]] = {
        str(d): {"scorer": name, **plain(scores[d], scorer)}
        for d, (name, scorer) in asked.items()
    }
    for directory in others:
        found[str(directory)]["above"] = paired(scores[directory], scores[first])._asdict()
    if as_json:
        print(json.dumps(found, indent=2))
        return
    rows = [
        (
            run,
            _dashed(score["scorer"]),
            score["kind"],
            f"{score['bits_per_byte']:.4f}",
            _layout(score),
            *cells,
        )
        for run, score in found.items()
        for above in [score.get("above")]
        for cells in [(f"{above['bits_per_byte']:+.4f}", *_errors(above)) if above else ()]
    ]
    titles = ("run", "scorer", "kind", "bits per byte", "layout")
    _print_table((*titles, "above the first", "mc_se", "text_se"), rows)


def _print_found(found: dict[str, Any]) -> None:
    """Everything that a model was asked."""
    _print_scores(found["scores"])
    for share, score in found["error_by_share"].items():
        print(f"{float(share):>5.0%} hidden {score['bits_per_byte']:.4f} bits per hidden byte")
    if found["probe"]:
        probe = found["probe"]
        print(
            f"probe        {probe['accuracy']:.3f} of roles right  (piece alone"
            f" {probe['piece_accuracy']:.3f}, majority {probe['majority_accuracy']:.3f})"
        )
    for name, value in found["baselines"].items():
        print(f"{name:<18} {value:.4f} bits per byte")


def _print_scores(scores: dict[str, dict[str, Any]]) -> None:
    for name, score in scores.items():
        errors = [
            f"  {error} {value:.4f}"
            for error in ("mc_se", "text_se")
            if (value := score[error]) is not None
        ]
        print(
            f"{_dashed(name):<15} {score['bits_per_byte']:.4f} bits per byte "
            f" {score['kind']:<13}  layout {_layout(score)}{''.join(errors)}"
        )


def _layout(score: dict[str, Any]) -> str:
    """The part of the bits per byte that the length model pays for the layout."""
    return "-" if score["layout_bits"] is None else f"{score['layout_bits']:.4f}"


def _errors(score: dict[str, Any]) -> list[str]:
    return ["" if score[e] is None else f"{score[e]:.4f}" for e in ("mc_se", "text_se")]


def _print_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as what they hold; a row may be shorter than the titles."""
    lines = [titles, *rows]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*lines, fillvalue="")]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=False))
        print("  ".join(cells).rstrip())


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _say(given: argparse.Namespace) -> None:
    from lm.evaluate.scoring import blank_of
    from lm.generate import generate as say
    from lm.run import read_run
    from lm.train.load import load_model

    for option, least in (("temperature", 0), ("top_k", 1), ("count", 0), ("seed", 0)):
        value = getattr(given, option)
        if value is not None and not least <= value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be >= {least}")
    if given.seed >= 2**31:
        raise UserError(f"--seed {given.seed}: must be < 2**31")
    mark = given.blank
    if not mark:
        raise UserError("--blank: the mark of a masked token cannot be empty")
    answers = read_run(given.directory).objective.answers
    blank = blank_of(answers)
    if not answers:
        raise UserError(f"{given.directory}: it predicts no tokens; use a causal or masked run")
    if blank is None and "next" not in answers:
        raise UserError(
            "a span model neither continues a text nor fills ___; use a causal or a masked run"
        )
    filling = mark in given.text
    if blank is None and filling:
        raise UserError(
            f"a causal model continues a text, it cannot fill {mark}; use a masked run, or"
            f" another --blank if {mark} is text"
        )
    if "next" not in answers and not filling:
        raise UserError(f"a masked model fills blanks: put {mark} where a token is to be found")
    prepare_machine()
    trained = load_model(given.directory)
    tokenizer, length = trained.tokenizer, trained.run.data.length
    if blank is None or not filling:
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
    parts = [tokenizer.encode(part).tolist() for part in given.text.split(mark)]
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
        answer=blank,
    )
    pairs = zip(tokens, filled, strict=True)
    runs = itertools.groupby(pairs, lambda pair: pair[0] == tokenizer.vocabulary.mask)
    # Pieces are decoded together, as several may make up one character.
    _print_said([(new, tokenizer.decode([now for _, now in run])) for new, run in runs])


def _print_said(parts: list[tuple[bool, str]]) -> None:
    """Prints the text as it is, with what the model said set off on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:  # rich would expand tabs and drop some controls
        print("".join(text for _, text in parts))
        return
    styled = [(text, "bold green" if said else "") for said, text in parts]
    console.print(Text.assemble(*styled), soft_wrap=True)


def _show_tokens(text: str, directory: Path | None, overrides: list[str]) -> None:
    from rich.console import Console
    from rich.text import Text

    from lm.data import tokenizer_of
    from lm.run import Run, read_run
    from lm.train import directory as directories

    run = Run() if directory is None else read_run(directory)
    # All of them are of the data, so that `data.` may be left out.
    full = [text if text.startswith("data.") else f"data.{text}" for text in overrides]
    data = override(run, full).data
    if directory is not None and data == run.data:
        tokenizer = directories.tokenizer_of(run, directory)
    else:
        tokenizer = tokenizer_of(data)
    ids = tokenizer.encode(text).tolist()
    coloured, colours = Text(), ("black on bright_cyan", "black on bright_yellow")
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
