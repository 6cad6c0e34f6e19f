"""What predictors without a neural network need for the same text, in bits per byte."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lm.evaluate.baselines.compressors import COMPRESSORS
from lm.evaluate.baselines.ppm import AFTER_TRAINING, has_ppm, ppm_after, ppm_size


def baselines(
    documents: Sequence[bytes],
    windows: Sequence[bytes],
    *,
    training_counts_V: np.ndarray,
    counts_V: np.ndarray,
    possible_V: np.ndarray,
    training: bytes = b"",
) -> dict[str, float]:
    """Bits per byte of a held-out text under each baseline.

    `documents` are the text, and `windows` what of it is scored; `counts_V` are the windows'
    tokens, with the eos token, and `training_counts_V` those of the training text;
    `possible_V` says which tokens a document may hold (ordinary ones and the end). Compressors
    are counted without the headers and checksums of their file formats: xz's are half a bit per
    byte of a 1 KB window. PPM, where it is installed, also codes the windows behind `training`,
    what the model was trained on.

    >>> result = baselines([b"abab", b"abab"], [b"abababab"],
    ...                    training_counts_V=np.array([0, 1, 5]), counts_V=np.array([0, 2, 4]),
    ...                    possible_V=np.array([False, True, True]))
    >>> result["uniform"]  # log2(2) * 6 tokens / 8 bytes
    0.75
    >>> result["unigram"]  # -(2 log2(2/8) + 4 log2(6/8)) / 8
    0.70751...
    >>> [name for name in result if "ppm" not in name][2:]  # doctest: +NORMALIZE_WHITESPACE
    ['gzip, whole text', 'gzip, by document', 'gzip, by window',
     'xz, whole text', 'xz, by document', 'xz, by window']
    """
    size, scored = sum(map(len, documents)), sum(map(len, windows))
    smoothed_V = np.where(possible_V, training_counts_V + 1.0, 0.0)
    probability_V = np.where(possible_V, smoothed_V / smoothed_V.sum(), 1.0)
    if counts_V[~possible_V].any():
        raise ValueError("the text holds tokens that are not possible")
    result = {
        "uniform": float(counts_V.sum() * np.log2(possible_V.sum()) / scored),
        "unigram": float(-(counts_V * np.log2(probability_V)).sum() / scored),
    }
    for name, bytes_ in _compressed(tuple(documents), tuple(windows), ppm=has_ppm()).items():
        result[name] = 8 * bytes_ / (scored if name.endswith("window") else size)
    if has_ppm() and training:
        result[AFTER_TRAINING] = _ppm_after(training, tuple(windows))
    return result


@lru_cache(1)  # a study's runs are held to one text
def _compressed(
    documents: tuple[bytes, ...], windows: tuple[bytes, ...], *, ppm: bool
) -> dict[str, int]:
    """Bytes that each compressor needs for all as one, and for the sum of parts."""
    found = {}
    for name, compressed in (COMPRESSORS | ({"ppm": ppm_size} if ppm else {})).items():
        found[f"{name}, whole text"] = compressed(b"".join(documents))
        found[f"{name}, by document"] = sum(map(compressed, documents))
        found[f"{name}, by window"] = sum(map(compressed, windows))
    return found


_ppm_after = lru_cache(4)(ppm_after)  # variants read the same rows


def window_contents(
    tokens_RL: np.ndarray, content_RL: np.ndarray, tokens: Sequence[bytes]
) -> list[bytes]:
    """The text that each window holds.

    >>> window_contents(np.array([[2, 4, 5], [2, 5, 3]]), np.array([[0, 1, 1], [0, 1, 1]]),
    ...                 [b"", b"", b"", b"", b"a", b"b"])
    [b'ab', b'b']
    """
    return [
        b"".join(tokens[token] for token in tokens_L[content_L > 0])
        for tokens_L, content_L in zip(tokens_RL, content_RL, strict=True)
    ]
