"""LAMBADA: the last word of a passage, which people guess from all of it alone."""

from collections.abc import Mapping
from typing import Any

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.last_word import LastWord


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    context, _, word = row["text"].rpartition(" ")
    return {"context": context, "continuation": word}


TASK = NamedTask(
    LastWord(files=("choice/lambada_openai.jsonl",)),
    "the last word of a passage, 5,153 (Paperno et al. 2016, in OpenAI's form)",
    HubFiles("EleutherAI/lambada_openai", ("default",), "test", _item),
)
