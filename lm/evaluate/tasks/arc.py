"""ARC: questions of natural science from American schools."""

from collections.abc import Mapping
from typing import Any

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.choice import Choice


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "query": f"Question: {row['question']}",
        "choices": list(row["choices"]["text"]),
        "gold": list(row["choices"]["label"]).index(row["answerKey"]),
    }


def _task(name: str, config: str, count: str) -> NamedTask:
    task = Choice(files=(f"choice/{name}.jsonl",), prompt="{query}\nAnswer:", norm="characters")
    hub = HubFiles("allenai/ai2_arc", (config,), "test", _item, demonstrations="train")
    return NamedTask(task, f"questions of science, {count} (Clark et al. 2018)", hub)


EASY = _task("arc_easy", "ARC-Easy", "the 2,376 easier ones")
CHALLENGE = _task("arc_challenge", "ARC-Challenge", "1,172 that a word count gets wrong")
