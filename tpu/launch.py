"""Keeps a study on its slices until it is done: asks, watches, asks again when preempted."""

from collections.abc import Callable

from google.cloud import tpu_v2

from tpu.bucket import Bucket, Host
from tpu.errors import UserError
from tpu.queued import Job, Queue, Shortage, State

GRACE = 10
"""So many times a failed host is asked after before it counts, because one that lost another
host to a preemption fails too, and may say so before the queue knows."""

SILENCE = 60
"""So many times a slice may be up without a host that works, or the bucket not be readable."""

Report = Callable[[str], None]


def start(job: Job, queue: Queue, bucket: Bucket, launch: str, report: Report) -> bool:
    """Puts the job in the queue, or adopts it if it is there; False if it is done already."""
    found = queue.get()
    if found is not None:
        _check_same(job, found)
        report(f"{job.name}: found in the queue")
        return True
    if _all_done(job, bucket.hosts(), launch):
        return False
    _create(job, queue, bucket, report)
    return True


def watch(job: Job, queue: Queue, bucket: Bucket, launch: str, report: Report) -> None:
    """Returns when the study is done and the slices are given back.

    Raises UserError if the study fails, or the request for a reason that stays.
    """
    failing, silent, unread, before = 0, 0, 0, ""
    while True:
        found = queue.get()
        try:
            hosts = [host for host in bucket.hosts() if host.launch == launch]
            unread = 0
        except UserError as error:
            # A watch of days outlives the network's bad half-hours.
            unread += 1
            if unread > SILENCE:
                raise
            if unread == 1:
                report(f"{error}; asking again")
            queue.pause()
            continue
        if _all_done(job, hosts, launch):
            queue.delete()
            return
        if found is None:
            raise UserError(f"{job.name}: deleted by somebody else, so it is not watched on")
        if (news := describe(found, hosts)) != before:
            report(f"{job.name}: {news}")
            before = news
        failed = [host for host in hosts if host.state == "failed"]
        up = found.state.state == State.ACTIVE
        failing = failing + 1 if up and failed else 0
        silent = silent + 1 if up and all(host.state == "stopped" for host in hosts) else 0
        why = _lost(job, queue, found)
        if silent > SILENCE and hosts:
            why = "its hosts were stopped, and did not come back"
        if why:
            report(f"{job.name}: {why}; asking again")
            queue.delete()  # first, as hosts that are shut down still speak
            _create(job, queue, bucket, report)
            failing, silent = 0, 0
        elif failing > GRACE:
            queue.delete()
            raise UserError(_why(failed[0], bucket))
        elif silent > SILENCE:
            queue.delete()
            raise UserError(
                f"{job.name}: no host has said anything in gs://{bucket.where.bucket}; can the"
                " machines' service account write there?"
            )
        queue.pause()


def describe(found: tpu_v2.QueuedResource, hosts: list[Host]) -> str:
    """The state of the request and of the hosts that speak: `ACTIVE, 3 running, 1 failed`."""
    states = [host.state for host in hosts]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    return ", ".join([State(found.state.state).name, *counts])


def _lost(job: Job, queue: Queue, found: tpu_v2.QueuedResource) -> str:
    """Why a slice is gone, if one is and asking again can help; raises if it cannot."""
    by_user = found.state.state_initiator == tpu_v2.QueuedResourceState.StateInitiator.USER
    match found.state.state:
        case State.SUSPENDED if by_user:
            raise UserError(
                f"{job.name}: somebody deleted its machines; to go on: python -m tpu stop,"
                " then the same command"
            )
        case State.SUSPENDED:
            return "preempted"
        case State.FAILED:
            try:
                queue.raise_failure(found)
            except Shortage as shortage:
                return str(shortage)
            except UserError:
                # What has failed counts against the quota until it is deleted.
                queue.delete()
                raise
        case State.ACTIVE:
            # Those that are left cannot go on without it.
            if any(map(queue.lost, job.nodes)):
                return "preempted"
    return ""


def _create(job: Job, queue: Queue, bucket: Bucket, report: Report) -> None:
    bucket.forget_hosts()
    before = ""
    while True:
        try:
            queue.create(job)
            times = f"{job.slices} x " if job.slices > 1 else ""
            report(f"{job.name}: asked for {times}{job.slice.name}, {job.tier}")
            return
        except Shortage as shortage:
            if str(shortage) != before:
                report(f"{job.name}: {shortage}; asking again")
                before = str(shortage)
            queue.pause()


def _check_same(job: Job, found: tpu_v2.QueuedResource) -> None:
    """Raises if what is in the queue under this name is something else."""
    asked = job.resource("").tpu.node_spec[0]
    (there,) = found.tpu.node_spec or [asked]
    pairs = {
        "another number of slices": (
            there.multislice_params.node_count,
            asked.multislice_params.node_count,
        ),
        "another slice": (there.node.accelerator_type, asked.node.accelerator_type),
        "another tier": ("spot" in found, job.tier == "spot"),
        "another commit or command": (
            there.node.metadata.get("startup-script", job.script).strip(),
            job.script.strip(),
        ),
    }
    if differ := [what for what, (one, other) in pairs.items() if one != other]:
        raise UserError(
            f"{job.name}: in the queue already with {' and '.join(differ)}; python -m tpu stop"
            " gives that back"
        )


def _all_done(job: Job, hosts: list[Host], launch: str) -> bool:
    done = [host for host in hosts if host.state == "done" and host.launch == launch]
    return len(done) == job.slices * job.slice.hosts


def _why(failed: Host, bucket: Bucket) -> str:
    """The failure in one line, with the last line of the log that is the study's own."""
    lines = [line for line in bucket.log(failed.host).splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith("yardstick: ")]
    last = f": {own[-1].strip()[:300]}" if own else ""
    return (
        f"host {failed.host} failed with exit code {failed.code}{last}"
        f" (python -m tpu logs --host {failed.host}); the slice is given back"
    )
