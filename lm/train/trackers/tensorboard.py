"""TensorBoard: the numbers, in the run directory's folder `tensorboard`."""

import time
from collections.abc import Mapping

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from lm.train.trackers.base import Session, Tracker


class Tensorboard(Tracker):
    """An events file for each session; it is flushed every half minute."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        folder = session.directory / "tensorboard"
        folder.mkdir(exist_ok=True)
        # Not by SummaryWriter, whose thread a full disk ends: whoever writes then waits.
        self._board = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        # TensorBoard then masks what an earlier process had written from here on.
        started = SessionLog(status=SessionLog.START)
        self._board.write_event(Event(step=session.step + 1, session_log=started))

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        for name, value in values.items():
            if not isinstance(value, str):
                event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                self._board.write_event(event)
        if time.monotonic() - self._flushed > 30:
            self._board.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        self._board.close()
