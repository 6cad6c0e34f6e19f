"""What benchmarks beside other packages share: their cores, their turns, their processes.

It imports neither package, as each stays in a process of its own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CORES = 2
MODEL = "smollm2-135m-instruct"
"""The folder in `YARDSTICK_ASSETS`."""
Ask = Callable[[Any], Any]
"""Of what JSON can hold, to what JSON can hold."""


def take_cores() -> None:
    """This process and those that it starts run on the first cores alone."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def in_turns(
    asked: Mapping[str, Ask], what: Any, *, rounds: int, label: str = ""
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The seconds of each round, and the last answer, of all by name, who take turns.

    A first round of each, which compiles and loads, is printed and not among them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in asked}
    answers: dict[str, Any] = {}
    for number in range(1 + rounds):
        for name, ask in asked.items():
            start = time.perf_counter()
            answers[name] = ask(what)
            taken = time.perf_counter() - start
            if number:
                seconds[name].append(taken)
            else:
                print(f"{label}{name:<13} first round {taken:8.2f} s", flush=True)
    return seconds, answers


@contextmanager
def another_process(python: str, module: str, *given: str) -> Iterator[Ask]:
    """What a module's `answer` says in a process of its own, which waits to be asked."""
    process = subprocess.Popen(
        [python, "-m", module, "--answer", *given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        # Threads that have nothing to do must not spin while the other works.
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        text=True,
    )
    assert process.stdin and process.stdout
    sent, received = process.stdin, process.stdout

    def ask(what: Any) -> Any:
        sent.write(json.dumps(what) + "\n")
        sent.flush()
        return json.loads(received.readline())

    try:
        yield ask
    finally:
        sent.close()
        process.wait()


def answer(make: Callable[[], Ask]) -> None:
    """Answers lines of JSON by lines of JSON until there are no more; `make` waits for one."""
    ask: Ask | None = None
    for line in sys.stdin:
        ask = ask or make()
        print(json.dumps(ask(json.loads(line))), flush=True)
