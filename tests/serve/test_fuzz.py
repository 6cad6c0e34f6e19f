"""Malformed requests: each is the sender's fault, and none is a fault of the server's."""

import http.client
import json
import logging
import random
import socket
from contextlib import closing

import pytest

GOOD = {
    "/v1/completions": {"model": "gpt", "prompt": "ab", "max_tokens": 2, "stop": ["x"]},
    "/v1/chat/completions": {
        **{"model": "chat", "max_tokens": 2},
        "messages": [{"role": "user", "content": "a"}],
    },
    "/v1/embeddings": {"model": "bert", "input": ["a", "b"]},
    "/v1/fill": {"model": "bert", "prompt": "a[MASK]", "alternatives": 2},
    "/v1/tokenize": {"model": "gpt", "text": "ab"},
    "/tokenize": {"prompt": "ab"},
    "/detokenize": {"tokens": [5, 6]},
}
TEXTS = ("prompt", "model", "stop", "text", "input", "messages", "tokens")
"""Parameters that no number can be."""
WRONG = (-1, 10**30, 1e308, True, [], {}, [[[]]], {"a": None}, [None], [-5], "\0" * 2000, [1e9])
"""Values that no number among the parameters can be."""


def malformed(random_):
    """A method, a path, headers and a body, of which one is wrong by its making."""
    path, headers = random_.choice([*GOOD]), {"content-type": "application/json"}
    body, method = json.dumps(GOOD[path]).encode(), "POST"
    match random_.randrange(9):
        case 0:  # cut off
            body = body[: random_.randrange(len(body))]
        case 1:  # with a byte that JSON has nowhere
            at = random_.randrange(len(body))
            body = (
                body[:at] + bytes([random_.choice([0, 1, 31, 127, 200, 255])]) + body[at + 1 :]
            )
            if 127 in body or not _is_broken(body):
                body = b"\xff" + body
        case 2:  # with a parameter that is none
            name = "".join(random_.choices("abcé_/.\0%{", k=random_.randint(1, 40)))
            body = json.dumps(GOOD[path] | {name + "!": random_.choice(WRONG)}).encode()
        case 3:  # a text that is another thing
            name = random_.choice([name for name in GOOD[path] if name in TEXTS])
            wrong = random_.choice([-1, 1.5, True, {}, [{}], [[["a"]]], [1.5], [-7], [None]])
            body = json.dumps(GOOD[path] | {name: wrong}).encode()
        case 4:  # a number that is another thing, or beyond all bounds
            name = random_.choice(
                ["max_tokens", "alternatives", "dimensions", "temperature", "n"]
            )
            body = json.dumps(GOOD[path] | {name: random_.choice(WRONG)}).encode()
        case 5:  # too deep, or no object
            deep = b"[" * random_.randrange(1, 100_000)
            body = random_.choice(
                [deep, b'{"prompt":' + deep, b"null", b"7", b'"a"', b"[]", b""]
            )
        case 6:  # another method, or another path
            others = "/v1/../models", "/%2e%2e/etc/passwd", "//v1", "/v2", "/\xc3"
            path = random_.choice([path, *others])
            method = random_.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
            method = method if path in GOOD or method != "GET" else "POST"
        case 7:  # in the wrong clothes
            headers = {
                "content-type": random_.choice(["text/plain", "", "application/x", "json"])
            }
        case 8:  # from elsewhere
            name = random_.choice(["origin", "host", "sec-fetch-site"])
            headers[name] = random_.choice(["null", "evil.example", "http://", "cross-site"])
    return method, path, headers, body


def _is_broken(body):
    try:
        json.loads(body)
    except ValueError:
        return True
    return False


def send(server, requests):
    """The status and body of each answer, over one connection while the server keeps it."""
    host = server.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(host, timeout=60)) as connection:
        for method, path, headers, body in requests:
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                connection.close()
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
            yield answer.status, answer.read()


def check(server, caplog, count, seed):
    random_ = random.Random(seed)
    requests = [malformed(random_) for _ in range(count)]
    # h11 itself answers what is no HTTP; http.client would not send it.
    requests = [(m, p.encode("ascii", "replace").decode(), h, b) for m, p, h, b in requests]
    with caplog.at_level(logging.WARNING):
        for asked, (status, content) in zip(requests, send(server, requests), strict=True):
            assert 400 <= status < 500, (asked, status, content)
            assert set(json.loads(content)["error"]) == {"message", "type", "param", "code"}
            assert len(content) < 2000, asked
    assert not caplog.records
    server.idle()
    found = server.client().completions.create(model="gpt", prompt="a", max_tokens=3)
    assert found.usage.completion_tokens == 3


def test_malformed_requests_are_4xx(server, caplog):
    """Fails if any of them is answered, is a fault of the server's, or is logged."""
    check(server, caplog, 300, seed=0)


@pytest.mark.slow
def test_ten_thousand_malformed_requests_are_4xx(server, caplog):
    """The same at length, which takes a minute or two."""
    check(server, caplog, 10_000, seed=1)


def test_what_is_no_http_is_400(server):
    """Fails if bytes of any kind are more than a closed connection."""
    random_ = random.Random(2)
    host, _, port = server.url.removeprefix("http://").partition(":")
    for _ in range(30):
        with socket.create_connection((host, int(port)), timeout=60) as raw:
            raw.sendall(random_.randbytes(random_.randint(1, 3000)) + b"\r\n\r\n")
            raw.shutdown(socket.SHUT_WR)
            answer = raw.recv(1000)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer
    assert server.client().models.list().data
