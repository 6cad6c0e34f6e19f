"""PPM: contexts of up to five bytes, the best that compressors of text did before networks.

Prediction by partial matching (Cleary and Witten 1984) in Shkarin's variant H (2002), which is
7-Zip's, as the library pyppmd gives it. It learns while it codes, so what it has read decides
what its number means. gzip, xz and PPM on held-out text alone know nothing but that text, and a
trained model knows more. So here PPM also reads first what the model was trained on, each row
once and uncharged: it has then seen the bytes that the model has seen, and what it needs on top
is the fair comparison.
"""

import importlib.util
from collections.abc import Sequence

ORDER = 5
"""Bytes of context, at most."""
MOST_TRAINING = 16 << 20
"""Bytes of training text that it reads, at most."""
AFTER_TRAINING = "ppm, after the training text"
"""What results call it where it has read that, which differs between runs."""
WITHOUT = "not measured, as pyppmd is not installed: pip install 'yardstick-lm[eval]'"

_MEMORY = 256 << 20
"""Bytes for contexts, after which they are forgotten; taken as they are needed."""
_LAST = 4
"""Bytes that end a file and say nothing: the coder writes five, of which it needs one."""
_STRETCH = 1 << 10
_FRACTION = 32
_WORK = 16 << 20


def has_ppm() -> bool:
    """Whether pyppmd is installed."""
    return importlib.util.find_spec("pyppmd") is not None


def ppm_size(data: bytes) -> int:
    """Bytes that PPM of order 5 needs, rounded up, without what a file format adds.

    Raises ImportError where pyppmd is not installed.
    """
    import pyppmd

    encoder = pyppmd.Ppmd7Encoder(ORDER, _MEMORY)
    return len(encoder.encode(data)) + len(encoder.flush()) - _LAST


def ppm_after(training: bytes, windows: Sequence[bytes]) -> float:
    """Bits per byte of windows that PPM needs when it has read a training text.

    A stretch of held-out text is charged what it adds to the training text's code. Coded as
    one, all held-out text would teach PPM as the training text does, which models do not let
    it: so a stretch is a thirty-second of the training text, or 1 KiB where that is more, and
    each follows the training text alone. They are spread over the windows, so many that PPM
    reads 16 MiB in all, but at least four. The training text's own code is not charged, nor is
    where documents end, which a causal model predicts. Raises ImportError where pyppmd is not
    installed, and ValueError where the windows are empty.
    """
    text, size = b"".join(windows), max(_STRETCH, len(training) // _FRACTION)
    if not text:
        raise ValueError("the windows hold no text")
    starts = range(0, len(text), size)
    number = min(len(starts), max(4, _WORK // (len(training) + size)))
    chosen = [starts[len(starts) * n // number] for n in range(number)]
    stretches = [text[start : start + size] for start in chosen]
    before = ppm_size(training)
    more = sum(ppm_size(training + stretch) - before for stretch in stretches)
    return 8 * more / sum(map(len, stretches))
