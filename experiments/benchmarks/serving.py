"""What many clients at once get of a server, and whether each gets its own answer.

    python -m experiments.benchmarks.serving
    python -m experiments.benchmarks.serving --model runs/one --clients 8 --seconds 30

Trains a small model on Python's own library (less than a minute on two cores) unless one is
named, serves it by `lm serve` in a process of its own in float32, and asks each of a number of
different questions alone. Then clients ask them, each one after the other, all at once: first
all of them wait for every answer, then half of them leave in the middle. Prints tokens/s, the
time to the first token and between two (median and 95th percentile), how many answers are
others than alone, and the server's memory before and after. Ends with code 1 where an answer is
lost, or is another one without two tokens between which rounding decides.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np

PROMPTS = (
    *("def main(", "import ", "class Error(Exception):\n", "for each in ", "# The", '"""A'),
    *("    return self.", "if __name__ ==", "raise ValueError(", "try:\n", "with open("),
)
TIE = 1e-4
"""Nats between a token and another, below which rounding may take either."""


class Question(NamedTuple):
    """What is asked, but for how its answer comes."""

    fields: dict[str, Any]


class Reply(NamedTuple):
    """An answer as a client has it."""

    text: str
    tokens: int


@dataclass
class Measured:
    """What clients found, all of them together."""

    seconds: float = 0.0
    answers: int = 0
    left: int = 0
    """Answers whose client left before their end."""
    lost: int = 0
    """Answers that never came whole."""
    others: list[Question] = field(default_factory=list)
    """Questions that were answered otherwise than alone."""
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    """Seconds from each question to its first token."""
    between: list[float] = field(default_factory=list)
    """Seconds between two parts of an answer."""

    def __str__(self) -> str:
        times = ", ".join(
            f"{name} {1000 * np.median(of):.0f} ms (95th {1000 * np.quantile(of, 0.95):.0f})"
            for name, of in (("first token", self.first), ("between", self.between))
            if of
        )
        return (
            f"{self.answers} answers, {self.left} left in the middle, {self.lost} lost,"
            f" {len(self.others)} others than alone; {self.tokens / self.seconds:.0f} tokens/s;"
            f" {times}"
        )


