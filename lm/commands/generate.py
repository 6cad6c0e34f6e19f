"""`lm generate`: a text continued, its blanks filled, a source answered, or a conversation."""

import argparse
import itertools
import math
import operator
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm.commands.shown import ShownToken, print_parts, print_shown, stream_parts
from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine

if TYPE_CHECKING:
    from lm.train.load import LoadedModel

ALTERNATIVES = 4
"""ShownToken beside each token, unless it is said."""


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
        help="each ___ is one masked token, or a span to an encoder-decoder of spans; without"
        " any, a causal model continues the text, and an encoder-decoder answers it",
    )
    parser.add_argument(
        "--chat",
        action="append",
        nargs="?",
        const="",
        metavar="MESSAGE",
        help="in place of a text: a message to the model, which answers; of several, every"
        " other one is what it answered before; without a message, a conversation at the"
        " terminal, which ctrl-d ends",
    )
    parser.add_argument("--system", metavar="MESSAGE", help="stands before those of --chat")
    parser.add_argument(
        "--blank",
        default="___",
        metavar="MARK",
        help="what stands for a masked token (___); another, where the text has ___ itself",
    )
    parser.add_argument("--count", type=int, default=64, help="tokens to add, at most (64)")
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest token")
    parser.add_argument("--top-k", type=int, help="draw from this many likeliest tokens only")
    parser.add_argument(
        "--top-p", type=float, help="draw from the likeliest that make up this probability only"
    )
    parser.add_argument(
        "--min-p",
        type=float,
        help="leave out tokens less likely than this, relative to the likeliest",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        help="what scores of tokens that are in the text are divided by (CTRL's)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=1, help="texts to draw, each by itself")
    parser.add_argument(
        "--beams", type=int, help="in place of drawing: the likeliest text, by so many beams"
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        help="of beams: more favours longer texts (0.6; Wu et al. 2016)",
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="ends what is added, and is no part of it; may be given several times",
    )
    parser.add_argument(
        "--order",
        choices=("certain", "left", "random", "diffusion"),
        help="in which masked tokens are filled (certain: the most certain first)",
    )
    parser.add_argument(
        "--steps", type=int, help="in which all are filled (as many as there are blanks)"
    )
    parser.add_argument(
        "--show",
        action="store_true",
        help="colour each token by its probability, show what else was likely, count tokens",
    )
    parser.add_argument(
        "--alternatives", type=int, help=f"likely tokens to show beside each ({ALTERNATIVES})"
    )
    parser.add_argument("--price", type=float, help="of a thousand tokens, to show the sum")


def main(given: argparse.Namespace) -> None:
    """Prints the text with what the model adds, as it comes."""
    from lm.evaluate.scorers.base import mask_prediction_of
    from lm.train.load import load_model, settings_of

    _check(given)
    if given.chat is not None:
        prepare_machine()
        _chat(given, load_model(given.model))
        return
    run, mark = settings_of(given.model), given.blank
    predictions, filling = run.objective.predictions, mark in given.text
    blank = mask_prediction_of(predictions)
    spans = "spans" in predictions and run.model.reads_source
    if not (blank or spans or "next" in predictions):
        raise UserError(
            "a span model of a single stack neither continues a text nor fills ___; use a"
            " causal or a masked run, or spans with objective.stack=encoder_decoder"
        )
    if filling and not blank and not spans:
        raise UserError(
            f"a causal model continues a text, it cannot fill {mark}; use a masked run, or"
            f" another --blank if {mark} is text"
        )
    if not filling and not spans and "next" not in predictions:
        raise UserError(f"a masked model fills blanks: put {mark} where a token is to be found")
    prepare_machine()
    model = load_model(given.model)
    if filling and blank:
        _fill(given, model)
    elif filling:
        _fill_spans(given, model)
    elif given.beams is not None:
        _beams(given, model, spans)
    else:
        _continue(given, model, spans)


def _continue(given: argparse.Namespace, model: "LoadedModel", spans: bool) -> None:
    """Each sample as it comes, behind its text; what answers a source stands alone."""
    before = "" if spans else given.text
    for drawing in _drawings(given, 1.0):
        added = model.stream(
            given.text,
            count=given.count,
            stop=given.stop,
            alternatives=_alternatives(given),
            echo=given.show and not spans,
            **drawing,
        )
        if given.show:
            _show(given, model, added, [] if spans else given.text)
        else:
            stream_parts(before, (one.text for one in added))


def _show(
    given: argparse.Namespace, model: "LoadedModel", added: Iterator[Any], prompt: Any
) -> None:
    """Tokens of the prompt and those that were added, by their probabilities."""
    name = model.tokenizer.id_to_token
    tokens: list[ShownToken] = []
    asked = len(prompt) if isinstance(prompt, list) else 0
    for one in added:
        for scored in one.emitted.prompt:
            tokens.append(ShownToken.of(scored, name, added=False))
            asked += 1
        if one.emitted.token is not None:
            tokens.append(ShownToken.of(one.emitted, name, added=True))
    print_shown(tokens, asked=asked, price=given.price)


def _beams(given: argparse.Namespace, model: "LoadedModel", spans: bool) -> None:
    """The likeliest texts that beams found, as many as samples are asked for."""
    penalty = {} if given.length_penalty is None else {"length_penalty": given.length_penalty}
    found = model.beams(given.text, count=given.count, beams=given.beams, **penalty)
    for beam in found[: given.samples]:
        added = model.tokenizer.decode(beam.tokens)
        print_parts([(False, "" if spans else given.text), (True, added)])


def _fill(given: argparse.Namespace, model: "LoadedModel") -> None:
    """The text with a token in place of each mark."""
    tokenizer = model.tokenizer
    parts = [tokenizer.encode(part).tolist() for part in given.text.split(given.blank)]
    tokens = parts[0]
    for part in parts[1:]:
        tokens = [*tokens, tokenizer.vocabulary.mask_token, *part]
    for drawing in _drawings(given, 1.0 if given.order == "diffusion" else 0.0):
        found = model.fill(
            tokens,
            order=given.order or "certain",
            steps=given.steps,
            alternatives=_alternatives(given),
            **drawing,
        )
        put = {one.place: one for one in found}
        if given.show:
            name = tokenizer.id_to_token
            shown = [
                ShownToken.of(put[place], name, added=True)
                if place in put
                else ShownToken(name(token), None, (), added=False)
                for place, token in enumerate(tokens)
            ]
            print_shown(shown, asked=len(tokens) - len(put), price=given.price)
            continue
        row = [
            (place in put, put[place].token if place in put else token)
            for place, token in enumerate(tokens)
        ]
        runs = itertools.groupby(row, operator.itemgetter(0))
        # Tokens are decoded together, as several may make up one character.
        print_parts([(new, tokenizer.decode([token for _, token in run])) for new, run in runs])


def _fill_spans(given: argparse.Namespace, model: "LoadedModel") -> None:
    """The text with a span in place of each mark, as a decoder writes them."""
    parts = given.text.split(given.blank)
    for drawing in _drawings(given, 1.0):
        spans = model.fill_spans(parts, count=given.count, **drawing)
        pairs = itertools.zip_longest(parts, spans, fillvalue="")
        print_parts([part for text, span in pairs for part in ((False, text), (True, span))])


def _chat(given: argparse.Namespace, model: "LoadedModel") -> None:
    """Prints what a model answers to messages, and nothing else; or talks until ctrl-d."""
    messages = [{"role": "system", "content": given.system}] if given.system else []
    if given.chat != [""]:
        roles = itertools.cycle(("user", "assistant"))
        messages += [
            {"role": role, "content": each}
            for role, each in zip(roles, given.chat)  # noqa: B905 - roles never end
        ]
        _answer(given, model, messages)
        return
    for message in _typed():
        messages.append({"role": "user", "content": message})
        messages.append({"role": "assistant", "content": _answer(given, model, messages)})


def _answer(given: argparse.Namespace, model: "LoadedModel", messages: list[Any]) -> str:
    added = model.stream_chat(
        messages,
        count=given.count,
        stop=given.stop,
        alternatives=_alternatives(given),
        **next(_drawings(given, 1.0)),
    )
    if not given.show:
        return stream_parts("", (one.text for one in added))
    asked = model.tokenizer.chat(messages, add_generation_prompt=True).tolist()
    told = list(added)
    _show(given, model, iter(told), asked)
    return "".join(one.text for one in told)


def _typed() -> Iterator[str]:
    """Messages that a person types, until ctrl-d; arrows bring earlier ones back."""
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 - input() edits lines by it
    while True:
        try:
            message = input("> " if interactive else "").strip()
        except EOFError:
            if interactive:
                print()
            return
        if message:
            yield message


def _drawings(given: argparse.Namespace, temperature: float) -> Iterator[dict[str, Any]]:
    """How each sample is drawn: the next seed of each, and what is said or else the usual
    temperature.
    """
    names = "temperature", "top_k", "top_p", "min_p", "repetition_penalty"
    said = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    for number in range(given.samples):
        yield {"temperature": temperature, "seed": (given.seed + number) % 2**31} | said


def _alternatives(given: argparse.Namespace) -> int:
    if not given.show:
        return 0
    return ALTERNATIVES if given.alternatives is None else int(given.alternatives)


def _check(given: argparse.Namespace) -> None:
    if (given.text is None) == (given.chat is None):
        raise UserError("give a text, or --chat and a message: one of them")
    if given.chat and len(given.chat) % 2 == 0:
        raise UserError(
            f"--chat is there {len(given.chat)} times: the last message is the user's, so that"
            " their number is odd"
        )
    if given.chat and len(given.chat) > 1 and "" in given.chat:
        raise UserError("--chat without a message talks at the terminal: give it alone")
    if given.system is not None and not given.chat:
        raise UserError("--system stands before messages: give --chat and one")
    infinite = math.inf
    for option, least, most in (
        ("temperature", 0, infinite), ("top_k", 1, infinite), ("top_p", 0, 1), ("min_p", 0, 1),
        ("repetition_penalty", 0, infinite), ("count", 0, infinite), ("seed", 0, infinite),
        ("samples", 1, infinite), ("beams", 1, infinite), ("steps", 1, infinite),
        ("alternatives", 0, 20), ("price", 0, infinite), ("length_penalty", 0, infinite),
    ):  # fmt: skip
        value = getattr(given, option)
        above = option in ("top_p", "repetition_penalty")  # by which is divided
        if value is None or (least + above * 1e-12 <= value <= most and value < infinite):
            continue
        bound = f"must be {'>' if above else '>='} {least}"
        also = f" and <= {most}" if most < infinite else ""
        raise UserError(f"--{option.replace('_', '-')} {value}: {bound}{also}")
    if given.seed >= 2**31:
        raise UserError(f"--seed {given.seed}: must be < 2**31")
    if not given.blank:
        raise UserError("--blank: the mark of a masked token cannot be empty")
    if given.beams is None and given.length_penalty is not None:
        raise UserError("--length-penalty: is of beams; give --beams and their number")
    if given.beams is not None:
        for option in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
            if getattr(given, option) is not None:
                raise UserError(
                    f"--{option.replace('_', '-')}: beams draw nothing; leave it or --beams out"
                )
        if given.chat or given.show or given.stop:
            raise UserError("--beams: with a text alone, without --chat, --show and --stop")
    for option in ("alternatives", "price"):
        if getattr(given, option) is not None and not given.show:
            raise UserError(f"--{option}: is part of what --show shows; give it too")
