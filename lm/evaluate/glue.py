"""Public labelled sets of GLUE (Wang et al. 2019) to tune models on, and how each is scored."""

from typing import NamedTuple

from lm.data import Tabular
from lm.evaluate.tasks.base import TASKS_VARIABLE
from lm.objectives import Classify, Regress


class LabelledSet(NamedTuple):
    """A set whose training file is tuned on, and whose other file is only ever scored."""

    train: Tabular
    """A fraction of it, `data.validation`, is held out for all that is chosen."""
    scored: Tabular
    """GLUE's dev file: the labels of its test files are not public."""
    objective: Classify | Regress
    """Unless another pooling or attention is wanted."""
    headline: str
    """The metric that the set is known by, of `lm.evaluate.labels.metrics_of`."""


def _set(
    folder: str,
    objective: Classify | Regress,
    headline: str,
    *,
    text: tuple[str, ...],
    label: str,
    names: tuple[str, ...] = (),
) -> LabelledSet:
    train, dev = (
        Tabular(
            paths=(f"${TASKS_VARIABLE}/glue/{folder}/{file}.tsv",),
            text=text,
            label=label,
            names=names,
            classes=("0", "1") if isinstance(objective, Classify) else (),
        )
        for file in ("train", "dev")
    )
    return LabelledSet(train, dev, objective, headline)


SETS = {
    "cola": _set(
        "CoLA",
        Classify(),
        "matthews",
        text=("sentence",),
        label="label",
        names=("source", "label", "mark", "sentence"),
    ),
    "sst2": _set("SST-2", Classify(), "accuracy", text=("sentence",), label="label"),
    "mrpc": _set("MRPC", Classify(), "f1", text=("#1 String", "#2 String"), label="Quality"),
    "sts_b": _set(
        "STS-B",
        Regress(center=2.5, scale=1.5),
        "spearman",
        text=("sentence1", "sentence2"),
        label="score",
    ),
}
"""Whether a sentence is one (8,551 lines and 1,043; Warstadt et al. 2019), whether a film's
review is positive (67,349 and 872; Socher et al. 2013), whether two sentences say the same
(3,667 and 408; Dolan and Brockett 2005), how alike they are from 0 to 5 (5,749 and 1,500; Cer
et al. 2017)."""
