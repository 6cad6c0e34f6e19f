"""`lm tokens`: the tokens of a text, with their ids and bytes a token."""

import argparse
import re
from pathlib import Path

from lm.commands.named import OVERRIDES
from lm.config import override
from lm.distributed.process import Parser
from lm.output.console import console


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = "Shows the tokens of a text, with their ids and bytes a token."
    parser.add_argument("text")
    parser.add_argument(
        "--model",
        metavar="MODEL",
        type=Path,
        help="a run directory or an artifact, for its tokenizer",
    )
    parser.add_argument("overrides", nargs="*", metavar=OVERRIDES, help="of the data")


def main(given: argparse.Namespace) -> None:
    """Prints the text with its tokens in two colours, their ids, and how many there are."""
    import numpy as np
    from rich.text import Text

    from lm.data import tokenizer_of
    from lm.run import Run
    from lm.train.load import settings_of, tokenizer_at

    run = Run() if given.model is None else settings_of(given.model)
    # All of them are of the data, so that `data.` may be left out.
    full = [text if text.startswith("data.") else f"data.{text}" for text in given.overrides]
    data = override(run, full).data
    if given.model is not None and data == run.data:
        tokenizer = tokenizer_at(given.model)
    else:
        tokenizer = tokenizer_of(data)
    content = given.text.encode()
    ids, sizes = tokenizer.encode_with_bytes(given.text)
    ends = np.cumsum(sizes)
    coloured, colours = Text(), ("black on bright_cyan", "black on bright_yellow")
    for number, (end, size) in enumerate(zip(ends.tolist(), sizes.tolist(), strict=True)):
        shown = shown_token(content[end - size : end])
        coloured.append(shown, colours[number % 2])
        if shown.endswith("\n"):
            coloured.append("")
    out = console()
    out.print(coloured, soft_wrap=True)
    out.print(" ".join(map(str, ids.tolist())), soft_wrap=True)
    whole = len(content)
    out.print(
        f"{whole} bytes, {len(ids)} tokens, {whole / max(len(ids), 1):.2f} bytes a token,"
        f" vocabulary {tokenizer.vocabulary.size}"
    )
    if tokenizer.lossy:
        out.print(f"lossy: {tokenizer.lossy}", soft_wrap=True)


def shown_token(token: bytes) -> str:
    r"""A token as one can see it: line ends keep their effect, other controls are named.

    >>> shown_token(b" a\n"), shown_token(b"\xff"), shown_token(b"\t")
    (' a⏎\n', '‹ff›', '→')
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return "".join(f"‹{byte:02x}›" for byte in token)
    text = text.replace("\n", "⏎\n").replace("\t", "→").replace("\r", "␍")
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", lambda c: f"‹{ord(c[0]):02x}›", text)
