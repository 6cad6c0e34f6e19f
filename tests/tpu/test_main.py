"""The commands, on this repository's own studies."""

import json
import subprocess
import sys

import pytest
from google.cloud import tpu_v2

from tpu import __main__ as command
from tpu import bucket, queued, study
from tpu.errors import UserError

STUDY = ["bert_vs_gpt", "--scale", "v5e-8"]
WHERE = ["--project", "our-project", "--zone", "us-west4-a"]
BUCKET = ["--bucket", "gs://ours"]
LAUNCH = ["launch", *STUDY, "--slice", "v5e-8", *BUCKET, *WHERE]
SLURM = ["manifest", *STUDY, "--kind", "slurm"]
JOBSET = ["manifest", *STUDY, "--kind", "jobset"]
NAME = "yardstick-bert-vs-gpt-v5e-8"


PROGRAM = """
import sys
import tpu.__main__, tpu.launch, tpu.bucket
print([name for name in ("jax", "lm", "numpy", "experiments") if name in sys.modules])
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    """The tests' own checkout may have changes."""
    monkeypatch.setattr(study, "commit", lambda: "c" * 40)
    monkeypatch.setattr(study, "bundle", lambda: b"source")
    # Each would ask the study, in a process of seconds; one test does.
    monkeypatch.setattr(study, "check", lambda *_: "nine runs")


@pytest.fixture
def cloud(service, files, monkeypatch):
    """The commands with the servers on loopback for Google's."""
    real = queued.Queue

    def queue(project, zone, name):
        return real(project, zone, name, client=service.client, poll=0.005)

    monkeypatch.setattr(queued, "Queue", queue)
    real_bucket = bucket.Bucket
    monkeypatch.setattr(bucket, "Bucket", lambda where: real_bucket(where, files))
    return service


def say(files, state, launch, code=0):
    news = {"state": state, "code": code, "launch": launch, "time": "2026-01-01T00:00:00Z"}
    path = f"ours/yardstick/launches/{NAME}/hosts/0-0.json"
    files.pipe_file(path, json.dumps(news).encode())


def test_a_dry_run_prints_the_requests_and_the_script_and_sends_nothing(monkeypatch, capsys):
    """Fails if anything is sent, or what is printed is not what would be."""

    def refuse(*_, **__):
        raise AssertionError("a client was made")

    monkeypatch.setattr(queued, "Queue", refuse)
    monkeypatch.setattr(bucket, "Bucket", refuse)
    command.main([*LAUNCH, "--spot", "--dry-run", "tokens=1000"])
    out = capsys.readouterr().out
    described, end = json.JSONDecoder().raw_decode(out)
    script = out[end:].lstrip("\n")
    name = f"{NAME}-{study.Study('bert_vs_gpt', 'v5e-8', ('tokens=1000',)).name[-6:]}"
    methods = [next(iter(request)) for request in described["requests"]]
    assert methods == [
        "GetQueuedResource",
        "CreateQueuedResource",
        "GetNode",
        "DeleteQueuedResource",
    ]
    create = tpu_v2.CreateQueuedResourceRequest.from_json(
        json.dumps(described["requests"][1]["CreateQueuedResource"])
    )
    assert create.queued_resource_id == name
    assert "spot" in create.queued_resource
    (spec,) = create.queued_resource.tpu.node_spec
    assert spec.node.metadata["startup-script"] == script.removesuffix("\n")
    assert (
        described["upload"] == f"gs://ours/yardstick/launches/{name}/source-{'c' * 40}.bundle"
    )
    subprocess.run(["bash", "-n", "-c", script], check=True)


CHECK = study.check


def test_launching_asks_the_study_about_its_settings_first(monkeypatch, capsys):
    """Fails if a setting that no run can have is noticed by hosts that are paid for."""
    monkeypatch.setattr(study, "check", CHECK)
    monkeypatch.setattr(queued, "Queue", None)
    monkeypatch.setattr(bucket, "Bucket", None)
    with pytest.raises(SystemExit) as raised:
        command.main([*LAUNCH, "model.depht=3"])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("tpu: bert_vs_gpt: model.depht=3: no such field; did you mean")
    assert error.count("\n") == 1


