"""`lm score`: trained runs in bits per byte."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import add_json, print_json, print_table, table
from lm.output.numbers import number

if TYPE_CHECKING:
    from lm.evaluate.scorers.base import Scorer
    from lm.evaluate.scoring import Effort
    from lm.train.load import ModelWithText

ORDER_ROWS = 16
"""Windows scored by a decoding order, of which each takes many passes, without --rows."""
BLOCK = 8
"""Tokens of a block of which all orders are mixed, without --block."""


def add_arguments(parser: Parser) -> None:
    """The command line."""
    from lm.evaluate.scorers import described

    parser.description = (
        "Scores a run by every scorer that is valid for it, or several in a table. Decoding"
        " orders take many passes, and are asked for by name."
    )
    parser.add_argument("directories", metavar="MODEL", type=Path, nargs="+")
    parser.add_argument(
        "--scorer",
        metavar="NAME",
        action="append",
        default=[],
        help=f"only this one: {described()}; may be given again",
    )
    parser.add_argument(
        "--block", type=int, metavar="N", help="tokens that such an order unmasks at once (1)"
    )
    parser.add_argument(
        "--orders",
        metavar="N",
        help="of masked models, the likelihood of all orders of each block of tokens (--block,"
        " 8): an interval by N random orders, or `all` of them",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="these files in place of the held-out text, each one document, by any model",
    )
    parser.add_argument(
        "--length",
        type=int,
        metavar="N",
        help="cut each file into rows of at most N tokens after a bos token; models of others"
        " are always scored so, by default in rows as long as they allow",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="S",
        help="begin such rows S tokens apart, each scored in what none before it holds",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the matrix products, if another than the model is loaded with",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="score this many windows only")
    parser.add_argument(
        "--mc-se", type=float, metavar="X", help="draw masks until their error is at most X"
    )
    parser.add_argument(
        "--paired", action="store_true", help="differences to the first run, by document"
    )
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Scores, and prints one run's scores with their errors, or a table of several runs."""
    from lm.evaluate.evaluate import evaluate
    from lm.evaluate.given_text import score_given
    from lm.evaluate.scoring import score_by
    from lm.train.quantize import storage_of

    names = [name.replace("-", "_") for name in given.scorer]
    if given.orders is not None:
        _both_sides(given)
        return
    effort = _effort(given, names)
    alone = not names and len(given.directories) == 1 and not given.text
    if alone and (validation := _validation(given.directories[0])):
        found = {"validation": validation}
        print_json(found) if given.json else _print_validation(validation)
        return
    # Before anything is loaded, as a refusal after minutes of scoring would be too late.
    chosen = _chosen(given.directories, names, effort, given.stride)
    prepare_machine()
    if given.paired:
        found = _paired(chosen, effort, given)
        print_json(found) if given.json else _print_paired(found)
        return
    if alone:
        everything = evaluate(_load(given.directories[0], given), effort)
        if everything is None:
            raise UserError(f"{given.directories[0]}: it predicts no tokens, and has no score")
        print_json(everything) if given.json else _print_found(everything)
        return
    scores, storages = {}, {}
    for directory, by_name in chosen.items():
        trained = _load(directory, given)
        if (storage := storage_of(directory, trained)) is not None:
            storages[str(directory)] = storage
        by = score_given if given.text else score_by
        scores[str(directory)] = {
            name: by(trained, scorer, effort).brief() for name, scorer in by_name.items()
        }
    if given.json:
        by_run: dict[str, Any] = {run: {"scores": of} for run, of in scores.items()}
        for run, storage in storages.items():
            by_run[run]["storage"] = storage.numbers
        print_json(next(iter(by_run.values())) if len(scores) == 1 else by_run)
        return
    if len(scores) == 1:
        _print_scores(next(iter(scores.values())))
    else:
        made = table(*_COLUMNS, "mc_se", "text_se")
        for run, of in scores.items():
            for name, score in of.items():
                made.add_row(*_cells(run, name, score), *_errors(score))
        print_table(made)
    for run, of in scores.items():
        before = f"{run}: " if len(scores) > 1 else ""
        _print_windows(before, next(iter(of.values())))
        if run in storages:
            print(f"{before}{storages[run].text}")


def _validation(directory: Path) -> dict[str, float]:
    """What validation found of a finished run that predicts no tokens; {} of any other."""
    from lm.results import read_result
    from lm.train.load import settings_of

    path = directory / "result.json"
    if settings_of(directory).objective.predictions or not path.exists():
        return {}
    training = read_result(path).training
    return {"validation_loss": training.validation_loss, **training.validation_terms}


def _load(path: Path, given: argparse.Namespace) -> "ModelWithText":
    """A model with the text that it is scored on: the files given, or its own held-out text."""
    from lm.artifact import is_artifact
    from lm.evaluate.given_text import with_text
    from lm.train.load import load_model, load_run

    if given.text:
        model = load_model(path, precision=given.precision)
        return with_text(model, given.text, length=given.length, stride=given.stride)
    if is_artifact(path):
        raise UserError(f"{path}: an artifact has no text of its own; name files with --text")
    return load_run(path)


