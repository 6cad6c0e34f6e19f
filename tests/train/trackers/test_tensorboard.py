"""TensorBoard's files, read as TensorBoard does."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog

from lm.run import Run
from lm.train.trackers.base import Session
from lm.train.trackers.tensorboard import Tensorboard


def events_of(path: Path) -> list[Event]:
    """Records of 8 bytes of length, 4 of checksum, the event, 4 of checksum."""
    content, at, events = path.read_bytes(), 0, []
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        events.append(Event.FromString(content[at + 12 : at + 12 + size]))
        at += size + 16
    return events


def test_numbers_are_scalars_at_their_step(tmp_path):
    """Fails if words are sent, a step is off by one, or a restart shows steps twice."""
    board = Tensorboard(Session(Run(), tmp_path, "run", step=4, steps=10, token_flops=0.0))
    board.write(5, {"loss": 2.5, "batches": "ab"})
    board.close()
    _, start, scalar = events_of(next((tmp_path / "tensorboard").iterdir()))
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
    (value,) = scalar.summary.value
    assert (scalar.step, value.tag, value.simple_value) == (5, "loss", 2.5)
