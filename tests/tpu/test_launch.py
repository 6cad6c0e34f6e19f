"""The launcher with the real client, against a server that speaks the API's own messages."""

import json

import grpc
import pytest
from google.cloud import tpu_v2

from tpu import study
from tpu.bucket import Bucket
from tpu.errors import UserError
from tpu.launch import GRACE, SILENCE, start, watch
from tpu.queued import Job, Queue, Shortage
from tpu.slices import find
from tpu.startup import launch_id, place, script
from tpu.study import Study

State = tpu_v2.QueuedResourceState.State
TOY = Study("toy_study", "v5e-16", ())
PATH = "projects/ours/locations/us-west4-a/queuedResources/yardstick-toy-study-v5e-16"
STOCKOUT = "There is no more capacity in the zone"
QUOTA = "Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZone' has been exceeded"
LAUNCH = "0123456789ab"
UP = [State.ACCEPTED, State.PROVISIONING, State.ACTIVE]


class Launcher:
    """A launch of one kind of job, and what it reports."""

    def __init__(self, service, files) -> None:
        self.service, self.files = service, files
        self.bucket = Bucket(place("gs://ours", TOY), files)
        self.folder = f"ours/{self.bucket.where.folder}"
        self.queue = Queue("ours", "us-west4-a", TOY.name, client=service.client, poll=0.005)
        self.job = Job(
            name=TOY.name,
            slice=find("v5e-8"),
            slices=1,
            runtime="v2-alpha-tpuv5-lite",
            tier="spot",
            script="echo",
        )
        self.reports: list[str] = []

    def launch(self) -> bool:
        """Whether there was anything to do."""
        begun = start(self.job, self.queue, self.bucket, LAUNCH, self.reports.append)
        if begun:
            watch(self.job, self.queue, self.bucket, LAUNCH, self.reports.append)
        return begun

    def say(self, state: str, host: str = "0-0", code: int = 0, launch: str = LAUNCH) -> None:
        news = {"state": state, "code": code, "launch": launch, "time": "2026-01-01T00:00:00Z"}
        self.files.pipe_file(f"{self.folder}/hosts/{host}.json", json.dumps(news).encode())

    def then(self, state: str, **more):
        """A step of a life in which the host speaks, on an active slice."""

        def step():
            self.say(state, **more)
            return State.ACTIVE

        return step


@pytest.fixture
def launcher(service, files):
    return Launcher(service, files)


def test_a_launch_asks_watches_and_gives_back(launcher, service):
    """Fails if the slice is kept after the study is done, or the request is not the job's."""
    service.lives = [[*UP, launcher.then("running"), launcher.then("done")]]
    assert launcher.launch()
    (request,) = service.created
    assert request.queued_resource_id == TOY.name
    assert "spot" in request.queued_resource
    (spec,) = request.queued_resource.tpu.node_spec
    assert spec.node_id == TOY.name
    assert spec.parent == request.parent == "projects/ours/locations/us-west4-a"
    assert spec.node.accelerator_type == "v5litepod-8"
    assert spec.node.runtime_version == "v2-alpha-tpuv5-lite"
    assert spec.node.metadata["startup-script"] == "echo"
    assert spec.node.network_config.enable_external_ips
    assert service.there == {}
    assert launcher.reports == [
        f"{TOY.name}: asked for v5e-8, spot",
        *(f"{TOY.name}: {news}" for news in ("ACCEPTED", "PROVISIONING", "ACTIVE")),
        f"{TOY.name}: ACTIVE, 1 running",
    ]


def test_a_slice_on_demand_is_not_asked_for_as_spot(launcher, service):
    """Fails if the tier is lost on the way to the request."""
    launcher.job = launcher.job._replace(tier="on demand")
    service.lives = [[*UP, launcher.then("done")]]
    assert launcher.launch()
    (request,) = service.created
    assert "spot" not in request.queued_resource
    assert "guaranteed" not in request.queued_resource


def test_the_study_is_done_when_every_host_is(launcher, service):
    """Fails if the first host to end takes the machines from the others."""
    launcher.job = launcher.job._replace(slice=find("v5e-16"))
    hosts = [f"0-{number}" for number in range(4)]
    service.lives = [[*UP, *(launcher.then("done", host=host) for host in hosts)]]
    assert launcher.launch()
    assert f"{TOY.name}: ACTIVE, 3 done" in launcher.reports


def test_several_slices_are_one_request(launcher, service):
    """Fails if slices are asked for one by one, or the hosts of one end the others' work."""
    launcher.job = launcher.job._replace(slices=2)
    service.lives = [[*UP, launcher.then("done"), launcher.then("done", host="1-0")]]
    assert launcher.launch()
    (request,) = service.created
    (spec,) = request.queued_resource.tpu.node_spec
    assert (spec.multislice_params.node_count, spec.node_id) == (2, "")
    assert spec.multislice_params.node_id_prefix == TOY.name
    assert f"{TOY.name}: asked for 2 x v5e-8, spot" in launcher.reports
    assert f"{TOY.name}: ACTIVE, 1 done" in launcher.reports


