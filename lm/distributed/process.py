"""How every command begins and ends: the machine made ready, errors in one line."""

import argparse
import ctypes
import errno
import gc
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from lm.config import UserError
from lm.distributed import signals
from lm.distributed.signals import SAID, STOPPED, Stopped, as_interrupts


def prepare_machine() -> None:
    """Joins the other hosts, keeps memory between steps and compiled programs between runs."""
    import jax  # seconds, for which neither --help nor an error need wait

    from lm.distributed import hosts

    if needless_libtpu():
        jax.config.update("jax_platforms", "cpu")
    hosts.join()
    keep_memory()
    cache = os.environ.get("LM_CACHE") or "~/.cache/yardstick"
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def usable_cores() -> list[int]:
    """The machine's cores that this process may use, all of them where nothing says which."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def forget_programs(most: int = 30_000) -> None:
    """Forgets what jax has compiled once this process has more than so many pieces of memory.

    On a CPU each program takes some, and Linux lets a process map 65,530 (vm.max_map_count):
    the next compilation is then a segmentation fault. What is needed again is read from disk.
    """
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > most:
        sys.modules["jax"].clear_caches()
        gc.collect()


def needless_libtpu(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether jax would load a TPU's library, installed for its compiler, and find no TPU.

    It says so in five lines. A device of Google's, or another accelerator's plugin, is left to
    jax, and so is all that `JAX_PLATFORMS` asks for.
    """
    if os.environ.get("JAX_PLATFORMS") or importlib.util.find_spec("jax_plugins"):
        return False
    google = "0x1ae0"
    return importlib.util.find_spec("libtpu") is not None and all(
        vendor.read_text().strip() != google for vendor in devices.glob("*/vendor")
    )


def keep_memory() -> None:
    """Tells the C library to keep memory that was freed: each step asks for as much again.

    Given back to Linux, it comes again page by page, each cleared first: up to a fifth of a
    step's time on a CPU. Other C libraries and systems are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # the names in malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 256 << 20)
    # Threads would each keep memory of their own, of no more than 64 MiB each.
    mallopt(arena_max, 1)


_USERS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)
"""What a file system may refuse that its user can mend: rights, space, quotas, names."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    more: Callable[[], str] | None = None
    """Says what --help ends with, where that takes long to import."""

    def format_help(self) -> str:
        if self.more is not None:
            self.epilog = self.more()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        _end(f"lm: {' '.join(message.split())}; see {self.prog} --help", 2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for argument in sys.argv[1:] if args is None else args:
            try:
                argument.encode()
            except UnicodeEncodeError:  # bytes that are not UTF-8 arrive as lone surrogates
                self.error(f"{argument!a}: not UTF-8")
            if "\0" in argument:  # no shell passes it on, and no file may have it in its name
                self.error(f"{argument!a}: it holds a zero byte")
        return super().parse_known_args(args, namespace)


def _log_as_lm() -> None:
    """What the package warns of begins with `lm:`; what other libraries do does not."""
    ours = logging.getLogger("lm")
    if not ours.handlers and not logging.root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("lm: %(message)s"))
        ours.addHandler(handler)
        ours.propagate = False


@contextmanager
def one_line_errors(*, jax: bool = True) -> Iterator[None]:
    """What the user can mend is one line and exit code 2; a requested stop is `STOPPED`.

    Whoever uses no jax says so, and does not wait for it.
    """
    if jax:
        # Before interrupts are raised: its C++ lets no exception through, and would abort.
        importlib.import_module("lm.distributed.hosts")
    _log_as_lm()
    with _at_once(), _leaving(), _exit_codes(), as_interrupts():
        yield


def leave(code: int) -> NoReturn:
    """Ends the process with what it has said, and waits for neither hosts nor threads."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@contextmanager
def _at_once() -> Iterator[None]:
    """Who fails ends with its line: a thread of a write that was given up may wait for minutes.

    Where this process is somebody else's, as in a test, that is theirs to do.
    """
    try:
        yield
    except SystemExit as ending:
        if ending.code and signals.listens():
            leave(ending.code if isinstance(ending.code, int) else 1)
        raise


@contextmanager
def _leaving() -> Iterator[None]:
    """`hosts.leaving`; a command that never imported it, and jax, has joined no others."""
    ending: BaseException | None = None
    try:
        yield
    except BaseException as error:
        ending = error
    hosts = sys.modules.get("lm.distributed.hosts")
    with hosts.leaving() if hosts else nullcontext():
        if ending is not None:
            raise ending


@contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        # A path in it may have line ends.
        _end(f"lm: {' '.join(str(error).splitlines())}", 2)
    except Stopped as stopped:
        _end(f"lm: {stopped}; the same command goes on from there", STOPPED)
    except KeyboardInterrupt:
        _end(SAID, STOPPED)
    except BrokenPipeError:  # `lm ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError as error:
        _end(f"lm: more than this machine's memory: {_first_line(error)}", 2)
    except RuntimeError as error:  # jax's own
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = "; lm plan says what a run needs"
        _end(f"lm: more than the devices' memory: {_first_line(error)}{said}", 2)
    except OSError as error:
        if error.errno not in _USERS:
            raise
        _end(f"lm: {error.filename or 'writing'}: {error.strerror}", 2)


def _end(line: str, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or "it is full"
