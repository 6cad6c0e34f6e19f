"""What comes after a text, or what a decoder writes of a source: whole, by an engine."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from lm.example import Vocabulary
from lm.generate.engine import Engine, Request
from lm.generate.sampling import Sampling
from lm.model import Module

SLOTS = 64
"""Rows that go on at once, at most."""


def generate(
    module: Module,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    length: int,
    begin: Literal["bos", "given"] = "bos",
    count: int,
    sampling: Sampling | None = None,
    ends: Sequence[int] | None = None,
) -> list[list[int]]:
    """Up to `count` tokens that a causal model puts after each prompt; fewer if a text ends.

    The model sees a bos token, unless the prompts have what begins a text (`given`), and what
    came before, of which it forgets the older half whenever a row of `length` positions is
    full. A text ends with one of `ends`, or with eos, which is not given back. Prompt n draws
    with the seed of `sampling` + n, so that of several of one text each goes on by itself.
    """
    engine = engine_for(
        *(module, params, prompts),
        vocabulary=vocabulary,
        length=length,
        begin=begin,
        count=count,
    )
    requests = [
        Request(n, prompt, count, of_row(sampling, n), ends) for n, prompt in enumerate(prompts)
    ]
    return _written(engine, requests)


def engine_for(
    module: Module,
    params: Any,
    rows: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    length: int | None,
    begin: Literal["bos", "given"] = "bos",
    count: int,
    sources: bool = False,
) -> Engine:
    """An engine with slots, and positions up to `length`, for prompts and what comes after.

    Of an encoder-decoder the rows are `sources`. All sizes are powers of two, so that few
    programs are compiled.
    """
    before = 1 if begin == "bos" else 0
    longest = max(map(len, rows), default=0)
    needed = _power_of_two(before + count + (0 if sources else longest))
    return Engine(
        module,
        params,
        vocabulary=vocabulary,
        slots=min(SLOTS, _power_of_two(len(rows))),
        length=needed if length is None else min(length, needed),
        begin=begin,
        source=_power_of_two(longest) if sources else 0,
    )


def answer(
    module: Module,
    params: Any,
    sources: Sequence[Sequence[int]],
    *,
    vocabulary: Vocabulary,
    count: int,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Up to `count` tokens that a decoder says of what its encoder reads; fewer if it ends.

    Spans come as training has them: a sentinel, then what it stands for. Seeds are those of
    `generate`.
    """
    engine = engine_for(
        *(module, params, sources),
        vocabulary=vocabulary,
        length=None,
        count=count,
        sources=True,
    )
    requests = [
        Request(n, (), count, of_row(sampling, n), source=source)
        for n, source in enumerate(sources)
    ]
    return _written(engine, requests)


def _written(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """The tokens of each request, without those that end one."""
    found: list[list[int]] = [[] for _ in requests]
    for one in engine.all(requests):
        if one.token is not None and one.reason != "stop":
            found[one.number].append(one.token)
    return found


def of_row(sampling: Sampling | None, number: int) -> Sampling:
    """The sampling of one row of several: its seed is the number further.

    >>> of_row(Sampling(seed=5), 2).seed, of_row(None, 3).seed
    (7, 3)
    """
    sampling = sampling or Sampling()
    return msgspec.structs.replace(sampling, seed=(sampling.seed + number) % 2**31)


def _power_of_two(least: int) -> int:
    return 1 << (max(1, least) - 1).bit_length()
