"""How many tokens a second does SmolLM2 write on CPUs, beside transformers on the same cores?

    YARDSTICK_ASSETS=... python -m experiments.benchmarks.generation [--other PYTHON]

Both write the likeliest tokens after one prompt of a conversation, 1 and 8 rows at once, in
float32 and in bfloat16, on the first two cores alone: this package by its engine, transformers
by `generate` with its cache, eager. `--other` is a Python that has torch and transformers, if
this one has not; it stays in a process of its own, which waits while the other works. They take
turns after a first round of each, which compiles, loads and is stated apart. Reading the prompt
counts. Prints the median of the rounds with the lowest and the highest, how much faster this
package is, which part of what the memory gives its parameters are read at, and whether both
wrote the same. The machine must be quiet.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
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
    given = parser.parse_args(arguments)
    take_cores()
    folder = Path(os.environ["YARDSTICK_ASSETS"]) / MODEL
    memory = bytes_a_second()
    print(
        f"{given.tokens} tokens, {CORES} cores, load {os.getloadavg()[0]:.1f}, memory gives"
        f" {memory / 1e9:.1f} GB/s"
    )
    for precision in given.precision:
        mine, size = ours(folder, precision, given.tokens)
        peer = str(folder), precision, str(given.tokens)
        with another_process(given.other, NAME, *peer) as theirs:
            for rows in given.rows:
                compare({"yardstick": mine, "transformers": theirs}, rows, given, memory / size)


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
    mine, theirs = (statistics.median(of) for of in seconds.values())
    same = written["yardstick"] == written["transformers"]
    print(
        f"{rows} rows  yardstick is {theirs / mine:.2f} times as fast, at"
        f" {given.tokens / mine / most:.0%} of what the memory gives; both wrote"
        f" {'the same' if same else 'something else'}",
        flush=True,
    )


def bytes_a_second() -> float:
    """What all cores copy together in memory, read and written, at best of a few times."""
    import numpy as np

    pairs = [(np.ones(1 << 25), np.empty(1 << 25)) for _ in range(CORES)]
    seconds = []
    for _ in range(5):
        threads = [threading.Thread(target=np.copyto, args=(b, a)) for a, b in pairs]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds.append(time.perf_counter() - start)
    return 2 * CORES * pairs[0][0].nbytes / min(seconds)


def ours(folder: Path, precision: Any, count: int) -> tuple[Write, int]:
    """This package, and how many bytes of parameters each token takes."""
    import jax

    from lm.distributed.process import prepare_machine
    from lm.generate import Engine, Request, Sampling
    from lm.train.load import load_model

    prepare_machine()
    model = load_model(folder, precision=precision)
    prompt = model.tokenizer.chat([MESSAGE], add_generation_prompt=True).tolist()
    engines: dict[int, Engine] = {}
    leaves = jax.tree.leaves(model.params)
    size = sum(leaf.size for leaf in leaves) * (4 if precision == "float32" else 2)

    def write(rows: int) -> list[int]:
        if rows not in engines:
            engines[rows] = Engine(
                *(model.program.module, model.params),
                vocabulary=model.tokenizer.vocabulary,
                slots=rows,
                length=len(prompt) + count,
                begin="given",
            )
        asked = [
            Request(n, prompt, count, Sampling(temperature=0), ends=()) for n in range(rows)
        ]
        found = [one.token for one in engines[rows].all(asked) if one.number == 0]
        return [token for token in found if token is not None]

    return write, size


def transformers_writes(folder: Path, precision: str, count: int) -> Write:
    """Transformers' own loop."""
    import torch
    import transformers

    torch.set_num_threads(CORES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, precision)
    )
    model.eval()
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
            )
        added: list[int] = found[0, len(ids) :].tolist()
        return added

    return write


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        peer = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
        answer(partial(transformers_writes, *peer))
    else:
        main()