def _check(given: argparse.Namespace) -> None:
    """Raises UserError where an option cannot be, whatever is asked for."""
    from lm.evaluate.given_text import check_windows

    for option in ("block", "rows", "mc_se"):
        value = getattr(given, option)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be > 0")
    for option in ("length", "stride", "precision"):
        if getattr(given, option) is not None and not given.text:
            raise UserError(f"--{option} {getattr(given, option)}: name files with --text too")
    check_windows(given.length, given.stride)


def _effort(given: argparse.Namespace, names: list[str]) -> "Effort":
    """What the options ask for; UserError where one of them cannot be."""
    from lm.evaluate.scorers import SCORERS
    from lm.evaluate.scoring import Effort

    _check(given)
    effort = Effort(mc_se=given.mc_se)
    if given.rows is not None:
        effort = replace(effort, rows=given.rows, curve_rows=given.rows)
    if names:
        effort = replace(effort, orders=given.rows or ORDER_ROWS, block=given.block or 1)
    if given.block is not None and not any(
        name in SCORERS and SCORERS[name].block for name in names
    ):
        raise UserError(f"--block {given.block}: name the order that it is of with --scorer")
    if given.paired and len(set(given.directories)) < 2:
        raise UserError("--paired: give the run to compare with, then those to compare")
    return effort


def _chosen(
    directories: list[Path], names: list[str], effort: "Effort", stride: int | None
) -> dict[Path, dict[str, "Scorer"]]:
    """The named scorers that are valid for each run; if none is named, all but the orders.

    Raises UserError for a name that is valid for none of the runs, and for a run for which no
    name is valid.
    """
    from lm.evaluate.given_text import no_scorer, usual
    from lm.evaluate.scorers.base import refuses
    from lm.evaluate.scoring import scorers, valid
    from lm.train.load import settings_of

    found: dict[Path, dict[str, Scorer]] = {}
    used: set[str] = set()
    for directory in directories:
        run = settings_of(directory)
        there, answers = scorers(run, effort), run.objective.predictions
        if unknown := [name for name in names if name not in there]:
            legal = ", ".join(map(_dashed, there))
            raise UserError(f"--scorer {_dashed(unknown[0])}: no such scorer; one of {legal}")
        asked, fits = names or list(usual(there, stride)), valid(run, effort)
        found[directory] = {name: fits[name] for name in asked if name in fits}
        used |= set(found[directory])
        if not fits:
            raise UserError(
                f"{directory}: it predicts no tokens, which bits per byte are of; of a finished"
                " run, `lm score RUN_DIR` without options prints what its validation found"
            )
        if stride is not None and not usual(fits, stride):
            raise UserError(f"{directory}: {no_scorer(run, stride)}")
        if masks := [n for n in names if stride is not None and there[n].prediction != "next"]:
            raise UserError(
                f"--scorer {_dashed(masks[0])}: strided windows are for the chain rule alone;"
                " leave out --stride"
            )
        missing = [name for name in names if name not in fits]
        if not found[directory] or (missing and len(directories) == 1):
            raise UserError(
                f"--scorer {_dashed(missing[0])}: {refuses(there[missing[0]], answers)};"
                f" valid for {directory}: {', '.join(map(_dashed, fits))}"
            )
    if unused := [name for name in names if name not in used]:
        raise UserError(f"--scorer {_dashed(unused[0])}: valid for none of these runs")
    return found


