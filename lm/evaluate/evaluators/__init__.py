"""What models are asked while they are trained. A new evaluator: one file, one line here."""

from lm.evaluate.evaluators.base import Evaluator
from lm.evaluate.evaluators.bits_per_byte import BitsPerByte
from lm.evaluate.evaluators.on_tasks import OnTasks, sheets_of
from lm.run import Run
from lm.train.load import ModelWithText

EVALUATORS: tuple[Evaluator, ...] = (BitsPerByte(), OnTasks())


def check_evaluators(run: Run) -> None:
    """Raises UserError, before training, where the run asks what its model cannot answer."""
    sheets_of(run)


def evaluate_during(trained: ModelWithText) -> dict[str, float | str]:
    """What all evaluators find, by name."""
    return {
        name: value for evaluator in EVALUATORS for name, value in evaluator(trained).items()
    }
