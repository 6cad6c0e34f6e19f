"""What a run has come to, beside its state."""

from typing import Any

import msgspec


class Progress(msgspec.Struct):
    """What a run has come to, beside its state: a checkpoint keeps it."""

    decided_by: dict[str, str]
    """A digest of each thing that decides the run: its settings, by field, and its data."""
    seconds: float = 0.0
    """Spent in steps."""
    predicted: float = 0.0
    """Targets that counted."""
    validation: float | None = None
    """The newest validation loss."""
    validation_terms: dict[str, float] = {}
    """The objective's further terms there."""
    losses: list[list[float]] = []
    """The last losses with their steps, if a jump of them is a fault."""
    skipped: int = 0
    """Steps whose update was left out."""
    rolled_back: int = 0
    """Returns to a checkpoint."""
    left_out: int = 0
    """Batches left out by such returns."""
    recent: list[dict[str, Any]] = []
    """The newest metrics, where they may be lost before a checkpoint is."""
