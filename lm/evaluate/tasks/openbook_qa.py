"""OpenBookQA: elementary science that takes a fact and common sense."""

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.choice import Choice

TASK = NamedTask(
    Choice(files=("choice/openbook_qa.jsonl",), norm="characters"),
    "the end of a sentence of elementary science, one of four, 500 (Mihaylov et al. 2018)",
    HubFiles(
        "allenai/openbookqa",
        ("main",),
        "test",
        lambda row: {
            "query": row["question_stem"],
            "choices": list(row["choices"]["text"]),
            "gold": list(row["choices"]["label"]).index(row["answerKey"].strip()),
        },
        demonstrations="train",
    ),
)