def _paired(
    chosen: Mapping[Path, Mapping[str, "Scorer"]], effort: "Effort", given: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Each run's first scorer, and how far it lies above the first run's, by document."""
    from lm.evaluate.bits import paired
    from lm.evaluate.scoring import score_by, windows_for

    asked = {directory: next(iter(by_name.items())) for directory, by_name in chosen.items()}
    models = {directory: _load(directory, given) for directory in asked}
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
        str(d): {"scorer": name, **scores[d].brief()} for d, (name, _) in asked.items()
    }
    for directory in others:
        found[str(directory)]["above"] = paired(scores[directory], scores[first])._asdict()
    return found


def _both_sides(given: argparse.Namespace) -> None:
    """Scores by the orders of blocks, and prints between what the likelihood lies."""
    from lm.evaluate.both_sides import (
        LEAST_ORDERS,
        MOST_ORDERS,
        both_sides,
        check_block,
        exact_side,
    )

    _check(given)
    for option in ("scorer", "paired", "mc_se", "stride"):
        if getattr(given, option):
            raise UserError(f"--{option.replace('_', '-')}: not with --orders")
    orders, whole = given.orders, given.orders == "all"
    number = int(orders) if orders.isdecimal() else 0
    if not whole and not LEAST_ORDERS <= number <= MOST_ORDERS:
        raise UserError(f"--orders {orders}: must be `all`, or {LEAST_ORDERS} to {MOST_ORDERS}")
    block, rows = given.block or BLOCK, given.rows or ORDER_ROWS
    if whole:
        check_block(block)
    prepare_machine()
    found: dict[str, Any] = {}
    for directory in given.directories:
        trained = _load(directory, given)
        if whole:
            found[str(directory)] = exact_side(trained, rows=rows, block=block).brief()
        else:
            sides = both_sides(trained, rows=rows, block=block, orders=number)
            found[str(directory)] = asdict(sides)
    if given.json:
        print_json(next(iter(found.values())) if len(found) == 1 else found)
        return
    for run, score in found.items():
        before = f"{run}: " if len(found) > 1 else ""
        print(f"{before}all orders of blocks of {block} tokens, from left to right")
        if whole:
            _print_scores({"all": score})
        else:
            _print_sides(score)


# What is printed


_COLUMNS = ("run", "scorer", "kind", "bits per byte", "layout")


def _cells(run: str, name: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    bits = f"{score['bits_per_byte']:.4f}"
    return run, _dashed(name), score["kind"], bits, _layout(score)


def _print_paired(found: Mapping[str, Mapping[str, Any]]) -> None:
    made = table(*_COLUMNS, "above the first", "mc_se", "text_se")
    for run, score in found.items():
        above = score.get("above")
        rest = [f"{above['bits_per_byte']:+.4f}", *_errors(above)] if above else []
        made.add_row(*_cells(run, score["scorer"], score), *rest)
    print_table(made)


def _print_validation(found: Mapping[str, float]) -> None:
    """What a model that predicts no tokens was validated by."""
    for name, value in found.items():
        print(f"{name:<22} {number(value)}")


def _print_found(found: Mapping[str, Any]) -> None:
    """Everything that a model was asked."""
    from lm.evaluate.baselines.ppm import AFTER_TRAINING, WITHOUT

    _print_scores(found["scores"])
    for fraction, score in found["error_by_fraction"].items():
        print(
            f"{float(fraction):>5.0%} masked {score['bits_per_byte']:.4f} bits per masked byte"
        )
    if found["probe"]:
        probe = found["probe"]
        print(
            f"probe        {probe['accuracy']:.3f} of roles right  (token alone"
            f" {probe['token_accuracy']:.3f}, majority {probe['majority_accuracy']:.3f})"
        )
    for name, value in found["baselines"].items():
        print(f"{name:<28} {value:.4f} bits per byte")
    if AFTER_TRAINING not in found["baselines"]:
        print(f"{'ppm':<28} {WITHOUT}")


def _print_scores(scores: Mapping[str, Mapping[str, Any]]) -> None:
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


def _print_sides(found: Mapping[str, Any]) -> None:
    """The ends of an interval, of which one may not be resolved."""
    from lm.evaluate.both_sides import MISS, SPREAD

    sure = f"at {1 - MISS:.1%}"
    least, spread = found["at_least"], found["spread"]
    spreads = f"log p spreads by {spread:.2f} nats over the orders of a block"
    low = "at least        not resolved: "
    if least is not None:
        print(f"at least        {least:.4f} bits per byte  {sure}; {spreads}")
    elif spread > SPREAD:
        print(f"{low}{spreads}, and {SPREAD:g} are the most; --orders all sums all")
    else:
        print(f"{low}{spreads}, and {found['orders']} orders are too few")
    print(f"at most         {found['at_most']:.4f} bits per byte  {sure}, proven")
    print(f"any-order bound {found['bound']:.4f} bits per byte  in expectation over orders")
    print(
        f"of {found['units']:,} blocks and {found['bytes']:,} bytes by {found['orders']} orders"
        f" each; layout {_layout(found)}"
    )


def _print_windows(run: str, score: Mapping[str, Any]) -> None:
    """What given text was cut into, and what its tokens do not tell."""
    if "prefix" not in score:
        return
    apart = f", {score['stride']} apart" if score["stride"] else ""
    prefix = score["prefix"]
    print(
        f"{run}{score['bytes']:,} bytes in windows of at most {score['length']} tokens{apart},"
        f" after {prefix['token']} ({prefix['id']})"
    )
    if score["lossy"]:
        print(f"{run}lossy: {score['lossy']}")


def _layout(score: Mapping[str, Any]) -> str:
    """The part of the bits per byte that the length model pays for the layout."""
    return "-" if score["layout_bits"] is None else f"{score['layout_bits']:.4f}"


def _errors(score: Mapping[str, Any]) -> list[str]:
    return ["" if score[e] is None else f"{score[e]:.4f}" for e in ("mc_se", "text_se")]


def _dashed(name: str) -> str:
    return name.replace("_", "-")
