"""The short rows that proofs ask about: every kind of document, and every edit of a token."""

import jax
import jax.numpy as jnp
import numpy as np

from lm.data.sources import SIDE
from lm.example import Vocabulary, content_of, positions_of
from lm.objectives.pairs import CHOICE, LOSS

LENGTH = 14
"""Positions of a row: few, as every state is derived by every position."""
DOCUMENTS = ((LENGTH,), (6, 5), (3, 2, 8, 1), (4, 5))
"""Lengths of each row's documents: cut off at the row's end, with padding, empty, begun."""
LETTERS = "abcdefghijkl"
_SENTINELS = range(4, 4 + LENGTH // 2 + 1)
VOCABULARY = Vocabulary(
    size=_SENTINELS.stop + len(LETTERS),
    pad=0,
    mask=1,
    bos=2,
    eos=3,
    first_ordinary=_SENTINELS.stop,
    begins_word=(True,) * _SENTINELS.stop + (True, False) * (len(LETTERS) // 2),
    sentinels=tuple(_SENTINELS),
)


def rows_and_edits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows, then with the token at each position changed: int[1 + L, B, L], int[B, L].

    The other token begins a word if the one did, so that units of whole words stay; what is no
    content stays too.
    """
    random = np.random.default_rng(seed)
    tokens_BL = random.integers(
        VOCABULARY.first_ordinary, VOCABULARY.size, (len(DOCUMENTS), LENGTH), np.int32
    )
    segments_BL = np.zeros_like(tokens_BL)
    for row, sizes in enumerate(DOCUMENTS):
        stops = np.cumsum(sizes).tolist()
        for number, (size, stop) in enumerate(zip(sizes, stops, strict=True)):
            segments_BL[row, stop - size : stop] = number + 1
            if stop < LENGTH:
                tokens_BL[row, stop - 1] = VOCABULARY.eos
            tokens_BL[row, stop - size] = VOCABULARY.bos
    tokens_BL[segments_BL == 0] = VOCABULARY.pad
    content_BL = np.asarray(
        content_of(jnp.array(tokens_BL), jnp.array(segments_BL), VOCABULARY)
    )
    begins_V, edits_NBL = np.array(VOCABULARY.begins_word), [tokens_BL]
    for position in range(LENGTH):
        edits_NBL.append(tokens_BL.copy())
        for row in np.flatnonzero(content_BL[:, position]).tolist():
            token = tokens_BL[row, position]
            others = np.flatnonzero(begins_V == begins_V[token])
            others = others[(others >= VOCABULARY.first_ordinary) & (others != token)]
            edits_NBL[-1][row, position] = random.choice(others)
    return np.stack(edits_NBL), segments_BL


def channel(name: str, segments_BL: jax.Array, label: jax.Array) -> jax.Array:
    """What a channel says of each token of the rows, int32[B, L]: the same `label`, mostly.

    Every token is an answer's and counts as a target, or by the other `label` none does. A
    document is a pair, of which `label` says which half was chosen, or is the first text.

    >>> segments = jnp.array([[1, 1, 1, 2, 2, 0]])
    >>> channel("choice", segments, jnp.int32(0)).tolist()
    [[0, 1, 1, 0, 1, 1]]
    """
    if name == LOSS:
        return jnp.full_like(segments_BL, 1 - label)
    if name not in HALVES:
        return jnp.full_like(segments_BL, label)
    positions_BL = positions_of(segments_BL)
    same_BLL = segments_BL[:, :, None] == segments_BL[:, None, :]
    second_BL = 2 * positions_BL + 1 >= same_BLL.sum(2)
    return second_BL.astype(jnp.int32) ^ label


HALVES = CHOICE, SIDE.name
"""Channels that say which half of a pair a token is of."""


def glyph(token: int) -> str:
    """A character for a token, as pictures show it."""
    return ("-_^$" + "0123456789"[: len(_SENTINELS)] + LETTERS)[token]
