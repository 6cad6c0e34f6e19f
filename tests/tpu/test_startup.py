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


RUN = "toy_study/smoke/a=b +c"


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

    def start(self, *plan: object, told: str = "all", hosts: int = 1) -> subprocess.Popen:
        text = script(TOY, self.commit, self.where, hosts=hosts, told=told)
        return self.computer.start(text, plan)

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

    def kept(self) -> dict[str, str]:
        """The files of the run in the bucket."""
        run = self.computer.machine.buckets / "ours" / self.where.runs / RUN
        found = {str(p.relative_to(run)): p for p in run.rglob("*") if p.is_file()}
        return {name: path.read_text() for name, path in sorted(found.items())}

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
        *("--runs", "../runs", *TOY.overrides),
    ]


def test_r3_a_restart_is_known_by_its_job(host):
    """Fails if a lock in the bucket, of a host that is gone, keeps the next one waiting."""
    assert host.boot(75, 0) == 0
    (job,) = set((host.home / "jobs").read_text().splitlines())
    assert job.endswith(f"launches/{TOY.name}")


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


def test_a_study_goes_on_from_the_bucket_when_the_disk_is_lost(host):
    """Fails if runs are copied only at the end, or not brought to an empty disk.

    The machine of the first life is gone without notice, in the middle of the study.
    """
    running = host.start(75, 75, "wait 75")
    host.wait_for("waiting")
    end = time.monotonic() + 30
    while "checkpoints/3/state" not in host.kept():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    host.computer.renew()
    assert host.boot(75, 0) == 0
    assert host.said.state == "done"
    assert host.kept() == {
        "checkpoints/4/state": "4\n",
        "checkpoints/5/state": "5\n",
        "empty": "",
        "metrics.jsonl": "1\n2\n3\n4\n5\n",
        "result.json": "5\n",
    }


def test_a_machine_that_shuts_down_copies_what_the_study_saved(host):
    """Fails if what is saved on the request to stop stays on the disk that is lost."""
    running = host.start("wait 75")
    host.wait_for("waiting")
    (host.home / "late").touch()
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(timeout=30) == 75
    assert host.kept()["late"] == "saved\n"


def test_a_copy_that_breaks_off_can_be_gone_on_from(host, machine):
    """Fails if a checkpoint is there before its records, or a result before its checkpoint;
    or if the checkpoints before are removed though the newest could not be written.
    """
    assert host.boot(75, 75, 3) == 3
    machine.refused = "checkpoints/5/"
    machine.uploads.clear()
    assert host.boot(75, 75, 0) == 1
    assert "runs could not be copied to gs://ours/lm/launches/" in host.bucket.log("0-0")
    assert (host.said.state, host.said.code) == ("failed", 1)
    kept = host.kept()
    assert "result.json" not in kept
    assert [name for name in kept if "checkpoints" in name] == [
        "checkpoints/3/state",
        "checkpoints/4/state",
    ]
    machine.refused = ""
    machine.uploads.clear()
    assert host.boot(0) == 0
    copied = [name.partition(f"{RUN}/")[2] for name in machine.uploads if RUN in name]
    last = {name: place for place, name in enumerate(copied)}
    assert last["metrics.jsonl"] < last["checkpoints/7/state"] < last["result.json"]
    assert [name for name in host.kept() if "checkpoints" in name] == [
        "checkpoints/6/state",
        "checkpoints/7/state",
    ]


def test_what_did_not_change_is_not_copied_again(host, machine):
    """Fails if each copy is of everything, or a restored disk's first one is."""
    assert host.boot(75, 75, 3) == 3
    assert len([name for name in machine.uploads if "checkpoints/3/" in name]) == 1
    host.computer.renew()
    machine.uploads.clear()
    assert host.boot(3) == 3
    assert not [name for name in machine.uploads if "checkpoints/3/" in name]
    assert [name for name in machine.uploads if "checkpoints/4/" in name]


def test_a_study_does_not_start_over_when_the_bucket_cannot_be_read(host, machine):
    """Fails if an error while runs are brought back is taken for an empty bucket."""
    assert host.boot(75, 3) == 3
    host.computer.renew()
    machine.unreadable = "metrics.jsonl"
    assert host.boot(0) == 1
    assert host.runs == 0
    assert host.said.state == "failed"
    assert not (host.home / "runs").exists()


def test_only_the_first_host_copies(host, machine):
    """Fails if several hosts write the same objects, or bring back what they do not need."""
    assert host.boot(75, 3) == 3
    kept = host.kept()
    host.computer.renew()
    machine.metadata["attributes/agent-worker-number"] = "1"
    assert host.boot(75, 3) == 3
    assert host.kept() == kept
    assert not (host.home / "restored").exists()


def test_several_hosts_keep_checkpoints_where_all_of_them_can_write(host):
    """Fails if a host writes its part of a checkpoint to a disk that no other sees."""
    assert host.start(0, hosts=4).wait(timeout=30) == 0
    last = (host.home / "arguments").read_text().splitlines()[-1]
    assert last == f"checkpoints.directory=gs://ours/{host.where.folder}/checkpoints"


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