def test_launching_checks_the_settings_for_the_slices_that_are_asked_for(monkeypatch, capsys):
    """Fails if a launch or a manifest is checked for other devices, or not at all."""
    asked = []

    def refuse(chosen, slice_, number):
        asked.append((slice_, number, chosen.overrides))
        raise UserError("refused")

    monkeypatch.setattr(study, "check", refuse)
    launch, jobset = [*LAUNCH, "--slices", "2"], ["--kind", "jobset", "--slice", "v6e-8"]
    for arguments in (
        [*launch, "seed=1"],
        [*launch, "--dry-run", "seed=1"],
        ["manifest", *STUDY, *jobset, *BUCKET, "seed=1"],
        ["manifest", *STUDY, "--kind", "slurm", "--nodes", "3", "--gpus", "4", "seed=1"],
    ):
        with pytest.raises(SystemExit):
            command.main(arguments)
    assert capsys.readouterr().out == ""
    asked_for = [("v5e-8", 2), ("v5e-8", 2), ("v6e-8", 1), ("h100-12", 1)]
    assert asked == [(*slices, ("seed=1",)) for slices in asked_for]


def test_launching_where_jax_is_not_says_that_nothing_was_checked(monkeypatch):
    """Fails if the launcher needs what it is kept free of, or keeps silent about it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "not checked" in CHECK(study.Study("bert_vs_gpt", "v5e-8", ("no=1",)), "v5e-8", 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["launch", *STUDY, "--slice", "v5e-12", *BUCKET, *WHERE], "nearest: v5e-8, v5e-16"),
        ([*LAUNCH, "--runtime", "v2-alpha-tpuv6e"], "v5e-8 needs v2-alpha-tpuv5-lite"),
        ([*LAUNCH, "--bucket", "ours"], "--bucket ours: not a bucket"),
        (
            ["manifest", *STUDY, "--kind", "slurm", "--gpus", "0"],
            "'0' is not a whole number from 1 to 9999",
        ),
        ([*LAUNCH, "--project", "Our Project"], "'Our Project' is not a project's id"),
        ([*LAUNCH, "--zone", "us-west4"], "'us-west4' is not a zone"),
        ([*LAUNCH, "--spott"], "unrecognized arguments: --spott"),
        ([*LAUNCH, "--scale", "v5e-9"], "did you mean v5e-8?"),
        ([*LAUNCH, "tokens"], "'tokens': not an override"),
        (["launch", *STUDY, "--slice", "v5e-8", *BUCKET], "--project, --zone"),
        (["launch", "bert", "--scale", "x", "--slice", "y", *BUCKET, *WHERE], "no such study"),
        (["launch", "speed", "--scale", "x", "--slice", "y", *BUCKET, *WHERE], "no such study"),
        ([*LAUNCH, "--slice", "tpu7x-8"], "manifest --kind jobset"),
        ([*LAUNCH, "--scale", "a\nb"], "--scale a b: not of bert_vs_gpt"),
        (["manifest", *STUDY, "--kind", "jobset"], "needs --slice and --bucket"),
        ([*LAUNCH, "--slice", "v3-8", "--slices", "2"], "slices of v3 cannot be one run"),
        (
            [*JOBSET, "--slice", "v3-32", "--slices", "2", *BUCKET],
            "slices of v3 cannot be one run",
        ),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_sent(
    arguments, line, capsys, monkeypatch
):
    """Fails if a wrong argument is a traceback, or noticed after a request."""
    monkeypatch.setattr(queued, "Queue", None)
    with pytest.raises(SystemExit) as raised:
        command.main(arguments)
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("tpu: ")
    assert line in error
    assert error.count("\n") == 1


def test_a_launch_status_logs_and_stop(cloud, files, capsys):
    """Fails if a command looks for the study under another name than `launch` gave it."""
    states = tpu_v2.QueuedResourceState.State
    cloud.lives = [[states.ACTIVE]]
    command.main([*LAUNCH, "--detach"])
    assert "asked for v5e-8, on demand" in capsys.readouterr().out
    folder = f"ours/yardstick/launches/{NAME}"
    assert files.cat_file(f"{folder}/source-{'c' * 40}.bundle") == b"source"
    say(files, "failed", "anything", code=3)
    command.main(["status", *STUDY, *BUCKET, *WHERE])
    out = capsys.readouterr().out
    assert f"{NAME}: ACTIVE, 1 failed\n" in out
    assert "0-0     failed with exit code 3 since 2026-01-01T00:00:00Z" in out
    assert f"gs://ours/yardstick/launches/{NAME}/runs/bert_vs_gpt" in out
    files.pipe_file(f"{folder}/logs/0-0-20260101T000000.txt", b"the log\n")
    command.main(["logs", *STUDY, *BUCKET, *WHERE])
    assert capsys.readouterr().out == "the log\n"
    command.main(["stop", *STUDY, *BUCKET, *WHERE])
    assert capsys.readouterr().out == f"{NAME}: stopped\n"
    assert cloud.there == {}
    command.main(["stop", *STUDY, *BUCKET, *WHERE])
    assert capsys.readouterr().out == f"{NAME}: not in the queue of us-west4-a\n"


def test_a_finished_launch_says_where_the_runs_are(cloud, files, capsys):
    """Fails if `launch` returns before the study is done, or does not tell where it is."""
    chosen = study.Study("bert_vs_gpt", "v5e-8", ())

    def done():
        from tpu.startup import launch_id

        say(files, "done", launch_id(chosen, "c" * 40))
        return tpu_v2.QueuedResourceState.State.ACTIVE

    cloud.lives = [[done]]
    command.main(LAUNCH)
    assert capsys.readouterr().out.endswith(
        f"{NAME}: done; gs://ours/yardstick/launches/{NAME}/runs/bert_vs_gpt\n"
    )
    assert cloud.there == {}


def test_an_interrupted_watch_keeps_the_slice(cloud, monkeypatch, capsys):
    """Fails if Ctrl-C at a terminal costs the run, or ends in a traceback."""

    def interrupt():
        monkeypatch.setattr("tpu.queued.time.sleep", stop)
        return tpu_v2.QueuedResourceState.State.ACTIVE

    def stop(_):
        raise KeyboardInterrupt

    cloud.lives = [[interrupt]]
    with pytest.raises(SystemExit) as raised:
        command.main(LAUNCH)
    assert raised.value.code == 75
    assert "the same command watches on" in capsys.readouterr().err
    assert len(cloud.there) == 1


def test_missing_credentials_are_one_line(monkeypatch, capsys):
    """Fails if the most usual first error is a traceback."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(SystemExit) as raised:
        command.main(["stop", *STUDY, *BUCKET, *WHERE])
    assert raised.value.code == 2
    assert "run gcloud auth application-default login" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([*SLURM, "--slice", "v5e-8"], "--slice: not of --kind slurm, which has --gpus"),
        ([*SLURM, "--spot"], "--spot: not of --kind slurm"),
        ([*SLURM, "--slices", "1"], "--slices: not of --kind slurm"),
        ([*SLURM, *BUCKET], "--bucket: not of --kind slurm"),
        ([*JOBSET, "--slice", "v5e-8", *BUCKET, "--gpus", "1"], "--gpus: not of --kind jobset"),
        ([*JOBSET, "--slice", "v5e-8", *BUCKET, "--nodes", "2"], "--nodes: not of"),
    ],
)
def test_launching_by_a_manifest_takes_the_options_of_its_kind_alone(arguments, line, capsys):
    """Fails if an option is ignored: the job is then not what was asked for."""
    with pytest.raises(SystemExit) as raised:
        command.main(arguments)
    assert raised.value.code == 2
    assert line in capsys.readouterr().err


