"""How every command begins and ends: the machine made ready, errors in one line."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from lm.config import UserError
from lm.train.fit import Stopped

STOPPED = 75
"""Exit code of a run that was asked to stop and is saved: run the same command again.

It is EX_TEMPFAIL of sysexits.h."""


def prepare_machine() -> None:
    """Keeps compiled programs between runs, and joins the other processes where there are any.

    Several are those of a Cloud TPU pod, Slurm or Open MPI, which JAX finds by itself.
    """
    cache = os.environ.get("LM_CACHE") or "~/.cache/yardstick"
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(Path(cache).expanduser() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    several = ("TPU_WORKER_HOSTNAMES", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    if any(os.environ.get(name, "1") not in ("1", "", "localhost") for name in several):
        jax.distributed.initialize()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What the user can mend is one line and exit code 2; a requested stop is `STOPPED`."""
    logging.basicConfig(format="lm: %(message)s", level=logging.WARNING)
    try:
        yield
    except UserError as error:
        print(f"lm: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(f"lm: {stopped}; the same command goes on from there", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # `lm ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