def test_one_slice_of_several_that_is_preempted_is_all_of_them(launcher, service):
    """Fails if the first slice alone is looked at."""

    def preempt():
        service.preempted.add(f"{TOY.name}-1")
        return State.ACTIVE

    launcher.job = launcher.job._replace(slices=2)
    done = [launcher.then("done", host=host) for host in ("0-0", "1-0")]
    service.lives = [[*UP, preempt, State.ACTIVE], [*UP, *done]]
    assert launcher.launch()
    assert len(service.created) == 2


@pytest.mark.parametrize("suspending", [[State.SUSPENDED], [State.SUSPENDING, State.SUSPENDED]])
def test_after_a_preemption_it_is_asked_for_again(launcher, service, suspending):
    """Fails if a preemption ends the launch, or the new hosts are taken for the old ones."""
    service.lives = [
        [*UP, launcher.then("running"), launcher.then("stopped"), *suspending],
        [*UP, launcher.then("running"), launcher.then("done")],
    ]
    assert launcher.launch()
    assert len(service.created) == 2
    assert service.created[0].queued_resource == service.created[1].queued_resource
    assert f"{TOY.name}: preempted; asking again" in launcher.reports
    second = launcher.reports[launcher.reports.index(f"{TOY.name}: preempted; asking again") :]
    assert f"{TOY.name}: ACCEPTED" in second


def test_a_preempted_node_counts_before_the_queue_notices(launcher, service):
    """Fails if only the queue's state is looked at, which says ACTIVE for a while."""

    def preempt():
        service.preempted.add(TOY.name)
        return State.ACTIVE

    service.lives = [[*UP, preempt, State.ACTIVE], [*UP, launcher.then("done")]]
    assert launcher.launch()
    assert f"{TOY.name}: preempted; asking again" in launcher.reports


@pytest.mark.parametrize(
    ("code", "message"), [(8, STOCKOUT), (14, "try again"), (13, "an internal error")]
)
def test_a_request_that_fails_for_want_of_room_is_repeated(launcher, service, code, message):
    """Fails if a stockout ends the launch."""
    service.lives = [[State.ACCEPTED, (code, message)], [*UP, launcher.then("done")]]
    assert launcher.launch()
    assert f"{TOY.name}: {message}; asking again" in launcher.reports
    assert len(service.deleted) == 2


def test_a_request_that_is_turned_away_for_want_of_room_is_repeated(launcher, service):
    """Fails if only the queue may say so, or each attempt is a line of output."""
    service.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, STOCKOUT)] * 3
    service.lives = [[*UP, launcher.then("done")]]
    assert launcher.launch()
    assert launcher.reports.count(f"{TOY.name}: {STOCKOUT}; asking again") == 1


def test_a_request_that_fails_for_good_is_one_line_and_deleted(launcher, service):
    """Fails if it is repeated for ever, or left to count against the quota."""
    service.lives = [[State.ACCEPTED, (8, QUOTA)]]
    with pytest.raises(
        UserError, match=rf"^ours has no quota for this in us-west4-a: {QUOTA}$"
    ):
        launcher.launch()
    assert service.there == {}


@pytest.mark.parametrize(
    ("status", "message", "line"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, QUOTA, "ours has no quota for this in us-west4-a"),
        (grpc.StatusCode.PERMISSION_DENIED, "no 'tpu.nodes.create'", "needs roles/tpu.admin"),
        (grpc.StatusCode.UNAUTHENTICATED, "expired", "run gcloud auth application-default"),
        (grpc.StatusCode.NOT_FOUND, "Location us-west4-a", "--zone us-west4-a: not found"),
        (grpc.StatusCode.INVALID_ARGUMENT, "bad runtime", "Cloud TPU refused: bad runtime"),
    ],
)
def test_what_the_api_refuses_is_one_line(launcher, service, status, message, line):
    """Fails if any comes as a traceback, or is taken for a stockout and repeated."""
    service.refusals = [(status, message)]
    with pytest.raises(UserError) as raised:
        launcher.launch()
    assert line in str(raised.value)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_zone_that_is_not_there_is_not_an_empty_queue(launcher, service):
    """Fails if every NOT_FOUND means that the name is free."""
    service.troubles = [(grpc.StatusCode.NOT_FOUND, "Location us-west4-a is not found")]
    with pytest.raises(UserError, match="--project ours --zone us-west4-a: not found"):
        launcher.launch()


