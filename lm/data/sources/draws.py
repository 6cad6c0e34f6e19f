"""Random numbers that are the same on every machine, and with every release of NumPy."""

import numpy as np


def philox(seed: int, purpose: int) -> np.random.Philox:
    """Raw bits for a purpose: a counter-based generator can begin at any document.

    They, and their seeding, never change between releases of NumPy (NEP 19), unlike what its
    `Generator` makes of them.
    """
    return np.random.Philox(np.random.SeedSequence([seed, purpose]))


def uniform(bits: np.ndarray) -> np.ndarray:
    """Raw bits as numbers from [0, 1).

    >>> uniform(np.array([1 << 63], np.uint64)).tolist()
    [0.5]
    """
    return (bits >> np.uint64(11)) * 2.0**-53
