"""The script that hosts run, run by bash between a fake cloud and a fake Python."""

import os
import signal
import subprocess
import time

import pytest

from tpu import study
from tpu.bucket import Bucket
from tpu.errors import UserError
from tpu.startup import launch_id, place, script
from tpu.study import Study

TOY = Study("toy_study", "smoke", ('data.corpus.paths=["it\'s/*.txt"]',))


@pytest.fixture
def host(computer, files, checkout):
    return Host(computer, files, checkout)


class Host:
    """A machine that runs the toy study; `boot` runs the script to its end."""

    def __init__(self, computer, files, checkout) -> None:
        self.computer, self.home = computer, computer.home
        self.where = place("gs://ours/lm", TOY)
        self.commit = study.commit(checkout)
        self.bucket = Bucket(self.where, files)
        self.bucket.put_source(self.commit, study.bundle(checkout))

    def start(self, *plan: object, told: str = "all") -> subprocess.Popen:
        return self.computer.start(script(TOY, self.commit, self.where, told), plan)

    def boot(self, *plan: object) -> int:
        return self.start(*plan).wait(timeout=30)

    def wait_for(self, name: str) -> None:
        end = time.monotonic() + 30
        while not (self.home / name).exists():
            assert time.monotonic() < end
            time.sleep(0.01)

    @property
    def runs(self) -> int:
        path = self.home / "ran"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def said(self):
        (said,) = self.bucket.hosts()
        return said


def test_exit_code_75_starts_the_study_again_until_it_is_done(host):
    """Fails if 75 counts as a failure, 0 does not end it, or arguments are split."""
    assert host.boot(75, 75, 0) == 0
    assert host.runs == 3
    assert (host.said.host, host.said.state, host.said.code) == ("0-0", "done", 0)
    assert host.said.time.endswith("Z")
    assert host.said.launch == launch_id(TOY, host.commit)
    arguments = (host.home / "arguments").read_text().splitlines()
    assert arguments == [
        *("-m", "experiments.toy_study", "--scale", "smoke"),
        *("--runs", "gs://ours/lm/runs", *TOY.overrides),
    ]


def test_what_runs_is_the_commit_with_its_pins(host):
    """Fails if another commit is checked out, or the constraints are left out."""
    assert host.boot(0) == 0
    head = ["git", "-C", str(host.home / "source"), "rev-parse", "HEAD"]
    assert subprocess.check_output(head, text=True).strip() == host.commit
    installs = (host.home / "installs").read_text().splitlines()
    assert "--constraint constraints.txt --editable .[tpu,cloud]" in installs[-1]
    assert installs[-1].startswith(f"{host.home}/source: ")


def test_another_exit_code_is_a_failure_with_its_log(host):
    """Fails if a broken study is started again and again, or the log lacks why it broke."""
    (host.home / "slow").touch()
    assert host.boot(75, 3, 0) == 3
    assert host.runs == 2
    assert (host.said.state, host.said.code) == ("failed", 3)
    log = host.bucket.log("0-0")
    assert "the study ends with 75\n" in log
    assert log.endswith("the study ends with 3\nyardstick: failed with exit code 3\n")


def test_a_study_that_leaves_nothing_in_the_bucket_is_not_done(host):
    """Fails if runs on a disk that goes with the machine count as kept."""
    (host.home / "to-bucket").unlink()
    assert host.boot(0) == 1
    assert host.said.state == "failed"
    assert "nothing is under gs://ours/lm/runs/toy_study" in host.bucket.log("0-0")


def test_a_crash_of_a_preempted_machine_is_no_failure(host, machine):
    """Fails if the metadata is not asked: the launcher would give up what it should repeat."""
    machine.metadata["preempted"] = "TRUE"
    assert host.boot(134) == 75
    assert host.said.state == "stopped"


@pytest.mark.parametrize("code", [75, 143])
def test_a_machine_that_shuts_down_lets_the_study_save(host, code):
    """Fails if the study is told twice, which kills it, started again, or said to fail."""
    running = host.start(f"wait {code}", 0)
    host.wait_for("waiting")
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(timeout=30) == 75
    assert (host.home / "told").read_text() == "told\n"
    assert host.runs == 1
    assert host.said.state == "stopped"


def test_a_pod_that_is_told_to_stop_tells_the_study(host):
    """Fails if the signal ends with bash, which is the one that Kubernetes tells."""
    running = host.start("wait 75", 0, told="first")
    host.wait_for("waiting")
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 75
    assert (host.home / "told").read_text() == "told\n"
    assert host.said.state == "stopped"


def test_an_install_that_fails_three_times_is_a_failure(host):
    """Fails if it is tried for ever on paid machines, or the study is started without it."""
    (host.home / "no-index").touch()
    assert host.boot(0) == 1
    assert host.runs == 0
    assert host.said.state == "failed"
    assert (host.home / "installs").read_text().count("pip install") == 3


def test_a_machine_that_boots_again_goes_on_without_installing(host):
    """Fails if maintenance costs an install, or the first boot's log."""
    assert host.boot(3) == 3
    installs = (host.home / "installs").read_text()
    assert host.boot(0) == 0
    assert (host.home / "installs").read_text() == installs
    assert host.said.state == "done"


def test_each_host_of_each_slice_speaks_for_itself(host, machine):
    """Fails if hosts of two slices overwrite each other's state or log."""
    machine.metadata["attributes/agent-worker-number"] = "3"
    machine.metadata["attributes/tpu-env"] = "A: 'x'\nMEGASCALE_SLICE_ID: '1'\nB: 'y'\n"
    assert host.boot(0) == 0
    assert host.said.host == "1-3"
    # GKE says it in the environment.
    host.computer.environment |= {"TPU_WORKER_ID": "2", "MEGASCALE_SLICE_ID": "0"}
    assert host.boot(0) == 0
    assert [one.host for one in host.bucket.hosts()] == ["0-2", "1-3"]


@pytest.mark.parametrize(
    "bucket",
    [
        "ours",
        "gs://",
        "gs://ab",
        "gs://Ours",
        "gs://our s",
        "gs://a/../b",
        "gs://my-google-1",
        "s3://ours",
    ],
)
def test_a_bad_bucket_is_one_line(bucket):
    """Fails if it is only noticed by the hosts, which could not even say so."""
    with pytest.raises(UserError, match="not a bucket; write gs://NAME"):
        place(bucket, TOY)
