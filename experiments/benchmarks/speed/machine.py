"""The machine at hand, and processes of their own on it: no two hold its accelerator."""

import importlib.metadata
import multiprocessing
import os
import platform
import re
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks.speed.plan import Result
from lm.distributed.process import prepare_machine
from lm.train.directory import commit


class Failed(Exception):
    """What a process of ours was asked for could not be had, in one line."""


def complain(line: str) -> None:
    """Says what is missing from the results, and why."""
    print(f"lm: {line}", file=sys.stderr, flush=True)


class Child:
    """An object in a process of its own, whose methods can be called.

    Nothing else here touches the accelerator: a process that does may keep it to itself.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *arguments: Any,
        keep_memory: bool = True,
        cache: Path | None = None,
        limit: float = 900,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._limit = limit
        self._process = context.Process(
            target=_serve, args=(theirs, keep_memory, make, arguments), daemon=False
        )
        with environment(cache):
            self._process.start()
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """What the method returns; raises Failed if it raises, dies or takes too long."""
        self._pipe.send((method, arguments))
        return self._receive()

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(10)
        self._process.kill()
        self._process.join()

    def _receive(self) -> Any:
        if not self._pipe.poll(self._limit):
            raise Failed(f"no answer in {self._limit:.0f} s")
        try:
            well, prediction = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise Failed(f"its process ended with code {self._process.exitcode}") from None
        if not well:
            raise Failed(prediction)
        return prediction

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._process.kill()  # who is asked to end has no time to wait for it
        self.close()


def alone(function: Callable[..., Any], *arguments: Any, cache: Path | None = None) -> Any:
    """What a function returns in a fresh process."""
    with Child(partial, function, *arguments, cache=cache) as child:
        return child.ask("__call__")


def _serve(pipe: Any, keep_memory: bool, make: Callable[..., Any], arguments: Any) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    try:
        if keep_memory:
            prepare_machine()
        made = make(*arguments)
        pipe.send((True, None))
        while True:
            method, arguments = pipe.recv()
            pipe.send((True, getattr(made, method)(*arguments)))
    except EOFError:
        pass
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")
        pipe.send((False, f"{type(error).__name__}: {line}"))


@contextmanager
def environment(cache: Path | None) -> Iterator[None]:
    """What a child inherits: several may share a GPU, and compiled programs go to `cache`."""
    before = dict(os.environ)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if cache is not None:
        os.environ["LM_CACHE"] = str(cache)
        for name in [name for name in os.environ if re.match("JAX_.*_CACHE_", name)]:
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def device_memory() -> int:
    """Most bytes that were in use on the device; on a CPU, those of the process."""
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] if stats else resident("VmHWM")


def resident(field: str) -> int:
    """Bytes of this process in memory: now (VmRSS), or at most so far (VmHWM).

    Linux hands `ru_maxrss` down to child processes, so it is only asked elsewhere.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    found = re.search(rf"{field}:\s*(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def describe() -> Result:
    """The machine, as far as it decides speed."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def slug(machine: Result) -> str:
    """A machine as the name of its file.

    >>> slug({"platform": "cpu", "cpu": "AMD EPYC", "cores": 2})
    'cpu-amd-epyc-2-cores'
    """
    text = machine["device"] if machine["platform"] != "cpu" else ""
    text = text or f"cpu {machine['cpu']} {machine['cores']} cores"
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def made() -> dict[str, Any]:
    """What a section was measured with."""
    packages = ("jax", "jaxlib", "flax", "optax")
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in packages},
    }


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
