"""How hosts find each other: real processes, told who they are by whatever started them."""

import json
import queue
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import jax
import pytest
from jax._src.clusters import SlurmCluster

from lm.config import UserError
from lm.distributed import hosts
from lm.distributed.hosts import VARIABLES, join
from tests.distributed.processes import Environment, Hosts, slurm, told


def ompi(host: int, number: int, port: int) -> Environment:
    """What Open MPI 4's mpirun tells its processes, each on a machine of its own."""
    return {
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
        "OMPI_COMM_WORLD_SIZE": str(number),
        "OMPI_COMM_WORLD_RANK": str(host),
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        "JAX_COORDINATOR_PORT": str(port),
    }


def gke(host: int, number: int, port: int) -> Environment:
    """What GKE tells the pods of slices, here of one host each."""
    return {
        "JAX_FORCE_TPU_INIT": "1",  # stands for a TPU's chips
        "TPU_SKIP_MDS_QUERY": "true",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "MEGASCALE_COORDINATOR_ADDRESS": "127.0.0.1:8080",
        "MEGASCALE_NUM_SLICES": str(number),
        "MEGASCALE_SLICE_ID": str(host),
        "JAX_COORDINATOR_PORT": str(port),
    }


@pytest.fixture
def gce():
    """The hosts of a slice, each with a server on loopback that answers for its metadata."""
    servers = []

    def environment(host: int, number: int, port: int) -> Environment:
        attributes = {
            "agent-worker-number": str(host),
            "worker-network-endpoints": ",".join(["127.0.0.1"] * number),
            "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\n",
        }

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                folder, _, name = self.path.rpartition("/")
                known = folder == "/computeMetadata/v1/instance/attributes"
                self.send_response(200 if known and name in attributes else 404)
                self.end_headers()
                self.wfile.write(attributes.get(name, "").encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return {
            "JAX_FORCE_TPU_INIT": "1",
            "GCE_METADATA_IP": f"127.0.0.1:{server.server_address[1]}",
            "JAX_COORDINATOR_PORT": str(port),
        }

    yield environment
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


KUBERNETES = """
from types import SimpleNamespace as Object
pod = Object(metadata=Object(labels={"job-name": "study"}))
job = Object(spec=Object(parallelism=2))
class CoreV1Api:
    def list_namespaced_pod(self, namespace, field_selector):
        return Object(items=[pod])
class BatchV1Api:
    def read_namespaced_job(self, name, namespace):
        return {("study", "ours"): job}[name, namespace]
client = Object(CoreV1Api=CoreV1Api, BatchV1Api=BatchV1Api)
client.exceptions = Object(ApiException=type("ApiException", (Exception,), {}))
config = Object(load_incluster_config=lambda: None)
"""
"""Stands for the client package of Kubernetes, and for a cluster with a job of two pods."""


@pytest.fixture
def pods(tmp_path):
    """The pods of an indexed job; their address is given, as their names are on no network."""
    (tmp_path / "kubernetes.py").write_text(KUBERNETES)

    def environment(host: int, number: int, port: int) -> Environment:
        return {
            "PYTHONPATH": str(tmp_path),
            "HOSTNAME": "localhost",
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "JOB_COMPLETION_INDEX": str(host),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        }

    return environment


MPI4PY = """
import os, pathlib, time
from types import SimpleNamespace as Object
rank, said = int(os.environ["RANK"]), pathlib.Path(__file__).with_name("said")
class World:
    Get_rank, Get_size = (lambda self: rank), (lambda self: 2)
    def bcast(self, value, root):
        if rank == root:
            said.with_suffix(".tmp").write_text("localhost:" + value.partition(":")[2])
            said.with_suffix(".tmp").rename(said)
        while not said.exists():
            time.sleep(0.01)
        return said.read_text()
    Split_type = lambda self, kind: self
MPI = Object(COMM_WORLD=World(), COMM_TYPE_SHARED=0)
"""
"""Stands for mpi4py and two processes of one machine, whose own name may not be known."""


@pytest.fixture
def mpi4py(tmp_path):
    """Processes of an MPI that jax does not know, which are to ask mpi4py."""
    (tmp_path / "mpi4py.py").write_text(MPI4PY)

    def environment(host: int, number: int, port: int) -> Environment:
        return {
            "PYTHONPATH": str(tmp_path),
            "RANK": str(host),
            "PMI_SIZE": "2",
            "LM_CLUSTER": "mpi4py",
            "JAX_COORDINATOR_PORT": str(port),
        }

    return environment


JOIN = """
import os, sys
import jax
from jax._src.clusters import K8sCluster
if "GCE_METADATA_IP" in os.environ:  # jax sets this where it sees no TPU's chip
    del os.environ["TPU_SKIP_MDS_QUERY"]
K8sCluster._namespace = classmethod(lambda cls: "ours")  # a file of pods
from lm.distributed import hosts
with hosts.leaving():
    hosts.join()
    gpus = jax.config._read("jax_cuda_visible_devices")
    print(hosts.described(), jax.process_index(), "GPUs:", gpus, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        (slurm, "0 1"),
        (ompi, "all all"),
        (gke, "all all"),
        ("gce", "all all"),
        ("pods", "all all"),
        ("mpi4py", "0 1"),
    ],
)
def test_m1_hosts_join_by_whatever_started_them(environment, gpus, tmp_path, request):
    """Fails if processes that jax could tell apart stand alone, or take another's GPUs.

    The only process of a machine takes all of its GPUs.
    """
    if isinstance(environment, str):
        environment = request.getfixturevalue(environment)
    both = Hosts(2, tmp_path, JOIN, environment=environment)
    codes, _ = both.end()
    assert codes == [0, 0], both.said(0) + both.said(1)
    for host, seen in enumerate(gpus.split()):
        last = both.said(host).splitlines()[-1]
        assert last == f"2 hosts, 8 devices (cpu) {host} GPUs: {seen}"


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        # sbatch without srun
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, "with srun"),
        ({"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4"}, "with srun"),
        # Open MPI 5, and MPICH
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "LM_CLUSTER=mpi4py"),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, "LM_CLUSTER=mpi4py"),
        ({"WORLD_SIZE": "8", "RANK": "3"}, "without torchrun"),
        # no library of the TPU, and none of Kubernetes
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, r"pip install .*\[tpu\]"),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
            r"pip install .*\[k8s\]",
        ),
        ({"JAX_COORDINATOR_ADDRESS": "a:7"}, "JAX_NUM_PROCESSES"),
        ({"LM_CLUSTER": "mpi5py"}, "must be one of gcetpu, gketpu, mpi4py, ompi, slurm"),
        ({"LM_CLUSTER": "slurm"}, "nothing of it here"),
        # what started it says it wrongly
        (slurm(0, 2, 7) | {"SLURM_NTASKS": "two"}, "does not find the other hosts: invalid"),
    ],
)
def test_m1_a_process_that_has_siblings_does_not_stand_alone(monkeypatch, environment, way):
    """Fails if it trains alone, as each of its siblings would, in one directory.

    What it says names the way to run alone, and that is one.
    """
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=way) as raised:
        join()
    assert "\n" not in str(raised.value)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "1")
    join()
    assert not hosts.is_multihost() and not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        # one of several tasks, each a run of its own: srun -n 1 -N 1 in an allocation of two
        slurm(0, 1, 7) | {"SLURM_JOB_NUM_NODES": "2"},
        ompi(0, 1, 7),
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"},
    ],
)
def test_m1_the_only_process_stands_alone(monkeypatch, environment):
    """Fails if it is refused, or opens a port that another run of its job may want."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    join()
    assert not hosts.is_multihost() and not jax.distributed.is_initialized()


def test_m1_a_pod_that_is_not_numbered_stands_alone(monkeypatch):
    """Fails if any pod must be one of a job's, and may ask the cluster, to train."""

    def refuse():
        raise PermissionError("no service account")

    client = SimpleNamespace(config=SimpleNamespace(load_incluster_config=refuse))
    monkeypatch.setitem(sys.modules, "kubernetes", client)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    join()
    assert not hosts.is_multihost()
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(UserError, match="no service account; set JAX_COORDINATOR_ADDRESS"):
        join()


@pytest.mark.parametrize(
    ("more", "devices"),
    [
        ({}, [1]),
        ({"SLURM_STEP_NUM_NODES": "2"}, None),  # a task a machine
        # Slurm shows each task its own alone, or does not
        ({"SLURM_GPUS_PER_TASK": "4"}, None),
        ({"SLURM_TRES_PER_TASK": "gres/gpu:4"}, None),
        ({"SLURMD_TRES_BIND": "gpu:per_task:4"}, None),
        ({"SLURMD_TRES_BIND": "gpu:closest"}, [1]),
        ({"JAX_LOCAL_DEVICE_IDS": "2,3"}, None),  # which jax reads
    ],
)
def test_m1_a_process_takes_the_gpus_that_are_its_own(monkeypatch, more, devices):
    """Fails if one of eight GPUs is used where a process has eight, or another's are taken."""
    for name, value in {**slurm(1, 2, 7), **more}.items():
        monkeypatch.setenv(name, value)
    assert hosts._own_devices(SlurmCluster) == devices


def test_m1_devices_of_hosts_that_did_not_join_are_refused(monkeypatch):
    """Fails if a TPU's own runtime knows of more hosts than we do, and each trains as first."""
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(UserError, match="those of 4 hosts, which did not find each other"):
        hosts.described()


SWEEP = "import os, sys\nsys.argv.append('seed=' + os.environ['SLURM_PROCID'])" + JOIN


def test_m1_runs_that_differ_by_host_do_not_become_one(tmp_path):
    """Fails if a sweep under srun, a seed a task, is taken for one run of several hosts."""
    both = Hosts(2, tmp_path, SWEEP, environment=slurm)
    codes, _ = both.end()
    for host in (0, 1):
        assert "other arguments than the first host" in both.said(host)
        assert "each run of its own needs JAX_NUM_PROCESSES=1" in both.said(host)
    assert 0 not in codes


MEET = """
import sys
from lm.distributed import hosts
from lm.distributed.process import one_line_errors
hosts._MEETING = float(sys.argv[1])
with one_line_errors():
    hosts.join()
"""


@pytest.mark.parametrize(("seconds", "end"), [("1.5", "not all hosts came"), ("60", "stopped")])
def test_m1_a_host_whose_others_do_not_come_says_so_and_hears_signals(tmp_path, seconds, end):
    """Fails if jax ends it by a stack trace, or it is deaf to SIGTERM while it waits."""
    alone = Hosts(1, tmp_path, MEET, seconds, environment=lambda _, __, port: told(1, 2, port))
    if end == "stopped":
        deadline = time.monotonic() + 60
        while "waits for the others" not in alone.said(0):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        alone.processes[0].terminate()
    assert alone.end()[0] == [75]
    waits, last = alone.said(0).splitlines()
    assert waits.startswith("lm: host 1 of 2 waits for the others at 127.0.0.1:")
    assert last.startswith("lm: ") and end in last


def test_m1_a_port_that_is_taken_is_one_line(monkeypatch):
    """Fails if jax crashes there, or two runs of one machine share the port and their hosts."""
    with socket.create_server(("", 0)) as taken:
        for name, value in told(0, 2, taken.getsockname()[1]).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=r"already in use.*JAX_COORDINATOR_PORT"):
            join()


