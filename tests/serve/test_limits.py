"""What a server refuses, and whom: by name, in OpenAI's form, without harm to others."""

import asyncio
import http.client
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import openai
import pytest

from lm.cli import main
from lm.config import UserError
from lm.serve.limits import TokenBucket, read_keys
from lm.serve.protocol import ApiError
from tests.serve.conftest import LENGTH, served

KEY, LIMITED = "sk-0123456789abcdef", "sk-limited-0123456789"


def ask(server, path, body, method="POST", **headers):
    """The status, headers and JSON of an answer."""
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, content, {"content-type": "application/json"} | headers)
    answer = connection.getresponse()
    found = answer.read()
    connection.close()
    return answer.status, answer.headers, json.loads(found)["error"] if found else {}


@contextmanager
def busy(server):
    """Within, the thread that computes is at something that does not end."""
    release, loop = threading.Event(), server.server.loop
    asyncio.run_coroutine_threadsafe(loop.compute(release.wait), loop._events)
    while loop.waiting:
        time.sleep(0.01)
    try:
        yield
    finally:
        release.set()


@pytest.mark.parametrize(
    ("path", "fields", "param", "said"),
    [
        ("completions", {"promt": "a"}, "promt", "did you mean prompt"),
        ("completions", {"presence_penalty": 0.5}, "presence_penalty", "not supported"),
        ("completions", {"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ("completions", {"best_of": 2}, "best_of", "not supported"),
        ("completions", {"temperature": 2.5}, "temperature", "<= 2.0"),
        ("completions", {"n": 129}, "n", "<= 128"),
        ("completions", {"logprobs": 21}, "logprobs", "<= 20"),
        ("completions", {"max_tokens": 0}, "max_tokens", "echo"),
        ("completions", {"max_tokens": LENGTH}, "max_tokens", f"sees {LENGTH}"),
        ("completions", {"max_tokens": 2**31 - 1}, "max_tokens", f"sees {LENGTH}"),
        ("completions", {"prompt": "a" * 100_000}, "prompt", "letters"),
        ("completions", {"prompt": [1, "a"]}, "prompt", "one of them alone"),
        ("completions", {"prompt": [-1]}, "prompt[0]", ">= 0"),
        ("completions", {"prompt": [10**6]}, "prompt", "ids are from 0 to"),
        ("completions", {"prompt": []}, "prompt", "a text, ids"),
        ("completions", {"prompt": ["a"] * 2049}, "prompt", "at most 2048"),
        ("completions", {"stop": ["x"] * 17}, "stop", "<= 16"),
        ("completions", {"stream_options": {}}, "stream_options", "only with stream"),
        ("completions", {"model": "gtp"}, "model", "did you mean gpt"),
        ("completions", {"model": "bert"}, "model", "cannot complete; gpt or chat can"),
        ("chat/completions", {"messages": [{"role": "user"}]}, "model", "cannot chat"),
        ("chat/completions", {"tools": [{"type": "function"}]}, "tools", "not supported"),
        ("chat/completions", {"response_format": {"type": "x"}}, "response_format", ""),
        ("chat/completions", {"messages": [{"rol": "user"}]}, "messages[0].rol", "role"),
        ("embeddings", {"input": "a", "dimensions": 3}, "dimensions", "has 16"),
        ("embeddings", {"input": "a" * LENGTH}, "input", f"sees {LENGTH}"),
        ("fill", {"prompt": "no mask", "model": "bert"}, "prompt", r"no \[MASK\]"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(server, path, fields, param, said):
    """Fails if a parameter that would change the answer is passed over, or not named."""
    status, _, error = ask(server, f"/v1/{path}", {"model": "gpt", **fields})
    assert status == (404 if said.startswith("did you mean gpt") else 400)
    assert error["param"] == param and error["type"] == "invalid_request_error"

    assert re.search(said, error["message"])


def test_what_changes_nothing_is_passed_over(client):
    """Fails if what OpenAI's clients send of no consequence is refused."""
    client.completions.create(
        model="gpt",
        prompt="a",
        max_tokens=1,
        user="me",
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        best_of=1,
        suffix=None,
    )
    client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "a", "name": "me"}],
        max_tokens=1,
        tools=[],
        response_format={"type": "text"},
        metadata={"a": "b"},
        store=False,
        parallel_tool_calls=True,
    )


def test_other_pages_may_not_ask(server):
    """Fails if a page elsewhere, or a name that was pointed here, can use a loopback server."""
    body, port = {"prompt": "a", "max_tokens": 1}, server.url.rpartition(":")[2]
    own = f"http://127.0.0.1:{port}"
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{int(port) + 1}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": own},
    ):
        status, _, error = ask(server, "/v1/completions", body, **headers)
        assert (status, error["type"]) == (403, "permission_error"), headers
    for path in ("/v1/models", "/health", "/"):
        assert ask(server, path, b"", "GET", Host="evil.example")[0] == 403
    for headers in (
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
    ):
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
        json_ = {"content-type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), json_ | headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert "access-control-allow-origin" not in answer.headers
        connection.close()
    assert ask(server, "/v1/completions", b"prompt=a", content_type="text/plain")[0] == 415


@pytest.fixture(scope="module")
def small(models):
    """A server with room for two who wait, which has keys."""
    limits = {"waiting": 2, "upload_seconds": 0.5, "body": 10_000}
    with served(models, "gpt", keys={KEY: None, LIMITED: 100}, **limits) as found:
        yield found


def test_a_key_is_asked_for(small):
    """Fails if no key, a part of one, or another's is enough; health asks for none."""
    body = {"prompt": "a", "max_tokens": 1}
    for key in ("", KEY, f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", "Bearer ", f"Basic {KEY}"):
        status, _, error = ask(small, "/v1/completions", body, Authorization=key)
        assert (status, error["code"]) == (401, "invalid_api_key")
    for path in ("/v1/models", "/metrics"):
        assert ask(small, path, b"", "GET")[0] == 401
    with pytest.raises(openai.AuthenticationError):
        small.client("sk-wrong-0123456789").models.list()
    assert [model.id for model in small.client(KEY).models.list()] == ["gpt"]
    connection = http.client.HTTPConnection(small.url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_key_has_so_many_tokens_a_minute(small):
    """Fails if they are not counted, or what was reserved and not used is not given back."""
    client = small.client(LIMITED)
    # Each reserves 41, and those that are stopped use two or three.
    first = client.completions.create(model="gpt", prompt="a", max_tokens=40, temperature=0)
    stop = first.choices[0].text[1:2]
    for _ in range(5):
        client.completions.create(
            model="gpt", prompt="a", max_tokens=40, temperature=0, stop=stop
        )
    with pytest.raises(openai.RateLimitError, match="97 tokens asked for; the key") as refused:
        client.completions.create(model="gpt", prompt="a", n=2, max_tokens=48)
    assert int(refused.value.response.headers["retry-after"]) >= 1
    small.client(KEY).completions.create(model="gpt", prompt="a", max_tokens=1)


def test_tokens_are_refilled():
    """Fails if a bucket overflows, refills at another rate, or says another time to wait."""
    now = [0.0]
    bucket = TokenBucket(60, clock=lambda: now[0])
    bucket.take(60)
    with pytest.raises(ApiError) as refused:
        bucket.take(5)
    assert (refused.value.status, refused.value.retry_after) == (429, pytest.approx(5.0))
    now[0] = 5.0
    bucket.take(5)
    now[0] = 1e6
    with pytest.raises(ApiError, match="60 left of 60"):
        bucket.take(61)
    bucket.give_back(1000)
    with pytest.raises(ApiError, match="60 left of 60"):
        bucket.take(61)


def test_a_full_queue_is_429(small):
    """Fails if more wait than there is room for, or who is refused is not told when to come."""
    client = small.client(KEY)
    asked = {"model": "gpt", "prompt": "a", "max_tokens": 2}
    found = []
    with busy(small):
        waiting = [
            threading.Thread(
                target=lambda: found.append(client.completions.create(**asked)), daemon=True
            )
            for _ in range(2)
        ]
        for thread in waiting:
            thread.start()
        while small.server.loop.waiting < 2:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError, match="the queue is full") as refused:
            client.completions.create(**asked)
        assert refused.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model="gpt", input="a")
    for thread in waiting:
        thread.join()
    assert len(found) == 2
    with pytest.raises(openai.BadRequestError, match="3 texts in one request: at most 2"):
        client.completions.create(**asked, n=3)


def test_a_request_has_its_longest(small, monkeypatch):
    """Fails if one that waits for ever is never answered, or keeps its place."""
    client, limits = small.client(KEY), small.server.limits
    monkeypatch.setattr(small.server, "limits", replace(limits, seconds=0.5))
    with busy(small):
        with pytest.raises(openai.InternalServerError, match=r"no end in 0\.5 s") as late:
            client.completions.create(model="gpt", prompt="a", max_tokens=2)
        assert late.value.status_code == 504
        with pytest.raises(openai.APIError, match=r"no end in 0\.5 s"):
            list(client.completions.create(model="gpt", prompt="a", stream=True))
        with pytest.raises(openai.InternalServerError, match=r"no end in 0\.5 s"):
            client.embeddings.create(model="gpt", input="a")
        assert not small.server.loop.waiting
    monkeypatch.undo()
    assert client.completions.create(model="gpt", prompt="a", max_tokens=2).choices


def test_a_body_is_of_so_many_bytes(small):
    """Fails if a body is read that is too large, with its size or without, or too slow."""
    key = {"Authorization": f"Bearer {KEY}"}
    assert ask(small, "/v1/completions", b" " * 10_001, **key)[0] == 413
    host, _, port = small.url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    )
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    for rest, status in (
        (b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (b"Transfer-Encoding: chunked\r\n\r\n" + 3 * chunk, 413),
        (b"Content-Length: 100\r\n\r\n{", 408),
    ):
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(head.encode() + rest)
            assert raw.recv(1000).startswith(f"HTTP/1.1 {status}".encode())
    # Whoever never ends the headers is cut off.
    with socket.create_connection((host, int(port)), timeout=60) as raw:
        raw.sendall(head.encode())
        assert raw.recv(1000) == b""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("# nothing\n\n", "holds no key"),
        ("short\n", ":1: a key has at least 16"),
        (f"{KEY} many\n", ":1: behind the key"),
        (f"{KEY} 0\n", ":1: behind the key"),
        (f"# one\n{KEY}\n{KEY} 5\n", ":3: the key is there twice"),
    ],
)
def test_a_file_of_keys_is_read_strictly(tmp_path, lines, said):
    """Fails if a line that is no key is passed over, and so a limit."""
    (tmp_path / "keys").write_text(lines)
    with pytest.raises(UserError, match=said):
        read_keys(tmp_path / "keys")


def test_the_world_is_served_with_keys_alone(models, capsys, tmp_path):
    """Fails if a server that others reach starts without keys, or why not is no line."""
    for arguments, said in (
        (["--host", "0.0.0.0"], "give --keys FILE"),
        (["--host", "::"], "give --keys FILE"),
        (["--host", "0.0.0.0", "--keys", str(tmp_path / "none")], "No such file"),
        (["--port", "70000"], "--port 70000: must be from 0 to 65535"),
        (["--slots", "0"], "--slots 0"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", str(models / "gpt"), *arguments])
        (line,) = capsys.readouterr().err.splitlines()
        assert ended.value.code == 2 and said in line
