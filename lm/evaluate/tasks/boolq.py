"""BoolQ: yes or no, after a passage."""

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.choice import Choice

TASK = NamedTask(
    Choice(files=("choice/boolq.jsonl",), prompt="{query}\nAnswer:"),
    "whether a passage answers a question by yes or no, 3,270 (Clark et al. 2019)",
    HubFiles(
        "google/boolq",
        (),
        "validation",
        lambda row: {
            "query": f"Passage: {row['passage']}\nQuestion: {row['question']}?",
            "choices": ["no", "yes"],
            "gold": int(row["answer"]),
        },
        demonstrations="train",
    ),
)
