"""The compiler in a process of its own, asked for what it makes of programs."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import msgspec

from lm.config import UserError
from lm.plan.compile import CompileRequest
from lm.plan.found import HERE, Found, Speed
from lm.plan.machine import Machine

PROGRAM = ("-m", "lm.plan.compile")


@contextmanager
def compiler(machine: Machine) -> Iterator["Compiler"]:
    """Starts `lm.plan.compile`, in a process that lasts as long as the plan of a machine."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # libtpu else asks for a machine that is not there, and refuses a second process.
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        # It says on stderr where it copies whole arrays: XLA from this level on, libtpu, which
        # else writes it to a file, from this; neither about a program that was kept.
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "TPU_STDERR_LOG_LEVEL": "1",
        "TPU_MIN_LOG_LEVEL": "1",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    if machine.name == HERE:
        environment.pop("JAX_NUM_CPU_DEVICES", None)
    else:
        environment["JAX_NUM_CPU_DEVICES"] = str(machine.devices)
        environment.pop("XLA_FLAGS", None)
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            yield Compiler(process, said)
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # what a dead process was still to be told
                process.stdin.close()  # type: ignore[union-attr] # a pipe, as asked for


class Compiler:
    """Asks a process for what it makes of programs; the same one is compiled once."""

    def __init__(self, process: "subprocess.Popen[str]", said: IO[str]) -> None:
        self._process = process
        self._said = said
        self._kept: dict[bytes, Found] = {}

    def find(self, request: CompileRequest) -> Found:
        """What the compiler makes of a request; UserError where it ends without an answer."""
        key = msgspec.json.encode(request)
        if key not in self._kept:
            start = self._said.seek(0, os.SEEK_END)
            found: Found | str = msgspec.json.decode(self._ask(key.decode()), type=Found | str)
            if isinstance(found, str):
                raise UserError(found)
            self._said.seek(start)
            found.rematerialized = "nvoluntary full rematerialization" in self._said.read()
            self._kept[key] = found
        return self._kept[key]

    def speed(self) -> Speed:
        """How fast this machine is."""
        return msgspec.json.decode(self._ask("null"), type=Speed)

    def _ask(self, line: str) -> str:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            prediction = self._process.stdout.readline()
        except BrokenPipeError:
            prediction = ""
        if not prediction:
            self._said.seek(0)
            last = [text for text in self._said.read().splitlines() if text.strip()][-1:]
            raise UserError(f"the compiler ended without an answer: {' '.join(last)[:300]}")
        return prediction
