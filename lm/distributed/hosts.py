"""Several hosts as one: who they are, what they tell each other, and how they end together.

A host is a process; each runs the same command and holds a part of the devices. What every
host must do alike is decided by one of them and told, because their disks and clocks differ.
When a host is lost the others cannot go on: they say so and end with the exit code for "run the
same command again", instead of waiting for an answer that never comes.
"""

import contextlib
import ctypes
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
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.config import UserError
from lm.config.convert import T
from lm.distributed.process import leave
from lm.distributed.signals import STOPPED

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""How a host is told who it is where jax cannot find out: HOST:PORT of the first, how many
there are, and which of them it is, from 0."""

CLUSTER = "LM_CLUSTER"
"""Names the one of jax's ways to find the other hosts that is asked, such as mpi4py, which jax
asks in no other case; without it the first that recognizes its variables is."""

ALONE = "JAX_NUM_PROCESSES=1"
"""What a process is told that stands alone whatever else its environment says."""


def join() -> None:
    """Makes this process one of several, if it is; must come before a device is used.

    `VARIABLES` say who they are, or what started them does, where jax recognizes it: Slurm,
    Open MPI, TPU slices by metadata or by GKE's variables, Kubernetes. Of the others than the
    first, what they print is dropped. Raises UserError where the environment tells of others
    and not who they are, and where the others were started by another command.
    """
    global _joined
    if _joined or (who := _who()) is None:
        return
    # Signals are ours: `lm.train.train` saves, and all hosts agree on the step.
    jax.config.update("jax_enable_preemption_service", False)
    _meet(who)
    _joined = True
    _watch_each_other()
    _speak_for_all()
    _same_command()


def is_multihost() -> bool:
    """Whether there are other hosts."""
    return _joined


def described() -> str:
    """How many hosts and devices there are: `2 hosts, 8 devices (TPU v5 lite)`.

    Raises UserError where the devices are those of several hosts that have not joined.
    """
    number, devices = jax.process_count(), jax.devices()
    if number > 1 and not is_multihost():
        raise UserError(
            f"the devices are those of {number} hosts, which did not find each other; set"
            f" {', '.join(VARIABLES)} on each"
        )
    hosts = "1 host" if number == 1 else f"{number} hosts"
    many = "1 device" if len(devices) == 1 else f"{len(devices)} devices"
    return f"{hosts}, {many} ({devices[0].device_kind})"


def is_first() -> bool:
    """Whether this host is the one that writes what all of them found."""
    return not is_multihost() or jax.process_index() == 0


def broadcast_from_first(find: Callable[[], T]) -> T:
    """What the first host finds, which must be JSON, on every host; they wait for it.

    Its UserError is raised on every host.
    """
    if not is_multihost():
        return find()
    key = _key()
    if is_first():
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


def barrier(do: Callable[[], T]) -> T:
    """Does it on every host; where it is a UserError on one, it is raised on all."""
    if not is_multihost():
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


def everywhere(is_so: Callable[[], bool]) -> bool:
    """Whether it is so on every host, as their disks differ."""
    if not is_multihost():
        return is_so()
    key = _key()
    _client().key_value_set(f"{key}/{jax.process_index()}", json.dumps(is_so()))
    told = [
        json.loads(_client().blocking_key_value_get(f"{key}/{host}", _WEEK))
        for host in range(jax.process_count())
    ]
    return all(told)


def place_flags(flags: Sequence[bool], mesh: Mesh) -> jax.Array:
    """The flags of this host, bool[devices, n]: an input of a step, which tells all hosts.

    A step synchronizes the hosts anyway; agreeing on anything beside it would again.
    """
    mine = np.array([flags])
    return jax.make_array_from_callback(
        (mesh.size, len(flags)), flags_sharding(mesh), lambda _: mine
    )


def flags_sharding(mesh: Mesh) -> NamedSharding:
    """How `flags` lie on the devices: a row each."""
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
        if not is_multihost():
            raise
        if isinstance(error, SystemExit):
            leave(error.code if isinstance(error.code, int) else 1)
        _lost.wait(3)  # a collective fails a moment before it is known why
        if _lost.is_set():
            threading.Event().wait()  # `_end` ends this process
        traceback.print_exc()
        leave(1)
    if is_multihost():
        broadcast_from_first(lambda: None)
        _leaving.set()
        jax.distributed.shutdown()


def _who() -> dict[str, Any] | None:
    """How this process joins the others, as jax takes it; None if it is alone."""
    address, number, host = (os.environ.get(name) for name in VARIABLES)
    if number == "1" and host in (None, "", "0"):
        return None
    if number or host:
        return _told_who()
    try:
        return _found_by_jax(address)
    except UserError:
        raise
    except Exception as error:  # of whatever jax asks: variables, servers, libraries
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"jax does not find the other hosts: {what}; set {', '.join(VARIABLES)}, or {ALONE}"
            " for a run of this process alone"
        ) from None


def _found_by_jax(address: str | None) -> dict[str, Any] | None:
    """How this process joins the others as jax sees it; the address may be given."""
    cluster = _recognized()
    if cluster is None:
        _refuse_to_stand_alone()
        return None
    hosts = cluster.get_process_count()
    if hosts == 1:
        return None
    port = os.environ.get("JAX_COORDINATOR_PORT")
    return {
        "coordinator_address": address or cluster.get_coordinator_address(_MEETING, port),
        "num_processes": hosts,
        "process_id": cluster.get_process_id(),
        "local_device_ids": _own_devices(cluster),
    }


def _told_who() -> dict[str, Any]:
    """What `VARIABLES` say, checked."""
    given = {name: os.environ.get(name) for name in VARIABLES}
    for name, value in given.items():
        if not value:
            raise UserError(f"{name} is not set; several hosts need {', '.join(VARIABLES)}")
    address, *numbers = given.values()
    port = re.fullmatch(r"\S+:(\d{1,5})", address or "")
    if not port or int(port[1]) > 65535:
        raise UserError(f"{VARIABLES[0]}={address}: must be HOST:PORT")
    if not all(text and text.isdecimal() for text in numbers):
        raise UserError(f"{VARIABLES[1]} and {VARIABLES[2]} must be numbers: {numbers}")
    hosts, host = (int(text or 0) for text in numbers)
    if host >= hosts:
        raise UserError(f"{VARIABLES[2]}={host}: must be below {VARIABLES[1]}={hosts}")
    return {"coordinator_address": address, "num_processes": hosts, "process_id": host}


def _recognized() -> Any:
    """What started this process, of all that jax recognizes; None if it knows none of it."""
    from jax._src.clusters import ClusterEnv  # the list has no public name

    kinds = ClusterEnv._cluster_types
    if wanted := os.environ.get(CLUSTER):
        named = {kind.name: kind for kind in kinds if kind.name not in ("", "tpu")}
        if wanted not in named:
            raise UserError(f"{CLUSTER}={wanted}: must be one of {', '.join(sorted(named))}")
        if not named[wanted].is_env_present():
            raise UserError(f"{CLUSTER}={wanted}: there is nothing of it here")
        return named[wanted]
    for kind in kinds:
        if kind.opt_in_only_method:
            continue
        # A pod may be anything; one of several is numbered. jax asks the cluster itself.
        if kind.__name__ == "K8sCluster" and not os.environ.keys() >= _NUMBERED_POD:
            continue
        with warnings.catch_warnings(action="ignore"):  # that its client is not installed
            if kind.is_env_present():
                return kind
    return None


_NUMBERED_POD = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"}

_NUMBERS = {
    "SLURM_NTASKS": "start it with srun",
    "SLURM_JOB_NUM_NODES": "start it with srun",
    "OMPI_COMM_WORLD_SIZE": f"install mpi4py and set {CLUSTER}=mpi4py",
    "PMI_SIZE": f"install mpi4py and set {CLUSTER}=mpi4py",
    "WORLD_SIZE": "start it without torchrun",
}
"""How many processes were started, by those that start them; what helps if jax does not know
these."""


def _refuse_to_stand_alone() -> None:
    """Raises UserError where the environment tells of other processes, which jax cannot find.

    Each would train alone, as the first, in one directory.
    """
    found = {
        f"{name}={value}": way
        for name, way in _NUMBERS.items()
        if (value := os.environ.get(name, "")).isdecimal() and int(value) > 1
    }
    if "," in (names := os.environ.get("TPU_WORKER_HOSTNAMES", "")):
        found[f"TPU_WORKER_HOSTNAMES={names}"] = 'pip install -e ".[tpu]"'
    if os.environ.keys() >= _NUMBERED_POD:
        found["JOB_COMPLETION_INDEX is set"] = 'pip install "jax[k8s]"'
    if address := os.environ.get(VARIABLES[0]):
        found[f"{VARIABLES[0]}={address}"] = "start it with srun or mpirun"
    for said, way in found.items():
        raise UserError(
            f"{said}: this process is one of several, but jax does not find the others;"
            f" {way}, or set {', '.join(VARIABLES)}, or {ALONE} for a run of this process alone"
        )


def _own_devices(cluster: Any) -> list[int] | None:
    """Which of the GPUs that this process sees it takes; None: `JAX_LOCAL_DEVICE_IDS`, or all.

    jax gives each process the one of its number on its machine. That is right where the
    processes of a machine see all of its GPUs: not where Slurm has dealt them out, nor where
    the process is the only one of its machine, and seven of eight would idle.
    """
    get = os.environ.get
    only = get("OMPI_COMM_WORLD_LOCAL_SIZE", get("MPI_LOCALNRANKS")) == "1" or (
        "SLURM_NTASKS" in os.environ and get("SLURM_NTASKS") == get("SLURM_STEP_NUM_NODES")
    )
    # By --gpus-per-task or --gpu-bind; the names are those of Slurm 22 to 24.
    bound = get("SLURM_GPUS_PER_TASK") or "gpu" in get("SLURM_TRES_PER_TASK", "")
    dealt = bound or re.search("per_task|single|map|mask", get("SLURMD_TRES_BIND", ""))
    number = cluster.get_local_process_id()
    if number is None or only or dealt or get("JAX_LOCAL_DEVICE_IDS"):
        return None
    return [number]


_MEETING = 300.0
"""Seconds that hosts wait for each other at the start."""


def _meet(who: dict[str, Any]) -> None:
    """Connects with the other hosts; ends the process if they do not come.

    jax would end it with a stack trace, and not hear of signals before that: so it waits in
    another thread.
    """
    if who["process_id"] == 0:
        _check_free(who["coordinator_address"])
    failed: list[Exception] = []

    def connect() -> None:
        try:
            jax.distributed.initialize(
                **who,
                cluster_detection_method="deactivate",
                initialization_timeout=round(2 * _MEETING),
            )
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=connect, daemon=True)
    waiting.start()
    here = f"lm: host {who['process_id']} of {who['num_processes']}"
    waiting.join(_MEETING / 15)
    if waiting.is_alive():
        print(f"{here} waits for the others at {who['coordinator_address']}", file=sys.stderr)
        waiting.join(_MEETING)
    if waiting.is_alive():
        print(
            f"{here}: not all hosts came; the same command must run on each, and {ALONE} runs"
            " it on one alone",
            file=sys.stderr,
        )
        leave(STOPPED)
    for error in failed:
        raise UserError(f"{who['coordinator_address']}: {' '.join(str(error).split())}")


def _check_free(address: str) -> None:
    """Raises UserError where another program has the port at which the hosts are to meet.

    jax would crash, or, if that is another run's first host, share the port with it.
    """
    try:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise UserError(
            f"{address}: {os.strerror(error.errno or 0)}, and the hosts are to meet there; set"
            f" another port by {VARIABLES[0]}, or by JAX_COORDINATOR_PORT where jax finds them"
        ) from None


def _same_command() -> None:
    """Raises UserError on all hosts if one was started with other arguments than the first.

    Runs that differ by host, as in a sweep, must not become one.
    """
    arguments: list[str] = broadcast_from_first(lambda: sys.argv[1:])

    def check() -> None:
        if sys.argv[1:] != arguments:
            raise UserError(
                "started with other arguments than the first host; hosts of one run need the"
                f" same, and each run of its own needs {ALONE}"
            )

    barrier(check)


_joined = False
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
    sys.stdout = os.fdopen(os.dup(1), "w") if is_first() else open(os.devnull, "w")  # noqa: SIM115
    os.dup2(2, 1)


def _watch_each_other() -> None:
    """Connects each host with the first: a connection ends when a process does, however.

    jax's own heartbeats need minutes, and end in a stack trace; they are what is left where
    hosts cannot connect.
    """
    links: dict[socket.socket, int] = {}
    try:
        _accept(links) if is_first() else _connect(links)
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
    leave(STOPPED)
