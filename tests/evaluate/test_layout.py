"""What scorers are told of where documents end, and what the length model asks for it."""

import math

import numpy as np
import pytest

from lm.data.lengths import Geometric, LengthModel, length_nats
from lm.evaluate.layout import layout_nats

MODELS = {
    "geometric": Geometric(mean=2.5),
    "fitted": LengthModel.fit(np.array([2, 2, 2, 3, 4, 4, 7])),
    "one length": LengthModel.fit(np.array([3] * 50)),
    "one document": LengthModel.fit(np.array([4])),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def lengths(request):
    return request.param


def test_m2_a_length_model_is_a_distribution(lengths):
    """Fails if a length is counted twice, the curve is not cut at half integers, or the chance
    of more is not what is left."""
    log_p_N, log_more_N = lengths.log_probabilities(5000)
    p_N, more_N = np.exp(log_p_N), np.exp(log_more_N)
    assert p_N[0] == 0 and more_N[0] == pytest.approx(1)
    assert p_N.sum() + more_N[-1] == pytest.approx(1, abs=1e-9)
    assert np.cumsum(p_N) + more_N == pytest.approx(np.ones(5001), abs=1e-9)


def test_m2_what_tokens_pay_is_the_length_s_code(lengths):
    """Fails if a token pays for its end without having come so far, or pays twice."""
    nats, (log_p_N, _) = length_nats(lengths, 60), lengths.log_probabilities(60)
    for length in range(2, 60):
        paid = nats.goes_on_N[1:length].sum() + nats.ends_N[length]
        assert paid == pytest.approx(-log_p_N[length], rel=1e-9)


def test_m2_documents_of_one_length_cost_next_to_nothing_and_none_is_impossible():
    """Fails if new lengths get a fixed share, or the curve alone is taken."""
    known = LengthModel.fit(np.array([62] * 20_000))
    log_p_N, _ = known.log_probabilities(10**6)
    assert -log_p_N[62] < 1e-4
    assert np.isfinite(log_p_N[1:]).all()


def test_m2_windows_share_out_a_stream_s_length_code(lengths):
    """Fails if a cut document is paid for anew in the next window, or not at all: the windows
    pay for all documents but for what is seen at a row's last position."""
    sizes = np.array([3, 2, 9, 4, 3, 6, 2])
    offsets = np.concatenate([[0], np.cumsum(sizes + 1)])
    length, nats = 5, length_nats(lengths, 9)
    windows = np.arange(-(-(offsets[-1] - 1) // (length - 1)))
    found = layout_nats(
        "ends of documents", lengths, windows=windows, offsets=offsets, length=length
    )
    log_p_N, _ = lengths.log_probabilities(9)
    unpaid = 0.0
    for r in windows[:-1]:  # the last one ends in padding
        last = r * (length - 1) + length - 1
        document = np.searchsorted(offsets, last, side="right") - 1
        place = last - offsets[document]
        if place:
            ends = place == sizes[document]
            unpaid += (nats.ends_N if ends else nats.goes_on_N)[place]
    assert found.sum() == pytest.approx(-log_p_N[sizes].sum() - unpaid, rel=1e-9)
    assert (found[:, 0] == 0).all()


def begins(at: int, length: int):
    """Every way in which documents can begin in a row after one that began at `at`."""
    yield ()
    for n in range(1, length - 1 - at):
        for rest in begins(at + 1 + n, length):
            yield (at + 1 + n, *rest)


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("told", ["ends of documents", "number of documents"])
def test_m2_what_is_told_of_a_row_sums_to_one(lengths, told, place):
    """Fails if the code of a row's layout is not one: over all layouts that a model can tell
    apart, the probabilities that are paid for sum to 1, whatever came before the row."""
    length, seen = 6, {}
    # What has come so far of the row's first document began `place` before the row.
    for found in begins(-place, length):
        if found and found[0] < 2:
            continue  # that the first token ends its document is known before the row
        starts = np.array([-place, *found, 5 * length])
        offsets = np.concatenate([[0], starts + length - 1])
        paid = layout_nats(told, lengths, windows=np.array([1]), offsets=offsets, length=length)
        key = found if told == "ends of documents" else (len(found), length - 1 in found)
        assert seen.setdefault(key, math.exp(-paid.sum())) == pytest.approx(
            math.exp(-paid.sum())
        )
    assert sum(seen.values()) == pytest.approx(1, rel=1e-9)


def test_m2_an_end_before_the_row_is_known(lengths):
    """Fails if a row that begins on a document's end pays for that end again."""
    length, offsets = 6, np.array([0, 6, 40])  # the row's first token is the first one's end
    for told in ("ends of documents", "number of documents"):
        paid = layout_nats(told, lengths, windows=np.array([1]), offsets=offsets, length=length)
        _, log_more_N = lengths.log_probabilities(9)
        assert paid.sum() == pytest.approx(-log_more_N[length - 3], rel=1e-9)