def test_manifests_are_printed(capsys):
    """Fails if a manifest's arguments do not reach it."""
    command.main(["manifest", *STUDY, "--kind", "slurm", "--gpus", "4"])
    assert "#SBATCH --gpus-per-node=4\n" in capsys.readouterr().out
    jobset = ["--kind", "jobset", "--slice", "v5e-8", "--spot", *BUCKET]
    command.main(["manifest", *STUDY, *jobset, "tokens=5"])
    out = capsys.readouterr().out
    assert 'cloud.google.com/gke-spot: "true"' in out
    assert "tokens=5" in out


def test_the_launcher_imports_neither_jax_nor_the_package():
    """Fails if a module of tpu imports lm for convenience, and with it jax."""
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert ran.stdout == "[]\n", ran.stderr


WITHOUT_GOOGLE = """
import sys
sys.modules["google"] = None
from tpu import __main__ as command, study
study.commit = lambda: "c" * 40
study.check = lambda *_: ""
command.main(sys.argv[1:])
"""


def test_manifests_need_no_google_client_and_launches_say_that_they_do():
    """Fails if a module that both use imports Google's, or its lack is a traceback."""
    python = [sys.executable, "-c", WITHOUT_GOOGLE]
    jobset = ["manifest", *STUDY, "--kind", "jobset", "--slice", "v5e-8", *BUCKET]
    subprocess.run([*python, *jobset], check=True, capture_output=True)
    ran = subprocess.run([*python, *LAUNCH], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr == 'tpu: no google.cloud here; pip install -e ".[cloud]"\n'
