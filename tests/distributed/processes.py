"""The processes of several hosts, on loopback, and what those that start them tell them."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from lm.distributed.hosts import VARIABLES

Environment = dict[str, str]


def told(host: int, number: int, port: int) -> Environment:
    """What we tell a host where nobody else does."""
    return dict(zip(VARIABLES, (f"127.0.0.1:{port}", str(number), str(host)), strict=True))


def slurm(host: int, number: int, port: int) -> Environment:
    """What srun tells its tasks, all on one machine."""
    return {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(number),
        "SLURM_PROCID": str(host),
        "SLURM_LOCALID": str(host),
        "JAX_COORDINATOR_PORT": str(port),
    }


QUIET = {"TF_CPP_MIN_LOG_LEVEL": "1"}
"""As users have it: none of the libraries' notes on standard error."""


class Hosts:
    """The same Python program on several hosts, each told who it is by `environment`."""

    def __init__(
        self,
        number: int,
        folder: Path,
        program: str,
        *arguments: str,
        environment: Callable[[int, int, int], Environment] = told,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.errors = [folder / f"host{host}.err" for host in range(number)]
        self.processes = []
        for host, errors in enumerate(self.errors):
            who = environment(host, number, port)
            with errors.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, "-c", program, *arguments],
                    env={**os.environ, **who, **QUIET, "JAX_NUM_CPU_DEVICES": str(8 // number)},
                    cwd=Path(__file__).parents[2],
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                )
            self.processes.append(process)

    def end(self) -> tuple[list[int], list[str]]:
        """The exit codes, and what was printed, when all have ended by themselves."""
        try:
            printed = [process.communicate(timeout=600)[0] for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return [process.returncode for process in self.processes], printed

    def said(self, host: int) -> str:
        return self.errors[host].read_text(errors="replace")


TRAIN = "from lm.cli import main; main()"
