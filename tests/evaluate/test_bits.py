"""The statistics of a score: units, documents, and errors that mean what they say."""

import math

import msgspec
import numpy as np
import pytest

from lm.evaluate.bits import WindowText, measure, paired, ratio_se, text_of
from lm.results import Score


def documents_of_one_row(documents, tokens, random):
    """Nats and text of documents with one row each, hard and easy ones."""
    hardness = random.gamma(4.0, 1.0, size=(documents, 1))
    nats = hardness + random.gamma(2.0, 0.5, size=(documents, tokens))
    sizes = random.integers(1, 6, size=(documents, tokens))
    return nats, WindowText(sizes, np.repeat(np.arange(documents)[:, None], tokens, axis=1))


def test_windows_hold_every_byte_of_the_stream_once():
    """Fails when a window starts at r x L, or the overwritten first position counts."""
    random = np.random.default_rng(0)
    sizes = np.array([0, 0, 0, 0, *random.integers(1, 9, size=20)])
    documents = [random.integers(4, 24, size=n) for n in (3, 50, 1, 20, 0, 33)]
    stream = np.concatenate([[2, *d, 3] for d in documents])
    offsets = np.cumsum([0, *(len(d) + 2 for d in documents)])
    length = 16
    count = -(-(len(stream) - 1) // (length - 1))
    index = np.arange(count)[:, None] * (length - 1) + np.arange(length)[None, :]
    inside = index < len(stream)
    tokens = np.where(inside, stream[np.minimum(index, len(stream) - 1)], 0)
    tokens[:, 0] = 2
    order = random.permutation(count)
    text = text_of(
        tokens[order],
        inside.astype(int)[order],
        windows=order,
        bos=2,
        token_bytes_V=sizes,
        offsets=offsets,
    )
    content = text.documents_RL >= 0
    assert content.sum() == sum(len(d) + 1 for d in documents)
    assert (text.bytes_RL[~content] == 0).all()
    found = np.bincount(text.documents_RL[content], text.bytes_RL[content], minlength=6)
    assert found.tolist() == [sizes[d].sum() for d in documents]


def test_text_error_is_that_of_a_mean_over_documents():
    """Fails when tokens, not documents, are resampled: the error would be a fifth of this."""
    random = np.random.default_rng(0)
    bits, sizes = random.gamma(3.0, 2.0, size=600), np.full(600, 2.0)
    analytic = bits.std(ddof=1) / math.sqrt(600) / 2
    assert ratio_se(bits, sizes) == pytest.approx(analytic, rel=0.08)


def test_text_error_is_unbiased_for_few_documents():
    """Fails without the factor n/(n-1): the error would be 18% too small."""
    bits = np.array([1.0, 4.0, 6.0])
    analytic = bits.std(ddof=1) / math.sqrt(3)
    assert ratio_se(bits, np.ones(3)) == pytest.approx(analytic, rel=0.07)


def test_text_error_covers_the_truth():
    """Fails when the ratio's denominator is not resampled with its numerator."""
    random = np.random.default_rng(1)
    z = []
    for _ in range(60):
        sizes = random.integers(1, 50, size=40)
        bits = sizes * random.normal(3.0, 0.1, size=40)
        z.append((bits.sum() / sizes.sum() - 3.0) / ratio_se(bits, sizes))
    assert 30 < np.square(z).sum() < 110  # about chi-square with 60 degrees of freedom


def test_one_document_has_no_text_error():
    """Fails when one unit gives an error of 0."""
    assert ratio_se(np.array([3.0]), np.array([1.0])) is None


def test_documents_without_text_break_no_error():
    """Fails when a draw of empty documents alone divides by nothing, or one makes a text."""
    error = ratio_se(np.array([1.0, 2.0, 9.0]), np.array([0, 3, 4]))
    assert error is not None and 0 < error < 10
    assert ratio_se(np.array([1.0, 2.0]), np.array([0, 3])) is None


def test_pairing_removes_what_the_variants_share():
    """Fails when the variants are resampled with different documents."""
    random = np.random.default_rng(0)
    nats, text = documents_of_one_row(80, 30, random)
    other = nats + random.normal(0.2, 0.1, size=nats.shape)
    a = measure(other[None], text, kind="exact")
    b = measure(nats[None], text, kind="exact")
    difference = paired(a, b)
    assert difference.bits_per_byte == pytest.approx(a.bits_per_byte - b.bits_per_byte)
    assert difference.text_se < 0.1 * math.hypot(a.text_se, b.text_se)
    assert difference.mc_se == 0


def test_pairing_needs_the_same_text():
    """Fails when scores of different documents are subtracted."""
    random = np.random.default_rng(0)
    a, b = (
        measure(nats[None], text, kind="exact")
        for nats, text in (documents_of_one_row(n, 5, random) for n in (8, 9))
    )
    with pytest.raises(ValueError, match="same text"):
        paired(a, b)


def test_mask_error_is_known_only_with_replicates():
    """Fails when one replicate claims an error of 0, or an exact score has an unknown one."""
    nats, text = documents_of_one_row(5, 5, np.random.default_rng(0))
    assert measure(nats[None], text, kind="bound").mc_se is None
    assert measure(nats[None], text, kind="exact").mc_se == 0
    twice = np.stack([nats, nats])
    assert measure(twice, text, kind="bound").mc_se == 0


def test_nats_that_cannot_be_are_refused():
    """Fails when NaN, or nats at padding, go into a sum."""
    nats, text = documents_of_one_row(5, 5, np.random.default_rng(0))
    broken = nats.copy()
    broken[2, 2] = np.nan
    nowhere = text._replace(documents_RL=np.where(text.documents_RL == 3, -1, 0))
    for bad, of in ((broken, text), (nats, nowhere)):
        with pytest.raises(ValueError, match="finite"):
            measure(bad[None], of, kind="exact")


def test_a_score_read_back_from_json_pairs_with_the_original():
    """Fails when the per-document sums do not survive."""
    nats, text = documents_of_one_row(5, 5, np.random.default_rng(0))
    score = measure(nats[None], text, kind="exact")
    again = msgspec.json.decode(msgspec.json.encode(score), type=Score)
    assert again == score
    assert paired(again, score) == (0.0, 0.0, 0.0)
