"""Several hosts, for real: processes on loopback, each with a part of eight devices."""

import json
import os
import queue
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax._src.clusters import SlurmCluster

from experiments import bert_vs_gpt
from lm.config import UserError, dump, override
from lm.data import Batches, Bytes, Data, Text, open_tokens
from lm.data.digest import chain_text
from lm.distributed import hosts, mesh
from lm.distributed.hosts import VARIABLES, join
from lm.evaluate.scoring import Effort
from lm.model import Transformer
from lm.run import Run
from lm.study import runner
from lm.train.checkpoint import Checkpoints, restore
from lm.train.step import Program, prepare
from lm.train.trackers.jsonl import read_metrics
from lm.train.train import train_run

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    random_ = random.Random(0)
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(40):
        text = " ".join(random_.choices(WORDS, k=random_.randint(30, 60)))
        (folder / f"{number}.txt").write_text(text)
    return f"{folder}/*.txt"


Environment = dict[str, str]


def told(host: int, number: int, port: int) -> Environment:
    """What we tell a host where nobody else does."""
    return dict(zip(VARIABLES, (f"127.0.0.1:{port}", str(number), str(host)), strict=True))


def slurm(host: int, number: int, port: int) -> Environment:
    """What srun tells its tasks, all on one machine."""
    return {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(number),
        "SLURM_PROCID": str(host),
        "SLURM_LOCALID": str(host),
        "JAX_COORDINATOR_PORT": str(port),
    }


QUIET = {"TF_CPP_MIN_LOG_LEVEL": "1"}
"""As users have it: none of the libraries' notes on standard error."""


