"""Bits per byte of a few held-out windows: the unit in which all models compare."""

from dataclasses import dataclass

from lm.evaluate.components import by_component
from lm.evaluate.effort import Effort
from lm.evaluate.scoring import score_by, valid
from lm.train.load import ModelWithText


@dataclass(frozen=True)
class BitsPerByte:
    """By the model's first valid scorer, on `Run.evaluation_windows` windows, evenly spaced."""

    def __call__(self, trained: ModelWithText) -> dict[str, float | str]:
        windows = trained.run.evaluation_windows
        effort = Effort(rows=windows, replicates=1)
        name, scorer = next(iter(valid(trained.run, effort).items()), ("", None))
        if not windows or scorer is None:
            return {}
        score = score_by(trained, scorer, effort)
        each = by_component(trained, scorer, score, effort)
        apart = {f"bits_per_byte/{name}": one.bits_per_byte for name, one in each.items()}
        return {"bits_per_byte": score.bits_per_byte, **apart, "scorer": name}
