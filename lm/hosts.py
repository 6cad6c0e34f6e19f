"""Several hosts as one: who they are, what they tell each other, and how they end together.

A host is a process; each runs the same command and holds a part of the devices. What every
host must do alike is decided by one of them and told, because their disks and clocks differ.
When a host is lost the others cannot go on: they say so and end with the exit code for "run the
same command again", instead of waiting for an answer that never comes.
"""

import contextlib
import ctypes
import importlib.util
import itertools
import json
import os
import re
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.config import UserError
from lm.signals import STOPPED

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""How a host is told who it is where jax cannot find out: HOST:PORT of the first, how many
there are, and which of them it is, from 0."""

T = TypeVar("T")


def join() -> None:
    """Makes this process one of several, if it is; must come before a device is used.

    TPU slices, Slurm and Open MPI are recognized by jax; elsewhere `VARIABLES` say it. Without
    any of that the process is alone. Of the others than the first, what they print is dropped.
    """
    if jax.distributed.is_initialized() or not (who := _who()):
        return
    # Signals are ours: `lm.train.fit` saves, and all hosts agree on the step.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**who)
    except ValueError:  # jax recognizes nothing: a TPU's library without a TPU
        if who:
            raise
        return
    if several():
        _watch_each_other()
        _speak_for_all()


def several() -> bool:
    """Whether there are other hosts."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this host is the one that writes what all of them found."""
    return not several() or jax.process_index() == 0


def told(find: Callable[[], T]) -> T:
    """What the first host finds, which must be JSON, on every host; they wait for it.

    Its UserError is raised on every host.
    """
    if not several():
        return find()
    key = _key()
    if first():
        answer: dict[str, Any] = {}
        try:
            answer["value"] = find()
        except UserError as error:
            answer["error"] = str(error)
        _client().key_value_set(key, json.dumps(answer))
    else:
        answer = json.loads(_client().blocking_key_value_get(key, _WEEK))
    if "error" in answer:
        raise UserError(answer["error"])
    found: T = answer["value"]
    return found


def together(do: Callable[[], T]) -> T:
    """Does it on every host; where it is a UserError on one, it is raised on all."""
    if not several():
        return do()
    found: list[T] = []
    mine = ""
    try:
        found.append(do())
    except UserError as error:
        mine = str(error)
    key = _key()
    _client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(mine))
    for host in range(jax.process_count()):
        if text := json.loads(_client().blocking_key_value_get(f"{key}/{host}", _WEEK)):
            raise UserError(mine or f"host {host}: {text}")
    return found[0]


def asks(flags: Sequence[bool], mesh: Mesh) -> jax.Array:
    """What this host asks of all, bool[devices, n]: an input of a step, which tells them.

    A step synchronizes the hosts anyway; agreeing on anything beside it would again.
    """
    mine = np.array([flags])
    return jax.make_array_from_callback(
        (mesh.size, len(flags)), asked_where(mesh), lambda _: mine
    )


def asked_where(mesh: Mesh) -> NamedSharding:
    """How `asks` lies on the devices: a row each."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def lost() -> bool:
    """Whether another host has ended, and this one is about to."""
    return _lost.is_set()


def put(array: np.ndarray, where: jax.sharding.Sharding) -> jax.Array:
    """An array that every host has whole, on the devices of all."""
    return jax.make_array_from_callback(array.shape, where, lambda part: array[part])


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on every host, whoever's devices it is on."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ends all hosts together when the first is done, or this one at once if it fails.

    The others then notice: none of them could go on without it.
    """
    try:
        yield
    except BaseException as error:
        if not several():
            raise
        if isinstance(error, SystemExit):
            _exit(error.code if isinstance(error.code, int) else 1)
        _lost.wait(3)  # a collective fails a moment before it is known why
        if _lost.is_set():
            threading.Event().wait()  # `_end` ends this process
        traceback.print_exc()
        _exit(1)
    if several():
        told(lambda: None)
        _leaving.set()
        jax.distributed.shutdown()


