"""`lm COMMAND ...`: which module a command is, and what it is for."""

import importlib
import sys

from lm.distributed import signals
from lm.distributed.process import Parser, one_line_errors

COMMANDS = {
    "train": "train a run: RUN.json, or STUDY[/SCALE]:RUN",
    "score": "score trained runs in bits per byte",
    "eval": "what models can do without training: public tasks, and one's own",
    "vectors": "what vectors of words know: likeness, analogies, nearest words",
    "generate": "continue a text, or fill its blanks",
    "serve": "serve models by OpenAI's protocol, with a playground",
    "index": "make an index of texts, by any model's vectors and by words",
    "search": "find passages of an index",
    "import": "make an artifact of a Hugging Face folder, or of a name on the hub",
    "export": "write a model to a folder: an artifact, or as transformers reads it",
    "quantize": "keep the weights of a model in 8 bits or 4",
    "reference": "write what transformers answers, so that an import is checked by it",
    "prove": "prove that no prediction depends on what it must not see",
    "audit": "prove that two runs saw the same rows in the same order",
    "data": "clean a corpus by a recipe, and report what was removed and why",
    "tokens": "show the tokens of a text, with ids and bytes a token",
    "fit": "fit a scaling law to a table of runs",
    "compare": "how many times the compute one variant needs for another's loss",
    "predict": "forecast the runs of a study before they are trained",
    "settle": "hold a forecast to how its runs came out",
    "budget": "plan runs for a budget of FLOPs: sizes, tokens, steps, hours",
    "plan": "what runs need, and how long they take, on any slice",
    "count": "the matmul FLOPs of any JAX function",
}
"""Commands with their one line of help; each is the module of its name in lm/commands, which
has `add_arguments(parser)` and `main(given)`, and is imported only where it is given."""
MODULES = {"import": "import_model"}
"""Where Python has the word for itself."""
OF_TABLES = ("fit", "compare")
"""Those that use no jax."""


def main(arguments: list[str] | None = None) -> None:
    """The console command `lm`."""
    if arguments is None:
        signals.listen()
        arguments = sys.argv[1:]
    parser = Parser(prog="lm", description="Encoders and decoders on the same bytes.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    given_name = next((text for text in arguments if not text.startswith("-")), None)
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if name == given_name:
            module = importlib.import_module(f"lm.commands.{MODULES.get(name, name)}")
            module.add_arguments(command)
    given, rest = parser.parse_known_args(arguments)
    if "overrides" in given and not any(text.startswith("-") for text in rest):
        given.overrides += rest  # argparse itself takes none that follow an option
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    with one_line_errors(jax=given.command not in OF_TABLES):
        module.main(given)
