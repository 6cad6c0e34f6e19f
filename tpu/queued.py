"""Queued resources: how Cloud TPU is asked for slices, and what it answers, in one line."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from google.api_core import exceptions
from google.api_core.future.polling import POLLING_PREDICATE
from google.api_core.operation import Operation
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError
from google.cloud import tpu_v2

from tpu.errors import UserError
from tpu.slices import Slice

Tier = Literal["spot", "on demand"]
State = tpu_v2.QueuedResourceState.State

LOGIN = "run gcloud auth application-default login"

POLL = 30.0
"""Seconds between two questions."""
QUESTIONS = 60
"""So often is asked for what should come soon: for half an hour."""


class Shortage(UserError):
    """There is no room now, or the service has trouble: the same request may succeed later."""


class Job(NamedTuple):
    """Slices that run a script, asked for as one queued resource of the same name."""

    name: str
    slice: Slice
    slices: int
    runtime: str
    tier: Tier
    script: str

    @property
    def nodes(self) -> list[str]:
        """What Cloud TPU calls the slices."""
        if self.slices == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(self.slices)]

    def resource(self, zone_path: str) -> tpu_v2.QueuedResource:
        node = tpu_v2.Node(
            accelerator_type=self.slice.accelerator,
            runtime_version=self.runtime,
            # Hosts install from the package index.
            network_config=tpu_v2.NetworkConfig(enable_external_ips=True),
            metadata={"startup-script": self.script},
        )
        spec = tpu_v2.QueuedResource.Tpu.NodeSpec(parent=zone_path, node=node)
        if self.slices == 1:
            spec.node_id = self.name
        else:
            spec.multislice_params = tpu_v2.QueuedResource.Tpu.NodeSpec.MultisliceParams(
                node_count=self.slices, node_id_prefix=self.name
            )
        resource = tpu_v2.QueuedResource(tpu=tpu_v2.QueuedResource.Tpu(node_spec=[spec]))
        if self.tier == "spot":
            resource.spot = tpu_v2.QueuedResource.Spot()
        return resource


class Requests:
    """The messages about one queued resource."""

    def __init__(self, project: str, zone: str, name: str) -> None:
        self.parent = f"projects/{project}/locations/{zone}"
        self.name = name
        self.path = f"{self.parent}/queuedResources/{name}"

    def get(self) -> tpu_v2.GetQueuedResourceRequest:
        return tpu_v2.GetQueuedResourceRequest(name=self.path)

    def create(self, job: Job) -> tpu_v2.CreateQueuedResourceRequest:
        return tpu_v2.CreateQueuedResourceRequest(
            parent=self.parent,
            queued_resource_id=self.name,
            queued_resource=job.resource(self.parent),
        )

    def get_node(self, node: str) -> tpu_v2.GetNodeRequest:
        return tpu_v2.GetNodeRequest(name=f"{self.parent}/nodes/{node}")

    def delete(self) -> tpu_v2.DeleteQueuedResourceRequest:
        # By force, because only what has no machines may be deleted without.
        return tpu_v2.DeleteQueuedResourceRequest(name=self.path, force=True)


class Queue:
    """One queued resource, as the service sees it; each method is one line on errors."""

    def __init__(
        self,
        project: str,
        zone: str,
        name: str,
        *,
        client: tpu_v2.TpuClient | None = None,
        poll: float = POLL,
    ) -> None:
        self.requests = Requests(project, zone, name)
        self._project, self._zone, self._poll = project, zone, poll
        # What may be said twice is said again for half an hour if the service has trouble.
        self._again = Retry(
            predicate=if_exception_type(
                exceptions.ServiceUnavailable,
                exceptions.InternalServerError,
                exceptions.DeadlineExceeded,
            ),
            initial=poll,
            maximum=poll,
            timeout=QUESTIONS * POLL,
            on_error=lambda error: print(f"tpu: {_text(error)}; asking again", file=sys.stderr),
        )
        with self._one_line_errors():
            self._client = client or tpu_v2.TpuClient()

    def pause(self) -> None:
        time.sleep(self._poll)

    def get(self) -> tpu_v2.QueuedResource | None:
        """What the service knows of it; None if it is not there."""
        with self._one_line_errors():
            try:
                return self._client.get_queued_resource(self.requests.get(), retry=self._again)
            except exceptions.NotFound as error:
                if self.requests.name not in error.message:  # the zone may be what is missing
                    raise
                return None

    def create(self, job: Job) -> None:
        """Returns when it is in the queue; raises `Shortage` if it cannot be for now."""
        with self._one_line_errors():
            try:
                operation = self._client.create_queued_resource(self.requests.create(job))
                self._finish(operation)
            except exceptions.AlreadyExists:
                pass  # an answer was lost on the way, or another launcher was faster

    def delete(self) -> bool:
        """Deletes it with its machines and waits for that; False if it was not there."""
        with self._one_line_errors():
            try:
                request = self.requests.delete()
                self._finish(self._client.delete_queued_resource(request, retry=self._again))
            except exceptions.NotFound:
                return False
            except (exceptions.FailedPrecondition, TimeoutError):
                pass  # it is being deleted already, or still
        for _ in range(QUESTIONS):
            if self.get() is None:
                return True
            self.pause()
        raise UserError(
            f"{self.requests.name} is still there, half an hour after it was to be deleted; ask"
            " again, or delete it in the console"
        )

    def lost(self, node: str) -> bool:
        """Whether a slice was preempted or ended, even if the queue does not know it yet."""
        ended = (tpu_v2.Node.State.PREEMPTED, tpu_v2.Node.State.TERMINATED)
        with self._one_line_errors():
            try:
                request = self.requests.get_node(node)
                return self._client.get_node(request, retry=self._again).state in ended
            except exceptions.NotFound:
                return True

    def raise_failure(self, found: tpu_v2.QueuedResource) -> None:
        """Raises why it failed: `Shortage` if asking again can help, else `UserError`."""
        failure = found.state.failed_data.error
        with self._one_line_errors():
            raise exceptions.from_grpc_status(failure.code, failure.message)

    def _finish(self, operation: Operation) -> None:
        polling = Retry(
            predicate=POLLING_PREDICATE,
            initial=min(1, self._poll),
            maximum=self._poll,
            timeout=QUESTIONS * POLL,
        )
        operation.result(polling=polling)

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.GoogleAPICallError as error:
            raise self._explained(error) from None
        except TimeoutError:
            raise Shortage(f"Cloud TPU has not dealt with {self.requests.name} yet") from None
        except exceptions.RetryError as error:
            raise UserError(f"Cloud TPU did not answer: {_text(error)}") from None
        except GoogleAuthError as error:
            raise UserError(f"{_text(error)}; {LOGIN}") from None

    def _explained(self, error: exceptions.GoogleAPICallError) -> UserError | Shortage:
        text, project, zone = _text(error), self._project, self._zone
        match error:
            case exceptions.ResourceExhausted() if "quota" in text.lower():
                return UserError(f"{project} has no quota for this in {zone}: {text}")
            case (
                exceptions.ResourceExhausted() | exceptions.ServerError() | exceptions.Aborted()
            ):
                return Shortage(text)
            case exceptions.Unauthenticated():
                return UserError(f"{text}; {LOGIN}")
            case exceptions.PermissionDenied():
                return UserError(f"{text}; the account needs roles/tpu.admin in {project}")
            case exceptions.NotFound():
                return UserError(f"--project {project} --zone {zone}: not found: {text}")
            case _:
                return UserError(f"Cloud TPU refused: {text}")


def _text(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error) or type(error).__name__
    return " ".join(str(message).split())[:300].rstrip(".")
