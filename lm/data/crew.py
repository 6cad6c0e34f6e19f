"""Processes that tokenize together, each on a core of its own.

Each reads the tokenizer from a folder; batches of documents come in by a pipe, what becomes of
them goes back by another, and it ends where the pipe does, whatever becomes of the process that
started it. A script needs no guard against being imported, as it does where `multiprocessing`
starts a process.
"""

import copyreg
import itertools
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

from lm.config import UserError
from lm.data.encoding import Encoded, encode
from lm.data.sources import Channel, Document
from lm.data.tokenizers import (
    THREADS,
    Tokenizer,
    TokenizerConfig,
    load_tokenizer,
    save_tokenizer,
    usable_threads,
)


def _values(of: dict[str, float]) -> MappingProxyType[str, float]:
    return MappingProxyType(of)


# Those of a `Stretch` are of a type that pickle does not know.
copyreg.pickle(MappingProxyType, lambda values: (_values, (dict(values),)))

ALONE = 16
"""Batches that this process encodes before others are started: they take seconds to start."""


class Crew:
    """Encodes documents, in order: by itself, and with others if there are many."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        channels: Sequence[Channel],
        validation: float,
        config: TokenizerConfig | None,
    ) -> None:
        """Without the tokenizer's `config` no other process can open it."""
        self._asked = tokenizer, tuple(channels), validation
        self._config = config
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *ending: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.communicate()

    def encode(
        self, batches: Iterator[list[Document]]
    ) -> Iterator[tuple[list[Document], list[Encoded]]]:
        """Each batch of documents, and what becomes of them."""
        number = usable_threads()
        alone = self._config is None or number == 1
        for batch in itertools.islice(batches, None if alone else ALONE):
            yield batch, encode(batch, *self._asked)
        if (first := next(batches, None)) is None:
            return
        self._start(number)
        with ThreadPoolExecutor(number) as pool:
            waiting: deque[tuple[list[Document], Future[list[Encoded]]]] = deque()
            for batch in itertools.chain([first], batches):
                waiting.append((batch, pool.submit(self._ask, batch)))
                if len(waiting) > 2 * number:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()

    def _start(self, number: int) -> None:
        assert self._config is not None
        tokenizer, *rest = self._asked
        path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), THREADS: "1"}
        with tempfile.TemporaryDirectory() as folder:
            save_tokenizer(tokenizer, self._config, Path(folder))
            self._processes += [
                subprocess.Popen(
                    [sys.executable, "-c", _WORK, folder],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                for _ in range(number)
            ]
            for process in self._processes:
                _exchange(process, rest)  # it has read the tokenizer
                self._idle.put(process)

    def _ask(self, batch: list[Document]) -> list[Encoded]:
        process = self._idle.get()
        try:
            return _exchange(process, batch)
        finally:
            self._idle.put(process)


def _exchange(process: "subprocess.Popen[bytes]", said: object) -> Any:
    """What a process answers; what it refuses is raised."""
    assert process.stdin and process.stdout
    try:
        pickle.dump(said, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        found = pickle.load(process.stdout)
    except (OSError, EOFError):
        raise UserError(
            "a process that tokenizes was ended from outside, perhaps for want of memory; run"
            f" again, with {THREADS}=1 by one process alone"
        ) from None
    if isinstance(found, UserError):
        raise found
    return found


_WORK = f"import sys; from {__name__} import work; work(sys.argv[1])"


def work(folder: str) -> None:
    """Encodes what comes in on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that asks ends this
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anybody prints
    said: Any = None
    try:
        tokenizer = load_tokenizer(Path(folder))
    except UserError as error:
        said = error
    asked = batch = _read()
    while batch is not None:
        pickle.dump(said, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()
        if (batch := _read()) is not None:
            try:
                said = encode(batch, tokenizer, *asked)
            except UserError as error:
                said = error


def _read() -> Any:
    try:
        return pickle.load(sys.stdin.buffer)
    except EOFError:
        return None
