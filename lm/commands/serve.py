"""`lm serve`: models behind OpenAI's protocol, and the playground."""

import argparse
import math
from pathlib import Path

from lm.config import UserError
from lm.distributed.process import Parser, prepare_machine
from lm.distributed.signals import keep_alive, stop_requests


def add_arguments(parser: Parser) -> None:
    """The command line."""
    parser.description = (
        "Serves models by OpenAI's protocol, with a playground at /; ctrl-c ends it, after what"
        " it is writing."
    )
    parser.add_argument(
        "models",
        metavar="MODEL",
        type=Path,
        nargs="+",
        help="artifacts, run directories or Hugging Face folders; each is known by its"
        " folder's name",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (8000)")
    parser.add_argument(
        "--keys",
        metavar="FILE",
        type=Path,
        help="one key a line, behind it its tokens a minute if they are limited; needed for any"
        " --host that others reach",
    )
    parser.add_argument(
        "--slots", type=int, default=8, help="texts of a model that are written at once (8)"
    )
    parser.add_argument(
        "--length",
        type=int,
        help="tokens of a prompt and its answer, at most (the model's own, up to 2048)",
    )
    parser.add_argument(
        "--queue", type=int, default=256, help="texts that may wait; more are refused (256)"
    )
    parser.add_argument(
        "--seconds", type=float, default=300, help="a request's longest, waiting included (300)"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=20,
        help="how long answers may go on once the server is to stop (20)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="of the matrix products, if another than the model is loaded with",
    )
    parser.add_argument(
        "--index",
        metavar="INDEX",
        type=Path,
        help="answer chats from what is found there, and say so where that supports no answer",
    )
    parser.add_argument(
        "--encoder", metavar="MODEL", type=Path, help="the index's model, where it was moved to"
    )
    parser.add_argument(
        "--sources", type=int, default=3, help="passages that an answer is written from (3)"
    )


def main(given: argparse.Namespace) -> None:
    """Serves until it is told to stop."""
    _check(given)
    try:
        from lm.serve.listen import listen, open_socket
    except ImportError as error:
        if error.name not in ("starlette", "uvicorn", "prometheus_client"):
            raise
        raise UserError(
            f"{error.name} is not installed: pip install yardstick-lm[serve]"
        ) from None
    from lm.serve.app import ModelServer
    from lm.serve.limits import LOOPBACK, KeyRing, Limits, read_keys
    from lm.serve.models import open_models
    from lm.serve.retriever import open_retriever

    alone = given.host in LOOPBACK
    if given.keys is None and not alone:
        raise UserError(
            f"--host {given.host}: others reach it; give --keys FILE, or one of"
            f" {', '.join(LOOPBACK)}"
        )
    keys = KeyRing({}) if given.keys is None else read_keys(given.keys)
    # Before models are read, which takes its time.
    on = open_socket(given.host, given.port)
    prepare_machine()
    models = open_models(
        given.models, slots=given.slots, length=given.length, precision=given.precision
    )
    retriever = None
    if given.index is not None:
        if not any("chat" in model.can for model in models):
            raise UserError(
                f"--index {given.index}: no model that is served can chat, to answer from it"
            )
        retriever = open_retriever(given.index, model=given.encoder, sources=given.sources)
    server = ModelServer(
        models,
        keys=keys,
        limits=Limits(waiting=given.queue, seconds=given.seconds, grace=given.grace),
        # Whoever has a key may come by any name, as from behind a proxy.
        hosts=LOOPBACK if given.keys is None else None,
        retriever=retriever,
    )
    host, port = on.getsockname()[:2]
    at = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def ready() -> None:
        # From here on there may be answers that want to be ended.
        keep_alive(True)
        print(f"lm: {', '.join(server.models)} at {at}", flush=True)

    with stop_requests() as received:
        listen(server, on, received, ready)


def _check(given: argparse.Namespace) -> None:
    if given.encoder is not None and given.index is None:
        raise UserError(
            f"--encoder {given.encoder}: it is that of an --index, and none is given"
        )
    for option, least, most in (
        ("port", 0, 65535),
        ("slots", 1, 1024),
        ("length", 2, math.inf),
        ("queue", 1, 1 << 20),
        ("seconds", 0.1, 1e6),
        ("grace", 0, 1e6),
        ("sources", 1, 100),
    ):
        value = getattr(given, option)
        if value is not None and not least <= value <= most:
            bound = f">= {least}" if most == math.inf else f"from {least} to {most:g}"
            raise UserError(f"--{option} {value}: must be {bound}")
