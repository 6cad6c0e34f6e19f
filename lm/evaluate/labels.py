"""How well a model tuned on labels does on a file that it was not tuned on, item by item.

Columns of an item are such that each metric is a function of them, as of the tasks that are
asked without training: so it has an interval over items and seeds, and two models a paired
difference (`lm.evaluate.tasks.metrics`). Training ends with its budget: no checkpoint is chosen
by a score, and no score is of text that anything was chosen by.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from lm.config import UserError
from lm.data import Corpus, Split, in_memory, n_rows, rows
from lm.data.packing import table_of
from lm.distributed import hosts
from lm.evaluate.tasks.metrics import Metric, f1, matthews, mean, pearson, ratio, spearman
from lm.example import Batch, Vocabulary
from lm.model import Module
from lm.objectives.labelled import Labelled
from lm.train.load import LoadedModel
from lm.train.use import place_rows
from lm.train.validation import fill_rows


class LabelScores(NamedTuple):
    """What a model says of the labelled documents of a file, and metrics of it."""

    ids: tuple[str, ...]
    """FILE:LINE of each document that has a label, in the order of the file."""
    columns: np.ndarray
    """float64[items, 3]: the label, the model's answer, and whether they are equal; of numbers,
    the square of their difference. Of words: how many have a label, how many are named
    rightly, and 0."""
    metrics: Mapping[str, Metric]
    """By name, as functions of columns."""

    @property
    def values(self) -> dict[str, float]:
        """Every metric."""
        return {name: of(self.columns) for name, of in self.metrics.items()}


def metrics_of(objective: Labelled) -> dict[str, Metric]:
    """What can be said of an objective's answers, as functions of the columns of items.

    Accuracy of classes, of two also F1 of class 1 and Matthews' correlation; of numbers
    Pearson's and Spearman's correlation and the mean squared error; of words their accuracy.

    >>> from lm.objectives import Regress
    >>> list(metrics_of(Regress()))
    ['pearson', 'spearman', 'squared_error']
    """
    head = objective.head
    if head.pool is None:
        return {"accuracy": ratio(1, 0)}
    if head.outputs == 1:
        return {
            "pearson": pearson(0, 1),
            "spearman": spearman(0, 1),
            "squared_error": mean(2),
        }
    of_two: dict[str, Metric] = {"f1": f1(0, 1), "matthews": matthews(0, 1)}
    return {"accuracy": mean(2), **(of_two if head.outputs == 2 else {})}


def label_scores(model: LoadedModel, corpus: Corpus) -> LabelScores:
    """Asks a model for the labels of all documents of a corpus, each once.

    They are packed into rows of the model's length, as in training. Raises UserError where the
    model was not trained to say labels, or the corpus has none of its kind.
    """
    objective = model.run.objective
    if not isinstance(objective, Labelled):
        kind = objective.__struct_config__.tag
        raise UserError(f"{model.path}: trained by objective.type={kind}, which says no labels")
    channels = {channel.name: channel for channel in corpus.channels}
    for name, classes in objective.needs.items():
        if name not in channels:
            raise UserError(f"{model.path}: it says the channel {name}, and the text has none")
        if classes not in (None, channels[name].classes):
            raise UserError(
                f"{model.path}: it says one of {classes} classes, and the text's {name} has"
                f" {channels[name].classes or 'no classes'}"
            )
    if not (documents := list(corpus.read())):
        raise UserError(f"data.corpus: {corpus} holds no text; name one that does")
    split = in_memory(documents, model.tokenizer, tuple(channels.values()), corpus.too_long)
    asked = list(_asked(model, objective, split))
    document, answers = (np.concatenate(arrays) for arrays in zip(*asked, strict=True))
    if not len(document):
        raise UserError("data.corpus: none of its texts has a label")
    label, said = answers.astype(np.float64).T
    order = np.argsort(document, kind="stable")
    document, label, said = document[order], label[order], said[order]
    if objective.head.pool is None:
        document, first, each = np.unique(document, return_index=True, return_counts=True)
        right = np.add.reduceat(label == said, first, dtype=np.float64)
        columns = np.stack([each, right, np.zeros(len(each))], axis=1)
    else:
        last = np.square(label - said) if objective.head.outputs == 1 else label == said
        columns = np.stack([label, said, last], axis=1)
    ids = tuple(split.ids[number] for number in document.tolist())
    return LabelScores(ids, columns, metrics_of(objective))


def _asked(model: LoadedModel, objective: Labelled, split: Split) -> Any:
    """Which document each label is of, and the label with the model's answer, by batches."""
    data, vocabulary = model.run.data, model.tokenizer.vocabulary
    table = table_of(split, data.length)
    ask = partial(_answers, model.program.module, objective, vocabulary, model.params)
    count = n_rows(split, data.length, "whole")
    for start in range(0, count, data.batch):
        numbers = np.arange(start, min(start + data.batch, count))
        # As many rows in each batch, so that one program serves all.
        filled = fill_rows(rows(split, numbers, data.length, vocabulary, "whole"), data.batch)
        placed = jax.tree.map(partial(place_rows, mesh=model.program.mesh), filled)
        found, used = map(np.asarray, map(hosts.fetch, ask(placed)))
        at = np.argwhere(used)
        segments = at[:, 1]
        if objective.head.pool is None:
            segments = filled.segments_BL[at[:, 0], at[:, 1]] - 1
        yield table.documents[table.rows[start + at[:, 0]] + segments], found[used]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _answers(
    module: Module, objective: Labelled, vocabulary: Vocabulary, params: Any, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    example = objective(batch, vocabulary, jax.random.key(0))
    output: Any = module.apply({"params": params}, example)
    return objective.answers(output, example, einsum=module.einsum), example.weights > 0
