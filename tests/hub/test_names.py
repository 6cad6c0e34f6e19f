"""A name in place of a folder, from a stand-in of the hub on this machine."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "gpt2"}', "model.safetensors": b"12345678"}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a download takes."""

    tokens: ClassVar[list[str | None]] = []

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, body):
        path = self.path.split("?")[0]
        self.tokens.append(self.headers.get("Authorization"))
        file = path.rsplit("/", 1)[-1]
        if path.startswith("/api/models/some/model/tree/"):
            found = json.dumps(
                [
                    {"type": "file", "path": n, "size": len(c), "oid": COMMIT}
                    for n, c in FILES.items()
                ]
            ).encode()
            self.send(200, found, {"Content-Type": "application/json"}, body)
        elif path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": name} for name in [*FILES, "pytorch_model.bin"]]
            found = json.dumps(
                {"id": "some/model", "sha": COMMIT, "siblings": siblings}
            ).encode()
            self.send(200, found, {"Content-Type": "application/json"}, body)
        elif path.startswith("/some/model/resolve/") and file in FILES:
            more = {"ETag": f'"{file}"', "X-Repo-Commit": COMMIT}
            self.send(200, FILES[file], more, body)
        else:
            gated = "gated" in path
            code = "GatedRepo" if gated else "RepoNotFound"
            self.send(403 if gated else 401, b"{}", {"X-Error-Code": code}, body)

    def send(self, status, content, headers, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Hub.tokens.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(name, cache, **environment):
    """What a process that fetches a name prints, one line."""
    code = (
        "import sys\nfrom lm.config import UserError\nfrom lm.hub.names import download\n"
        "try: print(*download(sys.argv[1]))\nexcept UserError as error: print('refused', error)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env = clean | {"HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
    ran = subprocess.run(
        [sys.executable, "-c", code, name], env=env, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_name_is_fetched_once_and_then_found_in_the_cache(hub, tmp_path):
    """Fails if pickles are fetched, the token is not sent, or the cache is none offline."""
    said = fetched("some/model", tmp_path, HF_ENDPOINT=hub, HF_TOKEN="hf_secret")
    folder, revision = said.rsplit(" ", 1)
    assert revision == COMMIT
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == FILES
    assert "Bearer hf_secret" in Hub.tokens
    assert fetched("some/model", tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="1") == said


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("no/model", {}, "no/model: is no folder here, and no model on the hub, or a private"),
        ("gated/model", {}, "gated/model: is gated: accept its terms"),
        (
            "some/model",
            {"HF_HUB_OFFLINE": "1"},
            "not in the cache, and the hub cannot be reached",
        ),
    ],
    ids=["unknown", "gated", "offline"],
)
def test_what_cannot_be_fetched_is_one_line(hub, tmp_path, name, environment, said):
    """Fails if somebody reads a traceback of a library of ours."""
    line = fetched(name, tmp_path, HF_ENDPOINT=hub, **environment)
    assert line.startswith("refused") and said in line and "\n" not in line
