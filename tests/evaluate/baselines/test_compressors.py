"""Compressors on data whose repetition lies at a known distance."""

import lzma

import numpy as np

from lm.evaluate.baselines import gzip_size, xz_size


def test_xz_remembers_the_whole_text():
    """Fails when the dictionary is smaller than the data; gzip's is 32 KB by design."""
    random = np.random.default_rng(0)
    block = random.bytes(10_000)
    data = block + random.bytes(300_000) + block
    assert xz_size(data) < 311_500
    assert gzip_size(data) > 319_000
    full = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    assert xz_size(data) == len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=full))
