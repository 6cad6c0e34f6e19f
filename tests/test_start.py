"""The machine made ready, each in a process of its own."""

import os
import subprocess
import sys

import pytest

from lm.start import needless_libtpu

PROGRAM = """
import resource, sys
import numpy as np
from lm.start import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults(), faults()
keep_memory()
print(*before, faults(), faults())
"""


def test_freed_memory_is_kept_for_the_next_step():
    """Fails if large arrays are still handed back to Linux, which clears each page again.

    An array of 64 MiB is 16384 pages, fewer where the system joins them.
    """
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    _, again, _, kept = map(int, ran.stdout.split())
    assert kept < 16
    assert again > kept


@pytest.mark.parametrize(
    ("vendors", "platforms", "plugins", "needless"),
    [
        ([], "", ["libtpu"], True),
        (["0x8086", "0x10de"], "", ["libtpu"], True),
        (["0x8086", "0x1ae0"], "", ["libtpu"], False),
        (["0x8086"], "tpu", ["libtpu"], False),
        (["0x8086"], "", ["libtpu", "jax_plugins"], False),
        (["0x8086"], "", [], False),
    ],
)
def test_a_tpus_library_is_left_alone_where_there_is_none(
    monkeypatch, tmp_path, vendors, platforms, plugins, needless
):
    """Fails if a TPU, or a GPU, is not used where there is one, or a choice is overruled."""
    for number, vendor in enumerate(vendors):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "vendor").write_text(vendor + "\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in plugins or None)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    assert needless_libtpu(tmp_path) is needless


def test_commands_say_nothing_of_tpus_that_are_not_here(tmp_path):
    """Fails if whoever installed the TPU's compiler reads its complaints ever after."""
    program = "from lm.start import prepare_machine as p; p(); import jax; print(jax.devices())"
    environment = {name: os.environ[name] for name in os.environ if name != "JAX_PLATFORMS"}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env=environment
    )
    assert b"WARNING" not in ran.stderr, ran.stderr
