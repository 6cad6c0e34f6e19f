"""The manifests, read back as Kubernetes and Slurm would read them."""

import subprocess

import pytest

from tpu.manifest import jobset, slurm
from tpu.slices import find
from tpu.startup import place, script
from tpu.study import Study

yaml = pytest.importorskip("yaml")

TOY = Study("toy_study", "v5e-16", ('data.corpus.paths=["it\'s/*.txt"]',))
COMMIT = "c" * 40
WHERE = place("gs://ours", TOY)


def job(slice_: str, tier: str = "on demand", slices: int = 1):
    return yaml.safe_load(jobset(TOY, find(slice_), slices, tier, WHERE, COMMIT))


def test_a_jobset_is_a_pod_each_host():
    """Fails if hosts are counted as chips."""
    made = job("v5e-8")
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"]["name"] == TOY.name
    (replicated,) = made["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    assert replicated["template"]["spec"]["parallelism"] == 1
    assert replicated["template"]["spec"]["completions"] == 1
    spec = job("v5e-16")["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (4, 4)
    (replicated,) = job("v5e-16", slices=3)["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 3
    assert replicated["template"]["spec"]["parallelism"] == 4


@pytest.mark.parametrize(
    ("slice_", "accelerator", "topology", "chips"),
    [
        ("v3-8", "tpu-v3-device", "2x2", 4),
        ("v3-32", "tpu-v3-slice", "4x4", 4),
        ("v5e-8", "tpu-v5-lite-podslice", "2x4", 8),
        ("v6e-256", "tpu-v6e-slice", "16x16", 4),
        ("tpu7x-16", "tpu7x", "2x2x2", 4),
    ],
)
def test_pods_are_where_their_chips_are(slice_, accelerator, topology, chips):
    """Fails if a pod asks for another kind of node, or for the chips of the whole slice."""
    pod = pod_of(job(slice_))
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"] == {"google.com/tpu": chips}


def test_spot_pods_are_on_spot_nodes():
    """Fails if --spot is lost, or on-demand pods tolerate being on spot nodes."""
    assert (
        pod_of(job("v5e-8", tier="spot"))["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    )
    assert "tolerations" not in pod_of(job("v5e-8"))


def test_a_jobset_comes_back_after_preemptions_and_gives_up_on_crashes():
    """Fails if a preempted pod counts as a crash, or pods restart one by one inside a slice."""
    spec = job("v5e-8")["spec"]
    assert spec["failurePolicy"] == {
        "maxRestarts": 10,
        "rules": [
            {
                "action": "RestartJobSetAndIgnoreMaxRestarts",
                "onJobFailureReasons": ["PodFailurePolicy"],
            }
        ],
    }
    child = spec["replicatedJobs"][0]["template"]["spec"]
    assert child["backoffLimit"] == 0
    assert child["template"]["spec"]["restartPolicy"] == "Never"
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    assert child["podFailurePolicy"]["rules"] == [
        {"action": "FailJob", "onPodConditions": [disrupted]}
    ]


def test_pods_run_the_launchers_script():
    """Fails if YAML changes a character of it, or a pod does not tell the study to stop."""
    bash, option, text = pod_of(job("v5e-8"))["containers"][0]["command"]
    assert (bash, option) == ("bash", "-c")
    assert text == script(TOY, COMMIT, WHERE, hosts=1, told="first")
    subprocess.run(["bash", "-n", "-c", text], check=True)


def pod_of(made):
    return made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


SRUN = """\
#!/bin/bash
printf '%s\\n' "$@" > srun
exit {code}
"""


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (1, False)])
def test_a_slurm_job_queues_itself_again_only_when_stopped(tmp_path, code, requeued):
    """Fails if a finished or broken study is repeated, or a stopped one is not."""
    text = slurm(TOY, gpus=4, nodes=1)
    for name, stub in {
        "srun": SRUN.format(code=code),
        "scontrol": "#!/bin/sh\necho $* > queued\n",
    }.items():
        (tmp_path / name).write_text(stub)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
    ran = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=environment)
    assert ran.returncode == (0 if requeued else code)
    assert (tmp_path / "queued").exists() == requeued
    if requeued:
        assert (tmp_path / "queued").read_text() == "requeue 7\n"
    asked = (tmp_path / "srun").read_text().splitlines()
    assert asked[-1] == TOY.overrides[0]
    assert "experiments.toy_study" in asked


@pytest.mark.parametrize(("nodes", "tasks"), [(1, "1"), (2, "4")])
def test_slurm_has_the_processes_that_jax_expects_and_time_to_save(nodes, tasks):
    """Fails if several machines get one process each: jax gives it one GPU of them."""
    lines = slurm(TOY, gpus=4, nodes=nodes).splitlines()
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH --")
    )
    assert (options["nodes"], options["ntasks-per-node"]) == (str(nodes), tasks)
    assert options["gpus-per-node"] == "4"
    assert options["signal"] == "TERM@120"
    assert "requeue" in options
