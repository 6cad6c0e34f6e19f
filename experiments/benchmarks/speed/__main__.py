"""How fast is this codebase on the machine at hand, and how close to what the machine can do?

Measures training (causal and masked, at three sizes), evaluation, scoring, generation, the
host's side and how all that grows, against floors of the same run: products in each precision,
and the memory. With `--peers`, the programs of other people that are installed train the same
shape in turns with ours. What is found is kept, section by section, in one file a machine, its
figure beside it.

    python -m experiments.benchmarks.speed --peers

    smoke    a few minutes        toys, to see that everything works
    default  20 minutes, 2 cores  models of 1M to 30M parameters on a CPU, of 0.1B to 1B on an
                                  accelerator; one device is measured

Times are medians of repeats, with the lowest and the highest; only what is compiled, opened or
started for the first time is timed once. What is compared takes turns, and a ratio is the
median of the turns' ratios. Run nothing beside it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from experiments.benchmarks.speed.device import evaluate, floors, generate, train
from experiments.benchmarks.speed.host import growth, host
from experiments.benchmarks.speed.machine import Failed, alone, complain, describe, made, slug
from experiments.benchmarks.speed.peers import peers
from experiments.benchmarks.speed.plan import Plan, Result, plan_of
from experiments.benchmarks.speed.report import show
from lm.config import UserError
from lm.distributed.process import Parser, one_line_errors
from lm.output.files import write_whole

RESULTS = Path(__file__).parents[2] / "results" / "speed"
SECTIONS: dict[str, Callable[[Plan], Result]] = {
    "floors": partial(alone, floors),
    "train": train,
    "evaluate": partial(alone, evaluate),
    "generate": partial(alone, generate),
    "host": host,
    "growth": growth,
    "peers": peers,
}


def main(arguments: list[str] | None = None) -> None:
    """The benchmark: measures what is asked for and shows all that is known."""
    parser = Parser(
        prog="python -m experiments.benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", action="store_true", help="also run installed peers")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS)
    )
    parser.add_argument("--scale", choices=("default", "smoke"), default="default")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--report", action="store_true", help="only show what is there")
    given = parser.parse_args(arguments)
    with one_line_errors():
        if given.report:
            files = sorted(given.results.glob("*.json"))
            if not files:
                raise UserError(f"{given.results}: no results there; run without --report")
            for file in files:
                show(file)
            return
        names = given.only or [name for name in SECTIONS if name != "peers"]
        if given.peers and "peers" not in names:
            names = [*names, "peers"]
        machine = alone(describe)
        toy = "-smoke" if given.scale == "smoke" else ""
        file = given.results / f"{slug(machine)}{toy}.json"
        failed = measure(names, plan_of(given.scale, machine["platform"]), machine, file)
        if file.exists():
            show(file)
        if failed:
            raise UserError(f"{', '.join(failed)}: not measured")


def measure(names: Sequence[str], plan: Plan, machine: Result, file: Path) -> list[str]:
    """Measures sections one after the other, each written when it is done.

    Returns the names of those that failed, which keeps nobody from measuring the others.
    """
    failed = []
    for name in names:
        print(f"lm: measuring {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            found = SECTIONS[name](plan)
        except Failed as error:
            complain(f"{name}: {error}")
            failed.append(name)
            continue
        found["made"] = made() | {"seconds": round(time.monotonic() - start)}
        merge(file, machine, name, found)
    return failed


def merge(file: Path, machine: Result, name: str, found: Result) -> None:
    """Puts a section into a machine's file, where the others stay as they are."""
    content = {"machine": machine, "sections": {}}
    if file.exists():
        try:
            content["sections"] = json.loads(file.read_bytes())["sections"]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file}: not results of this program; move it away") from None
    content["sections"][name] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
