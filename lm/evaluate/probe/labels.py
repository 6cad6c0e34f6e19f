"""The probe of a trained model: what its states tell of tokens."""

from functools import partial

import numpy as np

from lm.data import Split
from lm.evaluate.probe import python_roles
from lm.evaluate.probe.probe import probe, sample
from lm.evaluate.scoring import sees
from lm.evaluate.truth import drawn_rows, known_source
from lm.evaluate.windows import Windows, document_of, place_of, token_bytes
from lm.results import Probe
from lm.train.load import ModelWithText


def probe_of(trained: ModelWithText, number: int) -> Probe | None:
    """The probe for what tokens are: states of a source, roles in Python; None elsewhere.

    None too for an encoder-decoder, which has no one state of a token.
    """
    if trained.run.model.reads_source:
        return None
    samples = []
    for split in (trained.tokens.train, trained.tokens.validation):
        rows = -(-number // (trained.run.data.length - 1))
        windows = Windows.of(trained, split, rows)
        labels_RL, names = _labels(trained, split, windows)
        if (labels_RL >= 0).sum() < 1000:
            return None
        samples.append(
            sample(
                trained.program.module,
                trained.params,
                windows,
                labels_RL,
                windows.text.documents_RL,
                attention_mask=sees(trained),
                place=place_of(trained),
            )
        )
    return probe(*samples, names=names)


def _labels(
    trained: ModelWithText, split: Split, windows: Windows
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The label of each token of the windows, -1 where there is none, and the labels' names."""
    corpus = trained.run.data.corpus.truth()
    if corpus is not None:
        states = tuple(f"state {number}" for number in range(corpus.states))
        labels_RL = np.full(windows.tokens_RL.shape, -1)
        if known_source(trained.run):
            states_RT, _ = drawn_rows(corpus, split, windows)
            labels_RL[:, 1 : 1 + corpus.length] = states_RT
        return labels_RL, states
    roles_RL = python_roles.window_roles(
        windows.index_R,
        trained.run.data.length,
        offsets=split.offsets,
        document=partial(document_of, split),
        token_lengths_V=token_bytes(trained),
    )
    return roles_RL, python_roles.ROLES
