"""How many tokens a second does SmolLM2 write on CPUs, beside transformers on the same cores?

    YARDSTICK_ASSETS=... python -m experiments.benchmarks.generation [--other PYTHON]

Both write the likeliest tokens after one prompt of a conversation, 1 and 8 rows at once, in
float32 and in bfloat16, on the first two cores alone: this package by its engine, transformers
by `generate` with its cache, eager and compiled (torch.compile, with a cache of a fixed size).
`--other` is a Python that has torch and transformers, if this one has not; each stays in a
process of its own, which waits while the others work. They take turns after a first round of
each, which compiles, loads and is stated apart. Reading the prompt counts. Prints the median of
the rounds with the lowest and the highest, how much faster this package is than the faster of
the two, which part of what the memory gives its parameters are read at, and whether all wrote
the same. The machine must be quiet.

With `--profile` this package writes alone, and XLA's own profiler says what the steps of one
row wait for: how much of a step is products, how many of them run at once, and how fast they
read the parameters, beside what one core and all of them copy.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks.peers import (
    CORES,
    MODEL,
    another_process,
    answer,
    in_turns,
    take_cores,
)

NAME = "experiments.benchmarks.generation"
MESSAGE = {"role": "user", "content": "Tell me about the moon."}
Write = Callable[[int], list[int]]
"""How many rows are to be written, to the tokens of the first."""


def main(arguments: list[str] | None = None) -> None:
    """Prints a line of each setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--other", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args(arguments)
    take_cores()
    folder = Path(os.environ["YARDSTICK_ASSETS"]) / MODEL
    memory = bytes_a_second()
    print(
        f"{given.tokens} tokens, {CORES} cores, load {os.getloadavg()[0]:.1f}, memory gives"
        f" {memory / 1e9:.1f} GB/s"
    )
    for precision in given.precision:
        mine = Ours(folder, precision, given.tokens)
        if given.profile:
            profile(mine, precision)
            continue
        peer = str(folder), precision, str(given.tokens)
        with (
            another_process(given.other, NAME, *peer, "eager") as eager,
            another_process(given.other, NAME, *peer, "compiled") as compiled,
        ):
            writers: dict[str, Write] = {
                "yardstick": mine,
                "eager": eager,
                "compiled": compiled,
            }
            for rows in given.rows:
                compare(writers, rows, given, memory / mine.size)


def compare(
    writers: dict[str, Write], rows: int, given: argparse.Namespace, most: float
) -> None:
    """Prints how fast each wrote; `most` is how often a second all parameters can be read."""
    seconds, written = in_turns(writers, rows, rounds=given.rounds, label=f"{rows} rows  ")
    for name, of in seconds.items():
        median, few, many = (
            rows * given.tokens / each for each in (statistics.median(of), max(of), min(of))
        )
        print(f"{rows} rows  {name:<13} {median:7.1f} tokens/s ({few:.1f} to {many:.1f})")
    mine, *theirs = (statistics.median(of) for of in seconds.values())
    same = all(tokens == written["yardstick"] for tokens in written.values())
    print(
        f"{rows} rows  yardstick is {min(theirs) / mine:.2f} times as fast as the faster, at"
        f" {given.tokens / mine / most:.0%} of what the memory gives; all wrote"
        f" {'the same' if same else 'not the same'}",
        flush=True,
    )


def profile(mine: "Ours", precision: str) -> None:
    """Prints what the steps of one row wait for, by XLA's own profiler."""
    import jax

    mine(1)
    steps, plain = _timed(mine.after_the_prompt())
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # noting what Python does takes as long again
    with tempfile.TemporaryDirectory() as folder:
        going = mine.after_the_prompt()
        with jax.profiler.trace(folder, profiler_options=options):
            _, traced = _timed(going)
        (file,) = Path(folder).glob("**/*.xplane.pb")
        times = [
            (event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9)
            for plane in jax.profiler.ProfileData.from_file(str(file)).planes
            for line in plane.lines
            for event in line.events
            if "dot" in event.name and not event.name.startswith("end:")
        ]
    products, busy = sum(end - start for start, end in times), _covered(times)
    print(
        f"{precision}  1 row  {1000 * plain / steps:.1f} ms a step"
        f" ({1000 * traced / steps:.1f} traced), of which products {busy / traced:.0%},"
        f" {products / busy:.2f} of them at once; they read"
        f" {steps * mine.size / busy / 1e9:.1f} GB/s, where one core copies"
        f" {bytes_a_second(1) / 1e9:.1f} and {CORES} {bytes_a_second() / 1e9:.1f}",
        flush=True,
    )


