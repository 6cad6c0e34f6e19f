"""An encoder and a decoder that nobody trained, and files to make an index of."""

from pathlib import Path

import pytest

from lm.model import Transformer
from lm.objectives import Causal, Masked
from lm.retrieval.embed import Embedder, load_embedder
from tests.makers import one_device, save_untrained

LENGTH = 32
FILES = {
    "water.txt": "Ships float on water.\n\nA keel keeps ships upright.\nSails take wind.\n",
    "fire.md": "# Fire\n\nFire needs air, fuel and heat.\n\nSmoke rises from it.\n",
    "earth.html": "<html><body><h1>Earth</h1>\n<p>Worms live in the\nsoil.</p></body></html>",
}


@pytest.fixture(autouse=True)
def _one_device():
    """Programs for one device are compiled sooner than for eight."""
    with one_device():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder of models on bytes, of one layer."""
    folder = tmp_path_factory.mktemp("embedders")
    model = Transformer(depth=1, width=16, heads=4)
    for name, objective in (("bert", Masked()), ("gpt", Causal())):
        save_untrained(folder / name, objective, model, length=LENGTH)
    return folder


@pytest.fixture(scope="session")
def embedder(models) -> Embedder:
    with one_device():
        return load_embedder(models / "bert")


@pytest.fixture
def files(tmp_path) -> Path:
    """A folder of three small files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder
