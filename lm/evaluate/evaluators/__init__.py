"""What models are asked while they are trained. A new evaluator: one file, one line here."""

from lm.evaluate.evaluators.base import Evaluator
from lm.evaluate.evaluators.bits_per_byte import BitsPerByte
from lm.train.load import ModelWithText

EVALUATORS: tuple[Evaluator, ...] = (BitsPerByte(),)


def evaluate_during(trained: ModelWithText) -> dict[str, float | str]:
    """What all evaluators find, by name."""
    return {
        name: value for evaluator in EVALUATORS for name, value in evaluator(trained).items()
    }