def _timed(going: Iterator[Any]) -> tuple[int, float]:
    """How many it gives, and in how many seconds."""
    start = time.perf_counter()
    return sum(1 for _ in going), time.perf_counter() - start


def _covered(starts_ends: list[tuple[float, float]]) -> float:
    """How long at least one of the intervals goes on."""
    total = last = 0.0
    for start, end in sorted(starts_ends):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def bytes_a_second(cores: int = CORES) -> float:
    """What cores copy together in memory, read and written, at best of a few times."""
    import numpy as np

    pairs = [(np.ones(1 << 25), np.empty(1 << 25)) for _ in range(cores)]
    seconds = []
    for _ in range(5):
        threads = [threading.Thread(target=np.copyto, args=(b, a)) for a, b in pairs]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds.append(time.perf_counter() - start)
    return 2 * cores * pairs[0][0].nbytes / min(seconds)


class Ours:
    """This package: the model, and an engine for each number of rows."""

    def __init__(self, folder: Path, precision: Any, count: int) -> None:
        import jax

        from lm.distributed.process import prepare_machine
        from lm.train.load import load_model

        prepare_machine()
        self._model, self._count = load_model(folder, precision=precision), count
        tokenizer = self._model.tokenizer
        self._prompt = tokenizer.chat([MESSAGE], add_generation_prompt=True).tolist()
        self._engines: dict[int, Any] = {}
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self._model.params))
        self.size = parameters * (4 if precision == "float32" else 2)
        """Bytes of parameters that each token takes."""

    def __call__(self, rows: int) -> list[int]:
        return [one.token for one in self._going(rows) if one.number == 0]

    def after_the_prompt(self) -> Iterator[Any]:
        """One row, whose first token is drawn and the others are not yet."""
        going = self._going(1)
        next(going)
        return going

    def _going(self, rows: int) -> Iterator[Any]:
        """What so many rows come to, each from the prompt."""
        from lm.generate import Engine, Request, Sampling

        if rows not in self._engines:
            self._engines[rows] = Engine(
                *(self._model.program.module, self._model.params),
                vocabulary=self._model.tokenizer.vocabulary,
                slots=rows,
                length=len(self._prompt) + self._count,
                begin="given",
            )
        greedy = Sampling(temperature=0)
        return self._engines[rows].all(
            Request(number, self._prompt, self._count, greedy, ends=())
            for number in range(rows)
        )


def transformers_writes(folder: Path, precision: str, count: int, how: str) -> Write:
    """Transformers' own loop, `how`: "eager" or "compiled"."""
    import torch
    import transformers

    torch.set_num_threads(CORES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, precision)
    )
    model.eval()
    fixed: dict[str, Any] = {}
    if how == "compiled":
        model.forward = torch.compile(model.forward, dynamic=False)
        fixed["cache_implementation"] = "static"
    prompt = tokenizer.apply_chat_template([MESSAGE], add_generation_prompt=True)
    ids = prompt if isinstance(prompt, list) else prompt["input_ids"]

    def write(rows: int) -> list[int]:
        tokens = torch.tensor([ids] * rows)
        with torch.inference_mode():
            found = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                eos_token_id=None,
                **fixed,
            )
        added: list[int] = found[0, len(ids) :].tolist()
        return added

    return write


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        peer = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5]
        answer(partial(transformers_writes, *peer))
    else:
        main()
