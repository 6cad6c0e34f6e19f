"""What an evaluator owes: it asks a model something while it is trained."""

from collections.abc import Mapping
from typing import Protocol

from lm.train.load import ModelWithText


class Evaluator(Protocol):
    """A frozen value, asked at each validation, on every host."""

    def __call__(self, trained: ModelWithText) -> Mapping[str, float | str]:
        """Metrics by name: words, and numbers, which are recorded if they are finite.

        Empty where the run's settings, or what its model was trained to predict, give nothing
        to ask. It changes nothing, and draws the same masks each time.
        """
        ...
