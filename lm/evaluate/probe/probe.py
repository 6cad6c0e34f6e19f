"""What a frozen model represents: a linear classifier from its states to tokens' labels."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from lm.distributed.hosts import fetch
from lm.evaluate.bits import ratio_se
from lm.example import AttentionMask, unanswered
from lm.model.base import Module
from lm.results import Probe


class Sample(NamedTuple):
    """Labelled tokens: the model's state, the label, the token and the document of each."""

    features_ND: np.ndarray
    labels_N: np.ndarray
    tokens_N: np.ndarray
    documents_N: np.ndarray


def probe(
    training: Sample, test: Sample, *, names: tuple[str, ...], penalty: float = 1e-4
) -> Probe:
    """Multinomial logistic regression on standardized features, fitted by L-BFGS.

    `names` are the labels' names; what is minimized is the mean cross-entropy in nats plus
    `penalty / 2` times the squared coefficients.

    >>> x, y = np.array([[0.0], [1], [2], [9]]), np.array([0, 0, 0, 1])
    >>> seen = Sample(x, y, tokens_N=np.array([5, 5, 6, 6]), documents_N=np.array([0, 0, 1, 1]))
    >>> result = probe(seen, seen, names=("low", "high"))
    >>> result.accuracy, result.majority_accuracy, result.token_accuracy, result.recall
    (1.0, 0.75, 0.75, {'low': 1.0, 'high': 1.0})
    """
    mean_D, scale_D = training.features_ND.mean(axis=0), training.features_ND.std(axis=0)
    standard = [
        ((x_ND - mean_D[None, :]) / (scale_D[None, :] + 1e-6)).astype(np.float32)
        for x_ND in (training.features_ND, test.features_ND)
    ]
    weights_DC, bias_C = fit(
        standard[0], training.labels_N, classes=len(names), penalty=penalty
    )
    right_N = (standard[1] @ weights_DC + bias_C[None, :]).argmax(axis=1) == test.labels_N
    documents = np.unique(test.documents_N, return_inverse=True)[1]
    right_d, tokens_d = np.bincount(documents, right_N), np.bincount(documents)
    total_C = np.bincount(test.labels_N, minlength=len(names))
    found_C = np.bincount(test.labels_N, right_N, minlength=len(names))
    majority = np.bincount(training.labels_N).argmax()
    return Probe(
        accuracy=float(right_N.mean()),
        accuracy_se=ratio_se(right_d, tokens_d),
        majority_accuracy=float((test.labels_N == majority).mean()),
        token_accuracy=float((_by_token(training, test.tokens_N) == test.labels_N).mean()),
        recall={names[c]: float(found_C[c] / total_C[c]) for c in np.flatnonzero(total_C)},
        training_tokens=len(training.labels_N),
        test_tokens=len(test.labels_N),
        document_right=tuple(right_d.astype(int).tolist()),
        document_tokens=tuple(tokens_d.tolist()),
    )


def sample(
    module: Module,
    params: Any,
    windows: Iterable[tuple[np.ndarray, np.ndarray]],
    labels_RL: np.ndarray,
    documents_RL: np.ndarray,
    *,
    attention_mask: AttentionMask,
    place: Callable[[np.ndarray], jax.Array] = jnp.asarray,
) -> Sample:
    """The labelled tokens (label >= 0) of R windows with the model's states, nothing masked.

    `windows` are batches of (tokens, segments), all of one size but the last.
    """
    parts = []
    start = batch = 0
    for tokens_BL, segments_BL in windows:
        rows, batch = len(tokens_BL), batch or len(tokens_BL)
        fill = ((0, batch - rows), (0, 0))
        arrays = [place(np.pad(array, fill)) for array in (tokens_BL, segments_BL)]
        states_BLD = fetch(features(module, params, *arrays, attention_mask=attention_mask))[
            :rows
        ]
        here = slice(start, start + rows)
        chosen_BL = labels_RL[here] >= 0
        chosen = (states_BLD, labels_RL[here], tokens_BL, documents_RL[here])
        parts.append([array[chosen_BL] for array in chosen])
        start += rows
    return Sample(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@partial(jax.jit, static_argnums=0)
def features(
    module: Module,
    params: Any,
    tokens_BL: jax.Array,
    segments_BL: jax.Array,
    *,
    attention_mask: AttentionMask,
) -> jax.Array:
    """The module's last states at all positions with nothing masked, float32[B, L, D]."""
    example = unanswered(tokens_BL, segments_BL, attention_mask)
    return module.apply({"params": params}, example)[0].astype(jnp.float32)


def fit(
    features_ND: np.ndarray, labels_N: np.ndarray, *, classes: int, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [D, C] and biases [C] of the classifier; the biases are not penalized."""
    number, width = features_ND.shape
    onehot_NC = np.eye(classes, dtype=np.float32)[labels_N]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        table_DC = flat.reshape(width + 1, classes)
        weights_DC = table_DC[:-1].astype(np.float32)
        logits_NC = features_ND @ weights_DC + table_DC[None, -1].astype(np.float32)
        logits_NC -= logits_NC.max(axis=1, keepdims=True)
        fraction_NC = np.exp(logits_NC)
        total_N1 = fraction_NC.sum(axis=1, keepdims=True)
        nats = np.log(total_N1).sum(dtype=np.float64) - (logits_NC * onehot_NC).sum(
            dtype=np.float64
        )
        error_NC = (fraction_NC / total_N1 - onehot_NC) / np.float32(number)
        gradient = np.empty_like(table_DC)
        gradient[:-1] = features_ND.T @ error_NC + penalty * table_DC[:-1]
        gradient[-1] = error_NC.sum(axis=0)
        value = nats / number + penalty / 2 * float(np.square(table_DC[:-1]).sum())
        return value, gradient.ravel()

    start = np.zeros((width + 1) * classes)
    options = {"maxiter": 300, "gtol": 1e-5, "ftol": 1e-8}
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    table_DC = found.x.reshape(width + 1, classes).astype(np.float32)
    return table_DC[:-1], table_DC[-1]


def _by_token(training: Sample, tokens_N: np.ndarray) -> np.ndarray:
    """The most frequent training label of each token; of all tokens where it was never seen."""
    tokens = 1 + max(training.tokens_N.max(), tokens_N.max())
    count_VC = np.zeros((tokens, training.labels_N.max() + 1), int)
    np.add.at(count_VC, (training.tokens_N, training.labels_N), 1)
    best_V = np.where(count_VC.any(axis=1), count_VC.argmax(axis=1), count_VC.sum(0).argmax())
    return best_V[tokens_N]
