"""What every test runs under; set before jax is imported, and inherited by child processes."""

import gc
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

_CACHE = tempfile.TemporaryDirectory(prefix="yardstick-tests-")
"""New each time: a tokenizer or store that old code wrote must not hide what new code does."""

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    # Compiled programs are keyed by their whole content, so these may outlive a test run.
    "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR")
    or str(Path(__file__).parents[1] / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",  # smaller ones are made anew sooner
    "LM_CACHE": _CACHE.name,
    "MPLBACKEND": "Agg",
    # XLA says "Involuntary full rematerialization" on stderr, where tests listen for it.
    "TF_CPP_MIN_LOG_LEVEL": "0",
}

# The first example of a jitted property compiles, and takes as long as that takes.
hypothesis.settings.register_profile("yardstick", deadline=None)
hypothesis.settings.load_profile("yardstick")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test and the fixtures that it is the first to ask for have one device, as a laptop has.

    Those that are marked `eight_devices` have all: `test_devices` lists where these stand.
    """
    from tests.makers import one_device  # imports jax, which reads the variables above

    with nullcontext() if item.get_closest_marker("eight_devices") else one_device():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _give_memory_back() -> Iterator[None]:
    """A command keeps what it has freed, as the next step asks for as much; no worker does."""
    from lm.distributed import process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "keep_memory", lambda: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """A worker compiles more than one process may have."""
    yield
    from lm.distributed.process import forget_programs  # after the variables above

    forget_programs()


@pytest.fixture(autouse=True)
def _own_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test patches is in no program that another test uses, nor the other way round."""
    step = sys.modules.get("lm.train.step")
    if step is None or "monkeypatch" not in request.fixturenames:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "_prepared", lru_cache(16)(step._prepared.__wrapped__))
        yield


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    """As pytest's `monkeypatch`, for what is in no program: other tests' programs are used."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def pytest_collection_finish(session: pytest.Session) -> None:
    """Programs are kept for the tests to come, more of them than a user's.

    What was imported is there to the end: it is no garbage, and is not looked through.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # tracing makes much, of which little is garbage
    if step := sys.modules.get("lm.train.step"):
        step._prepared = lru_cache(16)(step._prepared.__wrapped__)


def pytest_unconfigure(config: pytest.Config) -> None:
    _CACHE.cleanup()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a second, whose compiled programs tests share: see `makers.small_run`."""
    from tests import makers

    return makers.small_run(makers.text(tmp_path_factory.mktemp("corpus")))


@pytest.fixture(scope="session")
def finished_run(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of `run`, trained to its end on one device; to be read, or copied."""
    from lm.train.train import train_run
    from tests.makers import one_device

    directory = tmp_path_factory.mktemp("runs") / "whole"
    with one_device():
        train_run(run, directory)
    return directory
