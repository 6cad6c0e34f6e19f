"""Bits per byte by component: the score of a mixture's held-out text, taken apart."""

import math

import numpy as np

from lm.data import TextMixture
from lm.evaluate.bits import ratio_se
from lm.evaluate.effort import Effort
from lm.evaluate.scorers.base import Scorer
from lm.evaluate.scoring import windows_for
from lm.results import ComponentScore, Score
from lm.run import Run
from lm.train.load import ModelWithText


def _names(run: Run) -> tuple[str, ...]:
    """The names of the components of a run's text; () if it is no mixture."""
    corpus = run.data.corpus
    return tuple(name for name, _ in corpus.parts) if isinstance(corpus, TextMixture) else ()


def by_component(
    trained: ModelWithText, scorer: Scorer, score: Score, effort: Effort
) -> dict[str, ComponentScore]:
    """What a score is for the documents of each component that has any in its windows.

    {} where the text is no mixture.
    """
    if not (names := _names(trained.run)):
        return {}
    windows = windows_for(trained, scorer, effort)
    documents_RL = windows.text.documents_RL
    # Those that the score tells apart, in their order.
    documents = np.unique(documents_RL[documents_RL >= 0])
    of = np.searchsorted(windows.split.ends, documents, side="right")
    nats, sizes = np.array(score.document_nats), np.array(score.document_bytes)
    found = {}
    for number, name in enumerate(names):
        here = of == number
        if total := int(sizes[here].sum()):
            bits = nats[here] / math.log(2)
            found[name] = ComponentScore(
                bits_per_byte=float(bits.sum()) / total,
                text_se=ratio_se(bits, sizes[here]),
                documents=int(here.sum()),
                bytes=total,
            )
    return found
