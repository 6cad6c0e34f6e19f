"""What a model can do without training, asked the same way of every kind of model.

A new task: its file, which has a value of one of the forms, and its line in `TASKS`. A new
form: its file, and its name in the union `TaskConfig`. A task of one's own takes no code: a
JSON file with the fields of a form.
"""

from pathlib import Path
from typing import cast

from lm.config import UserError, parse
from lm.config.types import nearest_of
from lm.evaluate.tasks import (
    arc,
    blimp,
    boolq,
    cranfield,
    lambada,
    mrpc,
    openbook_qa,
    piqa,
    sst2,
    sts_b,
)
from lm.evaluate.tasks.base import Conditions, NamedTask, Task
from lm.evaluate.tasks.choice import Choice, Pairs
from lm.evaluate.tasks.generation import Generation
from lm.evaluate.tasks.last_word import LastWord
from lm.evaluate.tasks.reply import Reply
from lm.evaluate.tasks.retrieval import Retrieval
from lm.evaluate.tasks.similarity import Similarity
from lm.evaluate.tasks.sitting import Sheet, sheet_of

TaskConfig = Pairs | Choice | LastWord | Similarity | Retrieval | Generation | Reply

TASKS: dict[str, NamedTask] = {
    "blimp": blimp.TASK,
    "arc_easy": arc.EASY,
    "arc_challenge": arc.CHALLENGE,
    "piqa": piqa.TASK,
    "openbook_qa": openbook_qa.TASK,
    "boolq": boolq.TASK,
    "lambada": lambada.TASK,
    "sst2": sst2.TASK,
    "mrpc": mrpc.TASK,
    "sts_b": sts_b.TASK,
    "cranfield": cranfield.TASK,
}
"""Public tasks by name."""


def open_sheet(name: str, folder: Path | None, conditions: Conditions) -> Sheet:
    """A public task by its name, or one's own by its JSON file, with its items.

    The files of one's own are read relative to that file's folder. Raises UserError where there
    is no such task, or nothing to read.
    """
    if name.endswith(".json"):
        path = Path(name)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}") from None
        task = parse(cast("type[Task]", TaskConfig), content, name)
        return sheet_of(path.stem, task, path.absolute().parent, conditions)
    if (known := TASKS.get(name.replace("-", "_"))) is None:
        raise UserError(
            f"{name}: no such task; a JSON file of one's own, or {nearest_of(name, TASKS)}"
        )
    return sheet_of(name.replace("-", "_"), known.task, folder, conditions, known.hub)