def test_hosts_that_connect_are_watched_though_one_does_not(monkeypatch):
    """Fails if they are let go, so that they end too, or a stranger counts as a host."""
    addresses = queue.SimpleQueue()
    monkeypatch.setattr(hosts, "_PATIENCE", 0.5)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(
        hosts,
        "_client",
        lambda: SimpleNamespace(key_value_set=lambda _, where: addresses.put(where)),
    )
    links, ended = {}, []

    def accept():
        with pytest.raises(TimeoutError):
            hosts._accept(links)
        ended.append(True)

    thread = threading.Thread(target=accept)
    thread.start()
    _, port = json.loads(addresses.get(timeout=10))
    socket.create_connection(("127.0.0.1", port)).close()
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall((2).to_bytes(4))
        thread.join(timeout=10)
        assert ended and list(links.values()) == [2]
        link.settimeout(0.2)
        with pytest.raises(TimeoutError):  # neither closed nor told anything
            link.recv(1)
    for accepted in links:
        accepted.close()


@pytest.mark.parametrize("address", ["here", "", "here:", "here:65536"])
def test_an_address_without_a_port_is_one_line(monkeypatch, address):
    """Fails if jax is given it, which ends in an IndexError."""
    for name, value in zip(VARIABLES, (address, "2", "0"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=VARIABLES[0]):
        join()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["127.0.0.1:1", "2", ""], "JAX_PROCESS_ID is not set"),
        (["", "2", "0"], "JAX_COORDINATOR_ADDRESS is not set"),
        (["127.0.0.1:1", "2", "2"], "JAX_PROCESS_ID=2: must be below JAX_NUM_PROCESSES=2"),
        (["127.0.0.1:1", "two", "0"], "must be numbers"),
    ],
)
def test_a_host_that_is_half_told_who_it_is_says_what_is_missing(monkeypatch, given, part):
    """Fails if it waits for others under a wrong number, or trains alone."""
    for name, value in zip(VARIABLES, given, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=part):
        join()
    assert not jax.distributed.is_initialized()
