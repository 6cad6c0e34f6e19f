"""Two servers on loopback: Cloud TPU in its own protobufs; a machine's metadata and Storage."""

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from google.cloud import tpu_v2
from google.cloud.tpu_v2.services.tpu.transports import TpuGrpcTransport
from google.longrunning.operations_pb2 import GetOperationRequest, Operation
from google.protobuf.empty_pb2 import Empty

State = tpu_v2.QueuedResourceState.State
NodeState = tpu_v2.Node.State

Step = State | tuple[int, str] | Callable[[], State]
"""What a queued resource becomes: a state, FAILED for this error, or what a function says."""


class Service(grpc.GenericRpcHandler):
    """Cloud TPU. Each creation begins the next of `lives`, each question advances it a step."""

    def __init__(self) -> None:
        self.lives: list[list[Step]] = []
        self.refusals: list[tuple[grpc.StatusCode, str]] = []
        """Creations answer these first, one each."""
        self.troubles: list[tuple[grpc.StatusCode, str]] = []
        """Questions and deletions answer these first, one each."""
        self.slow_operations = 0
        """So many times a creation is said to be still under way."""
        self.initiator = "SERVICE"
        """Who brought about each state."""
        self.preempted: set[str] = set()
        """The nodes that are gone, whatever the state."""
        self.created: list[tpu_v2.CreateQueuedResourceRequest] = []
        self.deleted: list[tpu_v2.DeleteQueuedResourceRequest] = []
        self.there: dict[str, tpu_v2.QueuedResource] = {}
        self._life: list[Step] = []
        self._questions = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = details.method.rpartition("/")[2]
        if method == "GetOperation":
            return grpc.unary_unary_rpc_method_handler(
                self.get_operation, GetOperationRequest.FromString, Operation.SerializeToString
            )
        request, answer = {
            "CreateQueuedResource": (tpu_v2.CreateQueuedResourceRequest, None),
            "DeleteQueuedResource": (tpu_v2.DeleteQueuedResourceRequest, None),
            "GetQueuedResource": (tpu_v2.GetQueuedResourceRequest, tpu_v2.QueuedResource),
            "ListQueuedResources": (
                tpu_v2.ListQueuedResourcesRequest,
                tpu_v2.ListQueuedResourcesResponse,
            ),
            "GetNode": (tpu_v2.GetNodeRequest, tpu_v2.Node),
        }[method]
        return grpc.unary_unary_rpc_method_handler(
            getattr(self, method),
            request.deserialize,
            answer.serialize if answer else Operation.SerializeToString,
        )

    def CreateQueuedResource(self, request, context):
        if self.refusals:
            context.abort(*self.refusals.pop(0))
        path = f"{request.parent}/queuedResources/{request.queued_resource_id}"
        if path in self.there:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{path} already exists")
        if not self.lives:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "created too often for this test")
        self.created.append(request)
        self.put(path, request.queued_resource)
        return self._operation(path)

    def put(self, path: str, resource: tpu_v2.QueuedResource) -> None:
        """As if it had been created, by whomever."""
        self.there[path] = tpu_v2.QueuedResource(resource, name=path)
        self._life = self.lives.pop(0)
        self.preempted.clear()

    def GetQueuedResource(self, request, context):
        self._questions += 1
        if self._questions > 1000:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "asked too often for this test")
        if self.troubles:
            context.abort(*self.troubles.pop(0))
        if request.name not in self.there:
            message = f"Resource '{request.name}' was not found"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        step = self._life.pop(0) if len(self._life) > 1 else self._life[0]
        state = step() if callable(step) and not isinstance(step, State) else step
        there = self.there[request.name]
        if isinstance(state, tuple):
            there.state = {
                "state": State.FAILED,
                "failed_data": {"error": {"code": state[0], "message": state[1]}},
            }
        else:
            there.state = {"state": state, "state_initiator": self.initiator}
        return there

    def ListQueuedResources(self, request, context):
        found = [r for path, r in self.there.items() if path.startswith(request.parent)]
        return tpu_v2.ListQueuedResourcesResponse(queued_resources=found)

    def DeleteQueuedResource(self, request, context):
        if self.troubles:
            context.abort(*self.troubles.pop(0))
        if request.name not in self.there:
            message = f"Resource '{request.name}' was not found"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        if not request.force:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it has nodes")
        self.deleted.append(request)
        del self.there[request.name]
        operation = Operation(name="operations/delete", done=True)
        operation.response.Pack(Empty())
        return operation

    def GetNode(self, request, context):
        node = request.name.rpartition("/")[2]
        lost = node in self.preempted
        return tpu_v2.Node(state=NodeState.PREEMPTED if lost else NodeState.READY)

    def get_operation(self, request, context):
        self.slow_operations -= 1
        return self._operation("")

    def _operation(self, path: str) -> Operation:
        operation = Operation(name="operations/create", done=self.slow_operations <= 0)
        if operation.done:
            operation.response.Pack(tpu_v2.QueuedResource.pb(tpu_v2.QueuedResource(name=path)))
        return operation


