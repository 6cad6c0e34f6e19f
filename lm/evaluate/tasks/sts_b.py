"""STS-B: how alike people found two sentences."""

from lm.evaluate.tasks.base import HubFiles, NamedTask
from lm.evaluate.tasks.similarity import Similarity

TASK = NamedTask(
    Similarity(files=("glue/STS-B/dev.tsv",)),
    "how alike two sentences are, by the angle between their vectors, 1,500 (Cer et al. 2017)",
    HubFiles(
        "nyu-mll/glue",
        ("stsb",),
        "validation",
        lambda row: {
            "sentence1": row["sentence1"],
            "sentence2": row["sentence2"],
            "score": row["label"],
        },
    ),
)
