"""A slice of four hosts, from the script that each boots with to the study that they share."""

import json
import os
import shlex
import socket
import sys
from pathlib import Path

import pytest

from tpu import study
from tpu.bucket import Bucket
from tpu.startup import place, script
from tpu.study import Study

ROOT = Path(__file__).parents[2]

PYTHON = f"""\
#!/bin/bash
# The environment's Python, with the code that is tested in place of the commit's.
PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -P "$STUBS/program" "$@"
"""

PROGRAM = """
import os, sys
import jax
del os.environ["TPU_SKIP_MDS_QUERY"]  # jax sets it where it sees no TPU's chip
from experiments import bert_vs_gpt
from lm.study import runner
from lm.evaluate.scoring import Effort
runs = bert_vs_gpt.runs
bert_vs_gpt.runs = lambda scale: dict([next(iter(runs(scale).items()))])
bert_vs_gpt.EFFORT = {"smoke": Effort(rows=8, samples=2, replicates=2, share_rows=8)}
assert sys.argv[1:3] == ["-m", "experiments.bert_vs_gpt"]
# A folder stands for the bucket that the hosts share.
buckets = os.environ["BUCKETS"]
runner.main(bert_vs_gpt, [part.replace("gs://", f"{buckets}/") for part in sys.argv[3:]])
"""


@pytest.mark.slow
def test_m1_the_hosts_of_a_slice_run_one_study(four_hosts, tmp_path, files, checkout):
    """Fails if a host of a slice is alone: whatever jax asks the metadata, it finds the others.

    No chip is there, so jax is told that there are some, and computes on CPUs.
    """
    lines = (f"{number} bottles on the wall" for number in range(2000))
    (tmp_path / "text.txt").write_text("\n\n".join(lines))
    settings = (
        *("data.corpus.type=text", f'data.corpus.paths=["{tmp_path}/text.txt"]'),
        *(
            "data.corpus.documents=paragraph",
            "data.validation=0.3",
            "tokens=3000",
            "evaluations=1",
        ),
    )
    chosen = Study("bert_vs_gpt", "smoke", settings)
    where, commit = place("gs://ours", chosen), study.commit(checkout)
    bucket = Bucket(where, files)
    bucket.put_source(commit, study.bundle(checkout))
    text = script(chosen, commit, where, hosts=4, told="all")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    booted = []
    for computer in four_hosts:
        stubs = Path(computer.environment["STUBS"])
        (stubs / "study").write_text(PYTHON)
        (stubs / "program").write_text(PROGRAM)
        (stubs / "sleep").write_text("#!/bin/sh\nexec /bin/sleep 1\n")
        computer.environment |= {
            "BUCKETS": str(computer.machine.buckets),
            "GCE_METADATA_IP": computer.machine.address,
            "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
            "JAX_COORDINATOR_PORT": str(port),
            "JAX_FORCE_TPU_INIT": "1",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_PLATFORMS": "cpu",
            "LM_CACHE": str(computer.home / "cache"),
        }
        booted.append(computer.start(text, []))
    codes = [script.wait(timeout=900) for script in booted]
    logs = [bucket.log(f"0-{number}") for number in range(4)]
    assert codes == [0] * 4, logs[0]
    assert [host.state for host in bucket.hosts()] == ["done"] * 4
    assert ": 4 hosts, 4 devices (cpu)\n" in logs[0]
    assert [log.count("report.html") for log in logs] == [1, 0, 0, 0]
    kept = computer.machine.buckets / "ours" / where.runs
    (environment,) = kept.glob("bert_vs_gpt/*/*/environment.json")
    assert json.loads(environment.read_text())["hosts"] == 4
    assert len(list(kept.glob("bert_vs_gpt/*/*/result.json"))) == 1
    assert list((kept.parent / "checkpoints").glob("*/[0-9]*"))