class Hosts:
    """The same Python program on several hosts, each told who it is by `environment`."""

    def __init__(
        self,
        number: int,
        folder: Path,
        program: str,
        *arguments: str,
        environment: Callable[[int, int, int], Environment] = told,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.errors = [folder / f"host{host}.err" for host in range(number)]
        self.processes = []
        for host, errors in enumerate(self.errors):
            who = environment(host, number, port)
            with errors.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-c", program, *arguments],
                    env={**os.environ, **who, **QUIET, "JAX_NUM_CPU_DEVICES": str(8 // number)},
                    cwd=Path(__file__).parents[2],
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                )
            self.processes.append(process)

    def end(self) -> tuple[list[int], list[str]]:
        """The exit codes, and what was printed, when all have ended by themselves."""
        try:
            printed = [process.communicate(timeout=600)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], printed

    def said(self, host: int) -> str:
        return self.errors[host].read_text(errors="replace")


STUDY = """
import sys
from experiments import bert_vs_gpt
from lm.study import runner
from lm.evaluate.scoring import Effort
bert_vs_gpt.EFFORT = {"smoke": Effort(**%r)}
runner.main(bert_vs_gpt, sys.argv[1:])
"""
TOY = {"rows": 8, "samples": 2, "replicates": 2, "curve_rows": 8, "probe_tokens": 500}


def trained_twice(corpus, tmp_path, monkeypatch, number, cell, *overrides):
    """A cell of a study by so many hosts, and by this process on as many devices."""
    arguments = [
        *("--run", cell, "data.corpus.type=text", f'data.corpus.paths=["{corpus}"]'),
        *("data.validation=0.3", "tokens=3000", "optimizer.type=adamw", "evaluations=1"),
        *overrides,
    ]
    program = STUDY % TOY
    together = Hosts(
        number, tmp_path, program, "--runs", str(tmp_path / "a"), *arguments, environment=slurm
    )
    codes, printed = together.end()
    assert codes == [0] * number, together.said(0) + together.said(1)
    assert "report.html" in printed[0]
    assert printed[1:] == [""] * (number - 1)
    first_line, *_ = together.said(0).splitlines()
    assert first_line == f"{cell}: {number} hosts, 8 devices (cpu)"
    monkeypatch.setattr(bert_vs_gpt, "EFFORT", {"smoke": Effort(**TOY)})
    runner.main(bert_vs_gpt, ["--runs", str(tmp_path / "b"), *arguments])
    found = []
    for letter in "ab":
        ((path),) = (tmp_path / letter).glob(f"bert_vs_gpt/*/{cell}")
        records = read_metrics(path)
        found.append((path, records, json.loads((path / "result.json").read_text())))
    return found


def assert_same(a, b):
    """Records and results of two runs agree, the batches in every digit."""
    (path, several, result), (_, alone, expected) = a, b
    assert [r["step"] for r in several] == [r["step"] for r in alone]
    chains = [[r["batches"] for r in records if "batches" in r] for records in (several, alone)]
    assert chains[0] == chains[1] and len(chains[0]) == result["steps"]
    losses = [[r["loss"] for r in records if "loss" in r] for records in (several, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for name in ("validation_loss", "bits_per_byte"):
        assert result[name] == pytest.approx(expected[name], rel=1e-3)
    assert result["batches_digest"] == expected["batches_digest"]
    assert result["predicted_targets"] == expected["predicted_targets"]
    for name, score in expected["scores"].items():
        for kind, value in score.items():
            found = result["scores"][name][kind]
            if isinstance(value, float):
                assert found == pytest.approx(value, rel=1e-3, abs=1e-4), (name, kind)
            else:
                assert found == value, (name, kind)
    environment = json.loads((path / "environment.json").read_text())
    assert environment["devices"].startswith("8 x")


def _cell(kind: str) -> str:
    return next(name for name in bert_vs_gpt.runs("smoke") if name.startswith(kind))


def test_m1_two_tasks_of_slurm_train_and_score_a_study_as_one(corpus, tmp_path, monkeypatch):
    """Fails if each trains alone, or reads other rows than it holds, or decides by itself."""
    assert_same(*trained_twice(corpus, tmp_path, monkeypatch, 2, _cell("causal")))


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


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("shape", [(), ("mesh.replica=2", "mesh.tensor=4", "model.heads=4")])
def test_hosts_of_any_number_and_mesh(corpus, tmp_path, monkeypatch, number, shape):
    """The same for masked models, four hosts, and matrices that are split between hosts."""
    assert_same(*trained_twice(corpus, tmp_path, monkeypatch, number, _cell("any"), *shape))


@pytest.fixture(scope="module")
def endless(corpus) -> Run:
    """A run that does not end by itself while a test lasts."""
    return Run(
        data=Data(
            corpus=Text(paths=(corpus,)), tokenizer=Bytes(), length=16, batch=8, validation=0.2
        ),
        model=Transformer(depth=1, width=16, heads=2),
        tokens=10**8,
        precision="float32",
        evaluations=1,
    )


TRAIN = "from lm.cli import main; main()"


def started(folder: Path, run: Run, directory: Path, *, steps: int) -> Hosts:
    """Two hosts that train the run, when they have recorded so many more steps."""
    settings = folder / "run.json"
    settings.write_text(dump(run))
    begun = len(read_metrics(directory))
    together = Hosts(2, folder, TRAIN, "train", str(settings), "--dir", str(directory))
    deadline = time.monotonic() + 600
    while len(read_metrics(directory)) < begun + steps:
        alive = [process.poll() is None for process in together.processes]
        assert all(alive) and time.monotonic() < deadline, together.said(0) + together.said(1)
        time.sleep(0.05)
    return together


def checkpoints(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in (directory / "checkpoints").glob("[0-9]*"))


def test_a_lost_host_ends_the_others_and_a_stop_of_one_stops_all(endless, tmp_path):
    """Fails if a host waits for one that is gone, or saves another step than the others.

    Then one process goes on from what two have saved.
    """
    directory = tmp_path / "run"
    saving = override(endless, ["checkpoints.steps=2"])
    together = started(tmp_path, saving, directory, steps=4)
    together.processes[1].kill()
    codes, _ = together.end()
    assert codes == [75, -9], together.said(0)
    assert "lm: host 1 of 2 is gone" in together.said(0).splitlines()[-1]
    kept = checkpoints(directory)[-1]

    together = started(tmp_path, endless, directory, steps=3)
    together.processes[1].terminate()
    codes, _ = together.end()
    assert codes == [75, 75], together.said(0) + together.said(1)
    saved = checkpoints(directory)[-1]
    assert saved > kept
    for host in (0, 1):
        assert f"stopped and saved at step {saved} of" in together.said(host)

    made, batches = program(endless)
    found = restore(str(directory / "checkpoints"), made.abstract)
    assert found.step == saved
    state, chain = made.init(), []
    for step in range(saved):
        state, metrics = made.step(state, made.place(batches(step)))
        chain.append(chain_text(metrics["batches"]))
    assert chain == [r["batches"] for r in read_metrics(directory)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        found.state.params,
        state.params,
    )


def program(run: Run) -> tuple[Program, Batches]:
    """What this process needs to train the run."""
    tokens, data = open_tokens(run.data), run.data
    vocabulary = tokens.tokenizer.vocabulary
    batches = Batches(tokens.train, vocabulary, data.length, data.batch, run.seed)
    return prepare(run, vocabulary, mesh.make(run.mesh)), batches


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "roll_back"])
def test_hosts_agree_on_what_is_wrong(endless, tmp_path, policy):
    """Fails if one host gives up, or returns to another checkpoint, before the others."""
    wild = ["optimizer.learning_rate=1e30", "optimizer.clip=none", "faults.most=2"]
    settings = tmp_path / "run.json"
    settings.write_text(dump(override(endless, [*wild, f"faults.policy={policy}"])))
    together = Hosts(2, tmp_path, TRAIN, "train", str(settings), "--dir", str(tmp_path / "run"))
    assert together.end()[0] == [2, 2], together.said(0) + together.said(1)
    for host in (0, 1):
        assert "lower optimizer.learning_rate" in together.said(host).splitlines()[-1]


@pytest.mark.slow
def test_what_one_process_saved_goes_on_on_two_hosts(endless, tmp_path):
    """Fails if a checkpoint needs as many processes as wrote it."""
    directory = tmp_path / "run"
    saving = override(endless, ["checkpoints.steps=2"])

    class Enough(Exception):
        pass

    original = Checkpoints.save

    def save(self, step, *rest):
        original(self, step, *rest)
        self.wait()
        if step == 4:
            raise Enough

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Enough):
        patch.setattr(Checkpoints, "save", save)
        train_run(saving, directory)
    together = started(tmp_path, saving, directory, steps=4)
    together.processes[0].terminate()
    assert together.end()[0] == [75, 75]
    made, batches = program(endless)
    state = made.init()
    for record in read_metrics(directory):
        state, metrics = made.step(state, made.place(batches(record["step"] - 1)))
        assert chain_text(metrics["batches"]) == record["batches"]
        assert float(metrics["loss"]) == pytest.approx(record["loss"], rel=1e-4)


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