def test_trouble_of_the_service_does_not_end_a_watch_of_days(launcher, service, capsys):
    """Fails if one answer that does not come stops the watch, and with it the re-creation."""

    def trouble(state="running"):
        launcher.say(state)
        service.troubles = [(grpc.StatusCode.UNAVAILABLE, "connection reset")] * 2
        return State.ACTIVE

    service.lives = [[*UP, trouble, lambda: trouble("done")]]
    assert launcher.launch()
    assert capsys.readouterr().err.count("connection reset; asking again") == 4
    assert service.there == {}


def test_a_bucket_out_of_reach_does_not_end_a_watch_of_days(launcher, service, monkeypatch):
    """Fails if a network that is away for minutes ends the watch; or it is waited for ever."""
    real, away = launcher.bucket.hosts, [3]

    def hosts():
        if service.created and away[0]:
            away[0] -= 1
            raise UserError("gs://ours: Cannot connect")
        return real()

    monkeypatch.setattr(launcher.bucket, "hosts", hosts)
    service.lives = [[*UP, launcher.then("done")]]
    assert launcher.launch()
    assert launcher.reports.count("gs://ours: Cannot connect; asking again") == 1
    service.created.clear()
    launcher.bucket.forget_hosts()
    away[0] = 10**6
    service.lives = [UP]
    with pytest.raises(UserError, match="Cannot connect"):
        launcher.launch()


def test_an_operation_that_takes_its_time_is_waited_for(launcher, service):
    """Fails if a creation is thought to be over before the service says so."""
    service.slow_operations = 3
    service.lives = [[*UP, launcher.then("done")]]
    assert launcher.launch()
    assert service.slow_operations == 0


def test_a_launch_adopts_what_is_there(launcher, service):
    """Fails if a second launch asks for a second slice."""
    service.lives = [[State.ACTIVE, launcher.then("done")]]
    service.put(PATH, launcher.job.resource(""))
    assert launcher.launch()
    assert service.created == []
    assert launcher.reports[0] == f"{TOY.name}: found in the queue"


def test_a_creation_whose_answer_was_lost_is_a_creation(launcher, service):
    """Fails if ALREADY_EXISTS ends the launch though the queue holds what was asked for."""
    service.lives = [[State.ACTIVE]]
    service.put(PATH, launcher.job.resource(""))
    launcher.queue.create(launcher.job)
    assert list(service.there) == [PATH]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"script": "other"}, "another commit or command"),
        ({"slice": find("v5e-16")}, "another slice"),
        ({"slices": 2}, "another number of slices"),
        ({"tier": "on demand"}, "another tier"),
    ],
)
def test_something_else_under_the_name_is_not_adopted(launcher, service, change, line):
    """Fails if an older commit's run is watched as if it were this one's."""
    service.lives = [[State.ACTIVE]]
    service.put(PATH, launcher.job._replace(**change).resource(""))
    with pytest.raises(UserError, match=f"in the queue already with {line}"):
        launcher.launch()
    assert list(service.there) == [PATH]


def test_what_is_done_is_not_launched_again(launcher, service):
    """Fails if a finished study costs a slice; or if older news passes for this commit's."""
    launcher.say("done")
    assert not launcher.launch()
    assert service.created == []
    launcher.say("done", launch="of an older commit")
    service.lives = [[*UP, launcher.then("done")]]
    assert launcher.launch()


def test_a_failed_study_is_one_line_with_its_reason(launcher, service):
    """Fails if the machines are kept, the study is repeated, or the reason is not there."""
    text = b"Traceback:\nlm: tokens=x: expected int\nyardstick: failed with exit code 2\n"
    launcher.files.pipe_file(f"{launcher.folder}/logs/0-0-20260101T000000.txt", text)
    service.lives = [[*UP, launcher.then("failed", code=2)]]
    with pytest.raises(UserError) as raised:
        launcher.launch()
    assert str(raised.value).startswith(
        "host 0-0 failed with exit code 2: lm: tokens=x: expected int (python -m tpu logs"
    )
    assert len(service.created) == 1
    assert service.there == {}


def test_a_host_that_fails_because_others_were_preempted_is_no_failure(launcher, service):
    """Fails if the first failed host ends the launch, before the queue says why it failed."""
    failed = launcher.then("failed", code=134)
    service.lives = [[*UP, *[failed] * GRACE, State.SUSPENDED], [*UP, launcher.then("done")]]
    assert launcher.launch()
    assert len(service.created) == 2


def test_hosts_that_cannot_speak_are_not_waited_for_for_ever(launcher, service):
    """Fails if machines without access to the bucket are paid for until somebody looks."""
    service.lives = [UP]
    with pytest.raises(UserError, match="can the machines' service account write there"):
        launcher.launch()
    assert service.there == {}
    assert SILENCE > GRACE


