"""The machine made ready, each in a process of its own."""

import subprocess
import sys

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
