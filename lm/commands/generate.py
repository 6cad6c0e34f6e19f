"""`lm generate`: a text continued, its blanks filled, or messages answered."""

import argparse
import itertools
import math
from pathlib import Path

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.output.console import console


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Continues a text, fills its blanks, or answers messages:"
        ' lm generate MODEL "x = ___(y)", lm generate MODEL --chat "What is a bit?".'
    )
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="a run directory or an artifact"
    )
    parser.add_argument(
        "text",
        nargs="?",
        help="each ___ is one masked token; without any, a causal model continues the text",
    )
    parser.add_argument(
        "--chat",
        action="append",
        metavar="MESSAGE",
        help="in place of a text: a message to the model, which answers; of several, every"
        " other one is what it answered before",
    )
    parser.add_argument("--system", metavar="MESSAGE", help="stands before those of --chat")
    parser.add_argument(
        "--blank",
        default="___",
        metavar="MARK",
        help="what stands for a masked token (___); another, where the text has ___ itself",
    )
    parser.add_argument("--count", type=int, default=64, help="tokens to add, at most (causal)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=int, help="draw from this many likeliest tokens only")
    parser.add_argument("--seed", type=int, default=0)


def main(given: argparse.Namespace) -> None:
    """Prints the text with what the model adds."""
    from lm.evaluate.scorers.base import mask_prediction_of
    from lm.generate import fill
    from lm.train.generating import generate_text
    from lm.train.load import load_model, settings_of

    _check(given)
    if given.chat:
        _answer(given)
        return
    mark = given.blank
    predictions = settings_of(given.model).objective.predictions
    blank = mask_prediction_of(predictions)
    if blank is None and "next" not in predictions:
        raise UserError(
            "a span model neither continues a text nor fills ___; use a causal or a masked run"
        )
    filling = mark in given.text
    if blank is None and filling:
        raise UserError(
            f"a causal model continues a text, it cannot fill {mark}; use a masked run, or"
            f" another --blank if {mark} is text"
        )
    if "next" not in predictions and not filling:
        raise UserError(f"a masked model fills blanks: put {mark} where a token is to be found")
    prepare_machine()
    trained = load_model(given.model)
    tokenizer, length = trained.tokenizer, trained.run.data.length
    if blank is None or not filling:
        added = generate_text(
            trained,
            given.text,
            count=given.count,
            temperature=1.0 if given.temperature is None else given.temperature,
            top_k=given.top_k,
            seed=given.seed,
        )
        _print([(False, given.text), (True, added)])
        return
    parts = [tokenizer.encode(part).tolist() for part in given.text.split(mark)]
    tokens = parts[0]
    for part in parts[1:]:
        tokens = [*tokens, tokenizer.vocabulary.mask_token, *part]
    filled = fill(
        trained.program.module,
        trained.params,
        tokens,
        temperature=given.temperature or 0.0,
        top_k=given.top_k,
        seed=given.seed,
        vocabulary=tokenizer.vocabulary,
        length=length,
        prediction=blank,
    )
    pairs = zip(tokens, filled, strict=True)
    runs = itertools.groupby(pairs, lambda pair: pair[0] == tokenizer.vocabulary.mask)
    # Tokens are decoded together, as several may make up one character.
    _print([(new, tokenizer.decode([now for _, now in run])) for new, run in runs])


def _answer(given: argparse.Namespace) -> None:
    """Prints what a model answers to messages, and nothing else."""
    from lm.train.load import load_model

    prepare_machine()
    roles = itertools.cycle(("user", "assistant"))
    messages = [{"role": "system", "content": given.system}] if given.system else []
    messages += [{"role": role, "content": each} for role, each in zip(roles, given.chat)]  # noqa: B905 - roles never end
    answer = load_model(given.model).chat(
        messages,
        count=given.count,
        temperature=1.0 if given.temperature is None else given.temperature,
        top_k=given.top_k,
        seed=given.seed,
    )
    _print([(True, answer)])


def _check(given: argparse.Namespace) -> None:
    if (given.text is None) == (given.chat is None):
        raise UserError("give a text, or --chat and a message: one of them")
    if given.chat and len(given.chat) % 2 == 0:
        raise UserError(
            f"--chat is there {len(given.chat)} times: the last message is the user's, so that"
            " their number is odd"
        )
    if given.system is not None and not given.chat:
        raise UserError("--system stands before messages: give --chat and one")
    for option, least in (("temperature", 0), ("top_k", 1), ("count", 0), ("seed", 0)):
        value = getattr(given, option)
        if value is not None and not least <= value < math.inf:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be >= {least}")
    if given.seed >= 2**31:
        raise UserError(f"--seed {given.seed}: must be < 2**31")
    if not given.blank:
        raise UserError("--blank: the mark of a masked token cannot be empty")


def _print(parts: list[tuple[bool, str]]) -> None:
    """Prints the text as it is, with what the model added set off on a terminal."""
    from rich.text import Text

    shown = console()
    if not shown.is_terminal:  # rich would expand tabs and drop some controls
        print("".join(text for _, text in parts))
        return
    styled = [(text, "bold green" if added else "") for added, text in parts]
    shown.print(Text.assemble(*styled), soft_wrap=True)
