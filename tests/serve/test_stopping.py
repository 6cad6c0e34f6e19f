"""Clients who leave, servers that stop: nobody's slot is kept, and nobody is cut off unsaid."""

import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import openai
import pytest

from tests.serve.conftest import served
from tests.serve.test_client import metrics

ASKED = {"model": "gpt", "prompt": "a", "max_tokens": 60, "temperature": 0}


@contextmanager
def slow(server, seconds=0.05):
    """Within, each step takes its time; gives the list of how many tokens each one had."""
    engine = server.server.loop._lanes["gpt"].engine
    real, steps = engine.step, []

    def step():
        time.sleep(seconds)
        steps.append(real())
        return steps[-1]

    engine.step = step
    try:
        yield steps
    finally:
        del engine.step


@pytest.fixture(scope="module")
def two(models):
    """A server of two slots."""
    with served(models, "gpt", grace=20.0) as found:
        yield found


def test_who_leaves_frees_a_slot_within_a_step(two):
    """Fails if a stream that is closed, or a client that hangs up, is written to its end."""
    client, loop = two.client(), two.server.loop
    before = metrics(two).get("lm_cancelled_requests_total", 0)
    with slow(two) as steps:
        stream = client.completions.create(**ASKED, stream=True)
        next(iter(stream))
        stream.close()
        two.idle()
        assert sum(map(len, steps)) < 10
        with pytest.raises(openai.APITimeoutError):
            client.completions.create(**ASKED, n=2, timeout=0.3)
        two.idle()
        assert sum(map(len, steps)) < 40
        # One who waits takes the place of one who leaves.
        streams = [client.completions.create(**ASKED, stream=True) for _ in range(2)]
        for each in streams:
            next(iter(each))
        assert loop._lanes["gpt"].engine.free == 0
        streams[0].close()
        last = client.completions.create(**{**ASKED, "max_tokens": 2})
        assert last.usage.completion_tokens == 2
        assert len(loop._lanes["gpt"].running) == 1
        streams[1].close()
    two.idle()
    assert metrics(two)["lm_cancelled_requests_total"] - before >= 1


def test_a_stop_string_frees_its_slot(two):
    """Fails if a row goes on to its last token after a stop string came true."""
    client = two.client()
    text = client.completions.create(**ASKED).choices[0].text
    with slow(two) as steps:
        found = client.completions.create(**ASKED, stop=text[2:4])
        two.idle()
    assert found.choices[0].finish_reason == "stop" and sum(map(len, steps)) < 10


def test_what_runs_ends_and_what_is_new_is_refused(models):
    """Fails if a server that stops cuts an answer that it has the time for, or takes others."""
    with served(models, "gpt", grace=30.0) as server:
        client = server.client()
        with slow(server):
            stream = iter(client.completions.create(**ASKED, stream=True))
            text = next(stream).choices[0].text
            server.stop()
            while not server.server._stopping:
                time.sleep(0.01)
            with pytest.raises(
                openai.InternalServerError, match="the server is stopping"
            ) as no:
                client.completions.create(**ASKED)
            assert no.value.status_code == 503 and no.value.response.headers["retry-after"]
            with pytest.raises(openai.InternalServerError, match="is stopping"):
                client.embeddings.create(model="gpt", input="a")
            parts = list(stream)
        text += "".join(part.choices[0].text for part in parts)
        assert parts[-1].choices[0].finish_reason == "length" and len(text.encode()) >= 60


def test_what_lasts_too_long_is_cut_off_and_told(models):
    """Fails if a server waits for ever, or a client takes half an answer for a whole one."""
    with served(models, "gpt", grace=0.3) as server, slow(server, 0.1):
        stream = iter(server.client().completions.create(**ASKED, stream=True))
        next(stream)
        server.stop()
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(stream)
        server.join()


def test_a_device_that_fails_is_told_to_all(models):
    """Fails if a client waits for a thread that is no more, or the server goes on."""
    raised = []
    with served(models, "gpt") as server:
        engine = server.server.loop._lanes["gpt"].engine

        def step():
            raise RuntimeError("broken")

        engine.step, hook = step, threading.excepthook
        threading.excepthook = lambda of: raised.append(of.exc_value)
        try:
            with pytest.raises(openai.InternalServerError, match="the device has failed"):
                server.client().completions.create(**ASKED)
            server.join()
        finally:
            threading.excepthook = hook
    assert [str(error) for error in raised] == ["broken"]


def test_the_command_ends_by_a_signal(models):
    """Fails if a signal ends it before its answers, with another code, or with a traceback."""
    command = [sys.executable, "-m", "lm", "serve", str(models / "gpt"), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            line = process.stdout.readline()
            url = re.fullmatch(r"lm: gpt at (http://127\.0\.0\.1:\d+/)\n", line)[1]
            with openai.OpenAI(base_url=f"{url}v1", api_key="none", max_retries=0) as client:
                parts = client.completions.create(**ASKED, stream=True)
                first = next(iter(parts))
                process.send_signal(signal.SIGTERM)
                last = list(parts)[-1]
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
        assert last.choices[0].finish_reason == "length" and first.id == last.id
        assert "Traceback" not in process.stderr.read()
