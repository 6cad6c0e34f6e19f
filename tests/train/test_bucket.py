"""Checkpoints straight in a bucket: a local server that speaks Cloud Storage's own protocol."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lm.config import UserError, dump, override
from lm.data import Bytes, Data, Text, Tokenizer, open_tokens
from lm.run import Run, steps
from lm.train import lock
from lm.train.directory import checkpoints_of
from lm.train.lock import only_writer
from lm.train.trackers.jsonl import read_metrics


class Bucket:
    """Objects in memory, by the requests of gcsfs and tensorstore that orbax makes."""

    name = "ours"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[int, bytes]] = {}
        """Generation and content by name."""
        self.may_read = self.may_write = True
        self.stored: Callable[[str], None] = lambda name: None
        """Is told of each object that was stored."""
        self._uploads: dict[str, bytes] = {}
        self._lock = threading.Lock()
        self._generation = 0

    def answer(
        self, method: str, url: str, headers: Any, module: bytes
    ) -> tuple[int, Any, dict]:
        """Status, body (a JSON value, or bytes) and headers."""
        parts = urllib.parse.urlsplit(url)
        asked = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        path = re.sub(r"^/(upload|download)(?=/)", "", parts.path)
        name = urllib.parse.unquote(path.partition(f"/b/{self.name}/o")[2].removeprefix("/"))
        reads = method == "GET"
        if not (self.may_read if reads else self.may_write):
            return 403, {"error": {"code": 403, "message": "the caller may not"}}, {}
        with self._lock:
            if path == f"/storage/v1/b/{self.name}":
                return 200, {"kind": "storage#bucket", "name": self.name}, {}
            if parts.path.startswith("/upload/"):
                return self._upload(asked, headers, module)
            if reads and not name:
                return 200, self._list(asked), {}
            if "/rewriteTo/" in name:
                source, _, target = name.partition(f"/rewriteTo/b/{self.name}/o/")
                made = self._store(urllib.parse.unquote(target), self.objects[source][1])
                return 200, {"done": True, "resource": made}, {}
            if name not in self.objects:
                return 404, {"error": {"code": 404, "message": f"No such object: {name}"}}, {}
            if method == "DELETE":
                if asked.get("ifGenerationMatch", was := self._at(name)) != was:
                    return 412, {"error": {"code": 412}}, {}
                del self.objects[name]
                return 204, b"", {}
            return self._read(name, asked, headers)

    def _list(self, asked: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                items.append(self._about(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def _about(self, name: str) -> dict[str, Any]:
        generation, content = self.objects[name]
        return {
            "kind": "storage#object",
            "bucket": self.name,
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def _read(
        self, name: str, asked: dict[str, str], headers: Any
    ) -> tuple[int, Any, dict[str, str]]:
        generation, content = self.objects[name]
        if asked.get("ifGenerationNotMatch") == str(generation):
            return 304, b"", {}
        if asked.get("ifGenerationMatch", str(generation)) != str(generation):
            return 412, {"error": {"code": 412}}, {}
        if asked.get("alt") != "media":
            return 200, self._about(name), {}
        said = {"x-goog-generation": str(generation)}
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range") or ""):
            start, end = int(wanted[1] or 0), int(wanted[2] or len(content) - 1)
            if not wanted[1]:  # so many at the end
                start, end = max(0, len(content) - end), len(content) - 1
            if start >= len(content):
                return 416, b"", said
            part = content[start : end + 1]
            of = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
            return 206, part, said | {"Content-Range": of}
        return 200, content, said

    def _upload(
        self, asked: dict[str, str], headers: Any, module: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        name = asked.get("name", "")
        kind = asked["uploadType"]
        if kind == "resumable" and "Content-Range" not in headers:
            name = name or json.loads(module)["name"]
            return 200, {}, {"Location": f"{headers['Host']}?uploadType=resumable&name={name}"}
        if kind == "resumable":  # a part, or the last one
            self._uploads[name] = self._uploads.get(name, b"") + module
            if headers["Content-Range"].endswith("/*"):
                last = len(self._uploads[name]) - 1
                return 308, b"", {"Range": f"bytes=0-{last}"}
            module = self._uploads.pop(name)
        elif kind == "multipart":
            boundary = headers["Content-Type"].partition("boundary=")[2].strip("'\"")
            _, about, content, _ = module.split(b"--" + boundary.encode())
            name = name or json.loads(about.partition(b"\n\n")[2] or about)["name"]
            module = content.partition(b"\n\n")[2].removesuffix(b"\n")
        if asked.get("ifGenerationMatch", was := self._at(name)) != was:
            return 412, {"error": {"code": 412}}, {}
        return 200, self._store(name, module), {}

    def _at(self, name: str) -> str:
        return str(self.objects[name][0]) if name in self.objects else "0"

    def put(self, name: str, content: bytes) -> None:
        """Stores an object, as another client may."""
        with self._lock:
            self._store(name, content)

    def _store(self, name: str, content: bytes) -> dict[str, Any]:
        self._generation += 1
        self.objects[name] = self._generation, content
        self.stored(name)
        return self._about(name)


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    """The bucket gs://ours, as this process's children see it."""
    bucket = Bucket()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # what is said goes out at once, and not its beginning alone

        def handle_any(self) -> None:
            module = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, said, headers = bucket.answer(self.command, self.path, self.headers, module)
            content = said if isinstance(said, bytes) else json.dumps(said).encode()
            self.send_response(status)
            for name, value in headers.items():
                if name == "Location":
                    value = f"http://{value.replace('?', self.path.partition('?')[0] + '?', 1)}"
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)  # gcsfs's
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")  # tensorstore's
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no search for credentials
    yield bucket
    server.shutdown()
    thread.join()
    server.server_close()