def _who() -> dict[str, Any] | None:
    """How this process joins the others: {} if jax finds out by itself, None if it is alone."""
    given = {name: os.environ.get(name) for name in VARIABLES}
    # jax reads the address itself, so that Slurm's users may set it alone.
    if given["JAX_NUM_PROCESSES"] or given["JAX_PROCESS_ID"]:
        for name, value in given.items():
            if not value:
                raise UserError(f"{name} is not set; several hosts need {', '.join(VARIABLES)}")
        address, *numbers = given.values()
        if not re.fullmatch(r"\S+:\d+", address or ""):
            raise UserError(f"{VARIABLES[0]}={address}: must be HOST:PORT")
        if not all(text and text.isdecimal() for text in numbers):
            raise UserError(f"{VARIABLES[1]} and {VARIABLES[2]} must be numbers: {numbers}")
        hosts, host = (int(text or 0) for text in numbers)
        if host >= hosts:
            raise UserError(f"{VARIABLES[2]}={host}: must be below {VARIABLES[1]}={hosts}")
        if hosts == 1:
            return None
        return {
            "coordinator_address": address,
            "num_processes": hosts,
            "process_id": host,
            "cluster_detection_method": "deactivate",
        }
    tasks = (os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    platforms = os.environ.get("JAX_PLATFORMS") or "tpu"
    on_tpu = "tpu" in platforms and importlib.util.find_spec("libtpu") is not None
    return {} if on_tpu or any(number != "1" for number in tasks) else None


_WEEK = 7 * 24 * 3600 * 1000
"""Milliseconds that one waits for the first host: it may build a store of any corpus."""
_count = itertools.count()


def _key() -> str:
    """The name of the next thing that hosts tell: all of them count alike."""
    return f"lm/{next(_count)}"


def _client() -> Any:
    from jax._src import distributed  # its key-value store has no public name

    return distributed.global_state.client


_lost = threading.Event()
_leaving = threading.Event()
GRACE = 4.0
"""Seconds that a host has to end by itself when another has ended: they may fail alike."""


def _speak_for_all() -> None:
    """The first host's standard output is the program's, and no library's chatter."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w") if first() else open(os.devnull, "w")  # noqa: SIM115
    os.dup2(2, 1)


def _watch_each_other() -> None:
    """Connects each host with the first: a connection ends when a process does, however.

    jax's own heartbeats need minutes, and end in a stack trace; they are what is left where
    hosts cannot connect.
    """
    links: dict[socket.socket, int] = {}
    try:
        _accept(links) if first() else _connect(links)
    except OSError as error:
        print(
            f"lm: not all hosts can connect to watch each other ({error}): if one is lost, the"
            " others may notice after minutes only",
            file=sys.stderr,
        )
    for link in links:
        # A machine that is gone closes nothing: the kernel asks after it.
        link.settimeout(None)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    # jax's runtime aborts the process as soon as it misses the first host. The handler is
    # sleep(the signal's number), 6 seconds, which leaves `_watch` the time to speak.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGABRT, libc.sleep)
    threading.Thread(target=_watch, args=(links,), daemon=True).start()


def _accept(links: dict[socket.socket, int]) -> None:
    """Adds the first host's connections to the others, and which host each is."""
    from jax._src import distributed

    address = (distributed.global_state.coordinator_address or "").rpartition(":")[0]
    with socket.create_server(("", 0), backlog=jax.process_count()) as server:
        server.settimeout(_PATIENCE)
        where = json.dumps([address, server.getsockname()[1]])
        _client().key_value_set("lm/watch", where)
        while len(links) < jax.process_count() - 1:
            link, _ = server.accept()
            link.settimeout(_PATIENCE)
            host = int.from_bytes(link.recv(4, socket.MSG_WAITALL))
            if 0 < host < jax.process_count() and host not in links.values():
                links[link] = host
            else:  # whoever else found the port
                link.close()


def _connect(links: dict[socket.socket, int]) -> None:
    """Adds another host's only connection, to the first."""
    where = json.loads(_client().blocking_key_value_get("lm/watch", _WEEK))
    link = socket.create_connection(tuple(where), timeout=_PATIENCE)
    link.sendall(jax.process_index().to_bytes(4))
    links[link] = 0


_PATIENCE = 60.0


def _watch(links: dict[socket.socket, int]) -> None:
    selector = selectors.DefaultSelector()
    for link in links:
        selector.register(link, selectors.EVENT_READ)
    ((key, _), *_) = selector.select()
    gone = links[key.fileobj]  # type: ignore[index]
    with contextlib.suppress(OSError):
        # The first host says which other is gone; nothing, if it is gone itself.
        said = key.fileobj.recv(4)  # type: ignore[union-attr]
        gone = int.from_bytes(said) if said else gone
    if _leaving.is_set():
        return
    for link in links:
        with contextlib.suppress(OSError):
            link.sendall(gone.to_bytes(4))
    _lost.set()
    time.sleep(GRACE)
    print(
        f"lm: host {gone} of {jax.process_count()} is gone, so this one ends too; the same"
        " command on all hosts goes on from what is saved",
        file=sys.stderr,
        flush=True,
    )
    _exit(STOPPED)


def _exit(code: int) -> NoReturn:
    """Without the goodbyes that wait for the other hosts."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
