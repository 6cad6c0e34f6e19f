"""MRPC: whether two sentences of news say the same."""

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.choice import Choice, Cloze

TASK = NamedTask(
    Choice(
        files=("glue/MRPC/dev.tsv",),
        demonstrations=("glue/MRPC/train.tsv",),
        prompt="Sentence 1: {#1 String}\nSentence 2: {#2 String}\nQuestion: Do both say the"
        " same? Yes or no?\nAnswer:",
        words=("no", "yes"),
        cloze=Cloze(prompt="{#1 String} ?", after=" , {#2 String}", words=("No", "Yes")),
        gold="Quality",
        classes=("0", "1"),
        f1="f1",
    ),
    "whether two sentences say the same, by the likelier of two words, 408 (Dolan and Brockett"
    " 2005; the cloze of Gao et al. 2021)",
    HubFiles(
        "nyu-mll/glue",
        ("mrpc",),
        "validation",
        lambda row: {
            "#1 String": row["sentence1"],
            "#2 String": row["sentence2"],
            "Quality": str(row["label"]),
        },
        demonstrations="train",
    ),
)
