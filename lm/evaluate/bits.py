"""From nats of tokens to bits per byte, with the errors that belong to it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm.results import Evaluation, Kind, Score


class Difference(NamedTuple):
    """How many bits per byte one score lies above another on the same text.

    Where both were asked under the same masks they share a part of the noise, so `mc_se` is an
    upper bound; in `text_se`, which is of the documents' differences, that has cancelled.
    """

    bits_per_byte: float
    text_se: float | None
    mc_se: float | None


class WindowText(NamedTuple):
    """What the windows hold, apart from any model."""

    bytes_RL: np.ndarray
    """UTF-8 bytes of each content token; 0 for the eos token and where there is no content."""
    documents_RL: np.ndarray
    """Which document each content token belongs to; -1 where there is no content."""


def text_of(
    tokens_RL: np.ndarray,
    segments_RL: np.ndarray,
    *,
    windows: np.ndarray,
    bos: int,
    token_bytes_V: np.ndarray,
    offsets: np.ndarray,
) -> WindowText:
    """The bytes and documents of windows of a stream in which documents start at `offsets`.

    Window r holds the stream from `r * (L - 1)` on; `windows` are the r of the rows.

    >>> stream = [2, 7, 3, 2, 8, 9, 3]  # two documents between begin (2) and end (3)
    >>> tokens = np.array([[2, 7, 3, 2], [2, 8, 9, 3]])
    >>> segments = np.array([[1, 1, 1, 2], [1, 1, 1, 1]])
    >>> text = text_of(tokens, segments, windows=np.arange(2), bos=2,
    ...                token_bytes_V=np.array([0] * 7 + [1, 2, 3]), offsets=np.array([0, 3, 7]))
    >>> text.bytes_RL.tolist(), text.documents_RL.tolist()
    ([[0, 1, 0, 0], [0, 2, 3, 0]], [[-1, 0, 0, -1], [-1, 1, 1, 1]])
    """
    length = tokens_RL.shape[1]
    index_RL = windows[:, None] * (length - 1) + np.arange(length)[None, :]
    content_RL = (segments_RL > 0) & (tokens_RL != bos)
    documents_RL = np.searchsorted(offsets, index_RL, side="right") - 1
    return WindowText(
        bytes_RL=np.where(content_RL, token_bytes_V[tokens_RL], 0),
        documents_RL=np.where(content_RL, documents_RL, -1),
    )


def measure(
    nats_KRL: np.ndarray,
    text: WindowText,
    *,
    kind: Kind,
    layout_RL: np.ndarray | None = None,
    block: int | None = None,
    seed: int = 0,
) -> Score:
    """Bits per byte of the windows' text, from K independent replicates of its tokens' nats.

    `layout_RL` are the nats of what the model was told of the layout (`lm.evaluate.layout`);
    `block` is what the score says of its scorer.

    >>> text = WindowText(bytes_RL=np.array([[0, 1, 1], [0, 2, 0]]),
    ...             documents_RL=np.array([[-1, 0, 0], [-1, 1, 1]]))
    >>> nats_KRL = np.log(2) * np.array([[[0, 1, 1], [0, 4, 1]], [[0, 1, 3], [0, 4, 1]]])
    >>> layout_RL = np.log(2) * np.array([[0, 0, 1], [0, 0, 1]])
    >>> score = measure(nats_KRL, text, kind="bound", layout_RL=layout_RL)
    >>> round(score.bits_per_byte, 6)  # (3 + 5 + 1 + 1) / 4 bytes
    2.5
    >>> score.layout_bits  # (1 + 1) / 4 bytes
    0.5
    >>> score.mc_se  # sqrt(variance 2 / 2) / 4 bytes
    0.25
    >>> [nats / math.log(2) for nats in score.document_nats], score.document_bytes
    ([4.0, 6.0], (2, 2))
    """
    content_RL = text.documents_RL >= 0
    paid_RL = np.zeros(content_RL.shape) if layout_RL is None else layout_RL
    for nats_RL in (*nats_KRL, paid_RL):
        if not np.isfinite(nats_RL).all() or (nats_RL * ~content_RL).any():
            raise ValueError("nats must be finite, and 0 where there is no content")
    replicates = len(nats_KRL)
    total_bytes = int(text.bytes_RL.sum())
    per_document = [
        np.bincount(text.documents_RL[content_RL], values[content_RL].astype(np.float64))
        for values in (
            nats_KRL.mean(axis=0, dtype=np.float64) + paid_RL,
            text.bytes_RL,
            content_RL,
        )
    ]
    seen = per_document[2] > 0
    nats_d, bytes_d = per_document[0][seen], per_document[1][seen]
    if kind == "exact":
        mc_se: float | None = 0.0
    elif replicates == 1:
        mc_se = None
    else:
        # Rows draw their masks independently, so their variances add.
        rows_KR = nats_KRL.sum(axis=2, dtype=np.float64)
        mc_nats = math.sqrt(rows_KR.var(axis=0, ddof=1).sum() / replicates)
        mc_se = mc_nats / math.log(2) / total_bytes
    return Score(
        bits_per_byte=float(nats_d.sum()) / math.log(2) / total_bytes,
        layout_bits=(
            None if layout_RL is None else float(layout_RL.sum()) / math.log(2) / total_bytes
        ),
        mc_se=mc_se,
        text_se=ratio_se(nats_d / math.log(2), bytes_d, seed=seed),
        kind=kind,
        nats=float(nats_d.sum()),
        block=block,
        tokens=int(content_RL.sum()),
        bytes=total_bytes,
        document_nats=tuple(nats_d.tolist()),
        document_bytes=tuple(int(size) for size in bytes_d),
    )


DocumentSums = tuple[Sequence[float], Sequence[int]]
"""What was found in each unit (document), and of how much."""


def paired(a: Score | Evaluation, b: Score | Evaluation, *, seed: int = 0) -> Difference:
    """How far `a` lies above `b`; what makes a document hard for both does not count as error.

    Raises ValueError where they are not of the same text.

    >>> text = WindowText(bytes_RL=np.ones((4, 1), int), documents_RL=np.arange(4)[:, None])
    >>> hard = np.array([1.0, 2.0, 5.0, 9.0]).reshape(1, 4, 1) * math.log(2)
    >>> a = measure(hard + math.log(2), text, kind="exact")
    >>> b = measure(hard, text, kind="exact")
    >>> difference = paired(a, b)
    >>> round(difference.bits_per_byte, 6), round(difference.text_se, 6), a.text_se > 1
    (1.0, 0.0, True)
    """
    if list(a.document_bytes) != list(b.document_bytes):
        raise ValueError("the scores are not of the same text")
    sums = [(each.document_nats, each.document_bytes) for each in (a, b)]
    nats_se = sums_se(sums[:1], sums[1:], seed=seed)
    return Difference(
        bits_per_byte=a.bits_per_byte - b.bits_per_byte,
        text_se=None if nats_se is None else nats_se / math.log(2),
        mc_se=None if a.mc_se is None or b.mc_se is None else math.hypot(a.mc_se, b.mc_se),
    )


def sums_se(
    ours: Sequence[DocumentSums], theirs: Sequence[DocumentSums] = (), *, seed: int = 0
) -> float | None:
    """Bootstrap standard error of a mean ratio over units, or of how far it is above theirs.

    What makes a unit large for both does not count. None where units differ, or none are given.

    >>> sums_se([((3.0, 5.0, 7.0), (1, 1, 1))], [((2.0, 4.0, 6.0), (1, 1, 1))])
    0.0
    >>> sums_se([((3.0, 5.0), (1, 1))], [((2.0, 4.0), (1, 2))]) is None
    True
    """
    sizes = {tuple(size) for _, size in [*ours, *theirs]}
    if len(sizes) != 1:
        return None
    sums = np.mean([sums for sums, _ in ours], axis=0)
    if theirs:
        sums = sums - np.mean([sums for sums, _ in theirs], axis=0)
    return ratio_se(sums, np.array(sizes.pop()), seed=seed)


RESAMPLES = 1000


def ratio_se(
    numerators: np.ndarray, denominators: np.ndarray, *, seed: int = 0
) -> float | None:
    """Bootstrap standard error of a ratio of two sums over units that are drawn at random.

    The units (documents) are resampled, not what they hold, as that is alike within a unit
    (Efron and Tibshirani 1993, section 8). The factor n/(n-1) on the variance matters if units
    are few; with one unit there is no telling: None. A unit may hold nothing (an empty
    document, of which its end was scored); a draw of such units alone is drawn again.

    >>> ratio_se(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))  # always 2
    0.0
    """
    units = len(numerators)
    if np.count_nonzero(denominators) < 2:
        return None
    random = np.random.default_rng(seed)
    ratios = np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        drawn = random.integers(units, size=units)
        while not denominators[drawn].any():
            drawn = random.integers(units, size=units)
        ratios[resample] = numerators[drawn].sum() / denominators[drawn].sum()
    return float(ratios.std(ddof=1) * math.sqrt(units / (units - 1)))
