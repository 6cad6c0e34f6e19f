"""The code of the layout: what a scorer is told of where documents end, the length model pays.

A chain rule predicts the end of each document itself, so it pays for ends token by token, and
pays once. A masked model is shown where documents begin, and so where those before them end; a
span model how many there are. What is given must be in the code, or its length falls below what
the source needs: it is coded first, by a length model fitted to the training documents, given
all of the stream before the window, as whoever decodes windows in their order knows it.
"""

from typing import Literal

import numpy as np

from lm.data.lengths import Lengths, length_nats

LayoutGiven = Literal["nothing", "number of documents", "ends of documents"]
"""What a scorer gives a model to know of a row's layout before any token is predicted."""


def layout_nats(
    given: LayoutGiven,
    lengths: Lengths,
    *,
    windows: np.ndarray,
    offsets: np.ndarray,
    length: int,
) -> np.ndarray:
    """Nats of what is told of each window, float64[R, L]: at each token, what it says of ends.

    Windows and offsets are those of `ends_nats`. Whether the token at a row's last position
    ends its document is not seen from the row, so it is not given: the model is asked for it.

    >>> from lm.data.lengths import Geometric
    >>> found = layout_nats("ends of documents", Geometric(mean=2), windows=np.arange(2),
    ...                     offsets=np.array([0, 3, 7]), length=5)
    >>> np.exp(-found).round(6).tolist()
    [[1.0, 1.0, 0.5, 1.0, 1.0], [1.0, 0.5, 0.5, 1.0, 1.0]]
    """
    if given == "nothing":
        return np.zeros((len(windows), length))
    paid_RL = ends_nats(lengths, windows=windows, offsets=offsets, length=length)
    whole_R = (windows + 1) * (length - 1) < offsets[-1]
    paid_RL[whole_R, -1] = 0.0
    if given == "number of documents":
        # A row that ends in padding pays for all ends, which is more.
        place_RL, end_RL = _places(windows, offsets, length)
        _pay_for_numbers(paid_RL, np.flatnonzero(whole_R), lengths, place_RL, end_RL[:, 0])
    return paid_RL


def ends_nats(
    lengths: Lengths, *, windows: np.ndarray, offsets: np.ndarray, length: int
) -> np.ndarray:
    """Nats of whether a document ends at each token, given that it has come so far.

    Window r holds the stream from `r * (L - 1)` on; `windows` are the r of the rows, documents
    start at `offsets`. Returns float64[R, L], 0 where there is no content.

    Two documents, of 2 and 3 tokens with their ends, in rows of 5, of which the second begins
    where the first ends: begin 1 2 begin 1 | 1 2 3.

    >>> from lm.data.lengths import Geometric
    >>> found = ends_nats(Geometric(mean=2), windows=np.arange(2),
    ...                   offsets=np.array([0, 3, 7]), length=5)
    >>> np.exp(-found).round(6).tolist()
    [[1.0, 1.0, 0.5, 1.0, 1.0], [1.0, 0.5, 0.5, 1.0, 1.0]]
    """
    place_RL, end_RL = _places(windows, offsets, length)
    content_RL = (place_RL > 0) & (place_RL <= end_RL)
    content_RL[:, 0] = False
    nats = length_nats(lengths, int(end_RL.max()))
    place_c, end_c = place_RL[content_RL], end_RL[content_RL]
    paid_RL = np.zeros(place_RL.shape)
    paid_RL[content_RL] = np.where(
        place_c == end_c, nats.ends_N[place_c], nats.goes_on_N[place_c]
    )
    return paid_RL


def _places(
    windows: np.ndarray, offsets: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each token's place in its document, from 0, its bos token, and that of its end."""
    stream_RL = windows[:, None] * (length - 1) + np.arange(length)[None, :]
    document_RL = np.searchsorted(offsets[:-1], stream_RL, side="right") - 1
    return stream_RL - offsets[document_RL], np.diff(offsets)[document_RL] - 1


def _pay_for_numbers(
    paid_RL: np.ndarray,
    rows: np.ndarray,
    lengths: Lengths,
    place_RL: np.ndarray,
    end_R: np.ndarray,
) -> None:
    """-log p(how many documents begin in a row, whether one does at its end), at position 1.

    Of chances by position t, given that a document begins at t: that k more begin in the row is
    the sum over n of p(n) times the chance, at t + 1 + n, of k - 1 more.
    """
    length = place_RL.shape[1]
    begins_RL = place_RL == 0
    begins_RL[:, 0] = False
    number_R, last_R = begins_RL.sum(axis=1), begins_RL[:, -1]
    log_p_N, log_more_N = lengths.log_probabilities(int(place_RL[:, 0].max()) + length)
    gap_LL = np.arange(length)[None, :] - np.arange(length)[:, None] - 1
    next_LL = np.where(gap_LL > 0, np.exp(log_p_N)[gap_LL.clip(0)], 0.0)
    # No more, where the last one begins before the row's end, or at it.
    before_L = np.append(np.exp(log_more_N[: length - 1])[::-1], 0.0)
    chances: dict[bool, list[np.ndarray]] = {False: [before_L], True: [np.eye(length)[-1]]}
    for of in chances.values():
        while len(of) < number_R.max():
            of.append(next_LL @ of[-1])
    for r in rows:
        place, number, last = int(place_RL[r, 0]), int(number_R[r]), bool(last_R[r])
        first_L = np.zeros(length)  # the chance that the first one begins at a position
        if place == end_R[r]:
            first_L[1] = 1.0
        else:
            left = slice(place + 1, place + length - 1)
            first_L[2:] = np.exp(log_p_N[left] - log_more_N[place])
        if number == 0:
            log_chance = log_more_N[place + length - 2] - log_more_N[place]
        elif (chance := float(first_L @ chances[last][number - 1])) > 0:
            log_chance = np.log(chance)
        else:
            continue  # too small to be a number: it pays for all ends
        paid_RL[r] = 0.0
        paid_RL[r, 1] = -log_chance
