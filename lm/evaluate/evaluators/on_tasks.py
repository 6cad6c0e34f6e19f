"""What a model can do without training, while it is trained: tasks as curves."""

import os
from dataclasses import dataclass
from functools import cache

from lm.evaluate.tasks import open_sheet
from lm.evaluate.tasks.base import Conditions, folder_of
from lm.evaluate.tasks.candidate import ModelCandidate, pool_of, ways_to_sit
from lm.evaluate.tasks.sitting import Sheet, sit
from lm.run import Run
from lm.train.load import ModelWithText


@dataclass(frozen=True)
class OnTasks:
    """The headline of each of `Run.evaluation_tasks`, by the model's first valid scorer.

    Of the first `Run.evaluation_items` items of each file, without demonstrations.
    """

    def __call__(self, trained: ModelWithText) -> dict[str, float | str]:
        found: dict[str, float | str] = {}
        for sheet in sheets_of(trained.run):
            way = ways_to_sit(trained.run, sheet.name, sheet.task)[0]
            candidate = ModelCandidate(
                trained.run,
                trained.tokens.tokenizer,
                trained.program.module,
                trained.params,
                trained.program.mesh,
                way,
                pool=pool_of(trained.run),
            )
            result = sit(candidate, sheet)
            found[f"{sheet.name}_{result.metric}"] = result.value
            found[f"{sheet.name}_scorer"] = result.scorer
        return found


def sheets_of(run: Run) -> list[Sheet]:
    """The tasks that a run names, with their items, which are read once.

    Raises UserError for one that is not there, or that its model cannot be asked.
    """
    sheets = [_sheet(name, run.evaluation_items) for name in run.evaluation_tasks]
    for sheet in sheets:
        ways_to_sit(run, f"evaluation_tasks: {sheet.name}", sheet.task)
    return sheets


@cache
def _sheet(name: str, items: int) -> Sheet:
    return open_sheet(name, folder_of(None, os.environ), Conditions(items=items))
