"""PPM on sources whose entropy is known, and on text that stands in what it has read."""

import numpy as np
import pytest

from lm.evaluate.baselines import ppm, table
from lm.evaluate.baselines.ppm import AFTER_TRAINING, has_ppm, ppm_after
from tests.evaluate.baselines.test_table import of_bytes

NEXT = np.array(
    [
        [0.90, 0.06, 0.03, 0.01],
        [0.05, 0.80, 0.10, 0.05],
        [0.1, 0.1, 0.7, 0.1],
        [0.3, 0, 0.3, 0.4],
    ]
)


def chain(length: int, seed: int) -> tuple[bytes, float]:
    """Letters a to d, each drawn given the one before, and bits per letter by what it is."""
    random, at = np.random.default_rng(seed), 0
    drawn, bits = bytearray(), 0.0
    for _ in range(length):
        after = int(random.choice(4, p=NEXT[at]))
        bits, at = bits - float(np.log2(NEXT[at, after])), after
        drawn.append(97 + after)
    return bytes(drawn), bits / length


def windows_of(text: bytes, size: int = 128) -> list[bytes]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@pytest.fixture
def library() -> None:
    """pyppmd, without which PPM is not measured."""
    pytest.importorskip("pyppmd", reason="needs the extra eval")


def test_ppm_is_never_below_the_truth_and_near_it(library):
    """Fails if bytes that code something are left out, bits are not, or it does not learn."""
    training, _ = chain(60_000, 0)
    held_out, truth = chain(20_000, 1)
    whole = of_bytes([held_out], windows_of(held_out), [training])["ppm, whole text"]
    after = ppm_after(training, windows_of(held_out))
    assert truth < after < 1.1 * truth
    assert after < whole < 1.25 * truth


def register(taps: tuple[int, int], length: int) -> bytes:
    """Letters a and b, each decided by two of the last few, and by no fewer than those."""
    drawn = [1] * max(taps)
    for _ in range(length):
        drawn.append(drawn[-taps[0]] ^ drawn[-taps[1]])
    return bytes(97 + each for each in drawn)


def test_contexts_are_of_five_bytes(library):
    """Fails if fewer bytes before the next are looked at, or more."""
    of_five, of_six = (register(taps, 4000) for taps in ((5, 3), (6, 5)))
    assert ppm.ppm_size(of_five) < 100 and ppm.ppm_size(of_six) > 450  # of 500 at a bit each


def test_a_byte_more_is_never_free(library):
    """Fails if what the coder's end says is not charged: few bytes would cost nothing."""
    sizes = [ppm.ppm_size(np.random.default_rng(0).bytes(n)) for n in range(40)]
    assert sizes[0] == 1 and all(size >= n for n, size in enumerate(sizes))


def test_what_stands_in_the_training_text_is_known_and_that_text_is_free(library):
    """Fails if the training text is charged, not read, or read behind the held-out text; or if
    text is that is not scored.
    """
    random = np.random.default_rng(0)
    training, other = (bytes(random.integers(97, 105, 4096, np.uint8)) for _ in range(2))
    known, unknown = (
        of_bytes([training, other], windows_of(text), [training], read=training)[AFTER_TRAINING]
        for text in (training, other)
    )
    # Nothing says which of eight letters is next, until it has been read once.
    assert known < 1 < 3 < unknown < 3.6


def test_ppm_does_not_learn_from_one_stretch_for_the_next(library):
    """Fails if held-out text is coded as one stream behind the training text."""
    random = np.random.default_rng(0)
    training, again = (bytes(random.integers(97, 105, 1024, np.uint8)) for _ in range(2))
    assert ppm_after(training, [again] * 20) == pytest.approx(ppm_after(training, [again]))
    assert ppm_after(training, [again]) > 3


def test_much_text_is_sampled_from_all_of_it(library, monkeypatch):
    """Fails if only the beginning is scored, or the work grows with the text."""
    asked = []
    monkeypatch.setattr(ppm, "ppm_size", lambda data: asked.append(data) or len(data))
    text = b"".join(bytes([letter]) * 1024 for letter in range(100))
    monkeypatch.setattr(ppm, "_WORK", 10 * 2048)
    assert ppm_after(bytes(1024), [text]) == 8.0
    assert [stretch[-1] for stretch in asked[1:]] == list(range(0, 100, 10))


def test_much_training_text_is_followed_by_few_short_stretches(monkeypatch):
    """Fails if a stretch is so long that it teaches, or too few are read to say anything."""
    asked = []
    monkeypatch.setattr(ppm, "ppm_size", lambda data: asked.append(len(data)) or len(data))
    monkeypatch.setattr(ppm, "_WORK", 0)
    ppm_after(bytes(32 * 2048), [bytes(20 * 2048)])
    assert asked == [32 * 2048, *[33 * 2048] * 4]


def test_without_the_library_nothing_is_said_of_ppm(monkeypatch, capsys):
    """Fails if a number is made up, it is asked for, or who scores is not told why."""
    from lm.commands.score import _print_found

    monkeypatch.setattr(table, "has_ppm", lambda: False)
    found = of_bytes([b"abab"], [b"abab"], [b"ab"], read=b"ab")
    assert not any("ppm" in name for name in found)
    _print_found({"scores": {}, "error_by_fraction": {}, "probe": None, "baselines": found})
    assert "pip install 'yardstick-lm[eval]'" in capsys.readouterr().out
    assert has_ppm() is (ppm.importlib.util.find_spec("pyppmd") is not None)