def train(run: Run, directory: Path) -> tuple[int, str]:
    """Exit code of `lm train`, and what it said, in a process of its own."""
    settings = directory.with_suffix(".json")
    settings.write_text(dump(run))
    code = "from lm.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "train", str(settings), "--dir", str(directory)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    # gcsfs warns beside it that it has no credentials, and its threads may be within a line.
    said = re.findall(r"(?<!\w)lm: .*", done.stderr)
    return done.returncode, "\n".join(said) or done.stderr * (done.returncode != 0)


def test_a_bucket_that_can_no_longer_be_written_leaves_what_was_saved(run, bucket, tmp_path):
    """Fails if half a checkpoint counts, it is a traceback, or no run goes on from there."""
    saving = override(run, ["checkpoints.directory=gs://ours/runs", "checkpoints.steps=8"])

    def closes(name: str) -> None:
        if re.search(r"/8/commit_success", name):
            bucket.may_write = False

    bucket.stored = closes
    code, line = train(saving, tmp_path / "run")
    assert code == 2, line
    assert "gs://ours/runs/" in line and line.count("\n") == 0
    assert "could not be written" in line and "what was saved before is whole" in line
    bucket.may_write = True
    bucket.stored = lambda name: None
    code, line = train(saving, tmp_path / "run")
    assert (code, line) == (0, "")
    recorded = [r["step"] for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert recorded == list(range(1, steps(run) + 1))


def test_a_bucket_that_may_not_be_read_is_one_line(run, bucket, tmp_path):
    """Fails if it is a traceback, or a run that cannot keep anything begins."""
    bucket.may_read = False
    saving = override(run, ["checkpoints.directory=gs://ours/runs"])
    code, line = train(saving, tmp_path / "run")
    assert code == 2, line
    assert re.search(
        r"^lm: gs://ours/runs/\S+: no place for checkpoints: .*PERMISSION_DENIED", line
    )
    assert line.count("\n") == 0


def test_r3_a_second_process_on_a_bucket_is_refused(run, bucket, tmp_path):
    """Fails if the run directory alone is locked: another machine's is another."""
    saving = override(run, ["checkpoints.directory=gs://ours/runs"])
    place = checkpoints_of(saving, tmp_path / "run")
    with only_writer(place):
        assert [name.rpartition("/")[2] for name in bucket.objects] == [".lock"]
        code, line = train(saving, tmp_path / "run")
    assert code == 2 and line.count("\n") == 0
    assert line.startswith(f"lm: {place} is being trained in by process {os.getpid()} on ")
    assert bucket.objects == {}


def test_a_token_store_is_made_once_and_read_from_a_bucket(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if each host tokenizes, half a store counts, or a row is another than on disk."""
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(f"text {number} " * (number + 1))
    corpus = Text(paths=(f"{tmp_path}/*.txt",))
    data = Data(corpus=corpus, tokenizer=Bytes(), length=32, batch=8, validation=0.2)

    def batches(host: str) -> list[Any]:
        monkeypatch.setenv("LM_CACHE", str(tmp_path / host))
        batches = open_tokens(data).batches(data, 3)
        return [batches(step).tokens_BL.tolist() for step in (0, 3, 99)]

    expected = batches("alone")
    monkeypatch.setenv("LM_TOKENS", "gs://ours/tokens/")
    monkeypatch.setattr("lm.data.store._AT_ONCE", 8)

    def stops(name: str) -> None:
        if name.endswith("files.json"):
            bucket.may_write = False

    bucket.stored = stops
    with pytest.raises(UserError, match=r"^LM_TOKENS: gs://ours/tokens/\w+: PERMISSION_DENIED"):
        batches("first")
    bucket.may_write, bucket.stored = True, lambda name: None
    assert batches("first") == expected
    assert not list((tmp_path / "first" / "tokens").iterdir())
    monkeypatch.setattr(Tokenizer, "encode_all", lambda *_: pytest.fail("encoded again"))
    assert batches("second") == expected
    assert not (tmp_path / "second" / "tokens").exists()
    bucket.may_read = False
    with pytest.raises(UserError, match=r"^LM_TOKENS: gs://ours/tokens/\w+: PERMISSION_DENIED"):
        batches("third")


HOLDERS = {
    "another machine's": ({"machine": "b", "job": "7"}, False),
    "another machine's, of no job": ({"machine": "b", "job": None}, False),
    "without a sign of life": ({"machine": "b", "job": "7", "time": 0}, True),
    "of this job": ({"machine": "b", "job": "8"}, True),
    "of this Slurm step, requeued": ({"machine": "b", "job": "slurm 77.0.0"}, True),
    "of another step": ({"machine": "b", "job": "slurm 77.1.0"}, False),
    "of this machine": ({"pid": os.getpid(), "started": lock._started(os.getpid())}, False),
    "of this machine, killed": ({"pid": os.getpid(), "started": "1"}, True),
    "nobody's": ({}, True),
}


@pytest.mark.parametrize("whose", HOLDERS)
def test_r3_a_lock_in_a_bucket_is_broken_where_its_holder_has_ended(bucket, monkeypatch, whose):
    """Fails if a restart waits for itself, a live process is robbed, or a dead one stays."""
    holder, ended = HOLDERS[whose]
    if "step" in whose:
        for name, value in (("JOB_ID", "77"), ("STEP_ID", "0"), ("PROCID", "0")):
            monkeypatch.setenv(f"SLURM_{name}", value)
    else:
        monkeypatch.setenv("YARDSTICK_JOB", "8")
    if holder:
        about = {"host": "a", "pid": 1, "time": time.time(), "machine": lock._machine()}
        holder = about | holder
    bucket.put("runs/x/.lock", json.dumps(holder).encode())
    if ended:
        with only_writer("gs://ours/runs/x") as check:
            check()
            assert json.loads(bucket.objects["runs/x/.lock"][1])["job"] == lock._job()
        assert bucket.objects == {}
        return
    before = dict(bucket.objects)
    with (
        pytest.raises(UserError, match=r"^gs://ours/runs/x is being trained in by process"),
        only_writer("gs://ours/runs/x"),
    ):
        pass
    assert bucket.objects == before


def test_r3_a_lock_in_a_bucket_is_kept_alive_and_its_loss_is_noticed(bucket, monkeypatch):
    """Fails if a long run is taken for dead, or goes on when another has taken over."""
    monkeypatch.setattr(lock, "BEAT", 0.02)

    def wait_for(found: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not found():
            assert time.monotonic() < end
            time.sleep(0.01)

    name = "runs/x/.lock"
    with only_writer("gs://ours/runs/x") as check:
        first = json.loads(bucket.objects[name][1])["time"]
        wait_for(lambda: json.loads(bucket.objects[name][1])["time"] > first + 0.1)
        check()
        bucket.put(name, json.dumps({"id": "another", "pid": 3, "host": "b"}).encode())

        def lost() -> bool:
            try:
                check()
            except UserError as error:
                return "process 3 on b has taken it over" in str(error)
            return False

        wait_for(lost)
    assert json.loads(bucket.objects[name][1])["id"] == "another"


def test_r3_an_answer_that_was_lost_loses_no_lock(bucket, monkeypatch):
    """Fails if a process takes its own renewal for another's."""
    monkeypatch.setattr(lock, "BEAT", 0.02)
    name = "runs/x/.lock"
    with only_writer("gs://ours/runs/x") as check:
        bucket.put(name, bucket.objects[name][1])  # the same words, of a later generation
        again = bucket.objects[name][0]
        end = time.monotonic() + 20
        while bucket.objects[name][0] <= again + 1:
            check()
            assert time.monotonic() < end
            time.sleep(0.01)
    assert bucket.objects == {}


def test_cleaned_text_is_read_from_a_bucket_and_written_there(bucket, tmp_path) -> None:
    """Fails if Cloud Storage is asked for what it has not, or the manifest is not last."""
    for name in "ab":
        text = "".join(
            json.dumps({"text": f"{name} {n // 2} of all"}) + "\n" for n in range(20)
        )
        bucket.put(f"raw/{name}.jsonl", text.encode())
    source = {"type": "shards", "paths": ["gs://ours/raw/*.jsonl"]}
    recipe = {"sources": [{"name": "all", "corpus": source}], "steps": [{"type": "exact"}]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    stored: list[str] = []
    bucket.stored = stored.append
    code = "from lm.cli import main; main()"
    arguments = ["data", "prepare", "recipe.json", "gs://ours/clean", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "20 of 40 documents are left" in done.stdout
    assert stored == ["clean/part-00000-of-00001.jsonl.gz", "clean/manifest.json"]
    lines = gzip.decompress(bucket.objects[stored[0]][1]).splitlines()
    assert len(lines) == 20
    assert json.loads(bucket.objects[stored[1]][1])["shards"][0]["documents"] == 20
