"""What a machine's GPU was seen to be right with: where it is noted, and who takes it."""

from types import SimpleNamespace

import jax
import pytest

from lm.data import Data
from lm.distributed import hosts
from lm.model import Transformer
from lm.model.attention import note_backend, note_file, noted_backend
from lm.model.positions import Alibi
from lm.run import Run
from lm.train.train import with_noted_attention

GPU = SimpleNamespace(platform="gpu", device_kind="NVIDIA H200")
LONG = Run(data=Data(length=1024))


@pytest.fixture(autouse=True)
def _a_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))


def taken(run=LONG, device=GPU):
    return with_noted_attention(run, device).attention


def test_a_gpu_takes_no_kernel_that_was_not_noted():
    """Fails if a kernel that nobody has seen run computes what is published."""
    assert taken() == "auto" and noted_backend(GPU.device_kind) is None
    note_backend("NVIDIA A100-SXM4-80GB", "triton")
    assert taken() == "auto"


def test_what_was_noted_is_taken_where_it_can_be(monkeypatch):
    """Fails if a wish is overruled, or a note serves runs or devices that it is not for."""
    note_backend(GPU.device_kind, "triton")
    assert taken() == "triton"
    assert taken(Run(data=Data(length=1024), attention="xla")) == "xla"
    assert taken(Run(data=Data(length=256))) == "auto"
    assert taken(Run(data=Data(length=1024), precision="float32")) == "auto"
    alibi = Transformer(positions=Alibi())
    assert taken(Run(data=Data(length=1024), model=alibi)) == "auto"
    for platform in ("cpu", "tpu"):
        there = SimpleNamespace(platform=platform, device_kind=GPU.device_kind)
        assert taken(device=there) == "auto"
    monkeypatch.setattr(hosts, "is_multihost", lambda: True)
    assert taken() == "auto", "hosts would compile different programs"


def test_a_note_is_of_its_jax_and_is_whole(monkeypatch):
    """Fails if another jax inherits a check, or a broken file ends training."""
    note_backend("another", "cudnn")
    note_backend(GPU.device_kind, "triton")
    assert noted_backend("another") == "cudnn"
    note_backend(GPU.device_kind, "xla")
    assert taken() == "auto"
    note_backend(GPU.device_kind, "triton")
    with monkeypatch.context() as patch:
        patch.setattr(jax, "__version__", "0.0.1")
        assert taken() == "auto"
    for broken in ("{", "[]", '{"NVIDIA H200": 3}', '{"NVIDIA H200": {"attention": "no"}}'):
        note_file().write_text(broken)
        assert taken() == "auto"