def questions(count: int, tokens: int, seed: int = 0) -> list[Question]:
    """Different questions: greedy ones and drawn ones, with and without what tokens are
    likely, of other lengths, some with a stop string.
    """
    random_ = random.Random(seed)
    return [
        Question(
            {
                "prompt": (random_.choice(PROMPTS) * random_.randint(1, 3))[:tokens],
                "max_tokens": random_.randint(tokens // 4, tokens),
                "temperature": random_.choice([0.0, 0.8]),
                "seed": number,
                "stop": random_.choice([None, None, ["\n\n"]]),
                "logprobs": random_.choice([None, None, None, 1]),
            }
        )
        for number in range(count)
    ]


async def alone(url: str, asked: Sequence[Question]) -> list[Reply]:
    """The answer to each question when nobody else asks."""
    async with aiohttp.ClientSession() as session:
        return [await _whole(session, url, question.fields) for question in asked]


async def load(
    url: str,
    asked: Sequence[Question],
    expected: Sequence[Reply],
    *,
    clients: int,
    seconds: float,
    leaving: float = 0.0,
) -> Measured:
    """What so many clients find in a time, of which a fraction leaves in the middle."""
    found, begun = Measured(), time.monotonic()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client(number: int) -> None:
            random_ = random.Random(number)
            leaves = number < leaving * clients
            while time.monotonic() < begun + seconds:
                place = random_.randrange(len(asked))
                most = random_.randint(1, 8) if leaves else None
                reply = await _streamed(session, url, asked[place], found, most)
                if most is not None:
                    found.left += 1
                elif reply is None:
                    found.lost += 1
                else:
                    found.answers += 1
                    if reply != expected[place]:
                        found.others.append(asked[place])

        await asyncio.gather(*map(client, range(clients)))
    found.seconds = time.monotonic() - begun
    return found


async def _streamed(
    session: aiohttp.ClientSession,
    url: str,
    question: Question,
    found: Measured,
    most: int | None,
) -> Reply | None:
    """An answer part by part; None: no whole one came, or `most` parts were enough."""
    body = {**question.fields, "stream": True, "stream_options": {"include_usage": True}}
    text, tokens, reason, parts = "", 0, None, 0
    last = time.monotonic()
    try:
        async with session.post(f"{url}/v1/completions", json=body) as answer:
            async for part in _events(answer):
                now = time.monotonic()
                if "error" in part:
                    return None
                if usage := part.get("usage"):
                    tokens = usage["completion_tokens"]
                for choice in part["choices"]:
                    text, reason = text + choice["text"], choice["finish_reason"]
                    (found.between if parts else found.first).append(now - last)
                    parts, last = parts + 1, now
                if most is not None and parts >= most:
                    return None
    except aiohttp.ClientError:
        return None
    found.tokens += tokens
    return None if reason is None else Reply(text, tokens)


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The objects of server-sent events, of which each is one line here."""
    if answer.status != 200:
        yield await answer.json()
        return
    async for line in answer.content:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


async def _whole(session: aiohttp.ClientSession, url: str, fields: dict[str, Any]) -> Reply:
    async with session.post(f"{url}/v1/completions", json=fields) as answer:
        answer.raise_for_status()
        found = await answer.json()
    return Reply(found["choices"][0]["text"], found["usage"]["completion_tokens"])


async def memory(url: str) -> float:
    """Bytes that the server's process has in memory."""
    return (await metrics(url))["process_resident_memory_bytes"]


async def metrics(url: str) -> dict[str, float]:
    """The numbers that the server has for Prometheus."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


async def undecided(url: str, question: Question) -> bool:
    """Whether somewhere in a greedy answer two tokens are so near that rounding decides."""
    if question.fields["temperature"] > 0:
        return False
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/completions", json=question.fields | {"logprobs": 2}) as answer,
    ):
        tops = (await answer.json())["choices"][0]["logprobs"]["top_logprobs"]
    return any(abs(np.subtract(*sorted(top.values())[-2:])) < TIE for top in tops)


async def measure(url: str, given: argparse.Namespace) -> bool:
    """Prints a line a part; whether every answer was as it should be."""
    asked = questions(given.questions, given.tokens)
    begun = time.monotonic()
    expected = await alone(url, asked)
    tokens = sum(reply.tokens for reply in expected)
    rate = tokens / (time.monotonic() - begun)
    before = await memory(url)
    print(f"alone: {len(asked)} answers; {rate:.0f} tokens/s; {before / 1e6:.0f} MB")
    fine = True
    for name, leaving in (("all stay", 0.0), ("half leave", 0.5)):
        found = await load(
            url,
            asked,
            expected,
            clients=given.clients,
            seconds=given.seconds / 2,
            leaving=leaving,
        )
        await idle(url)
        near = [await undecided(url, question) for question in found.others]
        fine &= all(near) and not found.lost
        ties = f", of which {sum(near)} near ties" if near else ""
        now = await memory(url)
        print(f"{given.clients} clients, {name}: {found}{ties}; {now / 1e6:.0f} MB", flush=True)
    return fine


async def idle(url: str, seconds: float = 10.0) -> None:
    """Waits until no text is written any more; raises TimeoutError where that never is."""
    async with asyncio.timeout(seconds):
        while True:
            found = await metrics(url)
            if not found["lm_running_texts"] + found["lm_waiting_texts"]:
                return
            await asyncio.sleep(0.05)


def train_small(folder: Path) -> Path:
    """A causal model of half a million parameters, trained for 150 steps."""
    from lm.data import Bytes, Data
    from lm.data.sources import Stdlib
    from lm.model import Transformer
    from lm.objectives import Causal
    from lm.optimizer import Adamw
    from lm.run import Run
    from lm.train.train import train_run

    run = Run(
        data=Data(corpus=Stdlib(), tokenizer=Bytes(), length=160, batch=8),
        model=Transformer(depth=2, width=128, heads=4),
        objective=Causal(),
        optimizer=Adamw(learning_rate=3e-3),
        tokens=150 * 8 * 160,
        precision="float32",
        evaluations=1,
    )
    train_run(run, folder / "small")
    return folder / "small"


@contextmanager
def serving(model: Path, slots: int) -> Iterator[str]:
    """The address of a server of a model, in a process of its own."""
    command = [sys.executable, "-m", "lm", "serve", str(model), "--port", "0"]
    command += ["--slots", str(slots), "--precision", "float32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+:\d+", process.stdout.readline())
        if found is None:
            sys.exit(process.wait())
        yield found[0]
    finally:
        process.terminate()
        process.wait()


def main(arguments: list[str] | None = None) -> None:
    """Prints a line a part of the load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="another than a small one, trained here")
    parser.add_argument("--clients", type=int, default=50, help="that ask at once (50)")
    parser.add_argument("--seconds", type=float, default=120, help="both parts together (120)")
    parser.add_argument("--questions", type=int, default=64, help="different ones (64)")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer, at most (64)")
    parser.add_argument("--slots", type=int, default=16, help="of the server (16)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or train_small(Path(folder))
        with serving(model, given.slots) as url:
            if not asyncio.run(measure(url, given)):
                sys.exit(1)


if __name__ == "__main__":
    main()
