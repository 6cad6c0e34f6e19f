"""`lm count`: the matmul FLOPs of any JAX function."""

import argparse
import difflib
import importlib
import re
import sys
from pathlib import Path
from typing import Any

from lm.config import UserError
from lm.distributed.process import Parser
from lm.output.console import add_json, print_json, print_notes, print_table, table

EXAMPLES = """\
FUNCTION is called with arguments of the given shapes and types, or with none and makes its own.
Nothing is computed: the function is traced. A number tells loops how often they turn.

  lm count my_model:step 'float32[8,1024]' 'int32[8]' 10
"""
SHAPE = re.compile(r"(\w+)\[([\d,\s]*)\]")
LISTED = 12
"""Products that are listed, the largest."""


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = "Counts the matmul FLOPs of a call of any JAX function."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("function", metavar="MODULE:FUNCTION")
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="ARGUMENT",
        help="a shape, as float32[8,128], or a number",
    )
    parser.add_argument(
        "--turns", type=int, metavar="N", help="how often loops turn that depend on data"
    )
    add_json(parser)


def main(given: argparse.Namespace) -> None:
    """Prints the FLOPs, what is computed again, and the largest products."""
    from lm.cost.count import count_flops

    function = _function(given.function)
    arguments = [_argument(text) for text in given.arguments]
    if given.turns is not None and given.turns < 0:
        raise UserError(f"--turns {given.turns}: must be >= 0")
    try:
        found = count_flops(function, *arguments, turns=given.turns)
    except (TypeError, ValueError) as error:  # of theirs: it cannot be called so
        said = (str(error).splitlines() or [type(error).__name__])[0]
        asked = ", ".join(given.arguments) or "no arguments"
        raise UserError(f"{given.function} with {asked}: {said}") from error
    if given.json:
        print_json(
            {
                "flops": found.flops,
                "flops_rematerialized": found.rematerialized,
                "products": [product._asdict() for product in found.products],
                "assumed": list(found.assumed),
                "left_out": dict(found.left_out),
            }
        )
        return
    largest, others = found.products[:LISTED], found.products[LISTED:]
    rows = [
        (
            product.primitive,
            " x ".join(str([*shape]).replace(" ", "") for shape in product.operands),
            f"{product.times:,}",
            product.flops,
        )
        for product in largest
    ]
    if others:
        rest = sum(product.flops for product in others)
        rows.append((f"{len(others)} others", "", "", rest))
    numbers = ("times", "FLOPs", "share")
    shown = table("product", "operands", *numbers, right=numbers)
    total = max(1, found.flops + found.rematerialized)
    for *about, flops in rows:
        shown.add_row(*about, f"{flops:,}", f"{flops / total:.1%}")
    if rows:
        print_table(shown)
    again = f", and {found.rematerialized:,} computed again" if found.rematerialized else ""
    print(f"{found.flops:,} FLOPs{again}")
    left_out = found.left_out.items()
    print_notes(
        found.assumed, [f"not counted: {name}, {times:,} times" for name, times in left_out]
    )


def _function(name: str) -> Any:
    """The function of a module, which is looked for in the working directory too."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise UserError(f"{name}: write MODULE:FUNCTION, as my_model:step")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{name}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = [each for each in dir(found) if callable(getattr(found, each))]
            close = difflib.get_close_matches(part, names, 3, 0.3) or names[:3]
            raise UserError(
                f"{name}: there is no {part}; nearest: {', '.join(close) or 'none'}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{name}: it is a {type(found).__name__}, and no function")
    return found


def _argument(text: str) -> Any:
    """A shape with its type, or a number."""
    import jax
    import jax.numpy as jnp

    if match := SHAPE.fullmatch(text):
        name, sizes = match.groups()
        try:
            dtype = jnp.dtype(name)
        except TypeError:
            raise UserError(f"{text}: {name} is no type; as float32, bfloat16, int32") from None
        return jax.ShapeDtypeStruct(
            [int(size) for size in sizes.split(",") if size.strip()], dtype
        )
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    raise UserError(f"{text}: write a shape, as float32[8,128], or a number")