@pytest.fixture
def service():
    """Cloud TPU on loopback, with `client`, the real client, connected to it."""
    service = Service()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    service.client = tpu_v2.TpuClient(transport=TpuGrpcTransport(channel=channel))
    yield service
    channel.close()
    server.stop(None).wait()


class Machine:
    """What a machine is told by the cloud; buckets are folders under `buckets`."""

    def __init__(self, buckets: Path) -> None:
        self.buckets = buckets
        self.uploads: list[str] = []
        """The objects that were written, in order."""
        self.refused = ""
        """Objects with this in their name cannot be written, if it is not empty."""
        self.unreadable = ""
        """Objects with this in their name cannot be read, if it is not empty."""
        self.metadata: dict[str, str] = {
            "service-accounts/default/token": '{"access_token": "secret", "expires_in": 9}',
            "attributes/agent-worker-number": "0",
            "preempted": "FALSE",
        }
        machine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(
                    machine.get(unquote(urlsplit(self.path).path), self.path, self.headers)
                )

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.reply(machine.post(self.path, self.headers, body))

            def do_DELETE(self):
                self.reply(machine.delete(urlsplit(self.path).path, self.headers))

            def reply(self, body: bytes | None) -> None:
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"

    def get(self, path: str, url: str, headers: Any) -> bytes | None:
        query = parse_qs(urlsplit(url).query)
        if path.startswith("/computeMetadata/v1/instance/"):
            found = self.metadata.get(path.removeprefix("/computeMetadata/v1/instance/"))
            asked = headers["Metadata-Flavor"] == "Google"
            return found.encode() if asked and found is not None else None
        bucket, _, name = path.removeprefix("/storage/v1/b/").partition("/o")
        if headers["Authorization"] != "Bearer secret":
            return None
        if query.get("alt") == ["media"]:
            if self.unreadable and self.unreadable in name:
                return None
            file = self.buckets / bucket / name.lstrip("/")
            return file.read_bytes() if file.is_file() else None
        files = (p for p in (self.buckets / bucket).rglob("*") if p.is_file())
        names = sorted(str(p.relative_to(self.buckets / bucket)) for p in files)
        names = [name for name in names if name.startswith(query["prefix"][0])]
        # Pages of two; Google's have a thousand, and may write letters as their numbers.
        start = int(query.get("pageToken", ["0"])[0])
        answer: dict[str, Any] = {"kind": "storage#objects"}
        if here := names[start : start + 2]:
            answer["items"] = [{"name": name} for name in here]
        if names[start + 2 :]:
            answer["nextPageToken"] = str(start + 2)
        return json.dumps(answer, indent=2).replace("=", "\\u003d").encode()

    def delete(self, path: str, headers: Any) -> bytes | None:
        bucket, _, name = path.removeprefix("/storage/v1/b/").partition("/o/")
        file = self.buckets / bucket / unquote(name)
        if headers["Authorization"] != "Bearer secret" or "/" in name or not file.is_file():
            return None
        file.unlink()
        return b""

    def post(self, url: str, headers: Any, body: bytes) -> bytes | None:
        parts = urlsplit(url)
        bucket = parts.path.removeprefix("/upload/storage/v1/b/").removesuffix("/o")
        query = parse_qs(parts.query)
        if headers["Authorization"] != "Bearer secret" or query["uploadType"] != ["media"]:
            return None
        (name,) = query["name"]
        if self.refused and self.refused in name:
            return None
        self.uploads.append(name)
        file = self.buckets / bucket / name
        file.parent.mkdir(parents=True, exist_ok=True)
        # Renamed, because the launcher may read meanwhile; objects are never half there.
        temporary = file.with_name(f"{file.name}.{threading.get_ident()}")
        temporary.write_bytes(body)
        temporary.rename(file.parent / file.name)
        return b"{}"


@pytest.fixture
def files(tmp_path):
    """Cloud Storage, as the launcher sees it: a folder for each bucket."""
    (tmp_path / "buckets").mkdir()
    return DirFileSystem(str(tmp_path / "buckets"), LocalFileSystem(auto_mkdir=True))


@contextmanager
def serving(machine: Machine) -> Iterator[Machine]:
    """The machine, while its server answers."""
    thread = threading.Thread(
        target=machine.server.serve_forever, kwargs={"poll_interval": 0.01}
    )
    thread.start()
    try:
        yield machine
    finally:
        machine.server.shutdown()
        machine.server.server_close()
        thread.join()


@pytest.fixture
def machine(tmp_path, files):
    """Metadata and Cloud Storage, as a machine sees them."""
    with serving(Machine(tmp_path / "buckets")) as machine:
        yield machine


@pytest.fixture
def checkout(tmp_path):
    """A repository with a study in it, committed."""
    root = tmp_path / "checkout"
    (root / "experiments").mkdir(parents=True)
    (root / "experiments" / "toy_study.py").write_text(
        'PLANS = {"smoke": 1, "v5e-16": 2}\nSCALES = tuple(PLANS)\n'
    )
    (root / "experiments" / "helper.py").write_text("ANSWER = 42\n")
    (root / "constraints.txt").write_text("")
    git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x@example.com"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "a study"], check=True)
    return root


