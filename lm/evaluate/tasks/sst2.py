"""SST-2: whether a sentence of a film review is positive."""

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.choice import Choice, Cloze

TASK = NamedTask(
    Choice(
        files=("glue/SST-2/dev.tsv",),
        demonstrations=("glue/SST-2/train.tsv",),
        prompt="Review: {sentence}\nSentiment:",
        words=("negative", "positive"),
        cloze=Cloze(prompt="{sentence} It was", after=" .", words=("terrible", "great")),
        gold="label",
        classes=("0", "1"),
    ),
    "the feeling of a sentence by the likelier of two words, 872 (Socher et al. 2013; the cloze"
    " of Gao et al. 2021)",
    HubFiles(
        "nyu-mll/glue",
        ("sst2",),
        "validation",
        lambda row: {"sentence": row["sentence"], "label": str(row["label"])},
        demonstrations="train",
    ),
)
