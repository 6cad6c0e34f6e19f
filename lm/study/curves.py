"""How the losses of runs fell, from the metrics that training wrote."""

from typing import NamedTuple

import numpy as np

from lm.study.grid import StudyRun
from lm.train.trackers.jsonl import read_metrics


class Curve(NamedTuple):
    """The validation losses of a run on its way."""

    name: str
    params: float
    flops: float
    """Of training on a token."""
    tokens_T: np.ndarray
    loss_T: np.ndarray

    def tokens_to(self, loss: float) -> float | None:
        """Tokens until the loss is first this low, between evaluations along ln D.

        None where it never is, or where it is at the first evaluation already.

        >>> curve = Curve("", 1.0, 1.0, np.array([1e3, 2e3, 4e3]), np.array([3.0, 2.0, 1.0]))
        >>> round(curve.tokens_to(1.5)), curve.tokens_to(0.5), curve.tokens_to(3.0)
        (2828, None, None)
        """
        low = np.flatnonzero(self.loss_T <= loss)
        if not len(low) or low[0] == 0:
            return None
        at = slice(low[0] - 1, low[0] + 1)
        (over, under), ends = self.loss_T[at], np.log(self.tokens_T[at])
        return float(np.exp(ends[0] + (ends[1] - ends[0]) * (over - loss) / (over - under)))

    def loss_at(self, tokens: float) -> float:
        """The loss after so many tokens, between evaluations by a line in logarithms.

        >>> curve = Curve("", 1.0, 1.0, np.array([1e3, 4e3]), np.array([4.0, 1.0]))
        >>> round(curve.loss_at(2e3), 6)
        2.0
        """
        places = np.log(tokens), np.log(self.tokens_T), np.log(self.loss_T)
        return float(np.exp(np.interp(*places)))


def curve_of(cell: StudyRun, params: str = "params_non_embedding") -> Curve:
    """The curve of a finished run; `params` says which of its sizes."""
    assert cell.result is not None
    steps, losses = _logged(cell, "validation_loss")
    each = cell.result["flops"] / cell.result["tokens"]
    tokens = cell.run.data.batch * cell.run.data.length
    return Curve(cell.name, cell.result[params], each, steps * tokens, losses)


class LossCurve(NamedTuple):
    """What a run logged, finished or not."""

    steps: np.ndarray
    trained: np.ndarray
    """Smoothed over a twenty-fifth of the run."""
    validated: np.ndarray
    """The steps of validations."""
    validation: np.ndarray


def losses_of(cell: StudyRun) -> LossCurve:
    """The training and validation losses of a run."""
    steps, losses = _logged(cell, "loss")
    keep = 1 - 1 / max(1, len(losses) / 25)
    smooth, total, weight = np.zeros_like(losses), 0.0, 0.0
    for at, loss in enumerate(losses):
        total, weight = keep * total + loss, keep * weight + 1
        smooth[at] = total / weight
    return LossCurve(steps, smooth, *_logged(cell, "validation_loss"))


def _logged(cell: StudyRun, key: str) -> tuple[np.ndarray, np.ndarray]:
    records = [(r["step"], r[key]) for r in read_metrics(cell.directory) if key in r]
    steps, values = np.array(records).reshape(-1, 2).T
    return steps, values
