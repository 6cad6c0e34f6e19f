"""Bytes that general compressors need, without what their file formats add."""

import lzma
import zlib
from collections.abc import Callable


def gzip_size(data: bytes) -> int:
    """Bytes that gzip needs at level 9, without its header and checksum.

    >>> import gzip
    >>> len(gzip.compress(b"to be or not to be", 9)) - gzip_size(b"to be or not to be")
    18
    """
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(deflate.compress(data) + deflate.flush())


def xz_size(data: bytes) -> int:
    """Bytes that xz needs at preset 9 extreme, without headers, index and checksum.

    The dictionary is cut to the data, which changes nothing but the time.

    >>> xz_size(b"a" * 5000) + 50 < len(lzma.compress(b"a" * 5000))
    True
    """
    compression = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": 1 << min(26, max(12, len(data).bit_length())),
    }
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=[compression]))


COMPRESSORS: dict[str, Callable[[bytes], int]] = {"gzip": gzip_size, "xz": xz_size}
"""By the name that results use."""
