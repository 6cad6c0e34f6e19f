"""Weights & Biases, as WANDB_PROJECT, WANDB_MODE=offline and its other variables say."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from lm.config import UserError
from lm.output.files import write_whole
from lm.train.trackers.base import Session, Tracker


class Wandb(Tracker):
    """One run there for one run here, whose settings are its config; a restart goes on with it.

    Its step is a metric like others, so that steps may be recorded again.
    """

    def __init__(self, session: Session) -> None:
        import wandb  # takes seconds, and only who asks for it has it

        super().__init__(session)
        known = session.directory / "wandb_id.txt"
        try:
            self._run: Any = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "yardstick"),
                name=session.label,
                id=known.read_text() if known.exists() else None,
                resume="allow",
                dir=session.directory,
                config=msgspec.to_builtins(session.run),
                settings=wandb.Settings(console="off", silent=True),
            )
        except wandb.Error as error:  # no account here, or nobody answers
            why = " ".join(str(error).split())
            raise UserError(
                f"trackers=wandb: {why.rstrip('.')}; or set WANDB_MODE=offline"
            ) from None
        write_whole(known, self._run.id)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    @classmethod
    def check(cls) -> str | None:
        if importlib.util.find_spec("wandb") is None:
            return "wandb is not installed: pip install 'yardstick-lm[wandb]'"
        return None

    def write(self, step: int, values: Mapping[str, float | str]) -> None:
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        self._run.log({"step": step, **numbers})

    def close(self) -> None:
        self._run.finish()