PYTHON3 = """\
#!/bin/bash
# The machine's Python: notes what it is to install, and makes an environment.
echo "$PWD: $*" >> "$YARDSTICK_HOME/installs"
[ -e "$YARDSTICK_HOME/no-index" ] && exit 1
if [ "$2 $3" = "uv venv" ]; then
  mkdir -p source/.venv/bin && cp "$STUBS/study" source/.venv/bin/python
fi
exit 0
"""

STUDY = """\
#!/bin/bash
# The environment's Python. It goes a step on from the newest checkpoint of its run and keeps
# two, as lm does. The next line of `plan` is its exit code; after `wait` it is only given when
# somebody says to stop, and not at once.
printf '%s\\n' "$@" > "$YARDSTICK_HOME/arguments"
echo ran >> "$YARDSTICK_HOME/ran"
echo "$YARDSTICK_JOB" >> "$YARDSTICK_HOME/jobs"
next="$(head -1 "$YARDSTICK_HOME/plan")"
run="../runs/toy_study/smoke/a=b +c"
mkdir -p "$run/checkpoints" && cd "$run" || exit 1
newest="$(ls checkpoints | grep -v tmp | sort -n | tail -1)"
step=$((${newest:-0} + 1))
# The times are such that the order of time is the wrong one to copy in.
echo "$step" >> metrics.jsonl && touch -d 2100-01-01 metrics.jsonl
mkdir "checkpoints/$step.orbax-checkpoint-tmp"
echo "$step" > "checkpoints/$step.orbax-checkpoint-tmp/state"
mv "checkpoints/$step.orbax-checkpoint-tmp" "checkpoints/$step"
for old in $(ls checkpoints | grep -v tmp | sort -n | head -n -2); do
  rm -rf "checkpoints/$old"
done
mkdir -p checkpoints/9.orbax-checkpoint-tmp
touch empty half.tmp checkpoints/9.orbax-checkpoint-tmp/state
sed -i 1d "$YARDSTICK_HOME/plan"
code="${next#wait }"
if [ "$next" != "$code" ]; then
  /bin/sleep 60 & asleep=$!
  trap 'echo told >> "$YARDSTICK_HOME/told"; kill "$asleep"' TERM
  touch "$YARDSTICK_HOME/waiting"
  wait "$asleep"
  for tenth in 1 2 3; do /bin/sleep 0.1; done
  [ -e "$YARDSTICK_HOME/late" ] && echo saved > late
fi
echo "the study ends with $code"
[ "$code" = 0 ] && echo "$step" > result.json && touch -d 2000-01-01 result.json
exit "$code"
"""

STUBS = {
    "python3": PYTHON3,
    "study": STUDY,
    "sleep": "#!/bin/sh\n[ $1 = 120 ] && exec /bin/sleep 0.2\nexec /bin/sleep 0.02\n",
    # If asked it is late with the last line, so that a log that is not waited for lacks it.
    "tee": """\
#!/bin/bash
while IFS= read -r line; do
  [[ -e slow && "$line" = *failed* ]] && /bin/sleep 0.5
  echo "$line" >> "$2"
done
""",
}


class Computer:
    """A machine that runs scripts, with a stub for its Python and one for the study's."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.machine, self.home, stubs = machine, folder / "home", folder / "stubs"
        stubs.mkdir()
        for name, text in STUBS.items():
            (stubs / name).write_text(text)
            (stubs / name).chmod(0o755)
        self.environment = {
            "PATH": f"{stubs}:{os.environ['PATH']}",
            "STUBS": str(stubs),
            "YARDSTICK_HOME": str(self.home),
            "GCE_METADATA_HOST": machine.address,
            "STORAGE_EMULATOR_HOST": f"http://{machine.address}",
        }
        self.renew()

    def renew(self) -> None:
        """As another machine of the same kind: with an empty disk."""
        if self.home.exists():
            shutil.rmtree(self.home)
        self.home.mkdir()

    def start(self, script: str, plan: Iterable[object]) -> subprocess.Popen:
        """Begins a script; the study's exit codes are those of the plan, one a run."""
        (self.home / "plan").write_text("".join(f"{code}\n" for code in plan))
        return subprocess.Popen(
            ["bash", "-c", script],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


@pytest.fixture
def four_hosts(tmp_path, files):
    """The machines of a slice of four hosts, each told of the others by its metadata."""
    with ExitStack() as stack:
        computers = []
        for number in range(4):
            machine = stack.enter_context(serving(Machine(tmp_path / "buckets")))
            machine.metadata |= {
                "attributes/agent-worker-number": str(number),
                "attributes/worker-network-endpoints": ",".join(["127.0.0.1"] * 4),
                "attributes/tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\n",
            }
            folder = tmp_path / f"host{number}"
            folder.mkdir()
            computers.append(Computer(folder, machine))
        yield computers


@pytest.fixture
def computer(tmp_path, machine):
    """A machine with stubs, between the servers on loopback."""
    return Computer(tmp_path, machine)