def test_hosts_that_stopped_and_stay_are_asked_for_again(launcher, service):
    """Fails if a slice that nobody works on is kept, as after a maintenance without a boot."""
    stopped = launcher.then("stopped")
    service.lives = [[*UP, *[stopped] * SILENCE, stopped], [*UP, launcher.then("done")]]
    assert launcher.launch()
    assert len(service.created) == 2


def test_what_others_delete_is_not_asked_for_again(launcher, service):
    """Fails if `stop` elsewhere is taken for a preemption."""
    service.lives = [[*UP]]
    start(launcher.job, launcher.queue, launcher.bucket, LAUNCH, launcher.reports.append)
    assert launcher.queue.delete()
    with pytest.raises(UserError, match="deleted by somebody else"):
        watch(launcher.job, launcher.queue, launcher.bucket, LAUNCH, print)
    assert len(service.created) == 1


def test_machines_that_a_user_deleted_are_not_asked_for_again(launcher, service):
    """Fails if who suspended the request is not asked."""
    service.initiator = "USER"
    service.lives = [[*UP, State.SUSPENDED]]
    with pytest.raises(UserError, match="somebody deleted its machines"):
        launcher.launch()
    assert len(service.created) == 1


def test_what_is_not_deleted_is_said(launcher, service):
    """Fails if `stop` asks for ever, or a delete that takes long is a traceback."""
    service.lives = [[*UP]]
    start(launcher.job, launcher.queue, launcher.bucket, LAUNCH, launcher.reports.append)
    service.troubles = [(grpc.StatusCode.FAILED_PRECONDITION, "it is held")]
    with pytest.raises(UserError, match="is still there"):
        launcher.queue.delete()


def test_what_takes_too_long_is_asked_for_again(launcher, service, monkeypatch):
    """Fails if an operation that has no end is a traceback, and ends the watch."""

    def endless(operation):
        raise TimeoutError("Operation did not complete within the designated timeout")

    service.lives = [[*UP]]
    monkeypatch.setattr(launcher.queue, "_finish", endless)
    with pytest.raises(Shortage, match="has not dealt with"):
        launcher.queue.create(launcher.job)
    assert launcher.queue.delete()


def test_the_newest_log_of_a_host_is_found(launcher):
    """Fails if host 0-1 is taken for 0-10, or the first boot for the last."""
    logs = f"{launcher.folder}/logs"
    for name in ("0-1-20260101T000000", "0-1-20260102T000000", "0-10-20260103T000000"):
        launcher.files.pipe_file(f"{logs}/{name}.txt", name.encode())
    assert launcher.bucket.log("0-1") == "0-1-20260102T000000"
    with pytest.raises(UserError, match=r"no log at gs://ours/.* there are logs of 0-1, 0-10"):
        launcher.bucket.log("0-7")


def test_a_bucket_that_cannot_be_read_is_one_line(launcher, monkeypatch):
    """Fails if what Cloud Storage refuses comes as a traceback."""

    def refuse(*_, **__):
        raise PermissionError("ours: 403\nForbidden")

    monkeypatch.setattr(launcher.files, "ls", refuse)
    with pytest.raises(UserError, match=r"^gs://ours: ours: 403 Forbidden$"):
        launcher.bucket.hosts()


def test_from_request_to_result_across_a_preemption(
    launcher, service, machine, computer, checkout
):
    """Fails if the launcher and the script do not understand each other, or a life starts over.

    The machine of each life runs the script that its request carried, with an empty disk.
    """
    commit = study.commit(checkout)
    where = place("gs://ours/lm", TOY)
    launcher.bucket = Bucket(where, launcher.files)
    launcher.bucket.put_source(commit, study.bundle(checkout))
    launcher.job = launcher.job._replace(script=script(TOY, commit, where, hosts=1, told="all"))
    booted = []

    def boot(*plan):
        carried = service.created[-1].queued_resource.tpu.node_spec[0].node.metadata
        computer.renew()
        booted.append(computer.start(carried["startup-script"], plan).wait(timeout=30))
        return State.ACTIVE

    def crash_when_preempted():
        machine.metadata["preempted"] = "TRUE"
        return boot(75, 134)

    def finish():
        machine.metadata["preempted"] = "FALSE"
        return boot(75, 0)

    service.lives = [[*UP, crash_when_preempted, State.SUSPENDED], [*UP, finish]]
    id = launch_id(TOY, commit)
    assert start(launcher.job, launcher.queue, launcher.bucket, id, launcher.reports.append)
    watch(launcher.job, launcher.queue, launcher.bucket, id, launcher.reports.append)
    assert booted == [75, 0]
    assert [one.state for one in launcher.bucket.hosts()] == ["done"]
    # Two steps in each life.
    run = f"ours/{where.runs}/toy_study/smoke/a=b +c"
    assert launcher.files.cat_file(f"{run}/result.json") == b"4\n"
    assert service.there == {}
