"""PIQA: how to do something with things at hand."""

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.choice import Choice

TASK = NamedTask(
    Choice(files=("choice/piqa.jsonl",), prompt="{query}Answer:", norm="characters"),
    "the sensible one of two ways to a goal, 1,838 (Bisk et al. 2020)",
    HubFiles(
        "baber/piqa",
        (),
        "validation",
        lambda row: {
            "query": f"Question: {row['goal']}\n",
            "choices": [row["sol1"], row["sol2"]],
            "gold": row["label"],
        },
        demonstrations="train",
    ),
)
