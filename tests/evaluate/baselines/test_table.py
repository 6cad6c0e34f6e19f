"""Baselines against texts whose code length is known."""

import numpy as np
import pytest

from lm.evaluate.baselines import baselines, window_contents


def of_bytes(documents, windows, training, read=b""):
    """Baselines of a byte vocabulary: ids are 4 + byte, 3 is the end."""

    def counts(texts):
        whole = np.bincount(np.frombuffer(b"".join(texts), np.uint8), minlength=256)
        return np.array([0, 0, 0, len(texts), *whole])

    return baselines(
        documents,
        windows,
        training_counts_V=counts(training),
        counts_V=counts(windows),
        possible_V=np.arange(260) >= 3,
        training=read,
    )


def test_random_bytes_cannot_be_compressed():
    """Fails when sizes are in bytes per byte, or of text that is not scored."""
    random = np.random.default_rng(0)
    documents = [random.bytes(4000) for _ in range(5)]
    text = b"".join(documents)
    windows = [text[i : i + 500] for i in range(0, len(text), 500)]
    result = of_bytes(documents, windows, documents)
    for name in ("gzip", "xz"):
        for cut in ("whole text", "by document", "by window"):
            assert 8 <= result[f"{name}, {cut}"] < 8.2
    assert result["uniform"] == pytest.approx(np.log2(257) * 20040 / 20000)
    assert result["unigram"] == pytest.approx(8, abs=0.05)
    some = of_bytes(documents, windows[:2], documents)
    assert some["uniform"] == pytest.approx(result["uniform"])
    assert some["unigram"] == pytest.approx(8, abs=0.05)
    assert some["xz, by window"] == pytest.approx(result["xz, by window"])


def test_unigram_is_the_entropy_of_its_source():
    """Fails when the counts of the held-out text are used, or smoothing is left out."""
    random = np.random.default_rng(0)
    fraction = np.array([0.5, 0.25, 0.125, 0.125])
    draw = lambda n: bytes(random.choice([97, 98, 99, 100], n, p=fraction).astype(np.uint8))  # noqa: E731
    training, documents = [draw(200_000)], [draw(20_000)]
    assert of_bytes(documents, documents, training)["unigram"] == pytest.approx(1.75, abs=0.02)
    unseen = of_bytes([b"zzz"], [b"zzz"], training)["unigram"]
    # three bytes never seen, and one end seen once, of 200,001 + 257
    assert unseen == pytest.approx((4 * np.log2(200_258) - 1) / 3)


def test_a_window_knows_nothing_of_the_one_before():
    """Fails when windows or documents are joined before they are compressed."""
    block = np.random.default_rng(0).bytes(700)
    result = of_bytes([block, block], [block[:350], block[350:]] * 2, [block])
    for name in ("gzip", "xz"):
        assert result[f"{name}, whole text"] < 4.5
        assert result[f"{name}, by document"] > 7.9
        assert result[f"{name}, by window"] > 7.9


def test_tokens_that_cannot_be_are_refused():
    """Fails when a mask token in the text costs nothing."""
    with pytest.raises(ValueError, match="not possible"):
        baselines(
            [b"a"],
            [b"a"],
            training_counts_V=np.array([0, 5]),
            counts_V=np.array([1, 1]),
            possible_V=np.array([False, True]),
        )


def test_windows_skip_what_is_not_content():
    """Fails when padding or bos token are given bytes."""
    spelled = [b"?", b"?", b"?", b"", b"ab", b"c"]
    tokens = np.array([[2, 4, 3, 2, 5], [2, 5, 0, 0, 0]])
    content = np.array([[0, 1, 1, 0, 1], [0, 1, 0, 0, 0]], bool)
    assert window_contents(tokens, content, spelled) == [b"abc", b"c"]
