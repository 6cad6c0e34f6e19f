"""What commands run under."""

import sys

import jax
import pytest


@pytest.fixture
def as_a_process(monkeypatch, tmp_path):
    """A folder of its own; commands set up the process that they are, which is pytest's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    yield
    jax.config.update(name, before)
