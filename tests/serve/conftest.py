"""A real server on a free port, of tiny models, for all tests of a file."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file

from lm.model import Transformer
from lm.objectives import Causal, Masked
from lm.serve.app import ModelServer
from lm.serve.limits import LOOPBACK, KeyRing, Limits
from lm.serve.listen import listen, open_socket
from lm.serve.models import open_models
from tests.makers import one_device, save_untrained

LENGTH = 64
GOLDEN = Path(__file__).parents[1] / "golden" / "hub"
TOKENS = 400
"""Of the golden tokenizer with a chat template."""


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder of models that nobody trained: one writes, one fills, one answers."""
    folder = tmp_path_factory.mktemp("models")
    model = Transformer(depth=1, width=16, heads=4)
    for name, objective in (("gpt", Causal()), ("bert", Masked())):
        save_untrained(folder / name, objective, model, length=LENGTH)
    shutil.copytree(GOLDEN / "tokenizers" / "smollm", folder / "chat")
    config = json.loads((GOLDEN / "smollm" / "config.json").read_text())
    arrays = load_file(GOLDEN / "smollm" / "model.safetensors")
    # The model's table has fewer rows than this tokenizer has tokens.
    table_VD = arrays["model.embed_tokens.weight"]
    table_VD = np.resize(table_VD, (TOKENS, table_VD.shape[1]))
    save_file(
        arrays | {"model.embed_tokens.weight": table_VD}, folder / "chat/model.safetensors"
    )
    (folder / "chat" / "config.json").write_text(json.dumps(config | {"vocab_size": TOKENS}))
    return folder


class Served:
    """A server that listens in a thread."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        socket = open_socket("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
        self._stop: list[int] = []
        self._clients: list[openai.OpenAI] = []
        self._thread = threading.Thread(target=listen, args=(server, socket, self._stop))
        self._thread.start()
        # Its programs are compiled first.
        _until(lambda: hasattr(server, "loop"), seconds=600)

    def client(self, key: str = "none") -> openai.OpenAI:
        """A client, whose connections are closed with the server."""
        url = f"{self.url}/v1"
        self._clients.append(
            openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)
        )
        return self._clients[-1]

    def idle(self) -> None:
        """Waits until nothing runs any more; fails where it never is so."""
        loop = self.server.loop
        _until(lambda: not loop.running and not loop.waiting)

    def stop(self) -> None:
        self._stop.append(1)

    def join(self) -> None:
        self.stop()
        for client in self._clients:
            client.close()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()


def _until(true, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def served(
    folder: Path, *names: str, keys=None, length=None, retriever=None, **limits
) -> Iterator[Served]:
    """A server of models of a folder, with these limits."""
    limits, keys = Limits(**limits), KeyRing(keys or {})
    # Until its programs are there: other tests may want their eight devices meanwhile.
    with one_device():
        opened = open_models(
            [folder / name for name in names], slots=2, length=length, precision="float32"
        )
        found = ModelServer(
            opened, keys=keys, limits=limits, hosts=LOOPBACK, retriever=retriever
        )
        server = Served(found)
    try:
        yield server
    finally:
        server.join()


@pytest.fixture(scope="session")
def server(models) -> Iterator[Served]:
    """A server of all three models, each with two slots, as all servers of tests have: so they
    share their programs.
    """
    with served(models, "gpt", "bert", "chat") as found:
        yield found


@pytest.fixture(scope="session")
def client(server) -> openai.OpenAI:
    return server.client()
