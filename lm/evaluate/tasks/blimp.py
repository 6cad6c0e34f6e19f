"""BLiMP: minimal pairs of English sentences, by paradigm and phenomenon."""

from lm.evaluate.tasks.base import EVERY_CONFIG, HubFiles, NamedTask
from lm.evaluate.tasks.choice import Pairs

TASK = NamedTask(
    Pairs(
        files=("blimp/*.jsonl", "!blimp/published.jsonl"),
        better="sentence_good",
        worse="sentence_bad",
        group=("linguistics_term", "UID"),
    ),
    "the grammatical one of two sentences, 67 paradigms of 1,000 (Warstadt et al. 2020)",
    HubFiles("nyu-mll/blimp", EVERY_CONFIG, "train", dict),
)
PUBLISHED = {"5-gram": 0.612, "LSTM": 0.698, "Transformer-XL": 0.696, "GPT-2": 0.830}
"""Accuracies over all paradigms (Warstadt et al. 2020, table 3)."""
