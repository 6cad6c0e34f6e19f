"""What frozen states tell of whole documents: a linear map from their mean to the label."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm.data import Document, in_memory, n_rows, rows
from lm.data.corpora import fraction_of
from lm.data.packing import table_of
from lm.evaluate.glue import LabelledSet
from lm.evaluate.probe.probe import fit
from lm.objectives.headed import PART
from lm.objectives.labelled import LABEL
from lm.train.load import LoadedModel

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Half of what a squared weight costs; features have variance 1."""


class ProbedLabels(NamedTuple):
    """What a linear map from frozen states says of a file's items."""

    columns: np.ndarray
    """float64[items, 3]: as `lm.evaluate.labels.LabelScores` has them."""
    penalty: float
    """What was chosen of `PENALTIES`, by the loss on the held-out part of the train file."""
    items: int
    """Documents that the map was fitted to."""


def probe_labels(
    model: LoadedModel, labelled: LabelledSet, *, items: int, length: int, validation: float
) -> ProbedLabels:
    """Fits a linear map to at most so many documents of a train file, and asks it of the other.

    States are the last ones before any head, their mean over a document, with nothing masked;
    rows have `length` positions. Held out is what a run with `data.validation` holds out, of
    which at most as many are read as documents that are fitted. Which documents are fitted
    follows from their texts alone.
    """
    by_fraction = sorted(
        (fraction_of(document.text.encode()), number, document)
        for number, document in enumerate(labelled.train.read())
    )
    held_out = [document for fraction, _, document in by_fraction if fraction < validation]
    fitted = [document for fraction, _, document in by_fraction if fraction >= validation]
    parts = (fitted[:items], held_out[:items], list(labelled.scored.read()))
    classes = labelled.objective.head.outputs
    (x_ND, y_N), (held_ND, held_N), (asked_ND, label_N) = (
        _with_label(*document_states(model, part, labelled, length=length), classes)
        for part in parts
    )
    mean_D, scale_D = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-6
    x_ND, held_ND, asked_ND = ((each - mean_D) / scale_D for each in (x_ND, held_ND, asked_ND))
    maps = {penalty: _fit(x_ND, y_N, classes, penalty) for penalty in PENALTIES}
    losses = {
        penalty: _loss(held_ND @ weights_DC + bias_C, held_N, classes)
        for penalty, (weights_DC, bias_C) in maps.items()
    }
    penalty = min(losses, key=lambda penalty: losses[penalty])
    weights_DC, bias_C = maps[penalty]
    said_NC = asked_ND @ weights_DC + bias_C
    said_N = said_NC.argmax(axis=1) if classes > 1 else said_NC[:, 0]
    last_N = label_N == said_N if classes > 1 else np.square(label_N - said_N)
    columns = np.stack([label_N, said_N, last_N], axis=1).astype(np.float64)
    return ProbedLabels(columns, penalty, len(x_ND))


def document_states(
    model: LoadedModel, documents: Sequence[Document], labelled: LabelledSet, *, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean state of each document, float32[documents, D], and its label."""
    channels = labelled.train.channels
    split = in_memory(documents, model.tokenizer, channels, labelled.train.too_long)
    table, vocabulary = table_of(split, length), model.tokenizer.vocabulary
    types = getattr(model.run.model, "token_types", 0)
    states_ND = np.zeros((len(documents), model.run.model.width), np.float32)
    label_N = np.zeros(len(documents))
    batch, count = _BATCH, n_rows(split, length, "whole")
    for start in range(0, count, batch):
        numbers = np.arange(start, start + batch) % count  # so that one program serves all
        part = rows(split, numbers, length, vocabulary, "whole")
        types_BL = part.channels.get(PART) if types > 1 else None
        states_BLD = model.hidden(part.tokens_BL, part.segments_BL, types_BL)
        for row, number in enumerate(numbers[: count - start].tolist()):
            held = table.documents[table.rows[number] : table.rows[number + 1]]
            for segment, document in enumerate(held.tolist(), 1):
                inside_L = part.segments_BL[row] == segment
                states_ND[document] = states_BLD[row, inside_L].mean(axis=0)
                label_N[document] = part.channels[LABEL][row, inside_L][0]
    return states_ND, label_N


_BATCH = 16


def _with_label(
    states_ND: np.ndarray, label_N: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    has_N = label_N >= 0 if classes > 1 else ~np.isnan(label_N)
    return states_ND[has_N], label_N[has_N]


def _fit(
    x_ND: np.ndarray, y_N: np.ndarray, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [D, C] and biases [C]; of numbers, by least squares to half the mean square."""
    if classes > 1:
        return fit(x_ND, y_N.astype(int), classes=classes, penalty=penalty)
    mean, number = y_N.mean(), len(x_ND)
    gram_DD = x_ND.T @ x_ND / number + penalty * np.eye(x_ND.shape[1])
    weights_D = np.linalg.solve(gram_DD, x_ND.T @ (y_N - mean) / number)
    return weights_D[:, None], np.array([mean])


def _loss(said_NC: np.ndarray, label_N: np.ndarray, classes: int) -> float:
    """The mean cross-entropy in nats, or the mean square of the error."""
    if classes == 1:
        return float(np.square(said_NC[:, 0] - label_N).mean())
    right_N = said_NC[np.arange(len(label_N)), label_N.astype(int)]
    return float((np.logaddexp.reduce(said_NC, axis=1) - right_N).mean())
